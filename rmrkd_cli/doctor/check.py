"""One thing that was looked at, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rmrkd_cli.installation.mmseg import MODULES, SETUP_COMMAND
from rmrkd_cli.installation.requirements import install_command, version_of

_PACKAGES = {"yaml": "pyyaml", "PIL": "pillow", "cv2": "opencv-python", "pkg_resources": "setuptools<81"}

Status = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Check:
    """
    Args:
        status: "note" is worth knowing and stops nothing; "wrong" keeps something of rmrkd from working.
        found: What is there.
        expected: What should be; may be empty.
        mend: The command, or the option, that helps; never empty for what is wrong.
    """

    name: str
    status: Status
    found: str
    expected: str = ""
    mend: str = ""


def first_line(error: BaseException) -> str:
    """Of its message, after its kind."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def install_missing(error: BaseException) -> str:
    """Return the command that installs a module which an import did not find; empty for other errors."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    module = error.name.partition(".")[0]
    if module in MODULES.values():
        return SETUP_COMMAND
    package = _PACKAGES.get(module, module)
    return "" if version_of(package) else install_command(package)
