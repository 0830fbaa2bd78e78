"""Check the scanned images of a split: unreadable files, values beyond 8 bits, and bands that are not used."""

from __future__ import annotations

from rmrkd_cli.data.check.findings import ERROR, NOTE, Finding
from rmrkd_cli.data.check.pair_scan import PairScan, ScannedSplit
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.deep_image import describe_clipping
from rmrkd_cli.data.image_io import FIX_BELOW, max_value_fix
from rmrkd_cli.data.samples import Sample

_DARK_SHARE = 0.25  # of `data.max_value`: below it, the images use less than 64 of 256 grey values
_FIX_RANGE = {
    "above": "check `data.max_value`",
    "below": FIX_BELOW,
    "nan": "unless NaN only marks missing data, find out where it comes from",
}
_FIX_MACOS = "delete it: macOS creates such `._` files when it copies a folder"


def check_image(split: str, sample: Sample, scan: PairScan) -> list[Finding]:
    """Return the findings about one image."""
    image = str(sample.image)
    if scan.image_fix:
        return [Finding(ERROR, "image-format", split, image, scan.image_error, scan.image_fix)]
    if scan.image_error:
        return [Finding(ERROR, "corrupt-image", split, image, scan.image_error, fix_corrupt(image))]
    findings = []
    if scan.unused_band:
        findings.append(Finding(NOTE, "unused-band", split, image, scan.unused_band))
    if scan.decoder_warning:
        text, fix = f"gives a decoder warning: {scan.decoder_warning}", "open it, and replace it if it is damaged"
        findings.append(Finding(NOTE, "damaged-image", split, image, text, fix))
    return findings


def check_value_ranges(info: DatasetInfo, split: str, scans: ScannedSplit) -> list[Finding]:
    """Return an error for each image beyond 8 bits without `data.max_value`, and notes on values that do not fit it."""
    deep = [(str(sample.image), scan.values) for sample, scan in scans if scan.values is not None]
    if not deep:
        return []
    fix = max_value_fix([values for _, values in deep])
    if info.max_value is None:
        return [
            Finding(ERROR, "image-format", split, image, f"holds {values.format}, and `data.max_value` is missing", fix)
            for image, values in deep
        ]
    notes = [
        Finding(NOTE, "image-range", split, image, f"has {text}", _FIX_RANGE[name])
        for image, values in deep
        for name, text in describe_clipping([values]).items()
    ]
    largest = max(0.0, *(values.largest for _, values in deep))
    if largest < _DARK_SHARE * info.max_value and not any(values.above for _, values in deep):
        layout = info.splits.get(split)
        folder = str(info.root / layout.images if layout is not None else info.root)
        text = f"has no value above {largest:g}, {100 * largest / info.max_value:.2g} % of `data.max_value`: it is dark"
        notes.append(Finding(NOTE, "image-range", split, folder, text, fix))
    return notes


def describe_images(info: DatasetInfo, split: str, scans: ScannedSplit) -> list[str]:
    """Return a sentence for each way in which the images of a split are not used as they are stored."""
    deep = [scan.values for _, scan in scans if scan.values is not None]
    sentences = []
    if deep and info.max_value is not None:
        formats = ", ".join(sorted({values.format for values in deep}))
        largest, smallest = max(values.largest for values in deep), min(values.smallest for values in deep)
        start = f" from {smallest:g}" if smallest < 0 else ""
        sentences.append(
            f"the images in `{split}` hold {formats}{start} up to {largest:g}: 0..{info.max_value:g} becomes 0..255"
        )
        sentences += [
            f"the images checked in `{split}` have {text}" for text in describe_clipping(deep, "their").values()
        ]
    if unused := sum(bool(scan.unused_band) for _, scan in scans):
        sentences.append(f"{unused} of {len(scans)} images in `{split}` have a band that is not used")
    return sentences


def fix_corrupt(path: str) -> str:
    """Return how to fix an unreadable file."""
    return _FIX_MACOS if "._" in path else "replace it by a fresh copy"
