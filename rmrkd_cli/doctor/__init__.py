"""The checks of `rmrkd doctor`: packages, imports, machine, GPUs, folders, presets and a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rmrkd_cli.doctor.check import Check, describe_error, fix_for_missing
from rmrkd_cli.doctor.folders import folder_checks
from rmrkd_cli.doctor.machine import gpu_checks, machine_checks
from rmrkd_cli.doctor.packages import import_checks, package_checks
from rmrkd_cli.doctor.training import preset_checks, step_checks
from rmrkd_cli.installation.requirements import reinstall_command

_GROUPS: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
    ("packages", package_checks),
    ("imports", import_checks),
    ("machine", machine_checks),
    ("GPUs", gpu_checks),
    ("folders", folder_checks),
    ("presets", preset_checks),
    ("training", step_checks),
)
_GPUS_WORK_WITHOUT = ("import mmcv", "import mmseg.models")


def run_checks(*, step: bool = True) -> Iterator[tuple[str, Check]]:
    """Run every check, also after others failed.

    Args:
        step: Also train for two seconds on the CPU and on each kind of GPU.

    Yields:
        The group that a check belongs to, and the check.
    """
    failed_imports: list[str] = []
    for group, checks in _GROUPS:
        if checks is step_checks and not step:
            continue
        needed = [name for name in failed_imports if checks is step_checks or name not in _GPUS_WORK_WITHOUT]
        if checks in (gpu_checks, step_checks) and needed:
            yield group, Check(group, "warning", "not checked", "imports without errors")
            continue
        for check in _run(group, checks):
            if checks is import_checks and check.status == "error":
                failed_imports.append(check.name)
            yield group, check


def _run(group: str, checks: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from checks()
    except Exception as error:
        fix = fix_for_missing(error) or reinstall_command()
        yield Check(group, "error", f"the check failed: {describe_error(error)}", fix=fix)
