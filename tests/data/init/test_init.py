"""`rmrkd init`: the preset of a folder, which `data check` accepts and `train` trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.presets.loader import load_preset
from tests.data.init import folders
from tests.helpers.cli import Outcome, rmrkd

NAMES = [f"photo{number}" for number in range(10)]
TINY = "{library: torchvision, name: lraspp_mobilenet_v3_large}"


def init(root: Path, *options: object) -> tuple[dict[str, Any], str]:
    """Return the preset that `init` wrote, and its output; check it."""
    out = root.parent / f"{root.name}.yaml"
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    outcome = rmrkd("init", root, "--out", out, *options)
    assert outcome.exit_code == 0, outcome.message + outcome.hint
    assert f"next: rmrkd data check --preset {out}\n" in outcome.stdout
    checked = rmrkd("data", "check", "--preset", out, "--workers", 1)
    assert checked.exit_code == 0, checked.message + checked.stdout
    assert {path: path.read_bytes() for path in before} == before
    text = out.read_text()
    assert text.startswith(f"# rmrkd train --preset {out}\n")
    for line in re.findall(r"^assumed: (.*)$", outcome.stdout, re.MULTILINE):
        assert f"#   - {line}\n" in text
    return yaml.safe_load(text)["data"], outcome.stdout


def names_of(root: Path, split: str) -> list[str]:
    info = dataset_info(load_preset(str(root.parent / f"{root.name}.yaml")))
    return [sample.name for sample in find_samples(info, split)]


def refused(root: Path, *options: object) -> Outcome:
    outcome = rmrkd("init", root, "--out", root.parent / "refused.yaml", *options)
    assert outcome.exit_code == 2
    assert not (root.parent / "refused.yaml").exists()
    return outcome


def train(preset: Path, folder: Path) -> None:
    """Train the student two steps with tiny networks."""
    settings = (
        f"student={TINY}", f"teacher={TINY}", "schedule.crop=[32, 32]", "schedule.batch_size=2", "schedule.workers=0",
    )  # fmt: skip
    outcome = rmrkd(
        "train", "--preset", preset, "--role", "baseline", "--max-iters", 1, "--device", "cpu", "--work-dir", folder,
        *(word for setting in settings for word in ("--set", setting)),
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.message
    assert (folder / "baseline/student.pth").is_file()


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{}", "masks/{}"), ("img_dir/{}", "ann_dir/{}"), ("{}", "{}annot"), ("{}/images", "{}/labels"),
        ("{}_images", "{}_masks"), ("data/JPEGImages/{}", "data/SegmentationClass/{}"),
    ],
)  # fmt: skip
def test_paired_folders(tmp_path: Path, images: str, masks: str) -> None:
    root = tmp_path / "mine"
    folders.pairs(root, images.format("train"), masks.format("train"), NAMES)
    folders.pairs(root, images.format("val"), masks.format("val"), ["a/x1", "b/x2"])
    (root / "classes.txt").write_text("background\nroad\ncar\n")
    data, output = init(root)
    assert data == {
        "root": str(root),
        "classes": ["background", "road", "car"],
        "train": {"images": images.format("train"), "labels": masks.format("train")},
        "val": {"images": images.format("val"), "labels": masks.format("val")},
        "image_suffix": ".jpg",
        "label_suffix": ".png",
        "ignore_labels": [255],
        "train_scale": [96, 64],
    }
    assert "images: 10 train and 2 val, 96x64, .jpg\nclasses from classes.txt: 3 (background, road, car)" in output
    assert "assumed" not in output
    assert sorted(path.name for path in root.iterdir() if path.is_file()) == ["classes.txt"]


def test_masks_beside_images_are_split_by_lists(tmp_path: Path) -> None:
    root = tmp_path / "beside"
    folders.pairs(root, ".", ".", NAMES, suffixes=(".jpg", "_mask.png"))
    data, output = init(root)
    assert data["train"] == {"images": ".", "labels": ".", "names": "rmrkd-train.txt"}
    assert (data["image_suffix"], data["label_suffix"]) == (".jpg", "_mask.png")
    assert data["classes"] == ["class_0", "class_1", "class_2"]
    train_names, val_names = names_of(root, "train"), names_of(root, "val")
    assert (len(train_names), len(val_names)) == (8, 2)
    assert sorted(train_names + val_names) == NAMES
    assert "2 of 10 images, chosen by a hash of their names, are for validation" in output
    train(tmp_path / "beside.yaml", tmp_path / "run")


def test_the_split_is_the_same_everywhere_and_survives_new_images(tmp_path: Path) -> None:
    """PNG images beside PNG masks, whose names also end in the images' suffix."""
    val = []
    for folder, names in (("a", NAMES), ("b", NAMES), ("c", [*NAMES, "new1"])):
        root = tmp_path / folder / "x"
        folders.pairs(root, ".", ".", names, suffixes=(".png", "_gt.png"))
        init(root)
        val.append(set(names_of(root, "val")))
    assert val[0] == val[1]
    assert val[2] <= val[0] | {"new1"}


