"""One thing that was looked at, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

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


def install(*requirements: str, options: str = "") -> str:
    """The command that installs packages here; quoted for a shell."""
    named = (shlex.quote(name) for name in requirements)
    return " ".join([f"{_pip()} install", *([options] if options else []), *named])


def install_rmrkd() -> str:
    """Again from where it came; by its name alone an index could give another package."""
    try:
        told = importlib.metadata.distribution("rmrkd").read_text("direct_url.json")
        origin = json.loads(told or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        origin = {}
    url = str(origin.get("url", ""))
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}"
    options = "-e" if origin.get("dir_info", {}).get("editable") else "--force-reinstall --no-deps"
    return install(unquote(url.removeprefix("file://")), options=options) if url else install() + " CLONE-OR-WHEEL"


def install_missing(error: BaseException) -> str:
    """The command for a module that an import did not find; empty for other errors."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    module = error.name.partition(".")[0]
    return install(_PACKAGES.get(module, module)) if not version_of(_PACKAGES.get(module, module)) else ""


def uninstall(*names: str) -> str:
    return " ".join([f"{_pip()} uninstall", *(["-y"] if "python" in _pip() else []), *names])


def _pip() -> str:
    """Not by looking for the module: that would change what setuptools does in this process."""
    return "python -m pip" if version_of("pip") else "uv pip"


def version_of(name: str) -> str | None:
    """Of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
