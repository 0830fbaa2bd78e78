"""Cityscapes' polygon files, measured before they are drawn: that takes as long as polygons are many and large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RunError
from rmrkd_cli.storage.regular_file import error_reason, read_regular

_MOST_BYTES = 1 << 24  # the largest published file has 0.4 MB
_MOST_PIXELS = 1 << 25  # of an image; the published ones have 2^21
_MOST_OBJECTS = 20_000
_MOST_POINTS = 200_000  # of all objects together
_MOST_WORK = 1 << 34  # of drawing, in pixels filled; five seconds where it is all edges
_AN_EDGE = 256  # pixels are filled in the time that one edge takes on one line of the image


def read_polygons(path: Path) -> str:
    """The text of a file whose polygons can be drawn in seconds.

    Raises:
        RunError: Naming the file and what is too large in it.
        ValueError, LookupError, TypeError, AttributeError, RecursionError: When it is of another form.
    """
    try:
        data = read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise RunError(f"`{path}` cannot be read: {error_reason(error)}") from error
    text = data.decode("utf-8")
    contents = json.loads(text)
    width, height = contents["imgWidth"], contents["imgHeight"]
    if not (width > 0 and height > 0 and width * height <= _MOST_PIXELS):
        raise RunError(f"`{path}` is for an image of {width}x{height}, at most {_MOST_PIXELS} pixels are drawn")
    drawn = contents["objects"]
    points = sum(len(entry["polygon"]) for entry in drawn)
    for count, what, most in (
        (len(drawn), "objects", _MOST_OBJECTS),
        (points, "points", _MOST_POINTS),
        (sum(_work(entry["polygon"], width, height) for entry in drawn), "pixels to draw (edges included)", _MOST_WORK),
    ):
        if count > most:
            raise RunError(f"`{path}` has {count} {what}, at most {most} are drawn")
    return text


def _work(polygon: list[Any], width: int, height: int) -> int:
    """For every line of the image that a polygon reaches: all its edges, and the pixels between the outermost."""
    if not polygon:
        return 0
    across, down = (_reach([point[axis] for point in polygon], size) for axis, size in ((0, width), (1, height)))
    return down * (_AN_EDGE * len(polygon) + across)


def _reach(places: list[float], size: int) -> int:
    return max(0, int(min(max(places), size)) - int(max(min(places), 0)) + 1)