def test_an_export_of_cvat(tmp_path: Path) -> None:
    """Colour masks become class indices: the right ones for each pixel."""
    root = tmp_path / "task"
    indices = folders.cvat(root, NAMES)
    data, output = init(root)
    assert data["classes"] == ["background", "road", "car"]
    assert data["palette"] == [[0, 0, 0], [128, 64, 128], [0, 0, 142]]
    assert data["train"]["images"] == "JPEGImages"
    assert data["train"]["labels"] == "rmrkd-masks/SegmentationClass"
    for name, expected in indices.items():
        written = np.asarray(Image.open(root / f"rmrkd-masks/SegmentationClass/{name}.png"))
        assert np.array_equal(written, expected)
    assert "2 lists and 10 label maps" in output
    train(tmp_path / "task.yaml", tmp_path / "run")
    again = rmrkd("init", root, "--out", tmp_path / "again.yaml")
    assert "12 kept" in again.stdout
    written = root / "rmrkd-masks/SegmentationClass/photo0.png"
    Image.fromarray(np.zeros(folders.SIZE, np.uint8)).save(written)
    outcome = refused(root)
    assert f"`{written}` differs in " in outcome.message
    assert "never overwritten" in outcome.hint


def test_the_lists_of_an_export_are_used(tmp_path: Path) -> None:
    root = tmp_path / "task"
    folders.cvat(root, NAMES, subset="all")
    lists = root / "ImageSets/Segmentation"
    (lists / "train.txt").write_text("\n".join(NAMES[:7]))
    (lists / "val.txt").write_text("\n".join(NAMES[7:]))
    data, output = init(root)
    assert data["val"]["names"] == "ImageSets/Segmentation/val.txt"
    assert names_of(root, "val") == NAMES[7:]
    assert (
        "the splits are those of the lists ImageSets/Segmentation/train.txt and ImageSets/Segmentation/val.txt"
        in output
    )
    assert not list(root.glob("rmrkd-*.txt"))


def test_polygons_of_labelme_are_drawn(tmp_path: Path) -> None:
    """Values computed by hand: later shapes cover earlier ones, edges belong to a shape, the rest is background."""
    root = tmp_path / "notes"
    square = [[10, 10], [19, 10], [19, 19], [10, 19]]
    folders.labelme(root, {
        "a": [folders.shape("road", square), folders.shape("car", [[15, 15], [24, 24]], "rectangle")],
        "b": [
            folders.shape("car", [[40, 30], [45, 30]], "circle"),
            folders.shape("__ignore__", [[0, 0], [95, 3]], "rectangle"),
        ],
        "c": [],
    })  # fmt: skip
    data, output = init(root)
    assert data["classes"] == ["background", "car", "road"]
    assert data["label_suffix"] == ".png"
    masks = {name: np.asarray(Image.open(root / f"rmrkd-masks/{name}.png")) for name in "abc"}
    expected = np.zeros(folders.SIZE, np.uint8)
    expected[10:20, 10:20] = 2
    expected[15:25, 15:25] = 1
    assert np.array_equal(masks["a"], expected)
    assert (masks["b"][:4] == 255).all()
    disc = masks["b"] == 1
    assert disc[30, 35:46].all()
    assert abs(disc.sum() - np.pi * 5.5**2) < 4  # 11 pixels wide, because both edges belong to it
    assert not masks["c"].any()
    assert "they are the labels in the JSON files, sorted, after the background" in output
    train(tmp_path / "notes.yaml", tmp_path / "run")


