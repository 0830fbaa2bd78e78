"""Label PNGs: one class index per pixel, with the palette of the data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.storage.atomic import save_atomic

LabelMap = NDArray[np.uint8]
MAX_CLASSES = 256


def write_label_png(labels: LabelMap, palette: Sequence[Sequence[int]], path: Path) -> None:
    """Write a label map (H, W) as an 8-bit PNG with a palette (mode P)."""
    from PIL import Image

    image = Image.fromarray(labels)
    image.putpalette([value for colour in palette for value in colour])
    write_image(image, path)


def write_image(image: Any, path: Path) -> None:
    """Write a Pillow image atomically; the suffix of `path` (.png or .jpg) selects the format."""
    form = {".png": "PNG", ".jpg": "JPEG"}[path.suffix]
    options: dict[str, Any] = {"quality": 92, "subsampling": 0} if form == "JPEG" else {"compress_level": 4}
    save_atomic(lambda partial: image.save(partial, form, **options), path)


def pixel_shares(labels: LabelMap, num_classes: int) -> NDArray[np.float64]:
    """Return the share of each class in all pixels, shape (num_classes,), from 0 to 1."""
    counts = np.bincount(labels.ravel(), minlength=num_classes)[:num_classes]
    shares: NDArray[np.float64] = counts / max(1, labels.size)
    return shares
