"""Entry point of `rmrkd` and `python -m rmrkd_cli`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from rmrkd_cli.signals import end_children, exit_on_stop_signals, ignore_stop_signals


def main() -> None:
    """Run the command line and end the process with its exit code.

    From its first line on, a signal ends it without a traceback. The end is `os._exit`: at a regular exit, Python
    resets the signal handlers first, so a late signal would change the exit code, and it waits for threads and
    processes that may never end.
    """
    exit_on_stop_signals()
    try:
        from rmrkd_cli.cli.app import main as run

        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except ModuleNotFoundError as error:
        code = _print_missing_module(error)
    ignore_stop_signals()
    end_children()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the reader of a pipe may be gone
            stream.flush()
    os._exit(code)


def _print_missing_module(error: ModuleNotFoundError) -> int:
    """Print which package is missing and return the exit code. It uses no library, because any may be missing."""
    from rmrkd_cli.installation.requirements import explain_missing_module

    explained = explain_missing_module(error)
    if explained is None:
        raise error
    print(f"error: {explained.message}\n\nhint: {explained.hint}", file=sys.stderr)
    return explained.exit_code


if __name__ == "__main__":
    main()
