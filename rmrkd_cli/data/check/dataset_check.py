"""`rmrkd data check`: find every error of a data set; and a quick check before training."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rmrkd_cli.data.check.duplicates import find_duplicates
from rmrkd_cli.data.check.findings import ERROR, Finding, select_errors
from rmrkd_cli.data.check.image_checks import describe_images
from rmrkd_cli.data.check.label_checks import (
    all_ignored,
    check_labels,
    count_class_pixels,
    describe_ignored_classes,
    ignored_classes,
    nothing_counted,
)
from rmrkd_cli.data.check.layout import available_splits, find_leaks, find_pairs, find_unlabelled_images
from rmrkd_cli.data.check.pair_scan import ScannedSplit, scan_in_parallel, scan_pair
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.sample_reader import IGNORE, SampleFiles
from rmrkd_cli.data.samples import Sample, data_check_command, expected_tree
from rmrkd_cli.data.unlabelled import UNLABELLED
from rmrkd_cli.errors import RmrkdError, RunError, did_you_mean
from rmrkd_cli.storage.tar_member import TarMember
from rmrkd_cli.terminal.text import join_and

_QUICK_PAIRS = 64  # per split
_QUICK_SECONDS = 2.0  # for all splits together
_QUICK_SHOWN = 5
_MAX_SEARCHED = 10_000  # label maps that are searched for a pixel of a class
_UNREADABLE = ("corrupt-image", "corrupt-label")


@dataclass(frozen=True)
class SplitReport:
    """The statistics of one split.

    Attributes:
        pairs: Images that have a label map; of a split without label maps, all images.
        sizes: (height, width) of the readable images -> how many.
        pixels: Of each class.
        ignored: Pixels of no class.
    """

    pairs: int
    sizes: dict[tuple[int, ...], int]
    pixels: list[int]
    ignored: int
    labelled: bool = True


@dataclass(frozen=True)
class DatasetReport:
    """The result of a check.

    Attributes:
        pairs_read: Different pairs over all splits.
    """

    info: DatasetInfo
    splits: dict[str, SplitReport]
    findings: list[Finding]
    pairs_read: int = 0


def check_dataset(
    info: DatasetInfo,
    splits: Sequence[str] = (),
    *,
    workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Read every file of the splits and report all errors.

    Args:
        splits: Empty for all that are available. `unlabelled` names the images of `info.unlabelled`.
        workers: Number of processes.
        on_progress: Called with the number of pairs read and their total.

    Raises:
        RmrkdError: When a split is unknown.
        RunError: When a worker process is killed or crashes.
    """
    wanted = _wanted_splits(info, splits)
    chosen = [split for split in wanted if split != UNLABELLED]
    if not info.root.is_dir():
        text = f"does not exist; the layout of `{info.name}` is\n{expected_tree(info, chosen)}"
        fix = "give the folder of the data set with --data-root DIR"
        return DatasetReport(info, {}, [Finding(ERROR, "missing-part", "", str(info.root), text, fix)])
    samples: dict[str, Sequence[Sample]] = {}
    findings: list[Finding] = []
    for split in chosen:
        samples[split], found = find_pairs(info, split)
        findings += found
    findings += find_leaks(info, samples)
    if UNLABELLED in wanted:
        samples[UNLABELLED], found = find_unlabelled_images(info)
        findings += found
    unique = list(dict.fromkeys(sample for pairs in samples.values() for sample in pairs))
    show = (lambda done: on_progress(done, len(unique))) if on_progress else None
    digests = UNLABELLED in wanted or any(isinstance(sample.image, TarMember) for sample in unique)
    scans = scan_in_parallel(unique, workers, show, info.max_value, digests=digests)
    scan_of = dict(zip(unique, scans, strict=True))
    reports, scanned_splits = {}, {}
    for split, pairs in samples.items():
        scanned_splits[split] = scanned = [(sample, scan_of[sample]) for sample in pairs]
        findings += check_labels(info, split, scanned, scans)
        reports[split] = _summarize(info, scanned)
        if all_ignored(info, scanned):
            findings.append(nothing_counted(info, split))
    findings += [*ignored_classes(info), *find_duplicates(scanned_splits)]
    return DatasetReport(info, reports, findings, len(unique))


