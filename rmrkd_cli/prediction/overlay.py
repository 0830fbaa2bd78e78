"""Draw a label map over its image: colours, outlines, and class names in the regions that have room for them.

The outlines and names help readers who cannot tell the colours of a palette apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.evaluation.label_png import LabelMap
from rmrkd_cli.prediction.legend import font_size, load_font, shorten_name

_MAX_NAMES = 40  # class names in one image
_MIN_AREA = 12  # of a named region, in squares of one line of text
_LINES_PER_SIDE = 24  # lines of text along the shorter side of an image
_OUTLINES_PER_SIDE = 500
_MIN_SIDE_FOR_HALO = 200  # pixels


@dataclass(frozen=True)
class Overlay:
    """The style of an overlay.

    Attributes:
        classes: Class names.
        palette: One RGB colour per class.
        opacity: Of the colours, from 0 to 1.
    """

    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    opacity: float = 0.5

    def blend(self, image: Picture, labels: LabelMap) -> Picture:
        """Return the RGB image (H, W, 3) with colours and outlines; `image` (H, W, 3) is BGR, `labels` is (H, W)."""
        import cv2

        colours = np.asarray(self.palette, np.uint8)[labels]
        blended: Picture = cv2.addWeighted(image[..., ::-1], 1 - self.opacity, colours, self.opacity, 0)
        width = max(1, round(min(labels.shape) / _OUTLINES_PER_SIDE))
        outline = cv2.dilate(find_edges(labels).astype(np.uint8), np.ones((width, width), np.uint8))
        if min(labels.shape) >= _MIN_SIDE_FOR_HALO:  # a dark halo keeps the outline visible on a bright image
            blended[cv2.dilate(outline, np.ones((3, 3), np.uint8)) > 0] //= 3
        blended[outline > 0] = 255
        return blended

    def draw(self, image: Picture, labels: LabelMap) -> Any:
        """Return `blend` as a Pillow image, with class names in the large regions."""
        from PIL import Image, ImageDraw

        canvas = Image.fromarray(self.blend(image, labels))
        pen = ImageDraw.Draw(canvas)
        size = font_size(labels.shape, _LINES_PER_SIDE)
        font, padding = load_font(size), 2 * (size // 3)
        for class_index, left, top, mask in _large_regions(labels, _MIN_AREA * size * size):
            name = shorten_name(self.classes[class_index])
            width, height = font.getlength(name) + padding, sum(font.getmetrics()) + padding
            center = _text_position(mask, width, height)
            if center is not None:
                pen.text(
                    (left + center[0], top + center[1]), name, fill="white", font=font, anchor="mm",
                    stroke_width=max(1, size // 9), stroke_fill="black",
                )  # fmt: skip
        return canvas


def find_edges(labels: LabelMap) -> NDArray[np.bool_]:
    """Return a mask (H, W) of the pixels whose right or lower neighbour has another class."""
    edges = np.zeros(labels.shape, np.bool_)
    edges[:, :-1] = labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def _large_regions(labels: LabelMap, min_area: int) -> Iterator[tuple[int, int, int, NDArray[np.bool_]]]:
    """Yield (class index, left, top, mask within its bounding box) of connected regions, the largest first."""
    import cv2

    inner = (~find_edges(labels)).astype(np.uint8)  # regions of different classes do not touch in this mask
    _, regions, stats, _ = cv2.connectedComponentsWithStats(inner, connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]  # region 0 is the edges
    for index in np.argsort(-areas)[:_MAX_NAMES]:
        if areas[index] < min_area:
            return
        left, top, width, height = (int(value) for value in stats[index + 1, :4])
        box = slice(top, top + height), slice(left, left + width)
        mask = regions[box] == index + 1
        yield int(labels[box][mask][0]), left, top, mask


def _text_position(mask: NDArray[np.bool_], width: float, height: float) -> tuple[float, float] | None:
    """Return the (x, y) center of a box of (width, height), as far inside the mask as possible; None if too large.

    The mask is scaled horizontally so that the box becomes a square, which a distance transform can place.
    """
    import cv2

    scale = height / width
    size = (max(1, round(mask.shape[1] * scale)), mask.shape[0])
    scaled = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    framed = cv2.copyMakeBorder(scaled, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distances = cv2.distanceTransform(framed, cv2.DIST_C, 3)
    y, x = np.unravel_index(int(distances.argmax()), distances.shape)
    return ((int(x) - 0.5) / scale, int(y) - 0.5) if 2 * distances[y, x] >= height else None
