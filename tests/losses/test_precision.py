"""Layouts, precisions and extremes, for every loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.losses import (
    AfDCDLoss,
    ATLoss,
    AttnFDLoss,
    BPKDLoss,
    CIRKDChannelLoss,
    CIRKDLoss,
    CIRKDMemoryLoss,
    CSDLoss,
    CWDLoss,
    DISTLoss,
    DKDLoss,
    FitNetLoss,
    GKDLoss,
    IDDLoss,
    IFVDLoss,
    KDLoss,
    LSKDLoss,
    MGDLoss,
    PKDLoss,
    RMRKDLoss,
    SKDLoss,
    rmrkd,
)
from rmrkd_cli.losses._functional import kl_divergence
from rmrkd_cli.losses._memory_bank import ChannelBank
from rmrkd_cli.losses._similarity import class_prototypes, cosines, prototype_cosines
from rmrkd_cli.networks import winograd
from tests.losses.common import K, error, sample, value_and_grad


class _FixedMask(MGDLoss):
    """MGD with one mask for all calls: every other position, so that runs compare."""

    def draw_mask(self, like: Tensor) -> Tensor:
        mask = torch.zeros(like.shape[0], 1, *like.shape[2:], dtype=like.dtype)
        mask.flatten()[::2] = 1
        return mask


class _AnySize(CIRKDChannelLoss):
    """Relations between channels with a memory that fits the maps it gets.

    Its weights are fixed: a projected channel of nearly no length would multiply the rounding of its gradient.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        torch.manual_seed(1)
        super().__init__(student_channels, teacher_channels, (0, 0))

    def compute(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        if tuple(student.shape[2:]) != self.map_size:
            torch.manual_seed(0)
            self.map_size = tuple(student.shape[2:])
            positions = -(-student.shape[2] // 4) * -(-student.shape[3] // 4)
            self.bank = ChannelBank(positions, size=30, samples=20, pushed=5).to(student.dtype)
        return super().compute(student, teacher, labels)


Make = Callable[[int, int, int], nn.Module]
LOSSES: dict[str, Make] = {
    "af_dcd": lambda s, t, k: AfDCDLoss(s, t, mask="centre", feature_weight=1.0, contrast_weight=1.0, groups=t, pool=1),
    "attnfd": lambda s, t, k: AttnFDLoss(s, t),
    "rmrkd": RMRKDLoss,
    "idd": IDDLoss,
    "ifvd": lambda s, t, k: IFVDLoss(s, t, k, align=True),
    "dkd": lambda s, t, k: DKDLoss(s),
    "mgd": lambda s, t, k: _FixedMask(s, t),
    "skd": lambda s, t, k: SKDLoss(s, t),
    "cirkd": lambda s, t, k: CIRKDLoss(s, t),
    "kd": lambda s, t, k: KDLoss(s),
    "lskd": lambda s, t, k: LSKDLoss(s),
    "bpkd": lambda s, t, k: BPKDLoss(s),
    "cwd": lambda s, t, k: CWDLoss(s, t),
    "cwd on features": lambda s, t, k: CWDLoss(s, t, on_logits=False),
    "dist": lambda s, t, k: DISTLoss(s),
    "cirkd_memory": lambda s, t, k: CIRKDMemoryLoss(s, t, k, pixel_queue=30, region_queue=5).eval(),
    "cirkd_channel": lambda s, t, k: _AnySize(s, t).eval(),
    "at": lambda s, t, k: ATLoss(s, t),
    "fitnet": lambda s, t, k: FitNetLoss(s, t),
    "gkd": lambda s, t, k: GKDLoss(s, t),
    "pkd": lambda s, t, k: PKDLoss(s, t),
    "csd": lambda s, t, k: CSDLoss(s),
}
NEEDS_EQUAL_CHANNELS = ("bpkd", "dkd", "kd", "lskd", "cwd", "dist", "csd")
# Near-uniform distributions: what is left of a divergence is below float32's rounding of a logarithm, and what is left
# of a probability's variation, which DIST divides by and CSD squares, is 500 times its rounding.
ROUNDING = {(name, 1e-4): 1e-5 for name in ("bpkd", "dkd", "kd", "cwd", "cwd on features")} | {("csd", 1e4): 1e-40}
RELATIVE = {("dist", 1e-4): 2e-3, ("csd", 1e-4): 2e-2}
each_loss = pytest.mark.parametrize("name", LOSSES)


@pytest.fixture(autouse=True)
def _same_layers() -> None:
    """The weights of a loss do not depend on which tests ran before."""
    torch.manual_seed(0)


def exact(loss: nn.Module, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient in float64."""
    student, teacher, labels = inputs
    result = value_and_grad(loss.double(), student.double(), teacher.double(), labels)
    loss.float()
    return result


def channels_of(name: str) -> tuple[int, int]:
    return (K, K) if name in NEEDS_EQUAL_CHANNELS else (3, 5)


@each_loss
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (3, 11)])
def test_maps_of_any_size(name: str, size: tuple[int, int]) -> None:
    inputs = sample(2, channels_of(name), size)
    loss = LOSSES[name](*channels_of(name), K)
    # the correlation over two positions has no gradient: what is there is rounding
    rounding = 1e-4 if (name, size) == ("pkd", (1, 1)) else 1e-7
    for got, want in zip(value_and_grad(loss, *inputs), exact(loss, *inputs), strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm() + rounding


@each_loss
@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_features_of_extreme_size(name: str, scale: float) -> None:
    student, teacher, labels = sample(3)  # equal channels: beside the bias of an align layer, small features vanish
    inputs = scale * student, scale * teacher, labels
    loss = LOSSES[name](K, K, K)
    rounding, relative = ROUNDING.get((name, scale), 0.0), RELATIVE.get((name, scale), 1e-4)
    for got, want in zip(value_and_grad(loss, *inputs), exact(loss, *inputs), strict=True):
        assert got.isfinite().all()
        assert (got - want).norm() <= relative * want.norm() + rounding


@each_loss
def test_memory_layouts(name: str) -> None:
    student, teacher, labels = sample(4, channels_of(name))
    loss = LOSSES[name](*channels_of(name), K)
    want = value_and_grad(loss, student, teacher, labels)
    wide = [torch.stack([x, torch.full_like(x, 9)], -1)[..., 0] for x in (student, teacher, labels)]
    turned = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in (student, teacher, labels)]
    last = [x.contiguous(memory_format=torch.channels_last) for x in (student, teacher, labels)]
    for layout in (wide, turned, last):
        got = value_and_grad(loss, *layout)
        assert max(error(a, b) for a, b in zip(got, want, strict=True)) <= 1e-5


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_give_the_value_of_the_rounded_numbers(name: str, dtype: torch.dtype) -> None:
    """With float32 layers, and with a teacher of another precision than the student."""
    student, teacher, labels = sample(4, channels_of(name))
    student, teacher = student.to(dtype), teacher.bfloat16()
    loss = LOSSES[name](*channels_of(name), K)
    value, grad = value_and_grad(loss, student, teacher, labels)
    assert error(value, loss(student.float(), teacher.float(), labels).detach()) <= 1e-6
    assert (grad.dtype, bool(grad.isfinite().all())) == (dtype, True)


@pytest.mark.parametrize("name", ["rmrkd", "ifvd", "mgd", "skd", "cirkd", "cirkd_memory", "cirkd_channel"])
def test_a_backward_pass_inside_autocast_stays_precise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_MIN_CHANNELS", 1)
    monkeypatch.setattr(winograd, "_MAX_PADDING", 1e9)
    student, teacher, labels = sample(4, (4, 4))
    loss = LOSSES[name](4, 4, K)
    student.requires_grad_()
    want = torch.autograd.grad(loss(student, teacher, labels), student)[0]
    value = loss(student, teacher, labels)
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(value, student)[0]
    assert error(got, want) <= 1e-6


@each_loss
def test_everything_ignored_stays_finite(name: str) -> None:
    student, teacher, labels = sample(5, channels_of(name))
    value, grad = value_and_grad(LOSSES[name](*channels_of(name), K), student, teacher, 0 * labels + 255)
    assert value.isfinite()
    assert grad.isfinite().all()
    if name in ("rmrkd", "bpkd", "idd", "ifvd", "cirkd_memory"):
        assert not value.any()
        assert not grad.any()


@each_loss
def test_a_single_class(name: str) -> None:
    channels = (1, 1) if name in NEEDS_EQUAL_CHANNELS else (3, 5)
    student, teacher, labels = sample(6, channels)
    loss = LOSSES[name](*channels, 1)
    inputs = student, teacher, labels.clamp_max(0)
    got, want = value_and_grad(loss, *inputs), exact(loss, *inputs)
    assert all((a - b).norm() <= 1e-5 * b.norm() for a, b in zip(got, want, strict=True))
    assert got[0] > 0 or name in ("idd", "kd", "lskd")  # one class has no pairs, and probability 1


@each_loss
def test_a_feature_that_is_zero_everywhere(name: str) -> None:
    student, teacher, labels = sample(7, channels_of(name))
    value, grad = value_and_grad(LOSSES[name](*channels_of(name), K), 0 * student, 0 * teacher, labels)
    assert value.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "rmrkd"])
def test_gradients_are_right_numerically(name: str) -> None:
    student, teacher, labels = sample(8, channels_of(name), (2, 3))
    loss = LOSSES[name](*channels_of(name), K).double()
    leaf = student.double().requires_grad_()
    parameters = list(loss.parameters())

    def value(x: Tensor, *_: Tensor) -> Tensor:
        return loss(x, teacher.double(), labels)

    assert torch.autograd.gradcheck(value, (leaf, *parameters))


def test_gradients_of_rmrkd_are_right_numerically(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, labels = (x.double() if x.is_floating_point() else x for x in sample(9, (3, 4), (3, 2)))
    loss = RMRKDLoss(3, 4, K, tau=0.5).double()
    targets: list[Tensor] = []

    def first_target(vectors: Tensor, features: Tensor) -> Tensor:
        """The targets hold the student's prototypes and are detached all the same: a finite difference must not see."""
        if not targets:
            targets.append(cosines(vectors, features))
        return targets[0]

    monkeypatch.setattr(rmrkd, "cosines", first_target)
    leaf = student.requires_grad_()
    loss(leaf, teacher, labels)
    assert torch.autograd.gradcheck(lambda x, *_: loss(x, teacher, labels), (leaf, *loss.parameters()))


@pytest.mark.parametrize("dim", [1, 2])
def test_gradient_of_the_divergence(dim: int) -> None:
    student, teacher = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: kl_divergence(s, teacher, 0.7, dim), (student,))
    expected = F.kl_div((student / 0.7).log_softmax(dim), (teacher / 0.7).softmax(dim), reduction="sum")
    assert error(kl_divergence(student, teacher, 0.7, dim), expected) <= 1e-12


def test_prototype_cosines_against_torch() -> None:
    """Value and gradient, with a prototype and a position below the smallest length."""
    torch.manual_seed(0)
    features = torch.randn(2, 70, 9, dtype=torch.float64)
    features[0, :, 0] = 0
    features[1, :, :3] *= 1e-11
    labels = torch.tensor([[0, 0, 1, 1, 1, 3, 3, 3, 3], [2, 2, 2, 0, 0, 0, 1, 1, 1]])
    masks = F.one_hot(labels, 5).transpose(1, 2).double()
    others = torch.randn(2, 3, 70, dtype=torch.float64)
    weights = torch.randn(2, 8, 9, dtype=torch.float64)
    results = []
    for fast in (True, False):
        leaf = features.clone().requires_grad_()
        if fast:
            prototypes, values = prototype_cosines(leaf, masks, others)
        else:
            prototypes = class_prototypes(leaf, masks)
            vectors = torch.cat([prototypes, others], 1)
            values = F.cosine_similarity(vectors.unsqueeze(3), leaf.unsqueeze(1), dim=2)
        (values * weights).sum().backward()
        results.append((prototypes, values, leaf.grad[:, :, 3:], leaf.grad[0]))
    for got, want in zip(*results, strict=True):
        assert error(got.detach(), want.detach()) <= 1e-10
    assert error(cosines(others, features), results[1][1][:, 5:].detach()) <= 1e-10
