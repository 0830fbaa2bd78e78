"""The relations between channels against their whole matrices, and what the memory of channels holds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import CIRKDChannelLoss, _relations
from tests.losses.common import error, sample, value_and_grad
from tests.losses.naive_relations import naive_cirkd_channel

SIZE = (9, 12)  # 3 x 3 windows, the last row of which are one position high
SMALL = {"channel_queue": 40, "channel_samples": 25, "channels_pushed": 6}
WHOLE = {"channel_queue": 40, "channel_samples": 2_048, "channels_pushed": 40}
PARTS = ("batch_channel_weight", "memory_channel_weight", "channel_mse_weight")


def make(channels: tuple[int, int] = (4, 4), **options: Any) -> CIRKDChannelLoss:
    torch.manual_seed(0)
    return CIRKDChannelLoss(*channels, SIZE, **{**SMALL, **options})


def maps(seed: int = 0, channels: tuple[int, int] = (4, 4), batch: int = 2) -> tuple[Tensor, Tensor]:
    student, teacher, _ = sample(seed, channels, SIZE)
    return torch.cat([student, -student])[:batch], torch.cat([teacher, 2 + teacher])[:batch]


def only(part: str) -> dict[str, float]:
    return {each: float(each == part) for each in PARTS}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize("options", [{}, {"tau": 1.0, "batch_channel_weight": 0.3, "memory_channel_weight": 2.0}])
@pytest.mark.parametrize(("channels", "batch"), [((4, 4), 2), ((3, 5), 3), ((5, 3), 1)])
def test_equals_the_whole_matrices(
    channels: tuple[int, int], batch: int, options: dict[str, Any], block: int, training: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """While training too: where the whole memory is compared, the order in which channels came does not matter."""
    monkeypatch.setattr(_relations, "_CPU_BLOCK", block)
    student, teacher = maps(1, channels, batch)
    loss = make(channels, **(WHOLE if training else {}), **options).train(training)
    plain = copy.deepcopy(loss).double()
    leaf, ours = student.double().requires_grad_(), student.clone().requires_grad_()
    expected = naive_cirkd_channel(plain, leaf, teacher.double())
    value = loss(ours, teacher)
    assert error(value.detach(), expected.detach()) <= 1e-5
    gradients = (
        torch.autograd.grad(total, [maps_, *each.parameters()])
        for total, maps_, each in ((value, ours, loss), (expected, leaf, plain))
    )
    for got, want in zip(*gradients, strict=True):
        assert error(got, want) <= 1e-4
    for got, want in ((loss, plain),):
        queues = (each.bank.channels.vectors[0].double() for each in (got, want))
        assert error(*(queue[queue[:, 0].argsort()] for queue in queues)) <= 1e-6
        assert torch.equal(got.bank.channels.next_slot, want.bank.channels.next_slot)


def test_hand_computed_value() -> None:
    """Two channels of two windows, a projector that passes them on, and a memory of the teacher's channels."""
    loss = CIRKDChannelLoss(2, 2, (4, 8), tau=1.0, channel_queue=2, channels_pushed=2).eval()
    loss.projector = nn.Sequential(nn.Identity())
    loss.bank.channels.vectors[0] = torch.eye(2)

    def wide(rows: list[list[float]]) -> Tensor:
        return torch.tensor(rows).view(1, 2, 1, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)

    student, teacher = wide([[3.0, 0.0], [5.0, 0.0]]), wide([[2.0, 0.0], [0.0, 7.0]])
    p = torch.tensor([1.0, 0.0]).softmax(0)
    from_half = (p * (p / 0.5).log()).sum().item()  # the student's two channels are one, so each is as near to both
    crossed = (p.flip(0) * (p.flip(0) / p).log()).sum().item()  # its second is the first of the memory
    expected = {"batch_channel_weight": from_half, "memory_channel_weight": crossed / 2, "channel_mse_weight": 0.5}
    for part, want in expected.items():
        loss.factors = tuple(only(part).values())  # type: ignore[assignment]
        assert loss(student, teacher).item() == pytest.approx(want, abs=1e-6), part
    loss.factors = (1.0, 0.1, 100.0)
    assert loss(student, teacher).item() == pytest.approx(from_half + 0.05 * crossed + 50, abs=1e-4)


def test_zero_when_the_projection_of_the_student_is_the_teacher() -> None:
    student, _ = maps()
    loss = make()
    loss.projector = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False))
    nn.init.dirac_(loss.projector[0].weight)
    value, grad = value_and_grad(loss, student, student, torch.zeros(()))
    assert max(value.abs(), grad.abs().max()) <= 1e-5
    assert make()(student, student) > 1e-2


SCALES = torch.rand(2, 4, 1, 1, generator=torch.Generator().manual_seed(6)) + 0.1


@pytest.mark.parametrize("part", PARTS)
def test_scaling_each_channel_of_the_teacher_changes_nothing(part: str) -> None:
    student, teacher = maps()
    want = make(**only(part))(student, teacher)
    assert error(make(**only(part))(student, SCALES * teacher), want) <= 1e-5
    assert error(make(**only(part))(student, teacher + 1), want) > 1e-3


