"""Boundary IoU beside its plain form: random maps, drawn images, whole evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rmrkd_cli.data import demo
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.transforms import EvalSet
from rmrkd_cli.evaluation.boundary import boundary_counts, boundary_pixels, boundary_radius
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.results.record import read_record
from tests.evaluation.plain_boundary import Map, plain_counts
from tests.helpers import trees
from tests.helpers.cli import rmrkd


def random_map(rng: np.random.Generator, size: tuple[int, int], classes: int, block: int) -> Map:
    """Squares of random classes, some of them cut by the border."""
    coarse = rng.integers(0, classes, [-(-side // block) for side in size])
    return coarse.repeat(block, 0).repeat(block, 1)[: size[0], : size[1]]


def counted(prediction: Map, labels: Map, classes: int, ratio: float) -> list[list[int]]:
    counts = boundary_counts(torch.from_numpy(prediction), torch.from_numpy(labels), classes, 255, ratio)
    assert counts.dtype == torch.int64
    return counts.tolist()


@pytest.mark.parametrize("ratio", [0.001, 0.005, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (37, 1), (64, 96), (50, 31)])
def test_it_equals_the_plain_form_on_random_maps(size: tuple[int, int], ratio: float) -> None:
    rng = np.random.default_rng([*size, round(1000 * ratio)])
    for block in (1, 3, 9, 20):
        labels = random_map(rng, size, 5, block)
        noise = rng.random(size) < 0.02
        prediction = np.where(noise, random_map(rng, size, 6, 1), np.roll(labels, 1, 1))
        labels = np.where(random_map(rng, size, 4, block) == 0, 255, labels).astype(np.uint8)
        expected = plain_counts(prediction, labels, 6, ratio)
        assert counted(prediction, labels, 6, ratio) == expected.tolist()


@pytest.mark.parametrize("ratio", [0.01, 0.02, 0.05])
def test_it_equals_the_plain_form_on_drawn_images(ratio: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        labels = demo.draw(rng)[1]
        prediction = np.roll(labels, (2, 3), (0, 1)) % 8
        expected = plain_counts(prediction, labels, 8, ratio)
        assert expected.sum() > 0
        assert counted(prediction, labels, 8, ratio) == expected.tolist()


@pytest.mark.parametrize("radius", [1, 2, 3, 7, 30])
def test_one_square_reaches_as_far_as_its_number_of_small_squares(radius: int) -> None:
    """d erosions by 3x3 pixels of each class's mask, one after the other, against the one pass over all classes."""
    rng = np.random.default_rng(radius)
    classes = torch.from_numpy(random_map(rng, (40, 61), 5, 8))
    other = 1 - F.one_hot(classes, 5).permute(2, 0, 1).float()  # (5, H, W): where a pixel is not of the class
    other = F.pad(other, (1, 1, 1, 1), value=1.0)
    for _ in range(radius):
        other = F.max_pool2d(other, 3, stride=1, padding=1)
    eroded_away = other[:, 1:-1, 1:-1].gather(0, classes[None])[0] > 0
    assert 0 < eroded_away.sum() <= classes.numel()
    assert torch.equal(boundary_pixels(classes, radius, 5), eroded_away)


def test_hand_computed_pixels() -> None:
    classes = torch.tensor([[0] * 7] * 7)
    assert boundary_pixels(classes, 1, 9).sum() == 49 - 25  # the border only
    classes[3, 3] = 1
    near = boundary_pixels(classes, 1, 9)
    assert near[2:5, 2:5].all()
    assert near.sum() == 24 + 9
    truth = torch.zeros(5, 6, dtype=torch.uint8)
    truth[:, 3:] = 1
    guess = truth.long().roll(1, 1)
    guess[:, 0] = 0  # the edge is one pixel further to the right
    # Class 0 has 5x3 pixels in the labels, 3x1 of them inside, and 5x4 in the prediction, 3x2 of them inside. In both
    # boundaries are its left column and the ends of two more. Class 1 has 5x3, 3x1 inside, and 5x2, none inside.
    assert boundary_counts(guess, truth, 3, 255, 0.02).tolist() == [[9, 7, 0], [12, 12, 0], [14, 10, 0]]


@pytest.mark.parametrize(
    ("size", "ratio", "radius"),
    [
        ((1024, 2048), 0.02, 46), ((1024, 2048), 0.005, 11), ((360, 480), 0.02, 12), ((10, 10), 0.02, 1),
        ((3, 4), 0.5, 2), ((30, 40), 0.01, 1), ((30, 40), 0.07, 4),
    ],
)  # fmt: skip
def test_the_width_is_rounded_and_at_least_one_pixel(size: tuple[int, int], ratio: float, radius: int) -> None:
    """Halves go to the even number, as Python rounds in the released code: 2.5 to 2, 3.5 to 4."""
    assert boundary_radius(*size, ratio) == radius


