"""`rmrkd doctor`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmrkd_cli.cli.options import JsonOut, check_json_out, write_json

if TYPE_CHECKING:
    from rmrkd_cli.doctor.check import Check


def doctor_command(
    step: Annotated[bool, typer.Option("--step/--no-step", help="Train two seconds on random data.")] = True,
    json_out: JsonOut = None,
) -> None:
    """Look at versions, devices, folders and a training step: what is wrong, and what mends it.

    Exit code 0 when nothing is wrong, 1 when something is; notes change neither.
    """
    from rmrkd_cli.doctor import examine
    from rmrkd_cli.terminal import console

    check_json_out(json_out)
    found: list[tuple[str, Check]] = []
    for part, check in examine(step=step):
        if json_out != "-":
            if part not in {before for before, _ in found}:
                console.show_heading(part)
            console.show_check(check.status, check.name, check.found, check.expected, check.mend)
        found.append((part, check))
    wrong, notes = (sum(check.status == status for _, check in found) for status in ("wrong", "note"))
    if json_out is not None:
        write_json(_record(found, wrong, notes), json_out)
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
