from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rmrkd_cli.data import demo
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples, fingerprint
from rmrkd_cli.data.transforms import EvalSet, TrainSet
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.presets.schema import Data, Preset
from tests.helpers import trees


def preset(dataset: str, root: Path, **data: object) -> Preset:
    raw = {"dataset": dataset, "teacher": {"config": "x"}, "student": {"config": "x"}}
    return Preset.model_validate({**raw, "data": {"root": str(root), **data}})


def train_set(root: Path, **options: object) -> TrainSet:
    info = dataset_info(preset("camvid", root))
    arguments = {"crop": (48, 64), "ratio_range": (0.5, 2.0), "seed": 3, **options}
    return TrainSet(SampleFiles(info, find_samples(info, "train")), scale=info.scale, **arguments)  # type: ignore[arg-type]


def test_voc_joins_its_two_lists_with_their_label_folders(tmp_path: Path) -> None:
    info = dataset_info(preset("voc12aug", trees.voc12aug(tmp_path / "voc", images=3)))
    samples = find_samples(info, "train")
    assert len(samples) == 6
    assert {sample.label.parent.name for sample in samples} == {"SegmentationClass", "SegmentationClassAug"}
    assert len(find_samples(info, "val")) == 3
    assert info.num_classes == 21


def test_cityscapes_pairs_images_in_town_folders(tmp_path: Path) -> None:
    info = dataset_info(preset("cityscapes", trees.cityscapes(tmp_path / "city", images=2)))
    samples = find_samples(info, "val")
    assert [sample.name for sample in samples] == [f"aachen/aachen_{n:06d}_000019" for n in range(2)]
    assert info.num_classes == 19


