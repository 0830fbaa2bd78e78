"""Suffixes that do not fit: the one that fits is offered by `data check` and by training, and following it helps."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from rmrkd_cli.data.check import check_dataset
from rmrkd_cli.data.check.findings import select_errors
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.errors import RmrkdError
from tests.data.check.test_check import info_of

NAMES = ("p1", "p10", "town/p2")
SETTING = re.compile(r"`data\.(image_suffix|label_suffix): (.+?)`")


def write(root: Path, image_ends: dict[str, str] | str, label_end: str, split: str = "train") -> None:
    for name in NAMES:
        image_end = image_ends if isinstance(image_ends, str) else image_ends[name]
        for part, end, mode in (("images", image_end, "RGB"), ("masks", label_end, "L")):
            path = root / part / split / f"{name}{end}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((8, 8, 3) if mode == "RGB" else (8, 8), np.uint8)
            Image.fromarray(pixels).save(path, "PNG")


def custom(root: Path, **data: object) -> DatasetInfo:
    folder = {"images": "images/train", "labels": "masks/train"}
    other = {"images": "images/val", "labels": "masks/val"}
    both = {"classes": ["a", "b"], "train": folder, "val": other, "train_scale": [8, 8]}
    return info_of("custom", root, **{**both, **data})


def errors(info: DatasetInfo) -> list[tuple[str, str]]:
    return [
        (finding.text, finding.fix) for finding in select_errors(check_dataset(info, ["train"], workers=1).findings)
    ]


@pytest.mark.parametrize(
    ("image_end", "label_end"),
    [
        (".jpg", "_mask.png"), (".jpg", "_gt.tif"), (".jpg", ".PNG"), (".JPG", ".png"), ("_rgb.jpg", "_label.png"),
        (".jpg", ".jpg.png"), (".jpg", " (mask).png"), (".png", ".png"), ("_image.png", ".png"),
    ],
)  # fmt: skip
def test_the_suffix_that_fits_is_offered_and_fits(
    image_end: str, label_end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, image_end, label_end)
    found = errors(custom(tmp_path))
    assert found
    [fix] = {fix for _, fix in found}
    with pytest.raises(RmrkdError) as caught:
        find_samples(custom(tmp_path), "train")
    assert fix in caught.value.hint
    offered = {key: yaml.safe_load(value) for key, value in SETTING.findall(fix)}
    assert offered
    assert errors(custom(tmp_path, **offered)) == []
    assert len(find_samples(custom(tmp_path, **offered), "train")) == len(NAMES)


def test_a_list_of_names_gets_the_same_offer(tmp_path: Path) -> None:
    write(tmp_path, ".jpg", "_mask.png")
    (tmp_path / "train.txt").write_text("\n".join(NAMES))
    folder = {"images": "images/train", "labels": "masks/train", "names": "train.txt"}
    found = errors(custom(tmp_path, train=folder))
    assert len(found) == len(NAMES)
    assert all("`data.label_suffix: _mask.png`" in fix for _, fix in found)
    with pytest.raises(RmrkdError) as caught:
        find_samples(custom(tmp_path, train=folder), "train")
    assert "`data.label_suffix: _mask.png`" in caught.value.hint


def test_mixed_suffixes_are_said_to_be_mixed(tmp_path: Path) -> None:
    """To set the other suffix would only move the problem to the other images."""
    write(tmp_path, {"p1": ".jpg", "p10": ".jpg", "town/p2": ".jpeg"}, ".png")
    [(text, fix)] = errors(custom(tmp_path))
    assert "has no image" in text
    assert fix.startswith("the folder mixes suffixes (2 names fit `data.image_suffix: .jpg`, 1 would fit `.jpeg`)")
    assert "rename the others to end in `.jpg`" in fix
    (tmp_path / "images/train/town/p2.jpeg").rename(tmp_path / "images/train/town/p2.jpg")
    assert errors(custom(tmp_path)) == []


@pytest.mark.parametrize("part", ["images", "masks"])
def test_an_empty_folder_is_called_empty(part: str, tmp_path: Path) -> None:
    write(tmp_path, ".jpg", ".png")
    for path in sorted((tmp_path / part).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / part / "train").mkdir()
    [(text, fix)] = errors(custom(tmp_path))
    assert text.startswith("is empty")
    assert "data-root" not in fix
    with pytest.raises(RmrkdError, match="is empty" if part == "images" else "label files are missing"):
        find_samples(custom(tmp_path), "train")


@pytest.mark.parametrize(
    ("image", "label", "offered"),
    [
        ("{}.jpg", "mask_{}.png", "`mask_p1.png` → `p1.png`"),
        ("{}.jpg", "gt-{}.png", "`gt-p1.png` → `p1.png`"),
        ("{}.jpg", "mask{}.png", "`maskp1.png` → `p1.png`"),
        ("img_{}.jpg", "mask_{}.png", "`mask_p1.png` → `img_p1.png`"),
        ("img_{}.jpg", "{}.png", "`p1.png` → `img_p1.png`"),
        ("{}.jpg", "mask_{}_gt.png", "`mask_p10_gt.png` → `p10_gt.png`, and set `data.label_suffix: _gt.png`"),
        ("{}.jpg", "mask_{}.tif", "`mask_p1.tif` → `p1.tif`, and set `data.label_suffix: .tif`"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_names_with_another_first_word_are_renamed_never_removed(
    image: str, label: str, offered: str, listed: bool, tmp_path: Path
) -> None:
    """Each rename that the message shows by one file makes all pairs fit."""
    names = ("p1", "p2", "p10", "town/p3")
    paths = {name: [Path(name).with_name(end.format(Path(name).name)) for end in (image, label)] for name in names}
    for files in paths.values():
        for part, file, shape in zip(("images", "masks"), files, ((8, 8, 3), (8, 8)), strict=True):
            (tmp_path / part / "train" / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / part / "train" / file, "PNG")
    folder = {"images": "images/train", "labels": "masks/train"}
    if listed:
        (tmp_path / "train.txt").write_text("\n".join(str(file.with_suffix("")) for file, _ in paths.values()))
        folder["names"] = "train.txt"
    [fix] = {fix for _, fix in errors(custom(tmp_path, train=folder))}
    assert f"must have equal names up to the suffix: rename each label map, such as {offered}" in fix
    assert "remove" not in fix
    with pytest.raises(RmrkdError) as caught:
        find_samples(custom(tmp_path, train=folder), "train")
    assert fix in caught.value.hint
    suffix = SETTING.findall(fix)[0][1] if SETTING.findall(fix) else ".png"
    for file, mask in paths.values():
        old = tmp_path / "masks/train" / mask
        old.rename(old.with_name(file.stem + suffix))
    assert errors(custom(tmp_path, train=folder, label_suffix=suffix)) == []


def test_a_missing_subfolder_is_part_of_the_name(tmp_path: Path) -> None:
    for part, file, shape in (("images", "town/p1.jpg", (8, 8, 3)), ("masks", "p1.png", (8, 8))):
        (tmp_path / part / "train" / file).parent.mkdir(parents=True)
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / part / "train" / file, "PNG")
    [fix] = {fix for _, fix in errors(custom(tmp_path))}
    assert "`p1.png` → `town/p1.png`" in fix


def test_unrelated_names_are_neither_guessed_nor_removed(tmp_path: Path) -> None:
    """`11` is not `1`: a guess would give an image the labels of another."""
    for number in range(1, 10):
        for part, file, shape in (("images", f"{number}.jpg", (8, 8, 3)), ("masks", f"1{number}.png", (8, 8))):
            (tmp_path / part / "train").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / part / "train" / file, "PNG")
    [fix] = {fix for _, fix in errors(custom(tmp_path))}
    assert fix.endswith("rename the label maps, the one of `1.jpg` to `1.png`")


def test_a_single_missing_file_may_still_be_removed(tmp_path: Path) -> None:
    write(tmp_path, ".jpg", ".png")
    (tmp_path / "masks/train/p10.png").unlink()
    [(_, fix)] = errors(custom(tmp_path))
    assert fix == "restore the label map, or remove the image"