def test_ignored_pixels_count_nowhere_and_end_the_image_for_both() -> None:
    rng = np.random.default_rng(3)
    labels = random_map(rng, (40, 50), 3, 11).astype(np.uint8)
    labels[10:20, 12:40] = 255
    right = np.where(labels == 255, 0, labels)
    both, true, predicted = counted(right, labels, 3, 0.02)
    assert both == true == predicted  # boundaries at ignored pixels do not harm a right prediction
    for replaced in (1, 2, 77, 255):
        assert counted(np.where(labels == 255, replaced, labels), labels, 3, 0.02) == [both, true, predicted]
    framed = np.full((48, 58), 255, np.uint8)
    framed[4:44, 4:54] = labels
    width = 1 / np.hypot(48, 58)
    inner = 1 / np.hypot(40, 50)
    around = counted(np.zeros((48, 58), np.int64), framed, 3, width)
    assert around == counted(np.zeros((40, 50), np.int64), labels, 3, inner)  # ignored pixels are like the border


def test_an_image_without_labels_counts_nothing() -> None:
    counts = counted(np.zeros((9, 9), np.int64), np.full((9, 9), 255, np.uint8), 4, 0.02)
    assert counts == [[0] * 4] * 3


class _Largest(TorchFunctionMode):
    """Keep the largest number of bytes of a tensor."""

    bytes = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(one, Tensor):
                self.bytes = max(self.bytes, one.numel() * one.element_size())
        return result


def test_memory_does_not_grow_with_the_classes() -> None:
    found = {}
    for classes in (2, 150):
        labels = torch.from_numpy(random_map(np.random.default_rng(0), (128, 256), classes, 7))
        with _Largest() as largest:
            boundary_counts(labels, labels.to(torch.uint8), classes, 255, 0.02)
        found[classes] = largest.bytes
    assert found[2] == found[150] == 3 * 4 * 128 * 256  # three maps of int32


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, more than two workers share evenly, of twice the size at which the network sees them."""
    return trees.camvid(tmp_path_factory.mktemp("images"), images=5, size=(130, 190))


def expected_boundary(predictions: Path, images: Path, tiny: Path, ratio: float) -> Map:
    """Return the counts (images, 3, classes) of the written predictions, at the size of the label files."""
    info = dataset_info(load_preset(str(tiny), overrides=[f"data.root={images}"]))
    samples = find_samples(info, "val")
    dataset, counts = EvalSet(info, samples), []
    for index in range(len(samples)):
        labels = dataset[index].labels
        (file,) = predictions.rglob(f"{Path(samples[index].name).stem}*.png")
        assert labels is not None
        counts.append(plain_counts(np.array(Image.open(file)), labels.numpy(), info.num_classes, ratio))
    return np.stack(counts)


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize(("workers", "words", "ratio"), [(1, [], 0.02), (2, ["--boundary-width", "0.04"], 0.04)])
def test_an_evaluation_counts_every_image_once_at_the_size_of_its_labels(
    workers: int, words: list[str], ratio: float, student: Path, images: Path, tiny: Path, tmp_path: Path
) -> None:
    saved = ("--json", tmp_path / "r.json", "--save-predictions", tmp_path / "maps", "--gpus", workers)
    common = ("--data-root", images, "--device", "cpu", "--workers", 0)
    outcome = rmrkd("eval", student, *common, "--boundary-iou", *words, *saved)
    assert outcome.exit_code == 0, outcome.message
    assert "Boundary IoU" in outcome.stdout
    assert f"within {100 * ratio:g} % of the image's diagonal" in outcome.stdout
    boundary = read_record(tmp_path / "r.json")["boundary"]
    expected = expected_boundary(tmp_path / "maps", images, tiny, ratio)
    assert len(expected) == 5
    for flat, counts in zip(boundary["counts"], expected, strict=True):
        quadruples = [[k, *counts[:, k].tolist()] for k in range(counts.shape[1]) if counts[1:, k].any()]
        assert flat == [value for quadruple in quadruples for value in quadruple]
    both, true, predicted = expected.sum(0)
    assert boundary["width"] == ratio
    ious = [b / (t + p - b) if t + p else None for b, t, p in zip(both, true, predicted, strict=True)]
    assert boundary["iou"] == pytest.approx(ious)
    assert boundary["miou"] == pytest.approx(np.mean([iou for iou in ious if iou is not None]))


def test_without_the_option_the_record_has_none(student: Path, images: Path, tmp_path: Path) -> None:
    outcome = rmrkd("eval", student, "--data-root", images, "--device", "cpu", "--json", tmp_path / "r.json")
    assert outcome.exit_code == 0, outcome.message
    assert "oundary" not in outcome.stdout
    assert "boundary" not in json.loads((tmp_path / "r.json").read_text())


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--boundary-width", "0.01"], "--boundary-width is for the boundary IoU", "--boundary-iou"),
        (["--boundary-iou", "--boundary-width", "0"], "above 0 and at most 0.5 of the image's diagonal, got 0", "0.02"),
        (["--boundary-iou", "--boundary-width", "0.6"], "got 0.6", "--boundary-width 0.02"),
        (["--boundary-iou", "--boundary-width", "nan"], "got nan", "--boundary-width 0.02"),
    ],
)
def test_widths_are_checked_before_anything_is_read(words: list[str], message: str, hint: str) -> None:
    for command in (("eval", "no.pth"), ("compare", "no.pth", "no2.pth")):
        outcome = rmrkd(*command, *words)
        assert outcome.exit_code == 2
        assert message in outcome.message
        assert hint in outcome.hint


def test_result_files_cannot_get_it_afterwards(tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        file.write_text("{}")
    outcome = rmrkd("compare", *files, "--boundary-iou")
    assert outcome.exit_code == 2
    assert "finished measurements" in outcome.message
