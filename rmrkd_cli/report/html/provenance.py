"""The end of the page: of which files, with which program, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from rmrkd_cli import __version__
from rmrkd_cli.report.html.tables import html_table
from rmrkd_cli.terminal.text import NONE, escaped, name, size_of

_PACKAGES = ("torch", "mmcv-full", "mmsegmentation", "numpy", "matplotlib")


@dataclass(frozen=True)
class File:
    """One that was compared.

    Attributes:
        sha256: Of its bytes; empty where it was not computed.
        told: Role, seed, iterations, as far as known.
    """

    path: str
    label: str
    seed: int | None = None
    iterations: int | None = None
    bytes: int | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Provenance:
    """Attributes:
    command: What makes the page again; shown as it is.
    date: As it is shown.
    """

    command: str
    date: str
    files: tuple[File, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Of rmrkd and the packages under it, without importing any."""
    found = {"rmrkd": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def made_section(provenance: Provenance, beside: Sequence[str]) -> str:
    """Args:
    beside: Names of the files in the same folder.
    """
    rows = [
        [
            name(file.path), name(file.label), NONE if file.seed is None else str(file.seed),
            NONE if file.iterations is None else f"{file.iterations:,}", size_of(file.bytes),
            f"<code>{escaped(file.sha256[:16])}</code>" if file.sha256 else NONE,
        ]
        for file in provenance.files
    ]  # fmt: skip
    table = html_table(["file", "group", "seed", "iterations", "size", "SHA-256 begins"], rows, "What was compared")
    packages = ", ".join(f"{escaped(package)} {escaped(number)}" for package, number in provenance.versions.items())
    files = ", ".join(f"<code>{escaped(file)}</code>" for file in beside)
    return (
        f"{table if rows else ''}<p>Made on {escaped(provenance.date)} with {packages}, by</p>"
        f"<pre tabindex=0 aria-label=command><code>{escaped(provenance.command)}</code></pre>"
        f"<p>Beside this page: {files}.</p>"
        "<p class=small>IoU of a class: pixels that are right, of all that are it or were taken for it, over the "
        "whole set of images; mIoU is its mean over the classes that occur.</p>"
    )
