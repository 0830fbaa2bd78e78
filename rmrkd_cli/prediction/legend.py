"""Legends: the class names next to their colours, below an overlay or as a separate image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rmrkd_cli.terminal.sanitize import escape_control

_MIN_FONT, _MAX_FONT, _CLASS_LEGEND_FONT = 11, 44, 16  # pixels
_LINES_PER_SIDE = 30  # lines of text along the shorter side of an image
_MAX_NAME = 40  # characters
_MAX_ROWS = 32  # of the legend of all classes
_FIGURE_SPACE = "\u2007"  # as wide as a digit

Entry = tuple[str, Sequence[int]]  # text and RGB colour


def add_legend(image: Any, rows: Sequence[tuple[str, Sequence[int], float]]) -> Any:
    """Return a Pillow image with a legend below it; the result is wider if the legend needs it.

    Args:
        image: A Pillow image.
        rows: Name, RGB colour and pixel share (0 to 1) of each class in the image.
    """
    from PIL import Image

    size = font_size(image.size, _LINES_PER_SIDE)
    ordered = sorted(rows, key=lambda row: -row[2])
    entries = [(f"{shorten_name(name)}  {format_share(share)}", colour) for name, colour, share in ordered]
    columns = max(1, min(len(entries), (image.width - size) // _cell_width(entries, size)))
    legend = _draw_entries(entries, size, columns)
    canvas = Image.new("RGB", (max(image.width, legend.width), image.height + legend.height), "white")
    canvas.paste(image, ((canvas.width - image.width) // 2, 0))
    canvas.paste(legend, (0, image.height))
    return canvas


def draw_class_legend(classes: Sequence[str], palette: Sequence[Sequence[int]]) -> Any:
    """Return a Pillow image of all classes: index, name and colour."""
    digits = len(str(len(classes) - 1))
    entries = [
        (f"{str(index).rjust(digits, _FIGURE_SPACE)}  {shorten_name(name)}", colour)
        for index, (name, colour) in enumerate(zip(classes, palette, strict=True))
    ]
    return _draw_entries(entries, _CLASS_LEGEND_FONT, math.ceil(len(entries) / _MAX_ROWS))


def format_share(share: float) -> str:
    """Return a share (0 to 1) as `12.3 %`; a share that would be rounded to zero is `< 0.1 %`."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def shorten_name(name: str) -> str:
    """Return a class name in one line of at most 40 printable characters."""
    text = escape_control(name)
    return text if len(text) <= _MAX_NAME else text[: _MAX_NAME - 1] + "…"


def font_size(shape: tuple[int, ...], lines: int) -> int:
    """Return the text height in pixels at which so many lines fit along the shorter side of an image."""
    return min(_MAX_FONT, max(_MIN_FONT, round(min(shape) / lines)))


@cache
def load_font(size: int) -> Any:
    """Return DejaVu Sans, which matplotlib ships: it has Latin, Greek and Cyrillic letters, but no CJK."""
    from PIL import ImageFont

    package = find_spec("matplotlib")  # to import it would take longer than to draw
    assert package is not None
    assert package.origin is not None
    return ImageFont.truetype(str(Path(package.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"), size)


def _cell_width(entries: Sequence[Entry], size: int) -> int:
    return max((math.ceil(load_font(size).getlength(text)) for text, _ in entries), default=0) + 3 * size


def _draw_entries(entries: Sequence[Entry], size: int, columns: int) -> Any:
    """Draw a colour swatch and a text for each entry, column by column."""
    from PIL import Image, ImageDraw

    width, height, margin = _cell_width(entries, size), round(1.6 * size), size // 2
    rows = math.ceil(len(entries) / columns)
    legend = Image.new("RGB", (columns * width + margin, rows * height + 2 * margin), "white")
    pen = ImageDraw.Draw(legend)
    for index, (text, colour) in enumerate(entries):
        left, top = margin + (index // rows) * width, margin + (index % rows) * height
        swatch = (left, top + round(0.2 * size), left + round(1.4 * size), top + round(1.4 * size))
        pen.rectangle(swatch, fill=tuple(colour), outline="black", width=max(1, size // 14))
        pen.text((left + 2 * size, top + height // 2), text, fill="black", font=load_font(size), anchor="lm")
    return legend
