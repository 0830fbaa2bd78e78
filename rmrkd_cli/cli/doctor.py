"""`rmrkd doctor`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.options import JsonOut, check_json_out, write_json
from rmrkd_cli.terminal.text import plural

if TYPE_CHECKING:
    from rmrkd_cli.doctor.check import Check

_CHECKS = "Checks"


def doctor_command(
    step: Annotated[
        bool, option("--step/--no-step", _CHECKS, "Train the demo's networks on random data for two seconds.")
    ] = True,
    json_out: JsonOut = None,
) -> None:
    """Check versions, devices, folders and one training step, and print a fix for each problem.

    The exit code is 1 when there are errors, and 0 otherwise; warnings do not change it.

    Examples:
        rmrkd doctor
        rmrkd doctor --no-step --json doctor.json
    """
    from rmrkd_cli.doctor import run_checks
    from rmrkd_cli.terminal import console

    check_json_out(json_out)
    results: list[tuple[str, Check]] = []
    for part, check in run_checks(step=step):
        if json_out != "-":
            if part not in {earlier for earlier, _ in results}:
                console.print_heading(part)
            console.print_check(check.status, check.name, check.found, check.expected, check.fix)
        results.append((part, check))
    errors, warnings = (sum(check.status == status for _, check in results) for status in ("error", "warning"))
    if json_out is not None:
        write_json(_record(results, errors, warnings), json_out)
    if json_out != "-":
        counts = plural(errors, "error"), plural(warnings, "warning"), plural(len(results), "check")
        console.print_heading(", ".join(counts))
    if errors:
        raise typer.Exit(1)


def _record(results: list[tuple[str, Check]], errors: int, warnings: int) -> dict[str, Any]:
    from dataclasses import asdict

    from rmrkd_cli import __version__

    checks = [{"part": part, **asdict(check)} for part, check in results]
    return {"format": 2, "rmrkd": __version__, "errors": errors, "warnings": warnings, "checks": checks}
