"""The file of one image's teacher outputs: safetensors, with a digest of its contents and what they belong to."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.errors import summarize_error
from rmrkd_cli.storage.atomic import save_atomic
from rmrkd_cli.storage.regular_file import read_regular

SUFFIX = ".safetensors"
HEADER_BYTES = 1024  # about what a file has beside its values
MAX_CLASSES = 256
_MAX_BYTES = 1 << 32
_MAX_HEADER = 1 << 16
_BLOCKS = 4  # of an image's signature, in each direction
_SAMPLES = 32  # pixels of a side that the signature reads
_TOLERANCE = 8  # grey levels of a block's mean: decoders of JPEG differ by one or two in a pixel
_SMALLEST = 1e-7  # probability; the logarithm of a smaller one would be of no use


class MapFileError(Exception):
    """A file cannot be used; the text says why, and its subject is the file."""


@dataclass(frozen=True)
class StoredMap:
    """What the teacher gives for one image.

    Attributes:
        values: (K, h, w) float16, logits or log-probabilities; with `classes`, the k largest log-probabilities.
        image: (height, width) of the image file.
        fitted: (height, width) of the image that the teacher saw.
        covered: (height, width) in pixels that the map covers: `fitted` with its padding.
        signature: Mean colours of the image, see `image_signature`.
        image_bytes: Size of the image file.
        identity: Of teacher and preprocessing, see `distillation.teacher_outputs`.
        classes: (k, h, w) uint8: the classes of `values`; None if all classes are stored.
        rest: (h, w) float16: log-probability of all other classes together.
    """

    values: Tensor
    image: tuple[int, int]
    fitted: tuple[int, int]
    covered: tuple[int, int]
    signature: str
    image_bytes: int
    identity: str
    classes: Tensor | None = None
    rest: Tensor | None = None


def map_bytes(num_classes: int, size: tuple[int, int], top_k: int | None) -> int:
    """Return the size of a file with a map of (height, width) positions."""
    values = num_classes * 2 if top_k is None else top_k * 3 + 2
    return math.prod(size) * values + HEADER_BYTES


def keep_largest(log_probabilities: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest log-probabilities (k, h, w), their classes, and the log-probability (h, w) of the others.

    Args:
        log_probabilities: (K, h, w).
        count: k, less than K.
    """
    values, classes = log_probabilities.float().topk(count, dim=0)
    rest = (1 - values.exp().sum(0)).clamp(min=_SMALLEST).log()
    return values.half(), classes.to(torch.uint8), rest.half()


def all_classes(stored: StoredMap, num_classes: int) -> Tensor:
    """Return (K, h, w) of a file: the classes that it does not name share the remaining probability equally."""
    if stored.classes is None or stored.rest is None:
        return stored.values
    share = stored.rest - math.log(num_classes - len(stored.values))
    return share.expand(num_classes, *share.shape).scatter(0, stored.classes.long(), stored.values)


def image_signature(image: Picture) -> str:
    """Return the mean colours of 4x4 blocks of an image (H, W, 3), as hexadecimal digits."""
    import cv2

    step = max(1, min(image.shape[:2]) // _SAMPLES)
    means = cv2.resize(np.ascontiguousarray(image[::step, ::step]), (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA)
    return bytes(means.tobytes()).hex()


def same_image(first: str, second: str) -> bool:
    """Return whether two signatures can be of the same image."""
    try:
        one, other = (np.frombuffer(bytes.fromhex(text), np.uint8).astype(np.int16) for text in (first, second))
    except ValueError:
        return False
    return one.shape == other.shape and bool((np.abs(one - other) <= _TOLERANCE).all())


def write_map(stored: StoredMap, path: Path) -> None:
    """Write a file atomically, with its folders.

    Raises:
        RunError: It cannot be written.
    """
    from safetensors.torch import save

    named = {"values": stored.values, "classes": stored.classes, "rest": stored.rest}
    tensors = {name: tensor.contiguous() for name, tensor in named.items() if tensor is not None}
    facts = {
        "image": json.dumps(stored.image), "fitted": json.dumps(stored.fitted), "covered": json.dumps(stored.covered),
        "signature": stored.signature, "image_bytes": str(stored.image_bytes), "identity": stored.identity,
    }  # fmt: skip
    digest = _digest(save(tensors, facts))
    contents = save(tensors, {**facts, "digest": digest})
    save_atomic(lambda partial: partial.write_bytes(contents), path)


def read_map(path: Path) -> StoredMap:
    """Return the contents of a file.

    Raises:
        MapFileError: It is missing, damaged, or no file of `write_map`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        contents = read_regular(path, _MAX_BYTES)
    except FileNotFoundError:
        raise MapFileError("is missing") from None
    except OSError as error:
        raise MapFileError(f"cannot be read: {error.strerror or error}") from error
    try:
        facts = _header(contents)[0]["__metadata__"]
        if _digest(contents) != facts["digest"]:
            raise MapFileError("is damaged: its contents do not have the digest that is stored in it")
        tensors: dict[str, Tensor] = load(contents)
        image, fitted, covered = (_pair(facts[name]) for name in ("image", "fitted", "covered"))
        stored = StoredMap(
            tensors["values"], image, fitted, covered, facts["signature"], int(facts["image_bytes"]),
            facts["identity"], tensors.get("classes"), tensors.get("rest"),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise MapFileError(f"is damaged, or no teacher output of rmrkd: {summarize_error(error)[:100]}") from error
    return stored


def _pair(text: str) -> tuple[int, int]:
    height, width = json.loads(text)
    return int(height), int(width)


def _header(contents: bytes) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and where its data begins."""
    length = int.from_bytes(contents[:8], "little")
    if not 0 < length <= min(_MAX_HEADER, len(contents) - 8):
        raise ValueError("it has no header")
    header = json.loads(contents[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is no mapping")
    return header, 8 + length


def _digest(contents: bytes) -> str:
    """Return a hash of the data, and of the header without the entry for this hash."""
    header, begin = _header(contents)
    facts = {name: value for name, value in header["__metadata__"].items() if name != "digest"}
    digest = hashlib.blake2b(json.dumps({**header, "__metadata__": facts}, sort_keys=True).encode(), digest_size=16)
    digest.update(memoryview(contents)[begin:])
    return digest.hexdigest()
