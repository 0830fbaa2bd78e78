"""`rmrkd`, and `python -m rmrkd_cli`."""

from __future__ import annotations

from rmrkd_cli.signals import exit_on_stops, ignore_stops


def main() -> None:
    """Runs the command line; a signal ends it without a traceback from its first moment on, and nothing at its end."""
    exit_on_stops()
    try:
        from rmrkd_cli.app import main as run

        run()
    finally:
        ignore_stops()  # Python gives handlers back while it takes itself down, and the exit code would be lost


if __name__ == "__main__":
    main()