def test_labelme_with_names_and_a_missing_image(tmp_path: Path) -> None:
    root = tmp_path / "notes"
    box = [folders.shape("car", [[15, 15], [24, 24]], "rectangle")]
    folders.labelme(root, {"a": box, "b": box, "c": [folders.shape("bus", [[1, 1], [9, 9]], "rectangle")]})
    (root / "class_names.txt").write_text("__ignore__\n_background_\nroad\ncar\n")
    outcome = refused(root)
    assert outcome.message == "the JSON files have labels that `class_names.txt` does not name: bus"
    (root / "c.json").unlink()
    data, output = init(root)
    assert data["classes"] == ["_background_", "road", "car"]
    assert np.asarray(Image.open(root / "rmrkd-masks/a.png")).max() == 2
    assert "1 image of `.` without a mask is left out, such as `c.jpg`" in output
    (root / "b.jpg").unlink()
    assert "its image `b.jpg` is missing" in refused(root).message


def test_an_export_of_labelme2voc(tmp_path: Path) -> None:
    """Palette images hold indices, and 255 where labelme has `__ignore__`."""
    root = tmp_path / "data_dataset_voc"
    folders.pairs(root, "JPEGImages", "SegmentationClass", NAMES)
    (root / "SegmentationClassVisualization").mkdir()
    palette = [value for colour in folders.COLOURS.values() for value in colour]
    full = [*palette, *[224] * (768 - len(palette))]
    for name in NAMES:
        path = root / "SegmentationClass" / f"{name}.png"
        image = Image.open(path)
        image.putpalette(full)
        image.save(path)
        Image.new("RGB", (96, 64)).save(root / "SegmentationClassVisualization" / f"{name}.jpg")
    (root / "class_names.txt").write_text("_background_\nroad\ncar\n")
    data, _ = init(root)
    assert data["train"]["labels"] == "SegmentationClass"
    assert data["classes"] == ["_background_", "road", "car"]
    assert not (root / "rmrkd-masks").exists()
    (root / "class_names.txt").unlink()
    (root / "labelmap.txt").write_text("car:0,0,142::\nroad:128,64,128::\nbackground:0,0,0::\n")
    before = np.asarray(Image.open(root / "SegmentationClass/photo1.png"))
    (tmp_path / "data_dataset_voc.yaml").unlink()
    (root / "rmrkd-train.txt").unlink()
    (root / "rmrkd-val.txt").unlink()
    data, _ = init(root)
    assert data["classes"] == ["car", "road", "background"]
    written = np.asarray(Image.open(root / "rmrkd-masks/SegmentationClass/photo1.png"))
    assert np.array_equal(written, np.array([2, 1, 0, *[255] * 253], np.uint8)[before])