def _wanted_splits(info: DatasetInfo, splits: Sequence[str]) -> list[str]:
    """Return the splits to check, after a generated data set is generated."""
    unlabelled = [UNLABELLED] if info.unlabelled is not None else []
    for split in splits:
        if split not in (known := [*info.splits, *unlabelled]):
            raise RmrkdError(f"`{info.name}` has no split `{split}`, {did_you_mean(split, known)}")
    if info.generate is not None:
        info.generate(info.root)
    return list(dict.fromkeys(splits)) or [*available_splits(info), *unlabelled]


def quick_check(
    info: DatasetInfo,
    samples: Mapping[str, Sequence[Sample]],
    *,
    allow_corrupt: Sequence[str] = (),
    log: Callable[[str], object] = lambda _: None,
) -> None:
    """Check up to 64 evenly spread pairs of each split, for at most two seconds in all, before training starts.

    If a split has more, the number that was read is logged.

    The check covers the structure of the files, their sizes, and the label values.

    Args:
        samples: Split -> its pairs, as `find_samples` returns them.
        allow_corrupt: Splits that may contain unreadable files.
        log: Called with a sentence for each way in which the images are not used as they are stored.

    Raises:
        RmrkdError: With the first findings, each naming its file.
    """
    deadline = time.monotonic() + _QUICK_SECONDS
    findings: list[Finding] = []
    remarks = list(filter(None, [describe_ignored_classes(info)]))
    counts = []
    for number, (split, pairs) in enumerate(samples.items()):
        now = time.monotonic()
        split_deadline = now + (deadline - now) / (len(samples) - number)
        scanned = []
        for sample in _spread(pairs):
            if time.monotonic() > split_deadline:
                break
            scanned.append((sample, scan_pair(sample.image, sample.label, info.max_value, decode=False)))
        findings += [
            finding
            for finding in select_errors(check_labels(info, split, scanned))
            if split not in allow_corrupt or finding.kind not in _UNREADABLE
        ]
        remarks += describe_images(info, split, scanned)
        counts.append(f"{len(scanned)} of {len(pairs)} {split}")
        if not findings and all_ignored(info, scanned) and not _find_counted(info, pairs):
            findings.append(nothing_counted(info, split))
    if findings:
        raise _quick_check_error(info, findings)
    if any(len(pairs) > _QUICK_PAIRS for pairs in samples.values()):
        remarks.append(f"checked {join_and(counts)} images; `{data_check_command(info)}` checks all")
    for remark in remarks:
        log(remark)


def _quick_check_error(info: DatasetInfo, findings: list[Finding]) -> RmrkdError:
    lines = [f"  `{finding.file}` {finding.text}" for finding in findings[:_QUICK_SHOWN]]
    if len(findings) > _QUICK_SHOWN:
        lines.append(f"  and {len(findings) - _QUICK_SHOWN} more")
    count = "1 problem" if len(findings) == 1 else f"{len(findings)} problems"
    fix = findings[0].fix
    if all(finding.kind in _UNREADABLE and finding.split in ("train", UNLABELLED) for finding in findings):
        fix += ", or skip unreadable images with --skip-corrupt"
    return RmrkdError(
        f"{count} in the images and label maps of `{info.root}`:\n" + "\n".join(lines),
        f"{fix}; to list all problems, run `{data_check_command(info)}`",
    )


def _find_counted(info: DatasetInfo, samples: Sequence[Sample]) -> bool:
    """Return whether any label map has a pixel of a class; read them until one has, and believe it of a large split."""
    files = SampleFiles(info, samples)
    for index in range(min(len(files), _MAX_SEARCHED)):
        try:
            if (files.labels(index) != IGNORE).any():
                return True
        except RunError:  # reported when it is read
            return True
    return len(files) > _MAX_SEARCHED


def _spread(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return up to 64 samples, ordered so that each prefix is spread over the split."""
    step = max(1, len(samples) / _QUICK_PAIRS)
    picked = [samples[int(number * step)] for number in range(min(len(samples), _QUICK_PAIRS))]
    return [sample for start in range(8) for sample in picked[start::8]]


def _summarize(info: DatasetInfo, scanned: ScannedSplit) -> SplitReport:
    sizes = Counter(tuple(scan.image_size) for _, scan in scanned if scan.image_size is not None)
    labelled = not scanned or any(sample.label is not None for sample, _ in scanned)
    return SplitReport(len(scanned), dict(sizes), *count_class_pixels(info, scanned), labelled)
