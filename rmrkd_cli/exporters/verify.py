"""Compare an exported file with the network it was made from, in the program that will run the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from rmrkd_cli.exporters.graph import MIN_SIDE, predict_classes
from rmrkd_cli.exporters.onnx import Runner
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.feature_maps import segment
from rmrkd_cli.prediction.inputs import find_inputs

MAX_IMAGES = 32  # of `--check-images`
_MAX_PIXELS = 1 << 19  # of a synthetic image: 1024x512
_ODD_SIZES = ((375, 250), (193, 257))  # (width, height), not divisible by the stride of a network
_SEED = 7

Batches = Iterable[tuple[str, NDArray[Any]]]  # name of the images, and (N, 3, H, W) uint8, RGB


@dataclass(frozen=True)
class Difference:
    """The difference between file and network on one batch.

    Attributes:
        what: Name of the images.
        size: (width, height).
        batch: Images in the batch.
        logits: Largest absolute difference of the logits; None if the file returns classes.
        largest: Largest absolute logit of the network.
        differing: Pixels whose class differs, out of `pixels`.
    """

    what: str
    size: Scale
    batch: int
    logits: float | None
    largest: float
    differing: int
    pixels: int


def compare_outputs(network: nn.Module, run: Runner, batches: Batches, raw: bool) -> list[Difference]:
    """Compare the outputs of a file with those of the unmodified network.

    Args:
        raw: The file takes uint8 images, else normalized ones.
    """
    differences, threshold = [], adapter_of(network).threshold
    for what, batch in batches:
        normalized = normalize(batch)
        with torch.inference_mode():
            expected = segment(network, torch.from_numpy(normalized))
        output = torch.from_numpy(run(batch if raw else normalized))
        has_logits = output.ndim == 4
        error = float((output - expected).abs().max()) if has_logits else None
        labels = predict_classes(expected, threshold)
        other = predict_classes(output, threshold) if has_logits else output.long()
        differing = int((other != labels).sum()) if other.shape == labels.shape else labels.numel()
        size = (batch.shape[3], batch.shape[2])
        differences.append(
            Difference(what, size, len(batch), error, float(expected.abs().max()), differing, labels.numel())
        )
    return differences


def normalize(batch: NDArray[Any]) -> NDArray[np.float32]:
    """Return images (N, 3, H, W) of values 0 to 255 as the network takes them, float32."""
    mean, std = (np.asarray(NORMALIZE[key], np.float32).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    normalized: NDArray[np.float32] = (batch.astype(np.float32) - mean) * (np.float32(1) / std)
    return normalized


def synthetic_batches(scale: Scale | None) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield batches of one and of two images, at the check size and at two odd sizes."""
    for size in (check_size(scale), *_ODD_SIZES):
        for count in (1, 2):
            yield "drawn", synthetic_images(size, count)


def synthetic_images(size: Scale, count: int) -> NDArray[np.uint8]:
    """Return images (N, 3, H, W) of textured shapes, RGB, the same in every call."""
    import cv2

    width, height = size
    images = []
    for number in range(count):
        tiles = [draw(np.random.default_rng([_SEED, number, tile]))[0] for tile in range(4)]
        grid = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])
        images.append(_to_rgb_planes(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)))
    return np.stack(images)


def check_size(scale: Scale | None) -> Scale:
    """Return (width, height) for checks and timing: `scale` (512x512 if None), shrunk to at most 2^19 pixels."""
    width, height = scale or (512, 512)
    factor = min(1.0, (_MAX_PIXELS / (width * height)) ** 0.5)
    return max(MIN_SIDE, round(width * factor)), max(MIN_SIDE, round(height * factor))


def image_batches(
    folder: Path, scale: Scale | None, max_value: float | None = None
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the first 32 images of a folder, one per batch, resized as for the network.

    Args:
        max_value: The value of white in images beyond 8 bits.

    Raises:
        RmrkdError: The folder contains no image.
    """
    images = [item for item in find_inputs([folder]) if not item.is_video][:MAX_IMAGES]
    if not images:
        raise RmrkdError(f"`{folder}` contains no image", "pass a folder of images to --check-images")
    views = EvalViews(scale)
    return ((item.path.name, _to_rgb_planes(views.resize(read_image(item.path, max_value)))[None]) for item in images)


def changed_share(differences: Sequence[Difference]) -> float:
    """Return the share of all pixels (0 to 1) whose class differs."""
    return sum(one.differing for one in differences) / max(1, sum(one.pixels for one in differences))


def _to_rgb_planes(image: Picture) -> Picture:
    """Convert (H, W, 3) BGR to (3, H, W) RGB."""
    planes: Picture = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))
    return planes
