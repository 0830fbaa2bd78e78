"""Class names from files of several kinds, and what the values in masks are taken for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmrkd_cli.data.init.class_names import ClassNames, read_class_names
from rmrkd_cli.data.init.folders import place_of
from rmrkd_cli.data.init.label_plan import LabelPlan, plan_labels
from rmrkd_cli.data.init.mask_scan import MAX_READ, MaskValues, indices_of_colours, scan_masks
from rmrkd_cli.errors import RmrkdError, RunError


@pytest.mark.parametrize(
    ("file", "text", "names", "colours", "indices"),
    [
        ("classes.txt", "sky\n\n# note\nroad side\n", ("sky", "road side"), None, None),
        ("labelmap.txt", "# label:color_rgb\nbg:0,0,0::\ncar:1,2,3:a:b\n", ("bg", "car"), ((0, 0, 0), (1, 2, 3)), None),
        ("colors.txt", "64 128 64\tCow\n0 0 192 Side walk\n", ("Cow", "Side walk"), ((64, 128, 64), (0, 0, 192)), None),
        ("names.txt", "1: b\n0: a\n", ("a", "b"), None, (0, 1)),
        ("class_dict.csv", "name,r,g,b\na,1,2,3\nb,4,5,6\n", ("a", "b"), ((1, 2, 3), (4, 5, 6)), None),
        ("_classes.csv", "Pixel Value, Class\n0, background\n1, leaf\n", ("background", "leaf"), None, (0, 1)),
        ("a.json", '["a", "b"]', ("a", "b"), None, None),
        ("b.json", '{"classes": {"1": "b", "0": "a"}}', ("a", "b"), None, (0, 1)),
        ("c.json", '{"b": 2, "a": 1}', ("a", "b"), None, (1, 2)),
        ("d.json", '[{"name": "a", "color": "#0102ff"}, {"name": "b", "id": 3}]', ("a", "b"), None, None),
        ("e.json", '{"a": [1, 2, 255], "b": [0, 0, 0]}', ("a", "b"), ((1, 2, 255), (0, 0, 0)), None),
    ],
)  # fmt: skip
def test_files_of_class_names(
    tmp_path: Path, file: str, text: str, names: tuple[str, ...], colours: object, indices: object
) -> None:
    (tmp_path / file).write_text(text)
    read = read_class_names(tmp_path / file, file)
    assert (read.names, read.colours, read.indices) == (names, colours, indices)


@pytest.mark.parametrize(
    ("folder", "place"),
    [
        ("", (".", "", "images", ())),
        ("images/train/aachen", ("images/train", "train", "images", ())),
        ("valid/masks", ("valid/masks", "val", "masks", ())),
        ("testannot", ("testannot", "test", "masks", ())),
        ("labelsTr", ("labelsTr", "train", "masks", ())),
        ("berlin/ann_dir/training", ("berlin/ann_dir/training", "train", "masks", ("berlin",))),
        ("SegmentationClassVisualization", ("SegmentationClassVisualization", "", "other", ())),
    ],
)
def test_names_of_folders(folder: str, place: tuple[object, ...]) -> None:
    assert tuple(place_of(folder)) == place


def plan(values: list[int], *names: str, indices: tuple[int, ...] | None = None) -> LabelPlan:
    known = ClassNames("names.txt", names, indices=indices) if names else None
    return plan_labels(MaskValues(1, 1, Counter(values)), known)


def test_values_with_names() -> None:
    assert plan([0, 1, 2, 255], "a", "b", "c").classes == ["a", "b", "c"]
    from_one = plan([1, 2], "a", "b")
    assert (from_one.classes, from_one.ignored) == (["void", "a", "b"], [0, 255])
    with_background = plan([0, 1, 2], "a", "b")
    assert (with_background.classes, with_background.ignored) == (["background", "a", "b"], [255])
    assert "if 2 is void and 0 is `a`" in with_background.assumed[0]
    assert plan([0, 1, 2], "background", "b").ignored == [2, 255]
    assert plan([1, 2], "a", "b", indices=(1, 2)).classes == ["void", "a", "b"]
    assert plan([1, 4], "a", "b", indices=(1, 4)).classes == ["unused_0", "a", "unused_2", "unused_3", "b"]
    last, first = plan([0, 1, 2], "a", "b", "Void"), plan([0, 1, 2], "unlabelled", "a", "b")
    assert (last.classes, last.ignored) == (["a", "b"], [2, 255])
    assert (first.classes, first.ignored) == (["unlabelled", "a", "b"], [0, 255])
    with pytest.raises(
        RmrkdError, match=r"hold 6 values beyond the 2 classes of `names.txt`: 4, 5, 6, 7, 8 and 1 more"
    ):
        plan([0, 4, 5, 6, 7, 8, 9], "a", "b")


def test_values_without_names() -> None:
    assert plan([0, 1]).classes == ["background", "object"]
    assert plan([0, 1, 3, 255]).classes == ["class_0", "class_1", "class_2", "class_3"]
    grey = plan([0, 85, 170, 255])
    assert grey.classes == ["background", "grey_85", "grey_170", "grey_255"]
    assert grey.convert is not None
    with pytest.raises(RmrkdError, match="only one class was found: class_0"):
        plan([0])


def test_colours_need_names_with_colours_or_get_one_class_each(tmp_path: Path) -> None:
    colours = Counter({(0, 0, 0): 1, (9, 8, 7): 1})
    found = MaskValues(1, 1, colours=colours, coloured=1)
    assert plan_labels(found, None).classes == ["background", "colour_090807"]
    with pytest.raises(RmrkdError, match="without their colours"):
        plan_labels(found, ClassNames("classes.txt", ("a", "b")))
    void = plan_labels(found, ClassNames("m.txt", ("void", "a", "b"), ((0, 0, 0), (9, 8, 7), (1, 1, 1))))
    assert void.classes == ["a", "b"]
    pixels = np.array([[[0, 0, 0], [9, 8, 7]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert void.convert is not None
    assert void.convert(tmp_path / "a.png").tolist() == [[255, 0]]
    many = MaskValues(1, 1, colours=Counter((0, 0, value) for value in range(65)), coloured=1)
    with pytest.raises(RmrkdError, match=r"hold 65 colours, and no file says which are classes"):
        plan_labels(many, None)
    with pytest.raises(RunError, match=r"has colours of no class: \(9, 8, 7\) \(1 pixels\)"):
        indices_of_colours({(0, 0, 0): 0}, tmp_path / "a.png")


def test_a_limited_number_of_masks_is_read_and_said(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:03d}.png" for number in range(MAX_READ + 10)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((4, 4), number % 2, np.uint8)).save(path)
    found = scan_masks(paths, ".png")
    assert (found.read, found.total, sorted(found.values)) == (MAX_READ, MAX_READ + 10, [0, 1])
    assert "the values were read from 200 of 210 masks; data check reads all" in plan_labels(found, None).assumed
    assert scan_masks(paths[:50], ".png").read == 50
