"""Write folders of images and masks as people and annotation tools arrange them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.trees import write_pair

SIZE = (64, 96)
COLOURS = {"background": (0, 0, 0), "road": (128, 64, 128), "car": (0, 0, 142)}
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\n"


def pairs(
    root: Path,
    images: str,
    masks: str,
    names: list[str],
    *,
    classes: int = 3,
    suffixes: tuple[str, str] = (".jpg", ".png"),
) -> None:
    """Write an image and a mask of each name; classes from 0, and a stripe of 255."""
    rng = np.random.default_rng(len(images))
    for name in names:
        write_pair(root / images / f"{name}{suffixes[0]}", root / masks / f"{name}{suffixes[1]}", rng, SIZE, classes)


def cvat(root: Path, names: list[str], subset: str = "default") -> dict[str, np.ndarray]:
    """Write CVAT's `Segmentation mask 1.1`; return the class indices in each mask."""
    pairs(root, "JPEGImages", "SegmentationClass", names)
    (root / "SegmentationObject").mkdir()
    (root / "labelmap.txt").write_text(LABELMAP)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / f"ImageSets/Segmentation/{subset}.txt").write_text("\n".join(names) + "\n")
    indices = {}
    for name in names:
        path = root / "SegmentationClass" / f"{name}.png"
        labels = np.asarray(Image.open(path)).copy()
        labels[labels == 255] = 0
        indices[name] = labels
        Image.fromarray(np.array([*COLOURS.values()], np.uint8)[labels]).save(path)
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "SegmentationObject" / f"{name}.png")
    return indices


def labelme(root: Path, shapes: dict[str, list[dict[str, Any]]]) -> None:
    """Write an image and a JSON file for each name."""
    root.mkdir(parents=True, exist_ok=True)
    for name, drawn in shapes.items():
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)).save(root / f"{name}.jpg")
        contents = {"version": "5.4.1", "flags": {}, "shapes": drawn, "imagePath": f"{name}.jpg", "imageData": None}
        (root / f"{name}.json").write_text(json.dumps({**contents, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}))


def shape(label: str, points: list[list[float]], kind: str = "polygon", **keys: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **keys}
