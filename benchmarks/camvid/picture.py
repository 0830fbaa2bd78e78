"""A picture of photographs, their masks and the predictions of several networks, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rmrkd_cli.comparison.bootstrap import counts_of, iou
from rmrkd_cli.results.record import Record

_WIDTH, _GAP, _TITLE = 240, 4, 22  # pixels


def typical_images(baseline: Record, distilled: Record, count: int) -> list[str]:
    """Return the names of the images in whose mIoU the two differ by the most ordinary amounts.

    They are those in the middle of all images in order of their difference, so neither won nor lost most.
    """
    classes = len(baseline["protocol"]["classes"])
    first, second = (iou(counts_of(record["per_image"], classes))[:, -1] for record in (baseline, distilled))
    order = np.argsort(second - first, kind="stable")
    middle = (len(order) - count) // 2
    return [baseline["per_image"]["names"][index] for index in order[middle : middle + count]]


def draw(names: Sequence[str], columns: Mapping[str, Path], palette: Sequence[Sequence[int]], output: Path) -> None:
    """Write the picture: a row for each image, a column for each folder.

    Args:
        names: File names without suffix.
        columns: Folders by title; photographs in colour, label maps as class indices.
    """
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    cells = [[_cell(folder / f"{name}.png", colours) for folder in columns.values()] for name in names]
    height = max(cell.height for row in cells for cell in row)
    size = (len(columns) * (_WIDTH + _GAP) - _GAP, _TITLE + len(names) * (height + _GAP) - _GAP)
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for column, title in enumerate(columns):
        pen.text((column * (_WIDTH + _GAP), 2), title, fill="black", font=font)
        for row, line in enumerate(cells):
            page.paste(line[column], (column * (_WIDTH + _GAP), _TITLE + row * (height + _GAP)))
    output.parent.mkdir(parents=True, exist_ok=True)
    page.save(output, optimize=True)


def _cell(path: Path, colours: NDArray[np.uint8]) -> Image.Image:
    with Image.open(path) as opened:
        pixels = np.asarray(opened)
    photograph = pixels.ndim == 3
    image = Image.fromarray(pixels[..., :3] if photograph else colours[pixels])
    size = (_WIDTH, round(image.height * _WIDTH / image.width))
    return image.resize(size, Image.Resampling.LANCZOS if photograph else Image.Resampling.NEAREST)
