"""Imported by the server that loader processes are forked from, see `loader_server`."""

from __future__ import annotations

import gc
from contextlib import suppress

from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable
from rmrkd_cli.signals import ignore_stop_signals

ignore_stop_signals()  # its command handles them; it ends with the command
make_mmseg_importable()
with suppress(ImportError):
    import rmrkd_cli.data.loader  # noqa: F401
gc.collect()
gc.freeze()  # or a garbage collection in a fork would copy all pages