def test_custom_folders_come_from_the_preset(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(3):
        trees.write_pair(tmp_path / f"x/{n}.tif", tmp_path / f"y/{n}_mask.png", rng, (40, 40), 2)
    folder = {"images": "x", "labels": "y"}
    described = preset(
        "custom", tmp_path, classes=["a", "b"], train=folder, val=folder, train_scale=[40, 40], image_suffix=".tif",
        label_suffix="_mask.png",
    )  # fmt: skip
    info = dataset_info(described)
    assert len(find_samples(info, "train")) == 3
    assert len(set(info.palette)) == 2
    assert EvalSet(info, find_samples(info, "val"))[0].labels.unique().tolist() in ([0, 1, 255], [0, 255], [1, 255])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "trainannot").rename(root / "gone"), "`trainannot` missing in"),
        (lambda root: (root / "trainannot/2.png").unlink(), "1 of 4 label files are missing, the first"),
        (lambda root: [path.unlink() for path in (root / "train").iterdir()], "no image ends in `.png`"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    root = trees.camvid(tmp_path / "camvid")
    damage(root)
    with pytest.raises(RmrkdError, match=message):
        find_samples(dataset_info(preset("camvid", root)), "train")


def test_an_unknown_split_and_an_incomplete_custom_data_set_are_errors(tmp_path: Path, camvid: Path) -> None:
    with pytest.raises(RmrkdError, match="no split `vall`, did you mean `val`"):
        find_samples(dataset_info(preset("camvid", camvid)), "vall")
    folder = {"images": "x", "labels": "y"}
    own = preset("custom", tmp_path, classes=["a", "b"], train=folder, val=folder)
    with pytest.raises(RmrkdError, match="needs the size"):
        dataset_info(own)


@pytest.mark.parametrize("value", [12, 200])
def test_an_invalid_label_value_is_named_with_its_file(tmp_path: Path, value: int) -> None:
    root = trees.camvid(tmp_path / "camvid")
    bad = root / "trainannot" / "1.png"
    label = np.asarray(Image.open(bad)).copy()
    label[5, 5] = value
    Image.fromarray(label).save(bad)
    with pytest.raises(RmrkdError, match=rf"1\.png` contains the label {value}"):
        train_set(root)[0, 1]


def test_ignored_id_becomes_255_and_classes_stay(camvid: Path) -> None:
    dataset = train_set(camvid)
    raw = np.asarray(Image.open(camvid / "trainannot" / "0.png"))
    mapped = dataset.source.labels(0)
    assert (raw == 11).any()
    assert np.array_equal(mapped, np.where(raw == 11, 255, raw))


def test_ade20k_counts_from_one(tmp_path: Path) -> None:
    info = dataset_info(preset("ade20k", tmp_path))
    files = SampleFiles(info, [])
    assert files.classes_of[[0, 1, 150, 255]].tolist() == [255, 0, 149, 255]
    assert files.allowed.tolist() == [True] * 151 + [False] * 104 + [True]


def test_a_sample_is_a_function_of_seed_and_position(camvid: Path) -> None:
    first, second = train_set(camvid), train_set(camvid)
    np.random.seed(99)
    a, b = first[7, 2], second[7, 2]
    assert torch.equal(a.image, b.image)
    assert torch.equal(a.labels, b.labels)
    assert a.image.shape == (3, 48, 64)
    assert a.labels.shape == (1, 48, 64)
    assert not torch.equal(a.image, first[8, 2].image)
    assert not torch.equal(a.image, train_set(camvid, seed=4)[7, 2].image)


def test_evaluation_views_keep_the_original_size_in_their_metadata(camvid: Path) -> None:
    info = dataset_info(preset("camvid", camvid, eval_scale=[48, 32]))
    item = EvalSet(info, find_samples(info, "val"), scales=(1.0, 2.0), flip=True)[0]
    assert [tuple(view.shape) for view, _ in item.views] == [(1, 3, 32, 48)] * 2 + [(1, 3, 64, 96)] * 2
    assert [meta["flip"] for _, meta in item.views] == [False, True] * 2
    assert all(meta["ori_shape"][:2] == (64, 96) for _, meta in item.views)
    assert torch.equal(item.views[1][0], item.views[0][0].flip(3))


def test_fingerprint_depends_on_the_names(camvid: Path) -> None:
    samples = find_samples(dataset_info(preset("camvid", camvid)), "val")
    assert fingerprint(samples) == fingerprint(list(samples))
    assert fingerprint(samples) != fingerprint(samples[1:])


def test_the_demo_is_generated_once_from_its_seed(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo.make_demo(folder)
    info = dataset_info(preset("demo", folder))
    assert {split: len(find_samples(info, split)) for split in ("train", "val")} == demo.SPLITS
    image, label = demo.draw(np.random.default_rng([demo.SEED, 0, 0]))
    assert np.array_equal(np.asarray(Image.open(folder / "trainannot" / "0000.png")), label)
    assert image.shape == (128, 128, 3)
    shares = np.bincount(
        np.concatenate([np.asarray(Image.open(s.label)).ravel() for s in find_samples(info, "val")]), minlength=8
    )
    assert (shares > 0.005 * shares.sum()).all()
    before = (folder / "train" / "0000.png").stat().st_mtime_ns
    demo.make_demo(folder)
    assert (folder / "train" / "0000.png").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_other_users_can_read_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder may be shared."""
    monkeypatch.setattr(demo, "SPLITS", {"train": 1, "val": 1})
    before = os.umask(0o022)
    try:
        demo.make_demo(tmp_path / "demo")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "demo", *(tmp_path / "demo").iterdir())}
    assert modes == {0o755}


def test_a_demo_that_cannot_get_its_name_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(demo, "SPLITS", {"train": 1, "val": 1})
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(RunError, match=r"cannot write the demo images into .*Permission denied"):
        demo.make_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_the_default_of_every_scale_is_the_data_sets() -> None:
    assert Data().train_scale is None
    assert dataset_info(preset("voc12aug", Path("x"))).eval_scale == (2048, 512)
    assert dataset_info(preset("cityscapes", Path("x"), eval_scale=[100, 50])).eval_scale == (100, 50)


def test_classes_are_mmsegmentations_own(tmp_path: Path) -> None:
    """Class names parsed from the source equal the imported ones."""
    from mmseg import datasets

    for name, source in (
        ("cityscapes", "CityscapesDataset"),
        ("voc12aug", "PascalVOCDataset"),
        ("ade20k", "ADE20KDataset"),
    ):
        info, theirs = dataset_info(preset(name, tmp_path)), getattr(datasets, source)
        assert info.classes == tuple(theirs.CLASSES)
        assert [list(colour) for colour in info.palette] == [list(colour) for colour in theirs.PALETTE]
