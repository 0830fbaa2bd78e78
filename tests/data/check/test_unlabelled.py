"""`rmrkd data check` on images without label maps."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rmrkd_cli.data.check import DatasetReport, check_dataset, quick_check
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.unlabelled import UNLABELLED, find_unlabelled
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.schema import Preset
from tests.helpers import trees
from tests.helpers.cli import rmrkd


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CamVid tree of two images a split, and a folder `more` with one image for each finding."""
    root = trees.camvid(tmp_path_factory.mktemp("camvid"), images=2)
    more = root / "more"
    more.mkdir()
    rng = np.random.default_rng(3)
    for name, size in (("a.png", (30, 40)), ("b.jpg", (20, 50))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(more / name)
    shutil.copy(more / "a.png", more / "copy.png")
    shutil.copy(root / "train/0.png", more / "of-train.png")
    shutil.copy(root / "val/1.png", more / "of-val.png")
    (more / "broken.png").write_bytes((more / "a.png").read_bytes()[:200])
    Image.fromarray(rng.integers(0, 4000, (30, 40), np.uint16)).save(more / "deep.tif")
    return root


def preset(root: Path, **data: object) -> Preset:
    raw = {"dataset": "camvid", "teacher": {"config": "x"}, "student": {"config": "x"}}
    return Preset.model_validate({**raw, "data": {"root": str(root), **data}})


def check(root: Path, *splits: str, **data: object) -> DatasetReport:
    return check_dataset(dataset_info(preset(root, **data)), splits, workers=1)


def test_each_problem_of_an_unlabelled_image_is_found(root: Path) -> None:
    report = check(root, unlabelled={"images": "more"})
    found = {(f.severity, f.kind, Path(f.file).name): f for f in report.findings if f.split == UNLABELLED}
    assert set(found) == {
        ("error", "corrupt-image", "broken.png"),
        ("error", "image-format", "deep.tif"),
        ("error", "leak", "of-val.png"),
        ("note", "duplicate-image", "copy.png"),
        ("note", "duplicate-image", "of-train.png"),
    }
    assert "is also in `val`" in found["error", "leak", "of-val.png"].text
    assert str(root / "more/a.png") in found["note", "duplicate-image", "copy.png"].text
    assert "data.max_value" in found["error", "image-format", "deep.tif"].text
    split = report.splits[UNLABELLED]
    assert not split.labelled
    assert (split.pairs, sum(split.pixels), split.ignored) == (7, 0, 0)
    assert split.sizes[30, 40] == 3  # a, copy and deep
    assert report.splits["train"].labelled
    assert report.pairs_read == 4 + 7


def test_repeated_images_in_tar_archives_are_found(root: Path, tmp_path: Path) -> None:
    """Within an archive, between archives, and images of labelled splits."""
    members = (("0.tar", {"x/a": "more/a", "x/copy": "more/copy", "v": "val/1"}), ("1.tar", {"y/b": "more/a"}))
    for name, files in members:
        with tarfile.open(tmp_path / name, "w") as archive:
            for member, file in files.items():
                archive.add(root / f"{file}.png", f"{member}.png")
    report = check(root, unlabelled={"images": f"{tmp_path}/{{0..1}}.tar"})
    found = {(f.severity, f.file): f.text for f in report.findings if f.split == UNLABELLED}
    first = f"has the same contents as `{tmp_path}/0.tar/x/a.png`"
    assert found == {
        ("error", f"{tmp_path}/0.tar/v.png"): f"is also in `val`, as `{root}/val/1.png`",
        ("note", f"{tmp_path}/0.tar/x/copy.png"): first,
        ("note", f"{tmp_path}/1.tar/y/b.png"): first,
    }


def test_repeated_images_in_archives_of_labelled_splits_are_found(root: Path, tmp_path: Path) -> None:
    """Their names differ, so that no other check finds them."""
    tree = Path(shutil.copytree(root, tmp_path / "tree"))
    members = {"train": [("train", 0), ("train", 1), ("train", 0)], "val": [("val", 0), ("val", 1), ("train", 1)]}
    for split, files in members.items():
        with tarfile.open(tree / f"{split}.tar", "w") as archive:
            for number, (source, file) in enumerate(files):
                archive.add(tree / source / f"{file}.png", f"{split}{number}.png")
                archive.add(tree / f"{source}annot" / f"{file}.png", f"{split}{number}.mask.png")
    shards = {"images": "{0}.tar", "labels": "{0}.tar"}
    data: dict[str, Any] = {name: {key: text.format(name) for key, text in shards.items()} for name in members}
    info = dataset_info(
        Preset.model_validate(
            {
                "dataset": "custom", "teacher": {"config": "x"}, "student": {"config": "x"},
                "data": {
                    "root": str(tree), "classes": [f"c{number}" for number in range(11)], "image_suffix": ".png",
                    "label_suffix": ".mask.png", "train_scale": [96, 64], "eval_scale": [96, 64], **data,
                },
            }
        )
    )  # fmt: skip
    found = {(f.severity, f.kind, f.split, f.file): f.text for f in check_dataset(info, workers=1).findings}
    texts = {key: text for key, text in found.items() if key[1] in ("leak", "duplicate-image")}
    assert texts == {
        ("note", "duplicate-image", "train", f"{tree}/train.tar/train2.png"): (
            f"has the same contents as `{tree}/train.tar/train0.png`"
        ),
        ("error", "leak", "val", f"{tree}/val.tar/val2.png"): (
            f"has the same contents as `{tree}/train.tar/train1.png` in `train`"
        ),
    }


def test_a_split_without_labels_is_checked_for_its_images_alone(root: Path) -> None:
    report = check(root, train={"labels": "none"})
    assert not report.findings or {finding.split for finding in report.findings} == {"val"}
    assert not report.splits["train"].labelled
    assert report.splits["train"].pairs == 2


def test_a_folder_without_images_is_one_finding(root: Path, tmp_path: Path) -> None:
    (finding,) = (f for f in check(root, unlabelled={"images": str(tmp_path)}).findings if f.split == UNLABELLED)
    assert (finding.kind, finding.file) == ("no-images", str(tmp_path))
    assert "contains no image" in finding.text


def test_the_report_has_no_column_of_classes_for_them(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"dataset: camvid\ndata: {{root: {root}, unlabelled: {{images: more}}}}\n"
        "teacher: {config: x.py}\nstudent: {config: x.py}\n"
    )
    outcome = rmrkd("data", "check", "--preset", path, "--workers", "1", "--json", tmp_path / "check.json")
    assert outcome.exit_code == 2
    assert "unlabelled: 7 images without label maps, of 40x20 to 96x64 (width x height)" in outcome.stdout
    (header,) = (line for line in outcome.stdout.splitlines() if line.strip().startswith("class "))
    assert header.split() == ["class", "train", "val"]
    document = json.loads((tmp_path / "check.json").read_text())
    assert set(document["splits"][UNLABELLED]) == {"images", "sizes"}
    only = rmrkd("data", "check", "--preset", path, "--split", "unlabelled", "--workers", "1")
    assert only.message.startswith("2 problems")  # the validation images were not read


def test_training_checks_some_of_them_first(root: Path) -> None:
    info = dataset_info(preset(root, unlabelled={"images": "more"}))
    assert info.unlabelled is not None
    samples = {"val": find_samples(info, "val"), UNLABELLED: find_unlabelled(info.unlabelled)}
    with pytest.raises(RmrkdError, match=r"broken\.png") as caught:
        quick_check(info, samples)
    assert "deep.tif" in caught.value.message
    with pytest.raises(RmrkdError) as caught:
        quick_check(info, samples, allow_corrupt=[UNLABELLED])
    assert "broken.png" not in caught.value.message
