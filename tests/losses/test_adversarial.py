from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.losses import AdversarialLoss
from rmrkd_cli.losses._discriminator import Discriminator, SelfAttention
from tests.losses.common import K, error

OBJECTIVES = ("hinge", "wgan-gp")
Change = Callable[[Tensor, Tensor], Sequence[Tensor]]


def sample(seed: int = 0, batch: int = 2, size: tuple[int, int] = (12, 12)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (4 * torch.randn(batch, K, *size, generator=generator) for _ in range(2))
    return student, teacher + 1


def make_loss(objective: str = "hinge") -> AdversarialLoss:
    """A loss whose attention counts."""
    torch.manual_seed(0)
    loss = AdversarialLoss(K, objective)
    for layer in loss.modules():
        if isinstance(layer, SelfAttention):
            nn.init.constant_(layer.gamma, 0.5)
    return loss


class NaiveScores:
    """The discriminator in plain steps: its own spectral norm, its own attention with the whole P x P map."""

    def __init__(self, network: Discriminator, *, fixed: bool = False) -> None:
        self.network, self.fixed = network, fixed
        self.vectors = {
            layer: (layer.parametrizations.weight[0]._u.clone(), layer.parametrizations.weight[0]._v.clone())
            for layer in network.stages
            if isinstance(layer, nn.Conv2d)
        }

    def __call__(self, logits: Tensor, *, fixed: bool = False) -> Tensor:
        self.fixed = fixed
        norm = self.network.norm
        mean = logits.mean((0, 2, 3), keepdim=True)
        variance = (logits - mean).square().mean((0, 2, 3), keepdim=True)
        maps = (logits - mean) / (variance + norm.eps).sqrt()
        maps = maps * self.take(norm.weight).view(1, -1, 1, 1) + self.take(norm.bias).view(1, -1, 1, 1)
        for layer in self.network.stages:
            if isinstance(layer, nn.Conv2d):
                maps = F.conv2d(maps, self.normalised(layer), self.take(layer.bias), stride=2, padding=1)
            elif isinstance(layer, SelfAttention):
                maps = self.attended(layer, maps)
            else:
                maps = torch.where(maps > 0, maps, 0.1 * maps)
        return F.conv2d(maps, self.take(self.network.score.weight), self.take(self.network.score.bias))

    def take(self, parameter: Tensor) -> Tensor:
        return parameter.detach() if self.fixed else parameter

    def normalised(self, layer: nn.Conv2d) -> Tensor:
        weight = self.take(layer.parametrizations.weight.original)
        rows = weight.reshape(weight.shape[0], -1)
        with torch.no_grad():
            left = rows @ self.vectors[layer][1]
            left = left / left.norm()
            right = rows.T @ left
            right = right / right.norm()
        self.vectors[layer] = left, right
        return weight / (left @ rows @ right)

    def attended(self, layer: SelfAttention, maps: Tensor) -> Tensor:
        query, key, value = (
            F.conv2d(maps, self.take(each.weight), self.take(each.bias)).flatten(2)
            for each in (layer.query, layer.key, layer.value)
        )
        shares = (query.transpose(1, 2) @ key).softmax(2)
        return maps + self.take(layer.gamma) * (value @ shares.transpose(1, 2)).reshape(maps.shape)


def naive_adversarial(
    loss: AdversarialLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None
) -> dict[str, Tensor]:
    """Straight from the formula and the released loop; the loss's buffers stay as they are."""
    scores = NaiveScores(loss.discriminator)
    if min(student.shape[2:]) < 64:
        height, width = student.shape[2:]
        size = (64, round(64 * width / height)) if height <= width else (round(64 * height / width), 64)
        student, teacher = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (student, teacher))
    for_student = -scores(student, fixed=True).mean()
    student, teacher = student.detach(), teacher.detach()
    fake, real = scores(student), scores(teacher)
    if loss.objective == "hinge":
        return {"": for_student, "discriminator": (1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean()}
    mix = torch.rand(student.shape[0], 1, 1, 1, dtype=student.dtype, device=student.device)
    between = (mix * teacher + (1 - mix) * student).requires_grad_()
    (slope,) = torch.autograd.grad(scores(between).sum(), between, create_graph=True)
    penalty = torch.stack([(each.square().sum().sqrt() - 1) ** 2 for each in slope]).mean()
    return {"": for_student, "discriminator": fake.mean() - real.mean() + 10 * penalty}


@pytest.mark.parametrize(
    ("objective", "batch", "size"),
    [("hinge", 2, (12, 12)), ("hinge", 1, (45, 45)), ("hinge", 1, (64, 64)), ("hinge", 1, (97, 97)),
     ("hinge", 1, (20, 12)), ("wgan-gp", 2, (12, 12)), ("wgan-gp", 1, (66, 80))],
)  # fmt: skip
def test_against_the_naive_version(objective: str, batch: int, size: tuple[int, int]) -> None:
    loss = make_loss(objective).double()
    inputs = [x.double() for x in sample(1, batch, size)]
    parameters = list(loss.parameters())
    results = []
    for compute in (naive_adversarial, AdversarialLoss.__call__):
        torch.manual_seed(7)
        leaf = inputs[0].clone().requires_grad_()
        named = compute(loss, leaf, inputs[1])
        results.append([*named.values(), torch.autograd.grad(named[""], leaf, retain_graph=True)[0]])
        results[-1] += torch.autograd.grad(named["discriminator"], parameters)
    for want, got in zip(*results, strict=True):
        assert got.isfinite().all()
        # float64: as exact as 13 digits allow where the score's bias drops out of wgan-gp and leaves rounding
        assert (got - want).norm() <= 1e-9 * want.norm() + 1e-13
    assert all(gradient.any() for gradient in results[1][3:-1])


@pytest.mark.parametrize(("objective", "size"), [("hinge", (45, 45)), ("wgan-gp", (64, 64))])
def test_single_precision_is_as_exact(objective: str, size: tuple[int, int]) -> None:
    inputs = sample(2, 1, size)
    results = []
    for kind in (torch.float64, torch.float32):
        loss = make_loss(objective).to(kind)
        loss.draw_mix = lambda like: torch.full((like.shape[0], 1, 1, 1), 0.25, dtype=like.dtype)
        student = inputs[0].to(kind).requires_grad_()
        named = loss(student, inputs[1].to(kind))
        results.append([*named.values(), torch.autograd.grad(named[""], student)[0]])
    *values, gradients = ((want, got.double()) for want, got in zip(*results, strict=True))
    assert all(error(got, want) <= 1e-5 for want, got in values)
    # where rounding takes a unit across the kink of LeakyReLU, the slope of that unit is another
    assert error(gradients[1], gradients[0]) <= 1e-2


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_part_moves_its_own_network_alone(objective: str) -> None:
    loss = AdversarialLoss(K, objective)  # with attention that does not count yet
    student, teacher = (x.requires_grad_() for x in sample())
    named = loss(student, teacher)
    assert list(named) == ["", "discriminator"]
    named["discriminator"].backward()
    assert student.grad is None
    assert all(parameter.grad is not None for parameter in loss.parameters())
    loss.zero_grad()
    named[""].backward()
    assert student.grad.any()
    assert all(parameter.grad is None for parameter in loss.parameters())
    assert teacher.grad is None


def test_a_step_for_the_student_and_then_one_for_the_discriminator_is_the_same() -> None:
    """As the release takes them, one after the other."""
    student, teacher = sample()
    together, apart = make_loss(), make_loss()
    optimizers = [loss.make_optimizer() for loss in (together, apart)]
    sum(together(student.clone().requires_grad_(), teacher).values()).backward()
    optimizers[0].step()

    moved = student.clone().requires_grad_()
    network = apart.discriminator
    enlarged = F.interpolate(moved, (64, 64), mode="bilinear")
    (-network(enlarged).mean()).backward()
    with torch.no_grad():
        moved.sub_(0.1 * moved.grad)
    optimizers[1].zero_grad()
    fake, real = network(enlarged.detach()), network(F.interpolate(teacher, (64, 64), mode="bilinear"))
    ((1 + fake).relu().mean() + (1 - real).relu().mean()).backward()
    optimizers[1].step()
    assert moved.grad.any()
    ours, theirs = together.state_dict(), apart.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(("objective", "passes"), [("hinge", 3), ("wgan-gp", 4)])
def test_statistics_and_vectors_see_every_pass_in_order(objective: str, passes: int) -> None:
    loss = make_loss(objective)
    norm = loss.discriminator.norm
    convolution = loss.discriminator.stages[0].parametrizations.weight
    rows, right = convolution.original.detach().flatten(1), convolution[0]._v.clone()
    student, teacher = sample(size=(64, 64))
    loss.draw_mix = lambda like: torch.full((2, 1, 1, 1), 0.25)
    loss(student, teacher)
    seen = [student, student, teacher, 0.75 * student + 0.25 * teacher][:passes]
    mean = torch.zeros(K)
    for maps in seen:
        mean = 0.9 * mean + 0.1 * maps.mean((0, 2, 3))
        right = F.normalize(rows.T @ F.normalize(rows @ right, dim=0), dim=0)
    assert int(norm.num_batches_tracked) == passes
    assert error(norm.running_mean, mean) <= 1e-5
    assert error(convolution[0]._v, right) <= 1e-5


@pytest.mark.parametrize(("score", "expected"), [(0.5, 2.0), (-0.25, 2.0), (3.0, 4.0), (-2.0, 3.0)])
def test_hinge_of_a_discriminator_that_tells_nothing(score: float, expected: float) -> None:
    loss = AdversarialLoss(K)
    nn.init.zeros_(loss.discriminator.score.weight)
    nn.init.constant_(loss.discriminator.score.bias, score)
    named = loss(*sample())
    assert [value.item() for value in named.values()] == [-score, expected]


def test_penalty_of_a_discriminator_without_a_slope_is_finite() -> None:
    """|g| = 0: the penalty is 10 * (0 - 1)^2, and its root has no infinite derivative."""
    loss = AdversarialLoss(K, "wgan-gp")
    nn.init.zeros_(loss.discriminator.score.weight)
    value = loss(*sample())["discriminator"]
    assert value == 10
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, list(loss.parameters())))


