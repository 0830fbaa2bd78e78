"""What a pair of files holds, told apart from what it should hold: the slow part of a check, kept between checks."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rmrkd_cli.data.image_io import Picture, header_size, read_image, read_labels, verify
from rmrkd_cli.data.label_histogram import value_counts
from rmrkd_cli.errors import CorruptError, RunError

_COMPLAINTS = ("Corrupt JPEG data", "Premature end of JPEG")  # libjpeg's, which decodes on all the same
_stderr: int | None = None  # where a process of `look_many` collects what the decoders' libraries print

Paths = tuple[str, str]  # image, label


@dataclass(frozen=True)
class Facts:
    """Of one pair.

    Attributes:
        image, label: (height, width); none where the file cannot be read.
        counts: Label value -> pixels.
        bad_image, bad_label: Why a file cannot be used, to stand behind its name.
        complaint: What the image's decoder printed while it decoded.
        turned: The label map fits the image as it lies in its file, not as it is turned by what stands beside (EXIF).
    """

    image: tuple[int, int] | None = None
    label: tuple[int, int] | None = None
    counts: dict[int, int] = field(default_factory=dict)
    bad_image: str = ""
    bad_label: str = ""
    complaint: str = ""
    turned: bool = False


def scan_pair(image: Path, label: Path, *, decode: bool = True) -> Facts:
    """Reads both files.

    Args:
        decode: Also the image's pixels; without, its structure and header alone.
    """
    found: dict[str, object] = {}
    try:
        found["image"] = read_image(image).shape[:2] if decode else tuple(verify(image))
        found["complaint"] = _complaint()
    except CorruptError as error:
        found["bad_image"] = _behind_name(error, image)
    try:
        raw = read_labels(label)
        found["label"] = raw.shape
        found["counts"] = _counts(raw)
    except RunError as error:
        found["bad_label"] = _behind_name(error, label)
    if not decode and "image" in found and "label" in found and found["image"] != found["label"]:
        return scan_pair(image, label)  # a photograph may be turned by what stands beside its header
    found["turned"] = _is_turned(image, found.get("image"), found.get("label"))
    return Facts(**found)  # type: ignore[arg-type]


def scan_pairs(pairs: Sequence[Paths]) -> list[Facts]:
    """`look` for several pairs, in a process that `start_looking` prepared."""
    return [scan_pair(Path(image), Path(label)) for image, label in pairs]


def start_scanner() -> None:
    """Prepares a process, which keeps its libraries' messages to itself."""
    global _stderr
    warnings.simplefilter("ignore")  # of Pillow, about metadata
    sys.stderr.flush()
    handle, name = tempfile.mkstemp(prefix="rmrkd-")
    os.unlink(name)
    os.dup2(handle, 2)
    _stderr = handle


def _is_turned(path: Path, shape: object, label: object) -> bool:
    """Only files whose sizes are each other's, height for width, are opened again."""
    if not isinstance(shape, tuple) or not isinstance(label, tuple) or shape == label or shape[::-1] != label:
        return False
    with suppress(CorruptError):
        return header_size(path) == label
    return False


def _complaint() -> str:
    """What was printed since it was last asked."""
    if _stderr is None or not (size := os.lseek(_stderr, 0, os.SEEK_CUR)):
        return ""
    lines = os.pread(_stderr, min(size, 4096), 0).decode("utf-8", "replace").splitlines()
    os.lseek(_stderr, 0, os.SEEK_SET)
    os.ftruncate(_stderr, 0)
    return next((line.strip() for line in lines if line.startswith(_COMPLAINTS)), "")


def _counts(raw: Picture) -> dict[int, int]:
    counts = value_counts(raw)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _behind_name(error: RunError, path: Path) -> str:
    return error.message.removeprefix(f"`{path}` ")