def test_images_are_compared_with_each_other() -> None:
    """Another order of the windows of one image changes its cosines with the other, and none of its own."""
    loss = make(**only("batch_channel_weight")).eval()
    loss.projector = nn.Sequential(nn.Identity())
    student, teacher = (F.interpolate(x[..., :3, :3], scale_factor=4) for x in maps())
    loss.map_size = (12, 12)
    turned = torch.cat([student[:1], student[1:].flip(3)])
    assert error(loss(turned[1:], teacher[1:]), loss(student[1:], teacher[1:])) <= 1e-5
    assert error(loss(turned, teacher), loss(student, teacher)) > 1e-3


def test_the_memory_holds_channels_of_the_teacher_and_wraps_around() -> None:
    loss = make()
    student, teacher = maps()
    units = F.normalize(F.avg_pool2d(teacher, 4, ceil_mode=True).flatten(2), dim=2).flatten(0, 1)
    before = loss.bank.channels.vectors[0].clone()
    loss(student, teacher)
    queue = loss.bank.channels.vectors[0]
    sources = [int((units - row).norm(dim=1).argmin()) for row in queue[:6]]
    assert len(set(sources)) == 6
    assert error(units[sources], queue[:6]) <= 1e-6
    assert torch.equal(queue[6:], before[6:])
    starts = []
    for _ in range(6):
        starts.append(int(loss.bank.channels.next_slot))
        loss(student, teacher)
    assert starts == [6, 12, 18, 24, 30, 36]  # from 36 six reach the end: they go to the last slots
    assert int(loss.bank.channels.next_slot) == 0
    assert error(queue.norm(dim=1), torch.ones(40)) <= 1e-6


def test_no_more_channels_are_stored_than_a_batch_has() -> None:
    loss = make(channels_pushed=20)
    loss(*maps())
    assert int(loss.bank.channels.next_slot) == 8


def test_evaluation_remembers_nothing() -> None:
    loss = make().eval()
    before = copy.deepcopy(loss.state_dict())
    loss(*maps())
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_resumed_loss_goes_on_alike_whatever_else_is_drawn() -> None:
    loss = make()
    for seed in range(3):
        loss(*maps(seed))
    torch.manual_seed(99)
    resumed = CIRKDChannelLoss(4, 4, SIZE, **SMALL)
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    assert int(resumed.bank.passes) == 3
    for seed in (4, 5):
        one = value_and_grad(loss, *maps(seed), torch.zeros(()))
        torch.manual_seed(seed)
        two = value_and_grad(resumed, *maps(seed), torch.zeros(()))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    for name, value in loss.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_other_channels_are_sampled_in_each_pass() -> None:
    loss = make()
    samples = []
    for _ in range(2):
        loss(*maps())
        samples.append(loss.bank.sample())
        assert samples[-1].shape == (25, 9)
        assert torch.equal(samples[-1], loss.bank.sample())
    assert not torch.equal(*samples)


def test_the_number_of_passes_stays_on_the_cpu_and_in_the_state() -> None:
    moved = make().to("meta")
    devices = {name: buffer.device.type for name, buffer in moved.bank.named_buffers()}
    assert devices == {"passes": "cpu", "channels.vectors": "meta", "channels.next_slot": "meta"}
    assert moved.state_dict()["bank.passes"].dtype == torch.long


def test_only_the_student_and_the_projector_learn() -> None:
    student, teacher = (x.requires_grad_() for x in maps(channels=(3, 5)))
    loss = make((3, 5))
    loss(student, teacher).backward()
    assert all(x.grad.any() for x in (student, *loss.parameters()))
    assert teacher.grad is None
    assert {name.split(".")[0] for name, _ in loss.named_parameters()} == {"projector"}
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_a_channel_of_zeros_gets_no_gradient() -> None:
    loss = make().eval()
    loss.projector = nn.Sequential(nn.Identity())
    student, teacher = maps()
    student[:, 1] = 0
    value, grad = value_and_grad(loss, student, teacher, torch.zeros(()))
    assert value.isfinite()
    assert not grad[:, 1].any()
    assert 0 < grad.abs().max() < 1e3


def test_without_gradient_the_value_is_the_same() -> None:
    one, two = make(), make()
    with torch.no_grad():
        value = one(*maps())
    assert not value.requires_grad
    assert value == two(*(x.requires_grad_() for x in maps()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_give_the_float32_value_of_the_rounded_numbers(dtype: torch.dtype) -> None:
    student, teacher = (x.to(dtype) for x in maps(channels=(3, 5)))
    with torch.autocast("cpu", torch.bfloat16):
        value, grad = value_and_grad(make((3, 5)), student, teacher, torch.zeros(()))
    assert (value.dtype, value) == (torch.float32, make((3, 5))(student.float(), teacher.float()))
    assert grad.isfinite().all()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RmrkdError, match="channels_pushed must be at most channel_queue, got 6 and 5"):
        make(channel_queue=5)
    student, teacher = maps()
    with pytest.raises(RmrkdError, match="stores channels of maps of 9x12 positions, got 9x8") as caught:
        make()(student[..., :8], teacher[..., :8])
    assert "`map_size` must be height and width of the student's map" in caught.value.hint
    assert "`schedule.crop`" in caught.value.hint
