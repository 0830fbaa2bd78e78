"""`rmrkd doctor`"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmrkd_cli.commands.options import JsonOut
from rmrkd_cli.errors import RunError

if TYPE_CHECKING:
    from rmrkd_cli.engine.doctor.check import Check


def doctor_command(
    step: Annotated[bool, typer.Option("--step/--no-step", help="Train two seconds on random data.")] = True,
    json_out: JsonOut = None,
) -> None:
    """Look at versions, devices, folders and a training step: what is wrong, and what mends it.

    Exit code 0 when nothing is wrong, 1 when something is; notes change neither.
    """
    from rmrkd_cli import console
    from rmrkd_cli.engine.doctor import examine

    found: list[tuple[str, Check]] = []
    for part, check in examine(step=step):
        if json_out != "-":
            if part not in {before for before, _ in found}:
                console.show_heading(part)
            console.show_check(check.status, check.name, check.found, check.expected, check.mend)
        found.append((part, check))
    wrong, notes = (sum(check.status == status for _, check in found) for status in ("wrong", "note"))
    if json_out is not None:
        _write(_record(found, wrong, notes), json_out)
    if json_out != "-":
        summary = f"{wrong} wrong" if wrong else "nothing is wrong"
        console.show_heading(f"{summary}, {notes} {'note' if notes == 1 else 'notes'}, {len(found)} checks")
    if wrong:
        raise typer.Exit(1)


def _record(found: list[tuple[str, Check]], wrong: int, notes: int) -> dict[str, Any]:
    from dataclasses import asdict

    from rmrkd_cli import __version__

    checks = [{"part": part, **asdict(check)} for part, check in found]
    return {"format": 1, "rmrkd": __version__, "wrong": wrong, "notes": notes, "checks": checks}


def _write(record: dict[str, Any], target: str) -> None:
    """Not through `report`, which needs torch: that may be what is wrong."""
    import json
    import os
    from pathlib import Path

    from rmrkd_cli import console

    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    if target == "-":
        console.write(text)
        return
    path = Path(target)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise RunError(f"cannot write `{path}`: {error.strerror}", "--json - prints it") from error
    finally:
        with suppress(OSError):
            beside.unlink()
