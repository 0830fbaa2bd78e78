"""Unlabelled images, and images in tar archives, that occur twice or are also in another split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rmrkd_cli.data.check.findings import ERROR, NOTE, Finding
from rmrkd_cli.data.check.pair_scan import ScannedSplit
from rmrkd_cli.data.unlabelled import UNLABELLED
from rmrkd_cli.storage.tar_member import TarMember

_FIX_TWICE = "delete one of them: it is drawn twice as often as other images"
_FIX_COUNTED = "delete one of them: it counts twice in each result"
_FIX_SPLITS = "remove it from one of the splits: results on images that were trained on do not measure generalization"
_FIX_LEAK = "remove it: results on images that were trained on do not measure generalization, even without their labels"


def find_duplicates(scans: Mapping[str, ScannedSplit]) -> list[Finding]:
    """Return an error for each unlabelled image that is also validated or tested on, and a note for each other repeat.

    Images of a labelled split are compared where they are in tar archives: one in two splits is an error, too. Images
    are equal if the bytes of their files are.

    Args:
        scans: Split -> its scans, with digests, for the unlabelled images and all other splits.
    """
    return [*_repeats_of_unlabelled(scans), *_repeats_in_archives(scans)]


def _repeats_in_archives(scans: Mapping[str, ScannedSplit]) -> Iterator[Finding]:
    """Yield a finding for each image of a labelled split that is in an archive, and was in one before."""
    owners: dict[bytes, tuple[str, str]] = {}
    for split, scanned in scans.items():
        for sample, scan in scanned if split != UNLABELLED else ():
            image = str(sample.image)
            if not scan.digest or not isinstance(sample.image, TarMember):
                continue
            owner, other = owners.setdefault(scan.digest, (split, image))
            if other == image:  # itself, or the same file in two splits: `find_leaks` reports that
                continue
            if owner == split:
                fix = _FIX_TWICE if split == "train" else _FIX_COUNTED
                yield Finding(NOTE, "duplicate-image", split, image, f"has the same contents as `{other}`", fix)
            else:
                text = f"has the same contents as `{other}` in `{owner}`"
                yield Finding(ERROR, "leak", split, image, text, _FIX_SPLITS)


def _repeats_of_unlabelled(scans: Mapping[str, ScannedSplit]) -> list[Finding]:
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