@pytest.mark.parametrize(
    ("size", "scores"), [((12, 12), (1, 1)), ((45, 45), (1, 1)), ((64, 64), (1, 1)), ((97, 97), (3, 3)),
                         ((64, 128), (1, 5)), ((12, 24), (1, 5)), ((1, 2), (1, 5))],
)  # fmt: skip
def test_maps_of_any_size_get_scores(size: tuple[int, int], scores: tuple[int, int]) -> None:
    loss = AdversarialLoss(K)
    shapes: list[tuple[int, ...]] = []
    loss.discriminator.score.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    student, teacher = sample(batch=1, size=size)
    named = loss(student.requires_grad_(), teacher)
    assert shapes == 3 * [(1, 1, *scores)]
    assert torch.autograd.grad(named[""], student)[0].isfinite().all()
    assert named["discriminator"].isfinite()


SAME: dict[str, Change] = {
    "images in another order": lambda s, t: (s.flip(0), t.flip(0)),
    "the teacher's images in another order": lambda s, t: (s, t.flip(0)),
    "every class of a network moved and scaled": lambda s, t: (3 * s - 2, t * torch.arange(2.0, 6.0).view(1, 4, 1, 1)),
    "the batch twice": lambda s, t: (torch.cat([s, s]), torch.cat([t, t])),
    "channels last": lambda s, t: tuple(x.contiguous(memory_format=torch.channels_last) for x in (s, t)),
    "strided maps": lambda s, t: tuple(torch.stack([x, x], -1)[..., 0] for x in (s, t)),
}
OTHER: dict[str, Change] = {
    "classes in another order": lambda s, t: (s.flip(1), t.flip(1)),
    "positions in another order": lambda s, t: (s.flip(2), t.flip(2)),
    "the two exchanged": lambda s, t: (t, s),
}


