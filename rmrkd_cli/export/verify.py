"""Whether a written file computes what the network does, in the program that will run it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rmrkd_cli.data.demo import draw
from rmrkd_cli.data.image_io import Picture, read_image
from rmrkd_cli.data.transforms import NORMALIZE, EvalViews
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.model_card import Scale
from rmrkd_cli.export.exportable import classes_of, threshold_of
from rmrkd_cli.export.onnx import Run
from rmrkd_cli.prediction.inputs import find_inputs

MOST_IMAGES = 32  # of `--check-images`
_LARGEST = 1 << 19  # pixels of a drawn image: 1024x512
_ODD_SIZES = ((375, 250), (193, 257))  # (width, height), no multiples of a stride
_PATTERN_SEED = 7
_MOST_RUNS = 9
_SECONDS = 4.0


@dataclass(frozen=True)
class Difference:
    """How far the file is from the network on one batch.

    Attributes:
        what: The images, in words.
        size: (width, height).
        logits: Largest absolute difference; None where the file gives classes.
        largest: Largest absolute logit of the network.
        differing: Pixels that got another class, of `pixels`.
    """

    what: str
    size: Scale
    batch: int
    logits: float | None
    largest: float
    differing: int
    pixels: int


def compare(network: nn.Module, run: Run, batches: Iterator[tuple[str, NDArray[Any]]], raw: bool) -> list[Difference]:
    """Holds a file's outputs against those of the network itself, unfolded, on batches (N, 3, H, W) uint8, red first.

    Args:
        raw: The file takes them as they are, else normalised.
    """
    told, threshold = [], threshold_of(network)
    for what, batch in batches:
        ready = normalized(batch)
        with torch.inference_mode():
            expected = network.encode_decode(torch.from_numpy(ready), None)  # type: ignore[operator]
        got = torch.from_numpy(run(batch if raw else ready))
        logits = got.ndim == 4
        largest = float((got - expected).abs().max()) if logits else None
        chosen = classes_of(expected, threshold)
        classes = classes_of(got, threshold) if logits else got.long()
        differing = int((classes != chosen).sum()) if classes.shape == chosen.shape else chosen.numel()
        size = (batch.shape[3], batch.shape[2])
        told.append(Difference(what, size, len(batch), largest, float(expected.abs().max()), differing, chosen.numel()))
    return told


def normalized(batch: NDArray[Any]) -> NDArray[np.float32]:
    """(N, 3, H, W) float32 as the network takes it."""
    mean, std = (np.asarray(NORMALIZE[key], np.float32).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    ready: NDArray[np.float32] = (batch.astype(np.float32) - mean) * (np.float32(1) / std)
    return ready


def drawn_batches(scale: Scale | None) -> Iterator[tuple[str, NDArray[Any]]]:
    """The network's own size, bounded, and two odd ones; one image and two at a time."""
    for size in (bounded(scale), *_ODD_SIZES):
        for count in (1, 2):
            yield "drawn", drawn(size, count)


def drawn(size: Scale, count: int) -> NDArray[np.uint8]:
    """(N, 3, H, W) images of textured shapes, the same every time."""
    import cv2

    width, height = size
    shown = []
    for number in range(count):
        parts = [draw(np.random.default_rng([_PATTERN_SEED, number, part]))[0] for part in range(4)]
        board = np.vstack([np.hstack(parts[:2]), np.hstack(parts[2:])])
        shown.append(_red_first(cv2.resize(board, (width, height), interpolation=cv2.INTER_CUBIC)))
    return np.stack(shown)


def bounded(scale: Scale | None) -> Scale:
    """The size that the network is used at, where that is quickly computed; else one of its shape that is."""
    width, height = scale or (512, 512)
    factor = min(1.0, (_LARGEST / (width * height)) ** 0.5)
    return max(32, round(width * factor)), max(32, round(height * factor))


def given_batches(folder: Path, scale: Scale | None) -> Iterator[tuple[str, NDArray[Any]]]:
    """The first images of a folder, each as large as the network gets it.

    Raises:
        RmrkdError: When there is none.
    """
    images = [item for item in find_inputs([folder]) if not item.is_video][:MOST_IMAGES]
    if not images:
        raise RmrkdError(f"`{folder}` holds no image", "name images, or a folder of them")
    views = EvalViews(scale)
    return ((item.path.name, _red_first(views.resized(read_image(item.path)))[None]) for item in images)


def milliseconds(run: Run, image: NDArray[Any]) -> float:
    """Median of some warm runs, within a few seconds."""
    for _ in range(2):  # TorchScript compiles in its second run
        run(image)
    times: list[float] = []
    while len(times) < 3 or (len(times) < _MOST_RUNS and sum(times) < _SECONDS):
        started = time.perf_counter()
        run(image)
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def share(differences: Sequence[Difference]) -> float:
    """Of all pixels, those with another class."""
    return sum(one.differing for one in differences) / max(1, sum(one.pixels for one in differences))


def _red_first(image: Picture) -> Picture:
    turned: Picture = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))
    return turned
