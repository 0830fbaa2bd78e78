"""What the colours mean: a strip below or beside an overlay, and a picture of all classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rmrkd_cli.terminal.sanitize import escape_control

_SMALLEST_TEXT, _LARGEST_TEXT, _ALONE_TEXT = 11, 40, 16  # pixels
_SIDES_PER_TEXT = 30  # shorter sides of the image to one line of text
_LONGEST_NAME = 40  # characters
_FIGURE_SPACE = "\u2007"  # as wide as a digit
_MOST_ROWS = 32  # of the picture of all classes
_TALL = 1.15  # height to width, from which the strip stands beside


def with_legend(picture: Any, rows: Sequence[tuple[str, Sequence[int], float]]) -> Any:
    """A Pillow image with a strip: below it, or to the right of a tall one; wider or higher where the text needs it.

    Args:
        rows: Name, colour and share of pixels (0 to 1) of each class that occurs.
    """
    from PIL import Image

    size = min(_LARGEST_TEXT, max(_SMALLEST_TEXT, round(min(picture.size) / _SIDES_PER_TEXT)))
    ordered = sorted(rows, key=lambda row: -row[2])
    cells = [(f"{shown_name(name)}  {percent(share)}", colour) for name, colour, share in ordered]
    width, height = _cell(cells, size)
    beside = picture.height > _TALL * picture.width and picture.height >= 6 * height
    if beside:
        columns = math.ceil(len(cells) * height / max(height, picture.height - size))
    else:
        columns = max(1, min(len(cells), (picture.width - size) // width))
    strip = _grid(cells, size, columns)
    if beside:
        whole = Image.new("RGB", (picture.width + strip.width, max(picture.height, strip.height)), "white")
        whole.paste(picture, (0, 0))
        whole.paste(strip, (picture.width, 0))
    else:
        whole = Image.new("RGB", (max(picture.width, strip.width), picture.height + strip.height), "white")
        whole.paste(picture, ((whole.width - picture.width) // 2, 0))
        whole.paste(strip, (0, picture.height))
    return whole


def legend_of(classes: Sequence[str], palette: Sequence[Sequence[int]]) -> Any:
    """A Pillow image of all classes with their numbers."""
    digits = len(str(len(classes) - 1))
    cells = [
        (f"{str(number).rjust(digits, _FIGURE_SPACE)}  {shown_name(name)}", colour)
        for number, (name, colour) in enumerate(zip(classes, palette, strict=True))
    ]
    return _grid(cells, _ALONE_TEXT, math.ceil(len(cells) / _MOST_ROWS))


def percent(share: float) -> str:
    """`12.3 %`, and what rounds to nothing is told apart from none."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def shown_name(name: str) -> str:
    """As it can be drawn: one line, not endless."""
    text = escape_control(name)
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"


@cache
def font_of(size: int) -> Any:
    """DejaVu Sans, which comes with matplotlib and has Latin, Greek and Cyrillic letters; else Pillow's own."""
    from PIL import ImageFont

    package = find_spec("matplotlib")
    folder = Path(package.origin).parent if package is not None and package.origin is not None else Path()
    file = folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size) if file.is_file() else ImageFont.load_default(size)


def text_size(font: Any, text: str) -> tuple[int, int]:
    """(width, height) in pixels, as high for every text."""
    ascent, descent = font.getmetrics()
    return math.ceil(font.getlength(text)), ascent + descent


def _cell(cells: Sequence[tuple[str, Sequence[int]]], size: int) -> tuple[int, int]:
    widest = max((text_size(font_of(size), text)[0] for text, _ in cells), default=0)
    return widest + 3 * size, round(1.6 * size)


def _grid(cells: Sequence[tuple[str, Sequence[int]]], size: int, columns: int) -> Any:
    """Swatch and text of each, down the columns."""
    from PIL import Image, ImageDraw

    width, height = _cell(cells, size)
    rows = math.ceil(len(cells) / max(1, columns))
    margin = size // 2
    strip = Image.new("RGB", (columns * width + margin, rows * height + 2 * margin), "white")
    pen = ImageDraw.Draw(strip)
    for number, (text, colour) in enumerate(cells):
        left, top = margin + (number // rows) * width, margin + (number % rows) * height
        box = (left, top + round(0.2 * size), left + round(1.4 * size), top + round(1.4 * size))
        pen.rectangle(box, fill=tuple(colour), outline="black", width=max(1, size // 14))
        pen.text((left + 2 * size, top + height // 2), text, fill="black", font=font_of(size), anchor="lm")
    return strip
