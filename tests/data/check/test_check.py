"""`data check`: it finds every planted fault and no other."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmrkd_cli.data.check import check_dataset, dataset_check, quick_check
from rmrkd_cli.data.check.findings import ERROR, NOTE, Finding, select_errors
from rmrkd_cli.data.check.pair_scan import PairScan, scan_pair
from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.worker_pool import Map, worker_pool
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.schema import Preset
from tests.data import faults
from tests.helpers import trees
from tests.helpers.cli import rmrkd


@pytest.fixture(autouse=True)
def _one_worker_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scan in this process instead of one worker process: starting a process takes longer than most of these tests."""

    @contextmanager
    def pool_or_map(workers: int, initializer: Callable[[], None]) -> Iterator[Map]:
        if workers == 1:
            yield map
        else:
            with worker_pool(workers, initializer) as parallel_map:
                yield parallel_map

    monkeypatch.setattr("rmrkd_cli.data.check.pair_scan.worker_pool", pool_or_map)


def info_of(dataset: str, root: Path, **data: object) -> DatasetInfo:
    raw = {"dataset": dataset, "teacher": {"config": "x"}, "student": {"config": "x"}}
    return dataset_info(Preset.model_validate({**raw, "data": {"root": str(root), **data}}))


def quick(info: DatasetInfo, splits: list[str]) -> None:
    quick_check(info, {split: find_samples(info, split) for split in splits})


def matches(finding: Finding, expected: faults.Expected) -> bool:
    kind, file, text, fix = expected
    return finding.kind == kind and finding.file.endswith(file) and text in finding.text and fix in finding.fix


@pytest.mark.parametrize("dataset", ["cityscapes", "voc12aug"])
def test_ten_planted_faults_and_no_others_are_found(dataset: str, tmp_path: Path) -> None:
    expected = getattr(faults, dataset)(tmp_path / "tree")
    report = check_dataset(info_of(dataset, tmp_path / "tree"), workers=2)
    found = select_errors(report.findings)
    assert len(expected) == 10
    assert [entry for entry in expected if not any(matches(finding, entry) for finding in found)] == []
    assert [finding for finding in found if not any(matches(finding, entry) for entry in expected)] == []
    assert len(found) == 10
    assert {finding.kind for finding in report.findings if finding.severity == NOTE} <= {"absent-class"}


def test_the_command_reports_the_same_faults(tmp_path: Path) -> None:
    expected = faults.cityscapes(tmp_path / "tree")
    outcome = rmrkd("data", "check", "city", "--data-root", tmp_path / "tree", "--json", "-", "--workers", 1)
    assert (outcome.exit_code, outcome.message) == (2, f"10 problems in `{tmp_path / 'tree'}`")
    contents = json.loads(outcome.stdout)
    found = [Finding(**finding) for finding in contents["findings"] if finding["severity"] == ERROR]
    assert all(any(matches(finding, entry) for finding in found) for entry in expected)
    assert len(found) == 10
    shown = rmrkd("data", "check", "city", "--data-root", tmp_path / "tree", "--json", tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["findings"] == contents["findings"]
    assert all(Path(entry[1]).name in shown.stdout for entry in expected)


@pytest.mark.parametrize("dataset", ["cityscapes", "voc12aug", "camvid", "ade20k"])
def test_a_clean_tree_has_no_error(dataset: str, tmp_path: Path) -> None:
    getattr(trees, dataset)(tmp_path / "tree")
    report = check_dataset(info_of(dataset, tmp_path / "tree"), workers=1)
    assert select_errors(report.findings) == []
    assert {finding.kind for finding in report.findings} <= {"absent-class"}
    assert list(report.splits) == ["train", "val"]
    quick(report.info, ["train", "val"])
    outcome = rmrkd("data", "check", dataset, "--data-root", tmp_path / "tree")
    assert outcome.exit_code == 0
    assert ("no problems found" in outcome.stdout) == (not report.findings)


def test_shares_and_sizes_are_those_of_the_files(camvid: Path) -> None:
    report = check_dataset(info_of("camvid", camvid), ["val"], workers=1)
    labels = np.stack([np.asarray(Image.open(path)) for path in sorted((camvid / "valannot").iterdir())])
    split = report.splits["val"]
    assert split.pixels == np.bincount(labels.ravel(), minlength=12)[:11].tolist()
    assert split.ignored == int((labels == 11).sum())
    assert split.sizes == {(64, 96): 4}
    absent = {f.text.split("`")[1] for f in report.findings if f.kind == "absent-class"}
    assert absent == {name for name, count in zip(report.info.classes, split.pixels, strict=True) if not count}


def test_binary_masks_are_an_error(tmp_path: Path) -> None:
    root = trees.camvid(tmp_path / "tree")
    for path in (root / "trainannot").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(path)) > 5, 255, 0).astype(np.uint8)).save(path)
    found = select_errors(check_dataset(info_of("camvid", root), workers=1).findings)
    assert [(f.kind, f.file) for f in found] == [("binary-mask", str(root / "trainannot"))]
    assert "replace 255 by the class index 1" in found[0].fix


