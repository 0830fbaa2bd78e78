"""Imported once by the process that all commands are forked from."""

from tests.hostile.processes import warm_up

warm_up()
