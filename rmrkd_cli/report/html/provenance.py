"""What the page says about its origin: command, date, compared files and package versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from rmrkd_cli import __version__

_PACKAGES = ("torch", "mmcv-full", "mmsegmentation", "numpy", "matplotlib")


@dataclass(frozen=True)
class File:
    """One compared file.

    Attributes:
        label: The group it belongs to.
        sha256: Of its bytes; empty where unknown.
    """

    path: str
    label: str
    seed: int | None = None
    iterations: int | None = None
    bytes: int | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Provenance:
    """The origin of a page.

    Attributes:
        command: The command that writes the page again.
        date: As shown on the page.
        versions: By package.
    """

    command: str
    date: str
    files: tuple[File, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def package_versions() -> dict[str, str]:
    """Return the versions of rmrkd and the packages below it, without importing them."""
    versions = {"rmrkd": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
