"""The released losses, run once and stored: value and gradients of every file in tests/golden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix
from rmrkd_cli.losses import DKDLoss, IDDLoss, IFVDLoss, MGDLoss, RMRKDLoss

FILES = sorted((Path(__file__).parents[1] / "golden").glob("*.npz"))
LOSS_FILES = [path for path in FILES if path.stem != "miou"]
LAYERS = {"align": "align", "generation.0": "conv1", "generation.2": "conv2"}
TOLERANCE = 1e-5

Arrays = dict[str, np.ndarray]


def read(path: Path) -> Arrays:
    with np.load(path) as stored:
        return dict(stored)


def build(name: str, data: Arrays) -> tuple[nn.Module, float]:
    """The loss a file was made with, and its outer weight."""
    kind = name.split("_")[0]
    if kind == "dkd":
        options = {key: float(data[key]) for key in ("tau", "target_weight", "non_target_weight")}
        return DKDLoss(int(data["num_classes"]), **options), 1.0
    channels = data["student"].shape[1], data["teacher"].shape[1]
    if kind == "mgd":
        return MGDLoss(*channels, mask_ratio=float(data["mask_ratio"])), float(data["alpha"])
    classes, weight = int(data["num_classes"]), float(data["weight"])
    if kind == "rmrkd":
        return RMRKDLoss(*channels, classes, tau=float(data["tau"])), weight
    if kind == "idd":
        return IDDLoss(*channels, classes), weight
    return IFVDLoss(*channels, classes, label_resize="bilinear"), weight


def load_layers(loss: nn.Module, data: Arrays) -> None:
    modules = dict(loss.named_modules())
    for module, stored in LAYERS.items():
        if f"{stored}_weight" in data:
            names = {"weight": f"{stored}_weight", "bias": f"{stored}_bias"}
            modules[module].load_state_dict({own: torch.from_numpy(data[name]) for own, name in names.items()})


def relative(got: Tensor, stored: np.ndarray) -> float:
    """Distance over the stored norm; the distance itself where the stored value is zero."""
    want = torch.as_tensor(stored).double()
    return ((got.detach().double() - want).norm() / (want.norm() or 1.0)).item()


def test_there_are_13_golden_files() -> None:
    assert len(FILES) == 13


@pytest.mark.parametrize("path", LOSS_FILES, ids=lambda path: path.stem)
def test_value_and_gradients_equal_the_released_code(path: Path) -> None:
    data = read(path)
    loss, weight = build(path.stem, data)
    load_layers(loss, data)
    suffix = "_logits" if path.stem.startswith("dkd") else ""
    student = torch.from_numpy(data["student" + suffix]).requires_grad_()
    teacher = torch.from_numpy(data["teacher" + suffix])
    if isinstance(loss, MGDLoss):
        value = weight * loss(student, teacher, keep_mask=torch.from_numpy(data["keep_mask"]))
    else:
        value = weight * loss(student, teacher, torch.from_numpy(data["labels"]).long())
    value.backward()

    assert value.dtype == student.grad.dtype == torch.float32
    assert relative(value, data["loss"]) <= TOLERANCE
    assert relative(student.grad, data["grad_student"]) <= TOLERANCE
    parameters = dict(loss.named_parameters())
    for module, stored in LAYERS.items():
        if f"grad_{stored}_weight" in data:
            assert relative(parameters[f"{module}.weight"].grad, data[f"grad_{stored}_weight"]) <= TOLERANCE


def test_metrics_equal_mmseg() -> None:
    data = read(FILES[[path.stem for path in FILES].index("miou")])
    confusion = ConfusionMatrix(int(data["num_classes"]))
    for prediction, labels in zip(data["pred"], data["labels"], strict=True):
        confusion.update(torch.from_numpy(prediction), torch.from_numpy(labels))
    hit = confusion.matrix.diagonal()
    result = confusion.result()

    np.testing.assert_array_equal(hit.numpy(), data["intersect"])
    np.testing.assert_array_equal((confusion.matrix.sum(0) + confusion.matrix.sum(1) - hit).numpy(), data["union"])
    for got, name in ((result.iou, "iou"), (result.accuracy, "acc"), (result.dice, "dice"), (result.aacc, "aAcc")):
        np.testing.assert_allclose(np.asarray(got), data[name], rtol=1e-6, equal_nan=True)
    assert result.miou == pytest.approx(np.nanmean(data["iou"]), rel=1e-6)
    assert result.macc == pytest.approx(np.nanmean(data["acc"]), rel=1e-6)
