"""What `rmrkd doctor` looks at: packages, machine, folders, and a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rmrkd_cli.doctor.check import Check, first_line, install_missing
from rmrkd_cli.doctor.folders import folder_checks
from rmrkd_cli.doctor.machine import gpu_checks, machine_checks
from rmrkd_cli.doctor.packages import import_checks, package_checks
from rmrkd_cli.doctor.training import preset_checks, step_checks
from rmrkd_cli.installation.requirements import reinstall_command

_PARTS: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
    ("packages", package_checks),
    ("imports", import_checks),
    ("machine", machine_checks),
    ("GPUs", gpu_checks),
    ("folders", folder_checks),
    ("presets", preset_checks),
    ("training", step_checks),
)
_NEED_IMPORTS = (gpu_checks, step_checks)
_OF_NETWORKS = ("import mmcv", "import mmseg.models")  # checks of imports that GPUs are looked at without


def examine(*, step: bool = True) -> Iterator[tuple[str, Check]]:
    """Looks at everything, whatever fails before it.

    Args:
        step: Also train for two seconds on each kind of device.

    Yields:
        The part that a check belongs to, and the check.
    """
    failed: list[str] = []  # imports
    for part, checks in _PARTS:
        if checks is step_checks and not step:
            continue
        if checks in _NEED_IMPORTS and any(checks is step_checks or name not in _OF_NETWORKS for name in failed):
            yield part, Check(part, "note", "not looked at", "imports that work")
            continue
        for check in _all_of(part, checks):
            if checks is import_checks and check.status == "wrong":
                failed.append(check.name)
            yield part, check


def _all_of(part: str, checks: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from checks()
    except Exception as error:
        mend = install_missing(error) or reinstall_command()
        yield Check(part, "wrong", f"could not be looked at: {first_line(error)}", mend=mend)
