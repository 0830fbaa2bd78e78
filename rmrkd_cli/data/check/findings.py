"""One finding of a check, and findings put together for reading."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ERROR, NOTE = "error", "note"

TITLES = {  # kind -> what its findings have in common; in the order of reading
    "missing-part": "missing folders and lists",
    "bad-list": "lists that cannot be read",
    "bad-name": "names that are no names",
    "duplicate-name": "names that stand twice",
    "missing-pair": "names without image and label",
    "missing-image": "labels without image",
    "missing-label": "images without label",
    "no-images": "no images",
    "leak": "images in two splits",
    "corrupt-image": "images that cannot be read",
    "corrupt-label": "label maps that cannot be read",
    "label-format": "label maps of the wrong form",
    "size-mismatch": "images and label maps of different size",
    "label-value": "label values that are no class",
    "binary-mask": "label maps of 0 and 255 alone",
    "damaged-image": "images that are decoded with complaints",
    "all-ignored": "label maps in which everything is ignored",
    "absent-class": "classes that never occur",
}


@dataclass(frozen=True)
class Finding:
    """Something wrong (`ERROR`) or worth knowing (`NOTE`).

    Attributes:
        kind: A key of `TITLES`.
        file: Path of the file or folder it is about.
        text: What was found there, with the value, to stand behind the file's name.
        mend: What to do about it; may be empty.
    """

    severity: str
    kind: str
    split: str
    file: str
    text: str
    mend: str = ""


@dataclass(frozen=True)
class Group:
    """Findings of one kind, ordered by split and file."""

    severity: str
    kind: str
    findings: tuple[Finding, ...]

    def by_mend(self) -> dict[str, list[Finding]]:
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault(finding.mend, []).append(finding)
        return groups


def grouped(findings: Iterable[Finding]) -> list[Group]:
    """Errors before notes, each in the order of `TITLES`."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.kind), []).append(finding)
    order = {kind: number for number, kind in enumerate(TITLES)}
    keys = sorted(groups, key=lambda key: (key[0] != ERROR, order[key[1]]))
    return [Group(*key, tuple(groups[key])) for key in keys]


def errors(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == ERROR]