def test_labels_that_start_at_one_are_recognized(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    rng = np.random.default_rng(0)
    for number in range(3):
        trees.write_pair(root / f"x/{number}.jpg", root / f"y/{number}.png", rng, (40, 40), 2)
        values = np.asarray(Image.open(root / f"y/{number}.png")).copy()
        values[:20] = 0
        Image.fromarray(np.where(values == 255, 255, values + 1).astype(np.uint8)).save(root / f"y/{number}.png")
    folder = {"images": "x", "labels": "y"}
    info = info_of("custom", root, classes=["a", "b"], train=folder, val=folder, train_scale=[40, 40])
    report = check_dataset(info, ["train"], workers=1)
    assert all(f.kind == "label-value" and "subtract 1" in f.fix for f in select_errors(report.findings))
    assert select_errors(report.findings)


def test_a_test_split_without_labels_is_checked_only_on_request(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path / "tree")
    (root / "leftImg8bit/test/berlin").mkdir(parents=True)
    (root / "gtFine/test").mkdir()
    Image.new("RGB", (64, 32)).save(root / "leftImg8bit/test/berlin/berlin_0_0_leftImg8bit.png")
    info = info_of("cityscapes", root)
    assert "test" not in check_dataset(info, workers=1).splits
    assert [f.kind for f in select_errors(check_dataset(info, ["test"], workers=1).findings)] == ["missing-label"]


def test_a_missing_root_shows_the_layout(tmp_path: Path) -> None:
    outcome = rmrkd("data", "check", "cityscapes", "--data-root", tmp_path / "none")
    assert outcome.exit_code == 2
    assert "leftImg8bit/train/NAME_leftImg8bit.png" in outcome.stdout
    assert "--data-root" in outcome.hint


def test_the_quick_check_names_the_first_faults(tmp_path: Path) -> None:
    root = trees.camvid(tmp_path / "tree")
    values = np.asarray(Image.open(root / "valannot/3.png")).copy()
    values[0, 0] = 77
    Image.fromarray(values).save(root / "valannot/3.png")
    data = (root / "train/1.png").read_bytes()
    (root / "train/1.png").write_bytes(data[:-20])
    with pytest.raises(RmrkdError) as caught:
        quick(info_of("camvid", root), ["train", "val"])
    assert "2 problems" in caught.value.message
    assert "valannot/3.png` contains 77 (1 pixels)" in caught.value.message
    assert "train/1.png` cannot be read as an image" in caught.value.message
    assert f"rmrkd data check camvid --data-root {root}" in caught.value.hint


def test_the_quick_check_respects_its_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = info_of("camvid", trees.camvid(tmp_path / "tree", images=30, size=(8, 8)))
    looked: list[str] = []

    def slow(image: Path, label: Path, max_value: float | None, *, decode: bool) -> PairScan:
        time.sleep(0.02)
        looked.append(image.parent.name)
        return scan_pair(image, label, max_value, decode=decode)

    monkeypatch.setattr(dataset_check, "scan_pair", slow)
    monkeypatch.setattr(dataset_check, "_QUICK_SECONDS", 0.3)
    started = time.monotonic()
    quick(info, ["train", "val"])
    assert time.monotonic() - started < 1.0
    assert 2 <= looked.count("train") < 30
    assert 2 <= looked.count("val") < 30


def test_an_exif_rotated_image_fits_its_label_map(tmp_path: Path) -> None:
    root = trees.voc12aug(tmp_path / "tree")
    path = root / "JPEGImages" / "2007_val000.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    info = info_of("voc12aug", root)
    quick(info, ["val"])
    assert select_errors(check_dataset(info, ["val"], workers=1).findings) == []


def test_a_label_map_without_the_exif_rotation_of_its_image_is_an_error(tmp_path: Path) -> None:
    """ADE20K has such images: OpenCV rotates the pixels, and the label map stays."""
    root = trees.voc12aug(tmp_path / "tree")
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated, other = (root / "JPEGImages" / f"2007_val00{number}.jpg" for number in (0, 1))
    Image.open(rotated).save(rotated, exif=exif)
    Image.open(other).transpose(Image.Transpose.ROTATE_90).save(other)
    info = info_of("voc12aug", root)
    found = {Path(f.file).stem: f for f in select_errors(check_dataset(info, ["val"], workers=1).findings)}
    assert {name: f.kind for name, f in found.items()} == dict.fromkeys((rotated.stem, other.stem), "size-mismatch")
    assert "EXIF orientation" in found[rotated.stem].fix
    assert "find the label map made for this image" in found[other.stem].fix
    with pytest.raises(RmrkdError) as caught:
        quick(info, ["val"])
    assert "EXIF orientation" in caught.value.hint


def test_the_quick_check_lists_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trees.camvid(tmp_path / "tree")
    info = info_of("camvid", root)
    samples = find_samples(info, "train")
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("listed a folder"))
    quick_check(info, {"train": samples[:2]})
    os.truncate(samples[3].image, 200)
    quick_check(info, {"train": samples[:2]})
    with pytest.raises(RmrkdError, match=r"train/3\.png"):
        quick_check(info, {"train": samples})


