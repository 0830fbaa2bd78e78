"""Read the polygons of Labelme, and draw them as label maps.

The shapes are drawn as by `labelme.utils.shapes_to_label` (labelme 5, with its widths): later ones cover earlier ones.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmrkd_cli.data.file_types import IMAGE_SUFFIXES
from rmrkd_cli.data.image_file import Picture, bounded, open_image
from rmrkd_cli.data.image_io import header_size
from rmrkd_cli.data.init.class_names import BACKGROUND, ClassNames
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.storage.regular_file import error_reason, read_regular

_MAX_BYTES = 1 << 28  # a file may contain its image
_LINE_WIDTH, _POINT_SIZE = 10, 5  # pixels, labelme's defaults
_IGNORE = 255
_IGNORED = "__ignore__"
_SHOWN = 5


@dataclass(frozen=True)
class LabelmeFile:
    """One file with polygons.

    Attributes:
        image: Relative to the root of the data set, with `/`.
    """

    path: Path
    image: str


def find_labelme(root: Path, json_files: Sequence[str]) -> tuple[list[LabelmeFile], list[str]]:
    """Return the files of Labelme among JSON files, and all labels in them, sorted.

    Raises:
        RmrkdError: The image of a file is missing.
    """
    found: list[LabelmeFile] = []
    labels: set[str] = set()
    for name in sorted(json_files):
        contents = _read(root / name)
        if contents is None:
            continue
        found.append(LabelmeFile(root / name, _find_image(root, name, contents)))
        labels.update(str(shape["label"]) for shape in contents["shapes"])
    return found, sorted(labels)


def labelme_classes(labels: Sequence[str], names: ClassNames | None) -> tuple[list[str], list[str]]:
    """Return the classes, background first, and what was assumed.

    Raises:
        RmrkdError: A label in the files is no class of `names`.
    """
    if names is None:
        classes = ["background", *(label for label in labels if label not in BACKGROUND and label != _IGNORED)]
        return classes, [
            "no file names the classes: they are the labels in the JSON files, sorted, after the background"
        ]
    classes = list(names.names)
    if unknown := sorted(set(labels) - set(classes) - {_IGNORED}):
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise RmrkdError(
            f"the JSON files have labels that `{names.file}` does not name: {', '.join(unknown[:_SHOWN])}{more}",
            "add them to the file, or give another one: --classes FILE",
        )
    if classes[0].lower() not in BACKGROUND:
        return ["background", *classes], [f"`{names.file}` names no background: it is class 0"]
    return classes, []


def draw_shapes(classes: Mapping[str, int], root: Path, path: Path) -> Picture:
    """Return the label map (H, W) of a Labelme file; pixels of no shape are 0.

    Args:
        classes: Label -> class index.
        root: Folder of the data set, of which the image gives the size.

    Raises:
        RunError: The file is damaged, or has a shape that cannot be drawn.
    """
    from PIL import Image, ImageDraw

    contents = _read(path)
    if contents is None:
        raise RunError(f"`{path}` is no file of Labelme")
    size = header_size(root / _find_image(root, path.relative_to(root).as_posix(), contents))
    labels = Image.new("L", (size.width, size.height), 0)
    draw = ImageDraw.Draw(labels)
    for number, shape in enumerate(contents["shapes"], 1):
        value = _IGNORE if shape["label"] == _IGNORED else classes[str(shape["label"])]
        try:
            _draw(labels, draw, shape, value)
        except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
            raise RunError(f"`{path}`: shape {number} (`{shape['label']}`) cannot be drawn: {error}") from error
    return np.asarray(labels)


def _draw(labels: Any, draw: Any, shape: Mapping[str, Any], value: int) -> None:
    kind = shape.get("shape_type") or "polygon"
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if kind == "polygon":
        if len(points) < 3:
            raise ValueError("a polygon needs three points")
        draw.polygon(points, fill=value, outline=value)
    elif kind == "rectangle":
        (left, right), (top, bottom) = (sorted(axis) for axis in zip(*points[:2], strict=True))
        draw.rectangle((left, top, right, bottom), fill=value, outline=value)
    elif kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = math.hypot(x - edge_x, y - edge_y)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value, outline=value)
    elif kind in ("line", "linestrip"):
        draw.line(points, fill=value, width=_LINE_WIDTH)
    elif kind == "point":
        ((x, y),) = points
        draw.ellipse((x - _POINT_SIZE, y - _POINT_SIZE, x + _POINT_SIZE, y + _POINT_SIZE), fill=value, outline=value)
    elif kind == "mask":
        with open_image(base64.b64decode(shape["mask"])) as picture:
            bounded(picture.height, picture.width)
            labels.paste(value, (round(points[0][0]), round(points[0][1])), picture.convert("L").point(_to_mask))
    else:
        raise ValueError(f"the type `{str(kind)[:30]}` is not supported")


def _to_mask(pixel: int) -> int:
    return 255 if pixel else 0


def _read(path: Path) -> dict[str, Any] | None:
    """Return the contents of a Labelme file, or None for another JSON file."""
    try:
        contents = json.load(io.BytesIO(read_regular(path, _MAX_BYTES)))
    except OSError as error:
        raise RmrkdError(f"`{path}` cannot be read: {error_reason(error)}") from error
    except ValueError:
        return None
    shapes = contents.get("shapes") if isinstance(contents, dict) else None
    if not isinstance(shapes, list) or "imagePath" not in contents:
        return None
    return contents if all(isinstance(shape, dict) and "label" in shape for shape in shapes) else None


def _find_image(root: Path, name: str, contents: Mapping[str, Any]) -> str:
    """Return the image of a JSON file: where it says, or beside it with the same name."""
    folder = (root / name).parent
    said = folder / str(contents["imagePath"]).replace("\\", "/")
    beside = [folder / f"{Path(name).stem}{end}" for suffix in IMAGE_SUFFIXES for end in (suffix, suffix.upper())]
    for path in (said, *beside):
        if path.is_file() and path.resolve().is_relative_to(root.resolve()):
            return path.resolve().relative_to(root.resolve()).as_posix()
    inside = " (the file contains it, but rmrkd reads image files)" if contents.get("imageData") else ""
    raise RmrkdError(
        f"`{root / name}`: its image `{contents['imagePath']}` is missing{inside}",
        f"put the image beside the JSON file, below `{root}`",
    )
