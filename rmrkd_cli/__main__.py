"""`rmrkd`, and `python -m rmrkd_cli`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from rmrkd_cli.signals import end_children, exit_on_stop_signals, ignore_stop_signals


def main() -> None:
    """Runs the command line; a signal ends it without a traceback from its first moment on, and nothing at its end.

    When all is done the process leaves at once: Python would give signal handlers back while it takes itself down, so
    that a late signal changed the exit code, and would wait for threads and processes that may not end.
    """
    exit_on_stop_signals()
    try:
        from rmrkd_cli.cli.app import main as run

        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except ModuleNotFoundError as error:
        code = _explain(error)
    ignore_stop_signals()
    end_children()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a pipe that nobody reads any more
            stream.flush()
    os._exit(code)


def _explain(error: ModuleNotFoundError) -> int:
    """Print what is not installed, and return the exit code; the package that prints errors may be missing too."""
    from rmrkd_cli.installation.requirements import explain_missing_module

    explained = explain_missing_module(error)
    if explained is None:
        raise error
    print(f"error: {explained.message}\n\nhint: {explained.hint}", file=sys.stderr)
    return explained.exit_code


if __name__ == "__main__":
    main()
