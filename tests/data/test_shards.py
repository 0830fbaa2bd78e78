"""Tar archives in place of folders: the same samples, order and pixels, without extracting a file."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rmrkd_cli.data import tar_index
from rmrkd_cli.data.check import check_dataset, quick_check
from rmrkd_cli.data.check.findings import select_errors
from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.image_cache import ImageCache, create_cache_file
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples, fingerprint, have_labels
from rmrkd_cli.data.shards import find_shards
from rmrkd_cli.data.tar_index import read_index
from rmrkd_cli.data.transforms import EvalSet, TrainSet
from rmrkd_cli.data.unlabelled import find_training_samples, find_unlabelled
from rmrkd_cli.errors import CorruptFileError, RmrkdError
from rmrkd_cli.presets.schema import Preset
from tests.helpers import trees

COUNT = 6
RANGE = "train-{000..002}.tar"
SHARDS = {"images": RANGE, "labels": RANGE}
FOLDERS = {"images": "images", "labels": "masks"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same six pairs of 40x48 in folders, and in three archives of two pairs each with other files beside them."""
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        trees.write_pair(root / f"images/{number}.jpg", root / f"masks/{number}.png", rng, (40, 48), 2)
    for shard in range(3):
        with tarfile.open(root / f"train-{shard:03d}.tar", "w") as archive:
            for number in (5 - shard, shard):  # not in the order of the names
                archive.add(root / f"images/{number}.jpg", f"./{number}.jpg")
                archive.add(root / f"masks/{number}.png", f"{number}.png")
                archive.addfile(tarfile.TarInfo(f"{number}.json"))
    return root


def info_of(root: Path, **data: object) -> DatasetInfo:
    data = {"classes": ["a", "b"], "train_scale": [48, 40], "train": SHARDS, "val": FOLDERS, **data}
    raw = {"dataset": "custom", "teacher": {"config": "x"}, "student": {"config": "x"}}
    return dataset_info(Preset.model_validate({**raw, "data": {"root": str(root), **data}}))


def train_set(info: DatasetInfo) -> TrainSet:
    files = SampleFiles(info, find_training_samples(info, "distill"))
    return TrainSet(files, scale=info.scale, crop=(32, 32), ratio_range=(0.5, 2.0), seed=3)


@pytest.mark.parametrize("train", [SHARDS, {"images": RANGE, "labels": "masks"}, {"images": "images", "labels": RANGE}])
def test_training_is_that_of_folders(train: dict[str, str], root: Path) -> None:
    packed, plain = info_of(root, train=train), info_of(root, train=FOLDERS)
    samples = find_samples(packed, "train")
    assert [sample.name for sample in samples] == list("012345")
    assert fingerprint(samples) == fingerprint(find_samples(plain, "train"))
    assert have_labels(samples)
    assert samples.count_labelled() == COUNT
    pairs = [
        (train_set(packed)[position, index], train_set(plain)[position, index])
        for position, index in enumerate((4, 0, 3))
    ]
    for mine, theirs in pairs:
        assert torch.equal(mine.image, theirs.image)
        assert torch.equal(mine.labels, theirs.labels)


def test_samples_are_sent_to_loader_processes(root: Path) -> None:
    samples = find_samples(info_of(root), "train")
    assert list(pickle.loads(pickle.dumps(samples[2:]))) == list(samples)[2:]


def test_a_list_chooses_among_the_archives(root: Path) -> None:
    (root / "list.txt").write_text("4\n1\n")
    samples = find_samples(info_of(root, train={**SHARDS, "names": "list.txt"}), "train")
    assert [sample.name for sample in samples] == ["1", "4"]
    assert [str(sample.image) for sample in samples] == [f"{root}/train-001.tar/{name}.jpg" for name in "14"]
    (root / "list.txt").write_text("4\n9\n")
    with pytest.raises(RmrkdError, match=r"1 of 2 image files are missing, the first is `.*/9\.jpg`"):
        find_samples(info_of(root, train={**SHARDS, "names": "list.txt"}), "train")


