"""The findings of a check, and their groups for printing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ERROR, NOTE = "error", "note"

TITLES = {  # kind -> title of its findings, in the order in which they are printed
    "missing-part": "missing folders and lists",
    "bad-list": "unreadable lists",
    "bad-name": "invalid names in a list",
    "duplicate-name": "names listed twice",
    "missing-pair": "listed names without image and label map",
    "missing-image": "label maps without an image",
    "missing-label": "images without a label map",
    "no-images": "no images",
    "leak": "images in two splits",
    "corrupt-image": "unreadable images",
    "image-format": "images whose values are not read as they are",
    "corrupt-label": "unreadable label maps",
    "lossy-label": "label maps in a format that changes values",
    "label-format": "label maps in the wrong format",
    "size-mismatch": "label maps and images of different size",
    "label-value": "label values that are not a class",
    "nothing-counted": "splits whose pixels are all ignored",
    "binary-mask": "label maps that contain only 0 and 255",
    "image-range": "images that do not fit `data.max_value`",
    "duplicate-image": "unlabelled images that occur twice",
    "unused-band": "images with a band that is not used",
    "damaged-image": "images with a decoder warning",
    "all-ignored": "label maps that contain only ignored pixels",
    "ignored-class": "classes whose label value is ignored",
    "absent-class": "classes that never occur",
}


@dataclass(frozen=True)
class Finding:
    """An error (`ERROR`) or a remark (`NOTE`) about one file or folder.

    Attributes:
        kind: A key of `TITLES`.
        file: Path of the file or folder.
        text: The problem with its value; a sentence whose subject is the file.
        fix: How to fix it; may be empty.
    """

    severity: str
    kind: str
    split: str
    file: str
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Group:
    """Findings of one severity and kind."""

    severity: str
    kind: str
    findings: tuple[Finding, ...]

    def by_fix(self) -> dict[str, list[Finding]]:
        """Return the findings that share a fix, for each fix."""
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault(finding.fix, []).append(finding)
        return groups


def group_findings(findings: Iterable[Finding]) -> list[Group]:
    """Return the groups in printing order: errors before notes, each in the order of `TITLES`."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.kind), []).append(finding)
    order = list(TITLES)
    keys = sorted(groups, key=lambda key: (key[0] != ERROR, order.index(key[1])))
    return [Group(*key, tuple(groups[key])) for key in keys]


def select_errors(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that are errors."""
    return [finding for finding in findings if finding.severity == ERROR]
