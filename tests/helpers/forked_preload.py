"""Imported once by the process that all commands are forked from."""

import gc

from tests.helpers.forked import warm_up

warm_up()
gc.collect()
gc.freeze()  # a fork's collections would copy the pages of all that was imported
