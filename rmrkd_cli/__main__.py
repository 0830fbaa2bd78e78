"""`rmrkd`, and `python -m rmrkd_cli`."""

from __future__ import annotations

from rmrkd_cli.signals import exit_on_stops


def main() -> None:
    """Runs the command line; a signal ends it without a traceback from its first moment on."""
    exit_on_stops()
    from rmrkd_cli.app import main as run

    run()


if __name__ == "__main__":
    main()