def test_evaluation_checks_and_cache(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path))
    info = info_of(root, val=SHARDS)
    samples = find_samples(info, "val")
    assert len(EvalSet(info, samples)) == COUNT
    assert EvalSet(info, samples)[0].labels is not None
    quick_check(info, {"val": samples})
    report = check_dataset(info, workers=1)
    assert select_errors(report.findings) == []
    assert {split: one.pairs for split, one in report.splits.items()} == {"train": COUNT, "val": COUNT}
    with create_cache_file("disk", SampleFiles(info, samples)) as cache:
        cached = ImageCache(cache.path, SampleFiles(info, samples))
        for index in range(COUNT):
            for mine, theirs in zip(cached.pair(index), SampleFiles(info, samples).pair(index), strict=True):
                assert np.array_equal(mine, theirs)


def test_a_broken_image_names_archive_and_file(root: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("x.jpg", "x.png"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"none"))
    info = info_of(tmp_path, train={"images": "a.tar", "labels": "a.tar"}, val={"images": "a.tar", "labels": "a.tar"})
    with pytest.raises(CorruptFileError, match=r"a\.tar/x\.jpg` cannot be read as an image: it is not an image"):
        train_set(info)[0, 0]
    errors = [finding.file for finding in check_dataset(info, workers=1).findings if finding.kind.startswith("corrupt")]
    assert f"{tmp_path}/a.tar/x.jpg" in errors


def test_the_index_is_made_once_and_again_after_a_change(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.tar"
    path.write_bytes((root / "train-000.tar").read_bytes())
    made = read_index(path)
    scans: list[Path] = []
    scan = tar_index.scan_tar
    monkeypatch.setattr(tar_index, "scan_tar", lambda path: scans.append(path) or scan(path))  # type: ignore[func-returns-value]
    again = read_index(path)
    assert (again.archive, again.names, again.places.tolist()) == (made.archive, made.names, made.places.tolist())
    assert not scans
    (stored,) = (tmp_path / "cache/tar-index").iterdir()
    for damaged in (b"", stored.read_bytes()[:-3], b"x" * 500):
        stored.write_bytes(damaged)
        assert read_index(path).names == made.names
    assert len(scans) == 3
    path.write_bytes((root / "train-001.tar").read_bytes())
    assert read_index(path).names == ["4.jpg", "4.png", "4.json", "1.jpg", "1.png", "1.json"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path / "file"))  # no folder can be made there
    assert len(read_index(path).names) == 6


def test_an_archive_that_changes_during_the_run_is_named(root: Path, tmp_path: Path) -> None:
    for shard in range(3):
        (tmp_path / f"train-{shard:03d}.tar").write_bytes((root / f"train-{shard:03d}.tar").read_bytes())
    dataset = train_set(info_of(tmp_path, val=SHARDS))
    os.utime(tmp_path / "train-000.tar", (1, 1))
    with pytest.raises(CorruptFileError, match=r"train-000\.tar/0\.jpg` cannot be read .*its archive was changed"):
        dataset[0, 0]
    dataset[0, 1]


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        ({"train": {"images": "train-{000..003}.tar", "labels": "masks"}}, "train-003.tar` does not exist", "braces"),
        ({"train": {"images": "other-*.tar", "labels": "masks"}}, r"other-\*.tar` does not exist", "correct the path"),
        ({"image_suffix": ".webp"}, "contain no image that ends in `.webp`", "end in `.jpg`, `.png`, `.json`"),
        ({"label_suffix": ".tif"}, "6 of 6 label files are missing, the first is", "rmrkd data check"),
        ({"image_suffix": ".png"}, "both end in `.png`", "data.label_suffix: .mask.png"),
        ({"train": {"images": "train-{2..0}.tar", "labels": "masks"}}, "smaller than its first", ""),
        ({"train": {"images": "t-{0..9}{0..99999}.tar", "labels": "masks"}}, "more than 100000 archives", ""),
        ({"train": {"images": "*.tar", "labels": "masks"}}, "`0` is in `.*copy.tar` and in `.*000.tar`", "unique"),
    ],
)  # fmt: skip
def test_what_is_missing_or_ambiguous_is_named(data: dict[str, object], message: str, hint: str, root: Path) -> None:
    (root / "copy.tar").write_bytes((root / "train-000.tar").read_bytes())
    with pytest.raises(RmrkdError, match=message) as caught:
        find_samples(info_of(root, **data), "train")
    assert hint in f"{caught.value.message} {caught.value.hint}"
    findings = check_dataset(info_of(root, **data), ["train"], workers=1).findings
    assert caught.value.message in findings[0].text
    (root / "copy.tar").unlink()


