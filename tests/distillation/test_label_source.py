"""Labels of images without label maps, and cross-entropy on the labelled images of a batch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.label_source import LabelSource, fill_labels
from rmrkd_cli.losses import KDLoss
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.mmseg import build_network, network_config
from rmrkd_cli.presets.loader import load_preset

K = 11
WHOLE = [48, 48]


@pytest.fixture(scope="module")
def networks(tiny: object) -> tuple[nn.Module, nn.Module]:
    """Student and teacher with a class of their own at each position."""
    torch.manual_seed(0)
    preset = load_preset(str(tiny))
    pair = [build_network(network_config(spec, K), device="cpu") for spec in (preset.student, preset.teacher)]
    for network in pair:
        nn.init.normal_(network.decode_head.conv_seg.weight, std=0.3)
    return pair[0], pair[1]


def distiller(networks: tuple[nn.Module, nn.Module], source: LabelSource) -> Distiller:
    losses = {"kd": KDLoss(K)}
    return Distiller(*networks, losses, {"kd": "logits"}, {"kd": 1.0}, label_source=source).eval()


def batch(unlabelled: int, count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels of which the last ones are 255, and the size of the last ones."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(count, 3, 48, 48, generator=generator)
    labels = torch.randint(0, K, (count, 1, 48, 48), generator=generator)
    labels[count - unlabelled :] = 255
    return images, labels, torch.tensor([WHOLE] * unlabelled)


def test_the_teachers_classes_fill_the_covered_part_of_unlabelled_images() -> None:
    logits = torch.zeros(3, 4, 2, 2)
    logits[0, 3] = 9.0
    logits[1, 2, :, 0], logits[1, 1, :, 1] = 5.0, 5.0  # class 2 on the left, 1 on the right
    logits[2, 0] = 1.0
    labels = torch.full((3, 1, 4, 6), 7)
    filled = fill_labels(labels, torch.tensor([[3, 5], [4, 6]]), logits)
    assert (filled[0] == 7).all()
    expected = torch.tensor([2, 2, 2, 1, 1, 255])
    assert (filled[1, 0, :3] == expected).all()
    assert (filled[1:, 0, 3] == torch.tensor([[255] * 6, [0] * 6])).all()
    assert (filled[2] == 0).all()
    assert filled.dtype == labels.dtype


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_threshold_leaves_out_what_the_teacher_is_unsure_of(align_corners: bool) -> None:
    torch.manual_seed(0)
    logits, labels, size = torch.randn(2, 5, 3, 3) * 2, torch.full((2, 1, 9, 9), 255), torch.tensor([[9, 9]] * 2)
    resized = F.interpolate(logits, (9, 9), mode="bilinear", align_corners=align_corners)
    probability, classes = resized.softmax(1).max(1, keepdim=True)
    for threshold in (0.0, 0.5, 1.0):
        filled = fill_labels(labels, size, logits, threshold=threshold, align_corners=align_corners)
        assert torch.equal(filled, torch.where(probability >= threshold, classes, 255))
    assert (filled == 255).all()
    assert 0 < (fill_labels(labels, size, logits, threshold=0.5) == 255).sum() < labels.numel()


@pytest.mark.parametrize("unlabelled", [1, 3])
def test_cross_entropy_is_that_of_the_labelled_images_alone(
    networks: tuple[nn.Module, nn.Module], unlabelled: int
) -> None:
    model, (images, labels, size) = distiller(networks, LabelSource()), batch(unlabelled)
    losses = model(images, labels, unlabelled=size)
    alone = model(images[:-unlabelled], labels[:-unlabelled])
    for name in ("ce", "aux_ce"):
        assert losses[name].item() == pytest.approx(alone[name].item(), rel=1e-6)
    assert torch.equal(losses["kd"], model(images, labels)["kd"]), "all images are distilled"


def test_a_batch_without_labels_has_a_cross_entropy_of_zero_and_no_gradient(
    networks: tuple[nn.Module, nn.Module],
) -> None:
    model, (images, labels, size) = distiller(networks, LabelSource()).train(), batch(4)
    losses = model(images, labels, unlabelled=size)
    assert float(losses["ce"].detach()) == float(losses["aux_ce"].detach()) == 0.0
    model.zero_grad(set_to_none=True)
    (losses["ce"] + losses["aux_ce"]).backward()
    gradients = {name: parameter.grad for name, parameter in model.student.named_parameters()}
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


def test_cross_entropy_is_missing_where_no_image_has_labels(networks: tuple[nn.Module, nn.Module]) -> None:
    model, (images, labels, size) = distiller(networks, LabelSource(files=False)).train(), batch(4)
    losses = model(images, labels, unlabelled=size)
    assert list(losses) == ["kd"]
    model.zero_grad(set_to_none=True)
    model.total(losses).backward()
    heads = {name: parameter.grad for name, parameter in model.student.named_parameters()}
    assert heads["decode_head.conv_seg.weight"].any()
    assert heads["auxiliary_head.conv_seg.weight"] is None


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_the_teachers_prediction_is_the_label_of_unlabelled_images(
    networks: tuple[nn.Module, nn.Module], threshold: float
) -> None:
    """Equal to training on a label map that was predicted beforehand."""
    model, (images, labels, size) = distiller(networks, LabelSource(teacher=True, threshold=threshold)), batch(2)
    assert model.teacher is not None
    with torch.no_grad():
        logits = model.teacher.decode_head(model.teacher.extract_feat(images))  # type: ignore[operator]
        resized = F.interpolate(logits, (48, 48), mode="bilinear", align_corners=False)
    probability, classes = resized.softmax(1).max(1, keepdim=True)
    written = labels.clone()
    written[2:] = torch.where(probability >= threshold, classes, 255)[2:]
    assert len(written[2:].unique()) > 2
    losses, expected = model(images, labels, unlabelled=size), model(images, written)
    assert losses.keys() == expected.keys()
    assert all(torch.equal(losses[name], expected[name]) for name in losses)
    assert math.isfinite(model.total(losses).item())


@pytest.mark.parametrize("corners", [False, True])
def test_stored_logits_are_resized_to_the_labels_as_those_of_the_live_teacher(
    networks: tuple[nn.Module, nn.Module], corners: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network resizes its logits with or without aligned corners, and its stored logits as well."""
    student, teacher = networks
    monkeypatch.setattr(teacher, "align_corners", corners)
    assert adapter_of(teacher).align_corners is corners
    source, (images, labels, size) = LabelSource(teacher=True, threshold=0.3), batch(4)
    live = distiller(networks, source)
    stored = Distiller(
        student, None, {"kd": KDLoss(K)}, {"kd": "logits"}, {"kd": 1.0},
        label_source=source, stored_classes=K, stored_align_corners=corners,
    ).eval()  # fmt: skip
    with torch.no_grad():
        logits = adapter_of(teacher).logits(teacher, images)
        expected = live(images, labels, unlabelled=size)
        losses = stored(images, labels, unlabelled=size, teacher_logits=logits)
    assert losses.keys() == expected.keys()
    assert all(torch.equal(losses[name], expected[name]) for name in expected)


def test_losses_that_need_labels_get_the_teachers(networks: tuple[nn.Module, nn.Module]) -> None:
    given = []

    class Spy(nn.Module):
        def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
            given.append(labels)
            return student.sum()

    model = Distiller(*networks, {"spy": Spy()}, {"spy": "logits"}, label_source=LabelSource(teacher=True)).eval()
    images, labels, size = batch(1)
    model(images, labels, unlabelled=size)
    assert torch.equal(given[0][:3], labels[:3])
    assert (given[0][3] < K).all()
