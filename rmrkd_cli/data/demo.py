"""Generate a small data set: textured regions, shapes, occlusion, light and noise.

The colours of the classes overlap, so that a network needs colour, shape, texture and position to distinguish them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.errors import RunError

Image = NDArray[np.uint8]
Array = NDArray[np.float32]

SEED = 2025
SPLITS = {"train": 240, "val": 80}
SIZE = (128, 128)  # width, height
FOLDER = f"demo-v2-{SEED}"
CLASSES = ("sky", "ground", "water", "disc", "box", "triangle", "ring", "pole")
PALETTE = (
    (135, 190, 235), (125, 110, 70), (40, 80, 170), (220, 70, 60), (240, 190, 50),
    (90, 170, 90), (170, 90, 190), (90, 90, 100),
)  # fmt: skip
_WRITE_HINT = "free disk space, or choose another cache folder with RMRKD_CACHE=DIR"
_COLOUR_SPREAD = 40.0  # of 255
_DISC, _BOX, _TRIANGLE, _RING, _POLE = 3, 4, 5, 6, 7


def make_demo(folder: Path) -> None:
    """Write the data set unless the folder exists; the folder gets its name only when it is complete.

    Raises:
        RunError: When an image cannot be written.
    """
    if folder.is_dir():
        return
    import cv2

    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for number, (split, count) in enumerate(SPLITS.items()):
            for part in (split, f"{split}annot"):
                (partial / part).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                image, label = draw(np.random.default_rng([SEED, number, index]))
                for part, pixels in ((split, image), (f"{split}annot", label)):
                    if not cv2.imwrite(str(partial / part / f"{index:04d}.png"), pixels):
                        raise RunError(f"cannot write the demo images into `{partial}`", _WRITE_HINT)
        os.rename(partial, folder)
    except OSError as error:
        if not folder.is_dir():  # otherwise another process has finished first
            raise RunError(f"cannot write the demo images into `{folder}`: {error}", _WRITE_HINT) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def draw(rng: np.random.Generator) -> tuple[Image, Image]:
    """Return one image (H, W, 3), BGR, and its label map (H, W)."""
    width, height = SIZE
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    label: Image = np.zeros((height, width), np.uint8)
    image = _texture(rng, 0, xs, ys)
    horizon = rng.uniform(0.25, 0.5) * height + rng.uniform(2, 8) * np.sin(xs / rng.uniform(10, 30) + rng.uniform(0, 6))
    _paint(image, label, ys > horizon, 1, rng, xs, ys)
    shore = horizon + rng.uniform(0.2, 0.6) * height + rng.uniform(-0.5, 0.5) * (xs - width / 2)
    if rng.random() < 0.7:
        _paint(image, label, ys > shore, 2, rng, xs, ys)
    for _ in range(rng.integers(4, 9)):
        kind = int(rng.integers(_DISC, _POLE + 1))
        _paint(image, label, _shape(rng, kind, xs, ys), kind, rng, xs, ys)
    light = 1.0 + rng.uniform(-0.4, 0.4) * (xs / width - 0.5) + rng.uniform(-0.4, 0.4) * (ys / height - 0.5)
    image = image * light[..., None] + rng.normal(0, rng.uniform(4, 14), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), label


def _paint(
    image: Array, label: Image, region: NDArray[np.bool_], kind: int, rng: np.random.Generator, xs: Array, ys: Array
) -> None:
    label[region] = kind
    image[region] = _texture(rng, kind, xs, ys)[region]


def _texture(rng: np.random.Generator, kind: int, xs: Array, ys: Array) -> Array:
    """Return a colour pattern (H, W, 3): smooth for sky, disc and pole; noise, waves, stripes or checks for others."""
    base = np.clip(np.asarray(PALETTE[kind][::-1]) + rng.normal(0, _COLOUR_SPREAD, 3), 30, 225)
    angle = rng.uniform(0, np.pi)
    along = xs * np.cos(angle) + ys * np.sin(angle)
    across = ys * np.cos(angle) - xs * np.sin(angle)
    period = rng.uniform(4, 9)
    if kind == 1:
        pattern = rng.normal(0, 1.0, xs.shape)
    elif kind == 2:
        pattern = np.sin(ys / period * 4 + 2 * np.sin(xs / 12))
    elif kind in (_BOX, _RING):
        pattern = np.sign(np.sin(along / period * np.pi))
    elif kind == _TRIANGLE:
        pattern = np.sign(np.sin(along / period * np.pi) * np.sin(across / period * np.pi))
    else:
        pattern = (ys - ys.mean()) / ys.std()
    strength = rng.uniform(8, 30)
    return np.asarray(base + strength * pattern[..., None] * rng.uniform(0.5, 1.0, 3), np.float32)


def _shape(rng: np.random.Generator, kind: int, xs: Array, ys: Array) -> NDArray[np.bool_]:
    width, height = SIZE
    size = rng.uniform(9, 24)
    dx, dy = xs - rng.uniform(0, width), ys - rng.uniform(0.2, 1.0) * height
    angle = rng.uniform(0, np.pi)
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    if kind == _DISC:
        region = u**2 + (v * rng.uniform(1.0, 1.5)) ** 2 < size**2
    elif kind == _BOX:
        region = np.maximum(np.abs(u), np.abs(v) * rng.uniform(1.0, 1.8)) < size * 0.85
    elif kind == _TRIANGLE:
        region = (v < size * 0.6) & (v > np.abs(u) * 1.7 - size)
    elif kind == _RING:
        radius = np.hypot(u, v)
        region = (radius < size) & (radius > size * 0.55)
    else:
        region = (np.abs(dx + 0.1 * dy) < rng.uniform(1.5, 4)) & (np.abs(dy) < size * 2.2)
    return np.asarray(region)
