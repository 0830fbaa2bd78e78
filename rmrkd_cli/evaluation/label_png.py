"""Index PNGs: a class a pixel, with the data set's palette."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.storage.atomic import save_atomic

ClassMap = NDArray[np.uint8]
MOST_CLASSES = 256


def write_class_map(classes: ClassMap, palette: Sequence[Sequence[int]], path: Path) -> None:
    """(H, W) as an 8-bit PNG of mode P."""
    from PIL import Image

    picture = Image.fromarray(classes)
    picture.putpalette([value for colour in palette for value in colour])
    write_picture(picture, path)


def write_picture(picture: Any, path: Path) -> None:
    """A Pillow image, whole or not at all, in the format that `path` ends with."""
    form = {".png": "PNG", ".jpg": "JPEG"}[path.suffix]
    options: dict[str, Any] = {"quality": 92, "subsampling": 0} if form == "JPEG" else {"compress_level": 4}
    save_atomic(lambda partial: picture.save(partial, form, **options), path)


def pixel_shares(classes: ClassMap, count: int) -> NDArray[np.float64]:
    """(count,) the share of each class in all pixels."""
    shares: NDArray[np.float64] = np.bincount(classes.ravel(), minlength=count)[:count] / max(1, classes.size)
    return shares
