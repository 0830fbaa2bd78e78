"""A class map over its image: half-transparent colours, outlines, and names in the regions that have room for them.

Outlines and names are for those who cannot tell the colours apart: palettes are made for data sets, not for readers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.evaluation.label_png import ClassMap
from rmrkd_cli.prediction.legend import font_of, shown_name, text_size

_MOST_LABELS = 40  # regions of an image that are named
_SMALLEST_TEXT, _LARGEST_TEXT = 10, 44  # pixels
_SIDES_PER_TEXT = 24  # shorter sides of the image to one line of text
_SIDES_PER_LINE = 500  # and to one pixel of an outline


@dataclass(frozen=True)
class Overlay:
    """How class maps are drawn.

    Attributes:
        classes: Names.
        palette: A colour each, red first.
        opacity: Of the colours, 0 to 1.
    """

    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    opacity: float = 0.5

    def blend(self, image: Picture, classes: ClassMap) -> Picture:
        """(H, W, 3), red first, with outlines; from an image (H, W, 3), blue first."""
        import cv2

        table = np.zeros((256, 3), np.uint8)
        table[: len(self.palette)] = np.asarray(self.palette, np.uint8)
        base = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        mixed: Picture = cv2.addWeighted(base, 1 - self.opacity, table[classes], self.opacity, 0)
        width = max(1, round(min(classes.shape) / _SIDES_PER_LINE))
        edges = borders(classes).astype(np.uint8)
        if width > 1:
            edges = cv2.dilate(edges, np.ones((width, width), np.uint8))
        halo = cv2.dilate(edges, np.ones((3, 3), np.uint8)) if min(classes.shape) >= 200 else edges
        mixed[halo > 0] //= 3  # dark beside white is seen on every ground
        mixed[edges > 0] = 255
        return mixed

    def draw(self, image: Picture, classes: ClassMap) -> Any:
        """A Pillow image as large as `image`, with the names of large regions in them."""
        from PIL import Image, ImageDraw

        picture = Image.fromarray(self.blend(image, classes))
        pen = ImageDraw.Draw(picture)
        size = min(_LARGEST_TEXT, max(_SMALLEST_TEXT, round(min(classes.shape) / _SIDES_PER_TEXT)))
        font = font_of(size)
        for kind, room in regions(classes, size):
            name = shown_name(self.classes[kind])
            place = _place_for(room, *text_size(font, name), size // 3)
            if place is not None:
                pen.text(
                    place, name, fill="white", font=font, anchor="mm", stroke_width=max(1, size // 9),
                    stroke_fill="black",
                )  # fmt: skip
        return picture


def borders(classes: ClassMap) -> NDArray[np.bool_]:
    """(H, W), true where the pixel to the right or below has another class."""
    found = np.zeros(classes.shape, np.bool_)
    found[:, :-1] = classes[:, :-1] != classes[:, 1:]
    found[:-1] |= classes[:-1] != classes[1:]
    return found


@dataclass(frozen=True)
class _Room:
    """One region: where its box begins, and its pixels in the box."""

    left: int
    top: int
    inside: NDArray[np.bool_]


def regions(classes: ClassMap, text: int) -> Iterator[tuple[int, _Room]]:
    """The largest regions of one class with room for a line of so many pixels, the largest first."""
    import cv2

    inner = (~borders(classes)).astype(np.uint8)  # regions of two classes never touch in it
    _, numbers, boxes, _ = cv2.connectedComponentsWithStats(inner, connectivity=4)
    high, wide = boxes[:, cv2.CC_STAT_HEIGHT] >= 2 * text, boxes[:, cv2.CC_STAT_WIDTH] >= 3 * text
    large = np.flatnonzero(high & wide & (boxes[:, cv2.CC_STAT_AREA] >= 12 * text * text))
    large = large[large > 0]  # the number 0 are the borders
    order = large[np.argsort(-boxes[large, cv2.CC_STAT_AREA])]
    for number in order[:_MOST_LABELS]:
        left, top, width, height = (int(value) for value in boxes[number][:4])
        inside = numbers[top : top + height, left : left + width] == number
        row, column = np.unravel_index(int(inside.argmax()), inside.shape)
        yield int(classes[top + row, left + column]), _Room(left, top, inside)


def _place_for(room: _Room, width: int, height: int, margin: int) -> tuple[float, float] | None:
    """The middle of the roomiest place for a box, or none where it does not fit.

    The region is squeezed as the box is wide, so that a box that fits becomes a square that fits.
    """
    import cv2

    need = height + 2 * margin
    squeeze = need / (width + 2 * margin)
    shape = (max(1, round(room.inside.shape[1] * squeeze)), room.inside.shape[0])
    narrow = cv2.resize(room.inside.astype(np.uint8), shape, interpolation=cv2.INTER_AREA)
    framed = cv2.copyMakeBorder(narrow, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(framed, cv2.DIST_C, 3)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    if 2 * depth[row, column] < need:
        return None
    return room.left + (int(column) - 0.5) / squeeze, room.top + int(row) - 0.5