def test_label_maps_with_a_longer_suffix_are_no_images(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("x.png", "x.mask.png", "y.png", "y.mask.png"):
            archive.addfile(tarfile.TarInfo(name))
    folder = {"images": "a.tar", "labels": "a.tar"}
    info = info_of(tmp_path, train=folder, val=folder, image_suffix=".png", label_suffix=".mask.png")
    assert [sample.name for sample in find_samples(info, "train")] == ["x", "y"]


def test_braces_give_padded_numbers_in_order(tmp_path: Path) -> None:
    names = [f"{folder}/s-{number}.tar" for folder in "01" for number in ("08", "09", "10")]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_shards(tmp_path, "{0..1}/s-{08..10}.tar") == [tmp_path / name for name in names]
    assert find_shards(tmp_path, "1/*.tar") == [tmp_path / name for name in names[3:]]


def test_unlabelled_images_come_from_archives(root: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    with tarfile.open(tmp_path / "u.tar", "w") as archive:
        for name in ("b.png", "a/1.JPG", "._b.png", "notes.txt"):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(stream, "PNG")
            member = tarfile.TarInfo(name)
            member.size = len(stream.getvalue())
            archive.addfile(member, io.BytesIO(stream.getvalue()))
    info = info_of(root, unlabelled={"images": f"{tmp_path}/*.tar"})
    samples = find_training_samples(info, "distill")
    assert [sample.name for sample in samples] == [*"012345", "a/1.JPG", "b.png"]
    assert samples.count_labelled() == COUNT
    assert SampleFiles(info, samples).image(7).shape == (30, 40, 3)
    assert [
        s.name
        for s in find_training_samples(
            info_of(root, train=FOLDERS, unlabelled={"images": f"{tmp_path}/u.tar"}), "distill"
        )[-2:]
    ] == ["a/1.JPG", "b.png"]
    (tmp_path / "list.txt").write_text("b.png\n")
    listed = info_of(root, unlabelled={"images": f"{tmp_path}/u.tar", "names": f"{tmp_path}/list.txt"}).unlabelled
    assert listed is not None
    assert [sample.name for sample in find_unlabelled(listed)] == ["b.png"]
    (tmp_path / "list.txt").write_text("c.png\n")
    with pytest.raises(RmrkdError, match="1 of 1 unlabelled images in"):
        find_unlabelled(listed)


def test_label_maps_in_unlabelled_archives_are_not_taken_for_images(root: Path) -> None:
    unlabelled = info_of(root, unlabelled={"images": "train-*.tar"}).unlabelled
    assert unlabelled is not None
    with pytest.raises(RmrkdError, match=r"contains `0\.jpg` and `0\.png`: only one of them is an image") as caught:
        find_unlabelled(unlabelled)
    assert "data.unlabelled.suffix" in caught.value.hint
    chosen = info_of(root, unlabelled={"images": "train-*.tar", "suffix": ".jpg"}).unlabelled
    assert chosen is not None
    assert [sample.name for sample in find_unlabelled(chosen)] == [f"{number}.jpg" for number in range(COUNT)]
