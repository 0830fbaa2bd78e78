"""`rmrkd data check`: everything that is wrong with a data set; and the quick part of it, before training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rmrkd_cli.data.check.findings import ERROR, Finding, errors
from rmrkd_cli.data.check.label_rules import ScannedSplit, check_labels, class_pixels
from rmrkd_cli.data.check.layout import leaks, present_splits, scan
from rmrkd_cli.data.check.pair_scan import scan_pair
from rmrkd_cli.data.check.parallel_scan import scan_in_parallel
from rmrkd_cli.data.check.scan_cache import ScanCache
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.samples import Sample, check_command, expected_tree
from rmrkd_cli.errors import RmrkdError, RunError, did_you_mean

_QUICK_PAIRS = 64  # a split
_QUICK_SECONDS = 2.0  # all splits together
_QUICK_SHOWN = 5


@dataclass(frozen=True)
class SplitReport:
    """One split in figures.

    Attributes:
        images: Pairs whose files are both there.
        sizes: (height, width) of readable images -> how many.
        pixels: Of each class.
        ignored: Pixels of no class.
    """

    images: int
    sizes: dict[tuple[int, int], int]
    pixels: list[int]
    ignored: int


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        read: Pairs that had to be read; the others were known from earlier checks.
        cached: Whether what was read could be kept.
    """

    info: DatasetInfo
    splits: dict[str, SplitReport]
    findings: list[Finding]
    read: int
    cached: bool = True


def check(
    info: DatasetInfo,
    splits: Sequence[str] = (),
    *,
    workers: int,
    fresh: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Looks at every file of the splits (default: all that are there).

    Args:
        workers: Processes.
        fresh: Forget what earlier checks found.
        on_progress: Called with pairs done and pairs in all.
    """
    for split in splits:
        if split not in info.splits:
            raise RmrkdError(f"`{info.name}` has no split `{split}`, {did_you_mean(split, info.splits)}")
    if info.make is not None:
        info.make(info.root)
    chosen = list(dict.fromkeys(splits)) or present_splits(info)
    if not info.root.is_dir():
        text = f"does not exist; `{info.name}` is expected as\n{expected_tree(info, chosen)}"
        mend = "give its place with --data-root DIR"
        return Report(info, {}, [Finding(ERROR, "missing-part", "", str(info.root), text, mend)], 0)
    scanned = {split: scan(info, split) for split in chosen}
    samples = {split: pairs for split, (pairs, _) in scanned.items()}
    every = list(dict.fromkeys(sample for pairs in samples.values() for sample in pairs))
    known = ScanCache(info, fresh=fresh)
    try:
        result = scan_in_parallel(
            every, known, workers, (lambda done: on_progress(done, len(every))) if on_progress else None
        )
    finally:
        cached = _save(known, every)
    facts = dict(zip(every, result.facts, strict=True))
    findings = [finding for _, found in scanned.values() for finding in found] + leaks(info, samples)
    reports = {}
    for split, pairs in samples.items():
        looked = [(sample, facts[sample]) for sample in pairs]
        findings += check_labels(info, split, looked)
        reports[split] = _figures(info, looked)
    return Report(info, reports, findings, result.read, cached)


def quick_check(info: DatasetInfo, samples: Mapping[str, list[Sample]], *, corrupt_in: Sequence[str] = ()) -> None:
    """What can be known before the first step without keeping anybody waiting: two seconds at most.

    Up to 64 pairs of a split, spread evenly, are whole, of one size, and hold no value that is no class; and no file is
    unchanged in which an earlier check found an error.

    Args:
        samples: Split -> its pairs, as `find_samples` gives them.
        corrupt_in: Splits in which files that cannot be read may be.

    Raises:
        RmrkdError: With the first findings, each naming its file.
    """
    known, deadline = ScanCache(info), time.monotonic() + _QUICK_SECONDS
    findings: list[Finding] = []
    for number, (split, pairs) in enumerate(samples.items(), 1):
        looked = [(sample, facts) for sample in pairs if (facts := known.get(sample)) is not None]
        seen = {sample for sample, _ in looked}
        share = time.monotonic() + (deadline - time.monotonic()) / (len(samples) - number + 1)
        for sample in _spread([sample for sample in pairs if sample not in seen]):
            if time.monotonic() > share:
                break
            looked.append((sample, scan_pair(sample.image, sample.label, decode=False)))
        findings += [
            finding
            for finding in errors(check_labels(info, split, looked))
            if split not in corrupt_in or finding.kind not in ("corrupt-image", "corrupt-label")
        ]
    if findings:
        raise _refusal(info, findings)


def _refusal(info: DatasetInfo, findings: list[Finding]) -> RmrkdError:
    lines = [f"  `{finding.file}` {finding.text}" for finding in findings[:_QUICK_SHOWN]]
    if len(findings) > _QUICK_SHOWN:
        lines.append(f"  and {len(findings) - _QUICK_SHOWN} more")
    what = "1 problem" if len(findings) == 1 else f"{len(findings)} problems"
    mend = findings[0].mend
    if all(finding.kind in ("corrupt-image", "corrupt-label") and finding.split == "train" for finding in findings):
        mend += ", or go on without it: --skip-corrupt"
    return RmrkdError(
        f"{what} in the images and labels of `{info.root}`:\n" + "\n".join(lines),
        f"{mend}; all: {check_command(info)}",
    )


def _spread(samples: list[Sample]) -> list[Sample]:
    """Up to 64 of them, evenly spread at any time that one stops."""
    step = max(1, len(samples) / _QUICK_PAIRS)
    picked = [samples[int(number * step)] for number in range(min(len(samples), _QUICK_PAIRS))]
    return [sample for start in range(8) for sample in picked[start::8]]


def _save(known: ScanCache, used: Sequence[Sample]) -> bool:
    with suppress(RunError):
        known.save(used)
        return True
    return False


def _figures(info: DatasetInfo, looked: ScannedSplit) -> SplitReport:
    sizes: dict[tuple[int, int], int] = {}
    for _, facts in looked:
        if facts.image is not None:
            sizes[facts.image] = sizes.get(facts.image, 0) + 1
    return SplitReport(len(looked), sizes, *class_pixels(info, looked))
