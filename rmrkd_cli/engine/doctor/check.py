"""One thing that was looked at, and how to mend it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Literal

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
    return " ".join([f"{_pip()} install", *([options] if options else []), *(f"'{name}'" for name in requirements)])


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