def test_masks_of_0_and_255(tmp_path: Path) -> None:
    root = tmp_path / "cars"
    folders.pairs(root, "images", "masks", NAMES)
    for path in (root / "masks").iterdir():
        labels = np.asarray(Image.open(path))
        Image.fromarray(np.where(labels == 1, 255, 0).astype(np.uint8)).save(path)
    data, output = init(root)
    assert data["classes"] == ["background", "object"]
    assert "the masks hold 0 and 255 alone: 255 is `object`, not ignored" in output
    written = np.asarray(Image.open(root / "rmrkd-masks/masks/photo3.png"))
    assert np.array_equal(written, np.asarray(Image.open(root / "masks/photo3.png")) // 255)


def test_images_without_a_mask_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "half"
    folders.pairs(root, "images/train", "masks/train", NAMES)
    folders.pairs(root, "images/val", "masks/val", NAMES[:3])
    (root / "masks/train/photo4.png").unlink()
    data, output = init(root)
    assert data["train"]["names"] == "rmrkd-train.txt"
    assert "names" not in data["val"]
    assert "photo4" not in names_of(root, "train")
    assert "1 image of `images/train` without a mask is left out, such as `photo4.jpg`" in output


def test_a_training_folder_gives_a_validation_split_and_the_test_split_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "kept"
    folders.pairs(root, "train", "train_labels", NAMES)
    folders.pairs(root, "test", "test_labels", ["t1", "t2"])
    data, _ = init(root)
    assert data["test"] == {"images": "test", "labels": "test_labels"}
    assert data["val"] == {"images": "train", "labels": "train_labels", "names": "rmrkd-val.txt"}
    assert len(names_of(root, "val")) == 2


def test_large_and_mixed_sizes_and_deep_images(tmp_path: Path) -> None:
    root = tmp_path / "deep"
    for number, size in enumerate([(3000, 2000), (3000, 2000), (640, 480)]):
        Image.fromarray(np.full(size[::-1], 900, np.uint16)).save(root_file(root, "images", f"i{number}.png"))
        Image.fromarray((np.arange(size[0] * size[1]) % 2).reshape(size[::-1]).astype(np.uint8)).save(
            root_file(root, "masks", f"i{number}.png")
        )
    out = tmp_path / "deep.yaml"
    outcome = rmrkd("init", root, "--out", out)
    assert outcome.exit_code == 0
    contents = yaml.safe_load(out.read_text())
    assert contents["schedule"] == {
        "iters": 2000, "crop": [512, 512], "batch_size": 8, "eval_interval": 200, "checkpoint_interval": 200,
    }  # fmt: skip
    assert contents["data"]["train_scale"] == [2048, 1365]
    assert contents["data"]["max_value"] == 1023
    assert "640x480 to 3000x2000, mostly 3000x2000 (3 read)" in outcome.stdout


def root_file(root: Path, folder: str, name: str) -> Path:
    (root / folder).mkdir(parents=True, exist_ok=True)
    return root / folder / name


@pytest.mark.parametrize("case", ["lossy", "no masks", "smoothed", "names", "file", "out"])
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    root = tmp_path / "bad"
    folders.pairs(root, "images", "masks", NAMES, suffixes=(".jpg", ".jpg" if case == "lossy" else ".png"))
    if case == "lossy":
        outcome = refused(root)
        assert "photo0.jpg` is stored as JPEG, which does not keep the class indices" in outcome.message
        assert "save the label maps again as PNG from their source" in outcome.hint
    if case == "no masks":
        (root / "masks").rename(root / "other")
        for path in (root / "other").iterdir():
            path.rename(path.with_name(f"q{path.name[:5]}"))
        outcome = refused(root)
        assert "no image in" in outcome.message
        assert "looked for images/train with masks/train" in outcome.message
        assert "10 files in `images` that end in .jpg" in outcome.message
    if case == "smoothed":
        (root / "labelmap.txt").write_text(folders.LABELMAP)
        Image.fromarray(np.full((*folders.SIZE, 3), (60, 30, 60), np.uint8)).save(root / "masks/photo1.png")
        outcome = refused(root)
        assert "colours that `labelmap.txt` does not name" in outcome.message
        assert "(60, 30, 60)" in outcome.message
    if case == "names":
        (root / "classes.json").write_text('{"a": {"b": 1}}')
        assert "`classes.json` does not name the classes" in refused(root).message
    if case == "file":
        outcome = refused(root / "images/photo0.jpg")
        assert outcome.message.endswith("is no folder")
    if case == "out":
        (tmp_path / "there.yaml").write_text("mine")
        outcome = rmrkd("init", root, "--out", tmp_path / "there.yaml")
        assert outcome.message == f"`{tmp_path / 'there.yaml'}` already exists"
        assert (tmp_path / "there.yaml").read_text() == "mine"
        assert rmrkd("init", root, "--out", tmp_path / "x.txt").message.endswith("must end in .yaml")
