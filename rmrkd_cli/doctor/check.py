"""The result of one check, with the fix for a problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rmrkd_cli.errors import summarize_error
from rmrkd_cli.installation.mmseg import MODULES, SETUP_COMMAND
from rmrkd_cli.installation.requirements import install_command, version_of

_PACKAGES = {"yaml": "pyyaml", "PIL": "pillow", "cv2": "opencv-python", "pkg_resources": "setuptools<81"}

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Check:
    """
    Args:
        status: "error" keeps a part of rmrkd from working; "warning" does not.
        found: What was found.
        expected: What rmrkd needs; may be empty.
        fix: The command or option that fixes the problem; never empty for an error.
    """

    name: str
    status: Status
    found: str
    expected: str = ""
    fix: str = ""


def describe_error(error: BaseException) -> str:
    """Return the class of an exception and the first line of its message."""
    line, kind = summarize_error(error).strip(), type(error).__name__
    return kind if line in ("", kind) else f"{kind}: {line}"


def fix_for_missing(error: BaseException) -> str:
    """Return the command that installs the module which an import did not find; "" for other errors."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    module = error.name.partition(".")[0]
    if module in MODULES.values():
        return SETUP_COMMAND
    package = _PACKAGES.get(module, module)
    return "" if version_of(package) else install_command(package)
