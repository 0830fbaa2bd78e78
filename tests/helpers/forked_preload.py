"""Imported by the server process that all commands are forked from."""

import gc

from tests.helpers.forked import warm_up

warm_up()
gc.collect()
gc.freeze()  # else a garbage collection in a fork copies all pages