def test_control_characters_in_names_are_escaped(tmp_path: Path) -> None:
    root = trees.voc12aug(tmp_path / "tree")
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_val000\n\x1b[2Jgone\n", encoding="utf-8")
    odd = os.fsencode(root / "JPEGImages") + b"/\xff.jpg"
    Path(os.fsdecode(odd)).write_bytes(b"")
    outcome = rmrkd("data", "check", "voc", "--data-root", root)
    assert "\\x1b[2Jgone" in outcome.stdout
    assert "\x1b[2J" not in outcome.stdout
    camvid = trees.camvid(tmp_path / "camvid")
    Path(os.fsdecode(os.fsencode(camvid / "train") + b"/\xff.png")).write_bytes(b"")
    outcome = rmrkd("data", "check", "camvid", "--data-root", camvid)
    assert "train/\\udcff.png has no label map" in outcome.stdout
    assert rmrkd("data", "check", "camvid", "--data-root", camvid, "--json", "-").exit_code == 2


def test_single_binary_masks_and_ignored_maps_are_notes(tmp_path: Path) -> None:
    root = trees.camvid(tmp_path / "tree", images=6)
    size = np.asarray(Image.open(root / "trainannot/0.png")).shape
    half = np.zeros(size, np.uint8)
    half[:, ::2] = 255
    Image.fromarray(half).save(root / "trainannot/1.png")
    Image.fromarray(np.full(size, 11, np.uint8)).save(root / "trainannot/2.png")
    Image.fromarray(half).convert("1").save(root / "trainannot/3.png")
    findings = check_dataset(info_of("camvid", root), ["train"], workers=1).findings
    assert [(f.kind, Path(f.file).name) for f in select_errors(findings)] == [("label-format", "3.png")]
    notes = {(f.kind, Path(f.file).name): f.text for f in findings if f.severity == NOTE and f.kind != "absent-class"}
    assert notes == {
        ("binary-mask", "1.png"): "contains only 0 and 255, with 255 on 50 % of the pixels",
        ("all-ignored", "2.png"): "contains only the ignored value 11",
    }


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_whose_labels_are_all_ignored_is_an_error(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = trees.camvid(tmp_path / "tree", images=6)
    folder = root / f"{split}annot"
    maps = sorted(folder.iterdir())
    for number, path in enumerate(maps):
        Image.fromarray(np.full((64, 96), 11 if number % 2 else 255, np.uint8)).save(path)
    info = info_of("camvid", root)
    [found] = select_errors(check_dataset(info, workers=1).findings)
    assert (found.kind, found.split, found.file) == ("nothing-counted", split, str(folder))
    with pytest.raises(RmrkdError, match=f"has no pixel of any class in `{split}`"):
        quick(info, ["train", "val"])
    labels = np.full((64, 96), 255, np.uint8)
    labels[0, 0] = 3  # one pixel in a file that a short check does not read
    Image.fromarray(labels).save(maps[-2])
    assert select_errors(check_dataset(info, workers=1).findings) == []
    monkeypatch.setattr(dataset_check, "_QUICK_PAIRS", 1)
    quick(info, ["train", "val"])


def test_without_sbd_the_next_step_is_to_prepare(tmp_path: Path) -> None:
    root = trees.voc12aug(tmp_path / "tree")
    (root / "ImageSets/Segmentation/aug.txt").unlink()
    (root / "SegmentationClassAug").rename(root / "elsewhere")
    outcome = rmrkd("data", "check", "voc", "--data-root", root)
    assert outcome.message.startswith(f"2 problems in `{root}`; the layout of `voc12aug` is\n")
    assert f"rmrkd data prepare voc12aug --data-root {root} --sbd benchmark_RELEASE" in outcome.hint
    assert "(one NAME a line)" in outcome.message
    with pytest.raises(RmrkdError) as caught:
        find_samples(info_of("voc12aug", root), "train")
    assert "rmrkd data prepare voc12aug" in caught.value.hint


def test_a_data_set_or_a_preset_is_needed(tiny: Path, camvid: Path) -> None:
    outcome = rmrkd("data", "check", "--data-root", camvid)
    assert (outcome.exit_code, outcome.message) == (2, "no data set is named")
    assert "--preset FILE" in outcome.hint
    outcome = rmrkd("data", "check", "city", "--preset", tiny)
    assert outcome.exit_code == 2
    assert outcome.hint == f"rmrkd data check --preset {tiny}"
    assert rmrkd("data", "check", "--preset", tiny).exit_code == 0


def test_a_preset_describes_custom_folders(tmp_path: Path) -> None:
    """One label folder may serve all splits, and a test split that equals val is reported once."""
    rng = np.random.default_rng(0)
    for number in range(6):
        part = "train" if number < 4 else "val"
        image = tmp_path / f"images/{part}/{number}.jpg"
        trees.write_pair(image, tmp_path / f"masks/{number}.png", rng, (32, 32), 2)
    text = """
dataset: custom
data: {{root: {root}, classes: [a, b], train_scale: [32, 32], train: {{images: images/train, labels: masks}},
  val: {{images: images/val, labels: masks}}, test: {{images: images/val, labels: masks}}}}
teacher: {{config: x.py}}
student: {{config: x.py}}
"""
    (tmp_path / "mine.yaml").write_text(text.format(root=tmp_path))
    for named in ([], ["custom"]):
        outcome = rmrkd("data", "check", *named, "--preset", tmp_path / "mine.yaml", "--json", "-")
        assert (outcome.exit_code, outcome.message) == (0, "")
    contents = json.loads(outcome.stdout)
    assert {name: split["pairs"] for name, split in contents["splits"].items()} == {"train": 4, "val": 2, "test": 2}
    findings = [f for f in contents["findings"] if f["kind"] != "absent-class"]
    assert [(f["severity"], f["kind"], f["text"]) for f in findings] == [
        ("note", "leak", "is the image folder of `test` and of `val`")
    ]
