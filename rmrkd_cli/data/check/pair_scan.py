"""Read the files of image and label pairs, in parallel: the slow part of a check, which knows no classes."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from rmrkd_cli.data.deep_image import ValueRange
from rmrkd_cli.data.image_file import MAX_BYTES, ImageFormatError
from rmrkd_cli.data.image_io import header_size, inspect_image
from rmrkd_cli.data.label_histogram import count_values
from rmrkd_cli.data.label_io import LabelFormatError, read_labels
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.data.source_file import SourceFile, read_source
from rmrkd_cli.data.worker_pool import worker_pool
from rmrkd_cli.errors import CorruptFileError, RmrkdError, RunError
from rmrkd_cli.storage.tar_member import TarMember

# libjpeg prints these warnings, and decodes the image anyway
_DECODER_WARNINGS = ("Corrupt JPEG data", "Premature end of JPEG")
_stderr: int | None = None  # in a scanner process: the file that collects what image libraries print


@dataclass
class PairScan:
    """The contents of one image and its label map, or why they are unreadable.

    Attributes:
        image_size, label_size: (height, width); None if the file is unreadable.
        label_counts: Label value -> pixels.
        image_error, label_error: Why the file is unusable; a sentence whose subject is the file.
        image_fix: How to fix an intact image whose values are not supported; otherwise empty.
        label_kind: The kind of the `LabelFormatError` of a readable label file; otherwise empty.
        values: Of an image beyond 8 bits; None for others.
        unused_band: Which band of the image is not used; may be empty.
        decoder_warning: What the decoder printed about the image.
        exif_rotated: The label map fits the image only without the image's EXIF rotation.
        digest: Hash of the image file, where it was asked for; empty for an unreadable file.
    """

    image_size: tuple[int, ...] | None = None
    label_size: tuple[int, ...] | None = None
    label_counts: dict[int, int] = field(default_factory=dict)
    image_error: str = ""
    label_error: str = ""
    image_fix: str = ""
    label_kind: str = ""
    values: ValueRange | None = None
    unused_band: str = ""
    decoder_warning: str = ""
    exif_rotated: bool = False
    digest: bytes = b""


_Sent = str | TarMember
ScannedSplit = Sequence[tuple[Sample, PairScan]]


def scan_in_parallel(
    samples: Sequence[Sample],
    workers: int,
    on_progress: Callable[[int], None] | None = None,
    max_value: float | None = None,
    *,
    digests: bool = False,
) -> list[PairScan]:
    """Scan every pair, in order.

    Args:
        workers: Number of processes.
        on_progress: Called with the number of pairs scanned so far.
        max_value: As in `read_image`.
        digests: Hash each image file, to find equal ones.

    Raises:
        RunError: When a process is killed or crashes.
    """
    scans: list[PairScan] = []
    pairs = [(_sent(sample.image), None if sample.label is None else _sent(sample.label)) for sample in samples]
    with worker_pool(workers, start_scanner) as parallel_map:
        for scan in parallel_map(partial(_scan_paths, max_value, digests), pairs):
            scans.append(scan)
            if on_progress:
                on_progress(len(scans))
    return scans


def start_scanner() -> None:
    """Prepare a scanner process: collect what its image libraries print instead of showing it."""
    global _stderr
    warnings.simplefilter("ignore")  # Pillow's, about metadata
    sys.stderr.flush()
    handle, name = tempfile.mkstemp(prefix="rmrkd-")
    os.unlink(name)
    os.dup2(handle, 2)
    _stderr = handle


def scan_pair(
    image: SourceFile, label: SourceFile | None, max_value: float | None = None, *, decode: bool = True
) -> PairScan:
    """Scan one pair, or an image alone.

    Args:
        max_value: As in `read_image`.
        decode: Decode the image; otherwise only its header and structure are read, which is faster.
    """
    scan = PairScan()
    _scan_image(scan, image, max_value, decode)
    if label is None:
        return scan
    try:
        labels = read_labels(label)
        counts = count_values(labels)
        scan.label_size = labels.shape
        scan.label_counts = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    except RunError as error:
        scan.label_error = _without_path(error, label)
        scan.label_kind = error.kind if isinstance(error, LabelFormatError) else ""
    if scan.image_size and scan.label_size and scan.image_size != scan.label_size:
        if not decode:
            return scan_pair(image, label, max_value)  # decoding applies the EXIF rotation: sizes may be equal then
        with suppress(CorruptFileError, ImageFormatError):
            scan.exif_rotated = header_size(image) == scan.label_size
    return scan


def _scan_paths(max_value: float | None, digests: bool, pair: tuple[_Sent, _Sent | None]) -> PairScan:
    image, label = pair
    scan = scan_pair(_received(image), None if label is None else _received(label), max_value)
    if digests:
        with suppress(OSError):
            scan.digest = hashlib.blake2b(read_source(_received(image), MAX_BYTES), digest_size=16).digest()
    return scan


def _sent(file: SourceFile) -> _Sent:
    """Return what a scanner process gets for a file, and what names it if the process crashes."""
    return str(file) if isinstance(file, Path) else file


def _received(file: _Sent) -> SourceFile:
    return Path(file) if isinstance(file, str) else file


def _scan_image(scan: PairScan, image: SourceFile, max_value: float | None, decode: bool) -> None:
    try:
        scan.image_size, scan.unused_band, scan.values = inspect_image(image, max_value, decode=decode)
    except CorruptFileError as error:
        scan.image_error = _without_path(error, image)
    except ImageFormatError as error:
        scan.image_error, scan.image_fix = _without_path(error, image), error.hint
    scan.decoder_warning = _read_decoder_warning()


def _read_decoder_warning() -> str:
    """Return the first warning printed since the last call."""
    if _stderr is None or not (size := os.lseek(_stderr, 0, os.SEEK_CUR)):
        return ""
    lines = os.pread(_stderr, min(size, 4096), 0).decode("utf-8", "replace").splitlines()
    os.lseek(_stderr, 0, os.SEEK_SET)
    os.ftruncate(_stderr, 0)
    return next((line.strip() for line in lines if line.startswith(_DECODER_WARNINGS)), "")


def _without_path(error: RmrkdError, path: SourceFile) -> str:
    return error.message.removeprefix(f"`{path}` ")