def test_what_changes_the_value_and_what_does_not() -> None:
    maps, loss = sample(size=(64, 64)), make_loss()

    def values(inputs: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return torch.stack(list(copy.deepcopy(loss)(*inputs).values()))

    before = values(maps)
    for change, make in (SAME | OTHER).items():
        assert (error(values(make(*maps)), before) <= 1e-5) == (change in SAME), change


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_and_autocast_give_the_float32_value_of_the_rounded_numbers(
    objective: str, dtype: torch.dtype
) -> None:
    student, teacher = (x.to(dtype) for x in sample())
    torch.manual_seed(1)
    want = make_loss(objective)(student.float(), teacher.float())
    torch.manual_seed(1)
    loss = make_loss(objective)
    student.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        got = loss(student, teacher)
    assert got == want
    (gradient,) = torch.autograd.grad(got[""], student)
    assert (gradient.dtype, bool(gradient.isfinite().all())) == (dtype, True)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("constant", [0.0, 1e4])
def test_maps_without_any_difference_stay_finite(objective: str, constant: float) -> None:
    maps = torch.full((2, K, 12, 12), constant)
    loss = AdversarialLoss(K, objective)
    student = maps.clone().requires_grad_()
    named = loss(student, maps, torch.full((2, 1, 96, 96), 255))
    gradients = torch.autograd.grad(sum(named.values()), [student, *loss.parameters()])
    assert all(value.isfinite().all() for value in (*named.values(), *gradients))


def test_the_optimizer_moves_the_discriminator_alone() -> None:
    loss = AdversarialLoss(K, discriminator_weight=0.3, discriminator_lr=1e-3)
    (group,) = loss.make_optimizer().param_groups
    assert {id(parameter) for parameter in group["params"]} == {id(each) for each in loss.discriminator.parameters()}
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.99), 0)
    assert loss.extra_weights == {"discriminator": 0.3}


def test_the_networks_are_those_of_the_release() -> None:
    widths = [19, 64, 128, 256, 512]
    count = 2 * 19 + sum(16 * a * b + b for a, b in pairwise(widths)) + 16 * 512 + 1
    count += sum(2 * (c * c // 8 + c // 8) + c * c + c + 1 for c in (256, 512))
    assert sum(parameter.numel() for parameter in AdversarialLoss(19).parameters()) == count == 3_191_721


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_discriminator_learns_to_tell_the_two_apart(objective: str) -> None:
    torch.manual_seed(0)
    loss = AdversarialLoss(K, objective)
    optimizer = loss.make_optimizer()
    student, teacher = sample(batch=1)
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        value = loss(student, teacher)["discriminator"]
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]


def test_a_copy_continues_alike() -> None:
    """All that the discriminator remembers is in its state dict."""
    loss, fresh = make_loss("wgan-gp"), AdversarialLoss(K, "wgan-gp")
    loss(*sample(3))
    fresh.load_state_dict(copy.deepcopy(loss.state_dict()))
    results = []
    for each in (loss, fresh):
        torch.manual_seed(5)
        results.append(each(*sample()))
    assert results[0] == results[1]
