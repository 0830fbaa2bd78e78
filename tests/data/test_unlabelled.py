"""Images without label maps: which are found, what they hold, and how a batch marks them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.image_cache import ImageCache, create_cache_file
from rmrkd_cli.data.loader import collate
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.transforms import TrainSet
from rmrkd_cli.data.unlabelled import count_labelled, find_training_samples
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.schema import Preset
from tests.helpers import trees


def preset(root: Path, dataset: str = "camvid", **data: object) -> Preset:
    raw = {"dataset": dataset, "teacher": {"config": "x"}, "student": {"config": "x"}}
    return Preset.model_validate({**raw, "data": {"root": str(root), **data}})


def info_of(root: Path, dataset: str = "camvid", **data: object) -> DatasetInfo:
    return dataset_info(preset(root, dataset, **data))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of 40x30 in several formats and folders, and files that are none."""
    root = tmp_path_factory.mktemp("unlabelled")
    rng = np.random.default_rng(5)
    for name in ("b.png", "a/2.JPG", "a/1.jpeg", "c.bmp"):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(path)
    for name in ("notes.txt", "._b.png", ".hidden/x.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_every_image_of_the_folder_follows_the_labelled_ones(camvid: Path, images: Path) -> None:
    info = info_of(camvid, unlabelled={"images": str(images)})
    samples = find_training_samples(info, "distill")
    assert [sample.name for sample in samples] == ["0", "1", "2", "3", "a/1.jpeg", "a/2.JPG", "b.png", "c.bmp"]
    assert count_labelled(samples) == (4, 4)
    assert all(sample.image.is_file() for sample in samples)
    for role in ("baseline", "teacher"):
        assert find_training_samples(info, role) == samples[:4]


def test_a_list_and_a_suffix_choose_the_images(camvid: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("b\nb.png\n")
    folder = {"images": str(images), "names": str(tmp_path / "list.txt"), "suffix": ".png"}
    assert [s.name for s in find_training_samples(info_of(camvid, unlabelled=folder), "distill")[4:]] == ["b.png"]
    jpeg = {"images": str(images), "suffix": ".jpg"}
    assert [s.name for s in find_training_samples(info_of(camvid, unlabelled=jpeg), "distill")[4:]] == ["a/2.JPG"]


def test_relative_folders_are_below_the_data_root(camvid: Path) -> None:
    samples = find_training_samples(info_of(camvid, unlabelled={"images": "val"}), "distill")
    assert samples[-1].image == camvid / "val" / "3.png"


@pytest.mark.parametrize(
    ("folder", "message", "hint"),
    [
        ({"images": "nowhere"}, "does not exist", "--set data.unlabelled.images=DIR"),
        ({"images": "valannot", "suffix": ".jpg"}, "contains no image that ends in `.jpg`", "data.unlabelled.suffix"),
        ({"images": "val", "names": "list.txt"}, "1 of 1 unlabelled images", "write names with their suffix"),
        ({"images": "val", "names": "empty.txt"}, "is empty", "one file a line"),
        ({"images": "val", "names": "up.txt"}, "points outside its folder", ""),
    ],
)
def test_missing_images_are_named(folder: dict[str, str], message: str, hint: str, tmp_path: Path) -> None:
    root = trees.camvid(tmp_path / "camvid")
    for name, text in (("list", "none-such\n"), ("empty", "\n"), ("up", "../0.png\n")):
        (root / f"{name}.txt").write_text(text)
    with pytest.raises(RmrkdError, match=message) as caught:
        find_training_samples(info_of(root, unlabelled=folder), "distill")
    assert hint in caught.value.hint


@pytest.mark.parametrize("labels", ["none", "teacher"])
def test_a_built_in_data_set_trains_without_its_label_maps(labels: str, camvid: Path) -> None:
    info = info_of(camvid, train={"labels": labels})
    assert count_labelled(find_training_samples(info, "distill")) == (0, 4)
    assert count_labelled(find_samples(info, "val")) == (4, 0)


def test_a_custom_data_set_needs_no_label_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(2):
        trees.write_pair(tmp_path / f"x/{number}.jpg", tmp_path / f"y/{number}.png", rng, (40, 40), 2)
    (tmp_path / "z").mkdir()
    (tmp_path / "x/0.jpg").rename(tmp_path / "z/0.jpg")
    data = {
        "classes": ["a", "b"], "train": {"images": "z", "labels": "none"}, "train_scale": [40, 40],
        "val": {"images": "x", "labels": "y"},
    }  # fmt: skip
    info = info_of(tmp_path, "custom", **data)
    assert [(s.name, s.label) for s in find_training_samples(info, "distill")] == [("0", None)]
    assert count_labelled(find_samples(info, "val")) == (1, 0)


def test_labels_of_an_unlabelled_image_are_ignored_everywhere(camvid: Path, images: Path) -> None:
    info = info_of(camvid, unlabelled={"images": str(images)})
    files = SampleFiles(info, find_training_samples(info, "distill"))
    assert [files.has_labels(index) for index in range(8)] == [True] * 4 + [False] * 4
    pair = files.pair(4)
    assert pair.labels.shape == (30, 40) == pair.image.shape[:2]
    assert (pair.labels == 255).all()


def train_set(info: DatasetInfo, source: SampleFiles | ImageCache) -> TrainSet:
    return TrainSet(source, scale=info.scale, crop=(48, 64), ratio_range=(0.5, 2.0), seed=3)


@pytest.mark.parametrize("cached", [False, True])
def test_a_batch_has_its_labelled_images_first_and_knows_what_the_others_cover(
    cached: bool, camvid: Path, images: Path
) -> None:
    info = info_of(camvid, unlabelled={"images": str(images)}, train_scale=[96, 64])
    files = SampleFiles(info, find_training_samples(info, "distill"))
    with create_cache_file("ram", files) as cache:
        dataset = train_set(info, ImageCache(cache.path, files) if cached else files)
        items = [dataset[position, index] for position, index in enumerate((5, 0, 7, 1))]
        batch = collate(list(items))
    assert batch.indices == [0, 1, 5, 7]
    for row, item in zip((2, 0, 3, 1), items, strict=True):
        assert torch.equal(batch.images[row], item.image)
    assert (batch.labels[2:] == 255).all()
    assert (batch.labels[:2] != 255).any()
    assert batch.unlabelled is not None
    for image, (height, width) in zip(batch.images[2:], batch.unlabelled.tolist(), strict=True):
        assert (image[:, height:] == 0).all()
        assert (image[:, :, width:] == 0).all()
        assert (image[:, :height, :width] != 0).any(0).all()  # no grey value is exactly the mean
    assert {tuple(size) for size in batch.unlabelled.tolist()} != {(48, 64)}, "one of them is padded"


def test_a_labelled_batch_marks_nothing_and_keeps_its_order(camvid: Path) -> None:
    info = info_of(camvid, train_scale=[96, 64])
    dataset = train_set(info, SampleFiles(info, find_training_samples(info, "distill")))
    batch = collate([dataset[0, 3], dataset[1, 0]])
    assert batch.indices == [3, 0]
    assert batch.unlabelled is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"train": {"labels": "none"}, "unlabelled": {"images": "x", "labels": "teacher"}}, "both must be equal"),
        ({"labelled_share": 0.5}, "`labelled_share` needs labelled and unlabelled images, but there are no"),
        (
            {"labelled_share": 0.5, "unlabelled": {"images": "x"}, "train": {"labels": "none"}},
            "but `train.labels` is `none`",
        ),
        ({"label_threshold": 0.5, "unlabelled": {"images": "x"}}, "`label_threshold` needs `train.labels: teacher`"),
        ({"train": {"labels": "none", "images": "x"}}, "are for the data set `custom`"),
        ({"unlabelled": "x"}, "must be `{images: FOLDER}`"),
        ({"unlabelled": {"images": "x"}, "labelled_share": 1.0}, "less than 1"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(data: dict[str, object], problem: str, camvid: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        preset(camvid, **data)


def test_a_custom_data_set_without_images_is_refused(tmp_path: Path) -> None:
    folders = {"train": {"labels": "none"}, "val": {"images": "x", "labels": "y"}}
    with pytest.raises(ValueError, match=r"needs `data\.train\.images`"):
        preset(tmp_path, "custom", classes=["a", "b"], train_scale=[40, 40], **folders)
