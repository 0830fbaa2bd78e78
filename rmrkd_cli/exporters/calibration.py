"""The images that an INT8 file is calibrated with, and those that it is measured on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.image_io import Picture, read_image
from rmrkd_cli.data.source_file import SourceFile
from rmrkd_cli.data.transforms import EvalViews
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.model_card import ModelCard
from rmrkd_cli.exporters.graph import MIN_SIDE
from rmrkd_cli.prediction.inputs import find_inputs
from rmrkd_cli.terminal.text import plural

HELD_OUT = 5  # one image in so many is measured, not calibrated with
MIN_IMAGES = 2


@dataclass(frozen=True)
class CalibrationImages:
    """Images of one folder, spread over the order of their names.

    Attributes:
        calibrated: The ranges of the activations come from these.
        held_out: The classes of float and INT8 are compared on these.
    """

    calibrated: tuple[Path, ...]
    held_out: tuple[Path, ...]


def choose_images(folder: Path, count: int) -> CalibrationImages:
    """Choose the images of a folder to calibrate with, and a quarter as many to measure; the same ones in every call.

    Args:
        folder: Searched with its subfolders; videos are left out.
        count: Images to calibrate with. A folder of fewer than 5/4 of them gives four fifths of what it has.

    Raises:
        RmrkdError: The folder has fewer than 2 images.
    """
    paths = [item.path for item in find_inputs([folder]) if not item.is_video]
    if len(paths) < MIN_IMAGES:
        raise RmrkdError(
            f"`{folder}` has {plural(len(paths), 'image')}, calibration needs at least {MIN_IMAGES}",
            "--calibration DIR with images like those that the network will see; 100 or more are usual",
        )
    total = min(len(paths), count * HELD_OUT // (HELD_OUT - 1))
    chosen = [paths[number * len(paths) // total] for number in range(total)]
    held_out = chosen[HELD_OUT - 1 :: HELD_OUT] or chosen[-1:]
    return CalibrationImages(tuple(path for path in chosen if path not in held_out), tuple(held_out))


def prepared(paths: Sequence[Path], card: ModelCard) -> Iterator[NDArray[np.uint8]]:
    """Yield each image as the evaluation prepares it: (1, 3, H, W), uint8, RGB; one at a time is in memory.

    Raises:
        RmrkdError: A file is damaged, or too small for the network.
    """
    views = EvalViews(card.scale)
    for path in paths:
        yield prepare(read_image(path, card.max_value), views, path)


def prepare(image: Picture, views: EvalViews, name: object) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) BGR at the size of the evaluation, as (1, 3, H, W) RGB."""
    resized = views.resize(image) if views.can_resize(image) else image[:0]
    if min(resized.shape[:2]) < MIN_SIDE:
        height, width = image.shape[:2]
        raise RmrkdError(
            f"`{name}` has {width}x{height} pixels, which is less than {MIN_SIDE} in a direction at the size of the "
            "evaluation",
            "remove it from the folder, or choose a larger size with --scale WxH",
        )
    planes: NDArray[np.uint8] = np.ascontiguousarray(resized[..., ::-1].transpose(2, 0, 1)[None])
    return planes


class Reader:
    """Gives onnxruntime's calibration one input after the other.

    Args:
        inputs: What the file takes, one batch at a time.
        name: Of the file's input.
    """

    def __init__(self, inputs: Iterator[NDArray[Any]], name: str) -> None:
        self._inputs, self._name = inputs, name

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._inputs, None)
        return None if batch is None else {self._name: batch}


def positions_without(files: Sequence[SourceFile], used: Sequence[Path]) -> list[int]:
    """Return the positions of the files that are not in `used`, also under another name."""
    real = {os.path.realpath(path) for path in used}
    return [
        number for number, file in enumerate(files) if not (isinstance(file, Path) and os.path.realpath(file) in real)
    ]
