"""`rmrkd doctor`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmrkd_cli.cli.options import JsonOut, check_json_out, write_json
from rmrkd_cli.terminal.text import plural

if TYPE_CHECKING:
    from rmrkd_cli.doctor.check import Check


def doctor_command(
    step: Annotated[bool, typer.Option("--step/--no-step", help="Train two seconds on random data.")] = True,
    json_out: JsonOut = None,
) -> None:
    """Check versions, devices, folders and one training step, and print a fix for each problem.

    The exit code is 1 when there are errors, and 0 otherwise; warnings do not change it.
    """
    from rmrkd_cli.doctor import run_checks
    from rmrkd_cli.terminal import console

    check_json_out(json_out)
    found: list[tuple[str, Check]] = []
    for part, check in run_checks(step=step):
        if json_out != "-":
            if part not in {before for before, _ in found}:
                console.show_heading(part)
            console.show_check(check.status, check.name, check.found, check.expected, check.fix)
        found.append((part, check))
    errors, warnings = (sum(check.status == status for _, check in found) for status in ("error", "warning"))
    if json_out is not None:
        write_json(_record(found, errors, warnings), json_out)
    if json_out != "-":
        console.show_heading(f"{plural(errors, 'error')}, {plural(warnings, 'warning')}, {plural(len(found), 'check')}")
    if errors:
        raise typer.Exit(1)


def _record(found: list[tuple[str, Check]], errors: int, warnings: int) -> dict[str, Any]:
    from dataclasses import asdict

    from rmrkd_cli import __version__

    checks = [{"part": part, **asdict(check)} for part, check in found]
    return {"format": 2, "rmrkd": __version__, "errors": errors, "warnings": warnings, "checks": checks}
