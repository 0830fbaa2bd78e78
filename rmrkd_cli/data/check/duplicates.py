"""Unlabelled images that occur twice, or are also in a labelled split."""

from __future__ import annotations

from collections.abc import Mapping

from rmrkd_cli.data.check.findings import ERROR, NOTE, Finding
from rmrkd_cli.data.check.pair_scan import ScannedSplit
from rmrkd_cli.data.unlabelled import UNLABELLED

_FIX_TWICE = "delete one of them: it is drawn twice as often as other images"
_FIX_LEAK = "remove it: results on images that were trained on do not measure generalization, even without their labels"


def find_duplicates(scans: Mapping[str, ScannedSplit]) -> list[Finding]:
    """Return an error for each unlabelled image that is also validated or tested on, and a note for each other repeat.

    Images are equal if the bytes of their files are.

    Args:
        scans: Split -> its scans, with digests, for the unlabelled images and all other splits.
    """
    owners: dict[bytes, tuple[str, str]] = {}
    for split, scanned in scans.items():
        for sample, scan in scanned if split != UNLABELLED else ():
            owners[scan.digest] = split, str(sample.image)
    findings = []
    for sample, scan in scans.get(UNLABELLED, ()):
        image = str(sample.image)
        split, other = owners.setdefault(scan.digest, (UNLABELLED, image))
        if not scan.digest or (other == image and split == UNLABELLED):
            continue
        if split in (UNLABELLED, "train"):
            text = f"has the same contents as `{other}`" + (" in `train`" if split == "train" else "")
            findings.append(Finding(NOTE, "duplicate-image", UNLABELLED, image, text, _FIX_TWICE))
        else:
            text = f"is also in `{split}`, as `{other}`"
            findings.append(Finding(ERROR, "leak", UNLABELLED, image, text, _FIX_LEAK))
    return findings
