"""Predictions on disk: index PNGs, what test servers take, and images that have no labels at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.prediction_files import PredictionFiles
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.presets.loader import dataset_preset, load_preset
from tests.conftest import TINY
from tests.helpers import trees
from tests.helpers.cli import rmrkd, run_main

LABEL_IDS = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip


def info_of(dataset: str) -> DatasetInfo:
    return dataset_info(dataset_preset(dataset))


def sample(name: str, image: str) -> Sample:
    return Sample(name, Path("root") / image, Path("root") / "label.png")


@pytest.mark.parametrize("label_ids", [False, True])
@pytest.mark.parametrize(
    ("dataset", "name", "suffix"),
    [("cityscapes", "berlin/berlin_000000_000019", "_leftImg8bit.png"), ("ade20k", "ADE_val_00000001", ".jpg")],
)
def test_values_colours_and_names(dataset: str, name: str, suffix: str, label_ids: bool, tmp_path: Path) -> None:
    info = info_of(dataset)
    files = PredictionFiles(tmp_path, info, [sample(name, name + suffix)], label_ids=label_ids)
    guess = torch.randperm(info.num_classes * 4).reshape(4, -1) % info.num_classes
    files.write(0, guess)
    city = label_ids and dataset == "cityscapes"
    [written] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written.relative_to(tmp_path).as_posix() == f"{name}_leftImg8bit.png" if city else f"{name}.png"
    picture = Image.open(written)
    expected = [
        [LABEL_IDS[info.classes[k]] if city else k + (1 if label_ids else 0) for k in row] for row in guess.tolist()
    ]
    assert picture.mode == "P"
    assert np.asarray(picture).tolist() == expected
    assert np.array_equal(np.asarray(picture.convert("RGB")), np.array(info.palette, np.uint8)[guess.numpy()])


def test_label_ids_are_rejected_for_data_sets_without_them(tmp_path: Path) -> None:
    with pytest.raises(RmrkdError, match="`voc12aug` has no label ids") as refused:
        PredictionFiles(tmp_path, info_of("voc12aug"), [], label_ids=True)
    assert "cityscapes" in refused.value.hint


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset for Cityscapes, weights, and images whose test split has no labels, as it is published."""
    folder = tmp_path_factory.mktemp("city")
    root = trees.cityscapes(folder / "data", images=3, size=(32, 64))
    for part in ("leftImg8bit", "gtFine"):
        shutil.copytree(root / part / "val", root / part / "test")
    for label in (root / "gtFine" / "test").rglob("*.png"):
        label.rename(label.with_name(label.name.replace("labelTrainIds", "labelIds")))
    described = TINY.format(root=root).replace("dataset: camvid", "dataset: cityscapes")
    (folder / "city.yaml").write_text(described.replace("[96, 64]", "[64, 32]"))
    preset = load_preset(str(folder / "city.yaml"))
    torch.manual_seed(0)
    network = build_network(network_config(preset.student, 19), device="cpu")
    torch.save({"state_dict": network.state_dict()}, folder / "weights.pth")
    return folder


def predict(city: Path, *options: object) -> tuple[int, str, str]:
    given = [city / "weights.pth", "--preset", city / "city.yaml", "--device", "cpu", "--workers", 0, *options]
    return run_main("eval", *map(str, given))


@pytest.mark.parametrize("labels", ["of other names", "not even a folder"])
def test_images_without_labels_are_predicted_and_nothing_is_measured(labels: str, city: Path, tmp_path: Path) -> None:
    root = city / "data"
    if labels == "not even a folder":
        root = Path(shutil.copytree(root, tmp_path / "data"))
        shutil.rmtree(root / "gtFine" / "test")
    out, here = tmp_path / "out", ("--data-root", root, "--split", "test")
    code, stdout, stderr = predict(city, *here, "--save-predictions", out)
    assert (code, stdout) == (0, "")
    assert "no image of `cityscapes` test has labels: nothing was measured" in stderr
    assert "3 predictions" in stderr
    assert "label ids of the test server" in stderr
    written = sorted(out.rglob("*.png"))
    assert [path.name for path in written] == [f"aachen_{n:06d}_000019_leftImg8bit.png" for n in range(3)]
    indices = tmp_path / "indices"
    assert predict(city, *here, "--save-predictions", indices, "--class-indices")[0] == 0
    table = np.array(list(LABEL_IDS.values()), np.uint8)
    for ids, plain in zip(written, sorted(indices.rglob("*.png")), strict=True):
        assert np.array_equal(np.asarray(Image.open(ids)), table[np.asarray(Image.open(plain))])
    assert predict(city, *here, "--save-predictions", tmp_path / "x", "--json", "-")[:2] == (2, "")
    assert not (tmp_path / "x").exists()


def test_partly_missing_labels_are_an_error(city: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(city / "data", tmp_path / "data"))
    next((root / "gtFine" / "val").rglob("*.png")).unlink()
    options = ("--data-root", root, "--save-predictions", tmp_path / "out")
    code, _, stderr = predict(city, *options)
    assert code == 2
    assert "1 of 3 label files are missing" in stderr
    assert not (tmp_path / "out").exists()


def test_missing_labels_are_an_error_without_save_predictions(city: Path) -> None:
    code, _, stderr = predict(city, "--split", "test")
    assert code == 2
    assert "3 of 3 label files are missing" in stderr


def test_predictions_of_a_split_with_labels_are_written(city: Path, tmp_path: Path) -> None:
    outcome = rmrkd(
        "eval", city / "weights.pth", "--preset", city / "city.yaml", "--save-predictions", tmp_path / "p",
        "--confusion", "--mode", "slide", "--crop", "32",
    )  # fmt: skip
    assert outcome.exit_code == 0
    assert [path.name for path in sorted((tmp_path / "p").rglob("*.png"))] == [
        f"aachen_{number:06d}_000019.png" for number in range(3)
    ]
    assert "cityscapes val, 3 images" in outcome.stdout
    assert "window of 32x32 with stride 21x21 (height x width) over each image fitted into 64x32" in outcome.stdout
    assert "18 bicycle" in outcome.stdout
    assert "Dice" in outcome.stdout
