from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import CIRKDMemoryLoss, _relations, cirkd_memory
from rmrkd_cli.losses._memory_bank import MemoryQueue
from tests.losses.common import K, error, sample, value_and_grad
from tests.losses.naive_relations import naive_cirkd_memory, naive_enqueue

SMALL = {"pixel_queue": 40, "region_queue": 6, "pixel_samples": 50, "region_samples": 11}
WHOLE = {"pixel_queue": 150, "region_queue": 9, "pixel_samples": 4096, "region_samples": 1024, "pixels_pushed": 30}


def make(channels: tuple[int, int] = (4, 4), **options: Any) -> CIRKDMemoryLoss:
    torch.manual_seed(0)
    return CIRKDMemoryLoss(*channels, K, **{**SMALL, **options})


def gradients(loss: nn.Module, value: Tensor, student: Tensor) -> list[Tensor]:
    """Of the student's map and of all that learns."""
    return list(torch.autograd.grad(value, [student, *loss.parameters()]))


def test_hand_computed_value() -> None:
    """One position, a projector that passes it on, and a memory of two pixels and the same two regions."""
    loss = CIRKDMemoryLoss(2, 2, 1, tau=0.1, pixel_queue=2, region_queue=2, pixels_pushed=1).eval()
    loss.projector = nn.Sequential(nn.Identity())
    for queue in (loss.bank.pixels, loss.bank.regions):
        queue.vectors[:] = torch.eye(2)
    student, teacher = torch.tensor([3.0, 3.0]).view(1, 2, 1, 1), torch.tensor([5.0, 0.0]).view(1, 2, 1, 1)
    p = torch.tensor([10.0, 0.0]).softmax(0)
    expected = (p * (p.log() - torch.tensor(0.5).log())).sum()  # the student is as near to one as to the other
    labels = torch.zeros(1, 1, 1, 1, dtype=torch.long)
    value = loss(student, teacher, labels)
    assert value.item() == pytest.approx(2 * expected.item(), abs=1e-6)
    loss.factors = (1.0, 0.5)
    assert loss(student, teacher, labels).item() == pytest.approx(1.5 * expected.item(), abs=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize("options", [{}, {"tau": 1.0, "pixel_weight": 0.3, "region_weight": 2.0}])
@pytest.mark.parametrize(("channels", "size"), [((4, 4), (5, 6)), ((3, 5), (4, 7)), ((5, 3), (1, 8))])
def test_equals_the_whole_matrices(
    channels: tuple[int, int], size: tuple[int, int], options: dict[str, Any], block: int, training: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """While training too: where the whole memory is compared, the order in which pixels came does not matter."""
    monkeypatch.setattr(_relations, "_CPU_BLOCK", block)
    student, teacher, labels = sample(1, channels, size)
    loss = make(channels, **(WHOLE if training else {}), **options).train(training)
    plain = copy.deepcopy(loss).double()
    leaf, ours = student.double().requires_grad_(), student.clone().requires_grad_()
    expected = naive_cirkd_memory(plain, leaf, teacher.double(), labels)
    value = loss(ours, teacher, labels)
    assert error(value.detach(), expected.detach()) <= 1e-5
    for got, want in zip(gradients(loss, value, ours), gradients(plain, expected, leaf), strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm() + 1e-7
    assert error(loss.bank.regions.vectors, plain.bank.regions.vectors) <= 1e-6
    assert torch.equal(loss.bank.pixels.next_slot, plain.bank.pixels.next_slot)


@pytest.mark.parametrize("seed", range(3))
def test_a_queue_is_filled_as_one_image_and_class_after_the_other_would_fill_it(seed: int) -> None:
    """Over many steps, with slots that are written several times in one."""
    draw = torch.Generator().manual_seed(seed)
    queue = MemoryQueue(3, 7, 2)
    plain = copy.deepcopy(queue)
    for _ in range(20):
        sizes = torch.randint(0, 8, (4, 3), generator=draw)
        sizes[torch.rand(4, 3, generator=draw) < 0.3] = 0
        vectors = F.normalize(torch.randn(4, 3, 7, 2, generator=draw), dim=3)
        queue.push(sizes, vectors)
        for i in range(4):
            for k in range(3):
                if sizes[i, k]:
                    naive_enqueue(plain, k, vectors[i, k, : sizes[i, k]])
        assert torch.equal(queue.vectors, plain.vectors)
        assert torch.equal(queue.next_slot, plain.next_slot)
    assert error(queue.vectors.norm(dim=2), torch.ones(3, 7)) <= 1e-6


@pytest.mark.parametrize("channels", [(4, 4), (3, 5)])
def test_a_gpu_compares_all_positions_and_gets_the_same(
    channels: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not read how many positions are labelled; those without a class add nothing."""
    student, teacher, labels = sample(1, channels)
    expected = value_and_grad(make(channels), student, teacher, labels)
    nothing = value_and_grad(make(channels), student, teacher, 0 * labels + 255)
    monkeypatch.setattr(cirkd_memory, "_HOST", "another")
    for got, want in zip(value_and_grad(make(channels), student, teacher, labels), expected, strict=True):
        assert error(got, want) <= 1e-5
    got = value_and_grad(make(channels), student, teacher, 0 * labels + 255)
    assert all(torch.equal(*pair) for pair in zip(got, nothing, strict=True))


def test_the_number_of_passes_stays_on_the_cpu_and_in_the_state() -> None:
    loss = make()
    moved = loss.to("meta")
    assert {name: buffer.device.type for name, buffer in moved.bank.named_buffers()} == {
        "passes": "cpu", "pixels.vectors": "meta", "pixels.next_slot": "meta",
        "regions.vectors": "meta", "regions.next_slot": "meta",
    }  # fmt: skip
    assert moved.state_dict()["bank.passes"].dtype == torch.long


def pushed(enqueue: str) -> tuple[Tensor, Tensor, list[set[int]]]:
    """Labels, units, and for every class the positions in its queue after one image."""
    student, teacher, labels = (x[:1] for x in sample(2, size=(8, 9)))
    loss = make(enqueue=enqueue, pixels_pushed=5)
    loss(student, teacher, labels)
    units = F.normalize(teacher, dim=1).flatten(2)[0].T
    positions_by_class = []
    for k in range(K):
        mine = loss.bank.pixels.vectors[k, : int(loss.bank.pixels.next_slot[k])]
        same = (mine @ units.T).argmax(1)
        assert error(units[same], mine) <= 1e-6
        positions_by_class.append(set(same.tolist()))
    return labels.flatten(), units, positions_by_class


def test_a_class_remembers_its_own_pixels_and_other_ones_each_time() -> None:
    labels, _, positions_by_class = pushed("class")
    for k, positions in enumerate(positions_by_class):
        assert len(positions) == 5
        assert all(labels[position] == k for position in positions)
    student, teacher, _ = sample(2, size=(8, 9))
    loss = make(pixels_pushed=5)
    for _ in range(2):
        loss(student[:1], teacher[:1], labels.view(1, 1, 8, 9))
    queue = loss.bank.pixels.vectors
    assert not torch.equal(queue[:, :5], queue[:, 5:10])


def test_released_a_class_remembers_what_is_at_the_top() -> None:
    labels, _, positions_by_class = pushed("released")
    for k, positions in enumerate(positions_by_class):
        assert len(positions) == 5
        assert max(positions) < (labels == k).sum()
    assert any(labels[position] != k for k, positions in enumerate(positions_by_class) for position in positions)


def test_evaluation_remembers_nothing() -> None:
    loss = make().eval()
    before = copy.deepcopy(loss.state_dict())
    loss(*sample())
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_slots_are_the_same_of_every_class_and_others_in_the_next_pass() -> None:
    loss = make()
    sampled = []
    for step in range(2):
        loss(*sample(step))
        for vectors, queue in zip(loss.bank.sample(), (loss.bank.pixels, loss.bank.regions), strict=True):
            of_classes = vectors.view(K, -1, 4)
            slots = [(row @ all_.T).argmax(1) for row, all_ in zip(of_classes, queue.vectors, strict=True)]
            assert all(torch.equal(slots[0], other) for other in slots)
            sampled.append(slots[0])
    assert [len(slots.unique()) for slots in sampled] == [50 // K + 1, 11 // K + 1] * 2
    assert not torch.equal(sampled[0], sampled[2])


@pytest.mark.parametrize(("classes", "pixels", "regions"), [(19, 216, 54), (21, 196, 49), (11, 373, 94)])
def test_as_many_samples_a_class_as_released(classes: int, pixels: int, regions: int) -> None:
    assert CIRKDMemoryLoss(2, 2, classes).bank.samples == (pixels, regions)


def test_the_memory_starts_with_random_unit_vectors() -> None:
    loss = make()
    for queue in (loss.bank.pixels.vectors, loss.bank.regions.vectors):
        assert error(queue.norm(dim=2), torch.ones(queue.shape[:2])) <= 1e-6
        assert not torch.equal(queue[:, 0], queue[:, 1])


def test_a_resumed_loss_goes_on_alike_whatever_else_is_drawn() -> None:
    loss = make()
    for seed in range(3):
        loss(*sample(seed))
    torch.manual_seed(99)
    resumed = CIRKDMemoryLoss(4, 4, K, **SMALL)
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    assert int(resumed.bank.passes) == 3
    for seed in (4, 5):
        one = value_and_grad(loss, *sample(seed))
        torch.manual_seed(seed)
        two = value_and_grad(resumed, *sample(seed))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    for name, value in loss.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_zero_when_the_projection_of_the_student_is_the_teacher() -> None:
    student, _, labels = sample()
    loss = make()
    with torch.no_grad():
        teacher = loss.projector(student)
    value, grad = value_and_grad(loss, student, teacher, labels)
    assert max(value.abs(), grad.abs().max()) <= 1e-6
    assert loss(student, student, labels) > 1e-2


def test_scaling_each_position_of_the_teacher_changes_nothing() -> None:
    student, teacher, labels = sample()
    scales = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(6)) + 0.1
    assert error(make()(student, scales * teacher, labels), make()(student, teacher, labels)) <= 1e-5


@pytest.mark.parametrize("ignored", [255, -1, K])
def test_positions_of_no_class_are_neither_compared_nor_remembered(ignored: int) -> None:
    student, teacher, labels = sample()
    outside = labels == 255
    labels = labels.masked_fill(outside, ignored)
    other = torch.where(outside, 7 - teacher, teacher)
    one, two = make(), make()
    first, second = value_and_grad(one, student, teacher, labels), value_and_grad(two, student, other, labels)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(one.bank.pixels.vectors, two.bank.pixels.vectors)
    loss = make().eval()  # else batch norm's statistics reach every position
    _, grad = value_and_grad(loss, student, teacher, labels)
    assert not grad.movedim(1, -1)[outside[:, 0]].any()


def test_all_ignored_gives_zero_and_a_zero_gradient_for_every_parameter() -> None:
    student, teacher, labels = sample(channels=(3, 5))
    loss = make((3, 5))
    vectors = loss.bank.pixels.vectors.clone()
    value = loss(student.requires_grad_(), teacher, 0 * labels + 255)
    value.backward()
    assert value == 0
    for tensor in (student, *loss.parameters()):
        assert not tensor.grad.any()
    assert torch.equal(loss.bank.pixels.vectors, vectors)


def test_only_the_student_and_the_projector_learn() -> None:
    student, teacher, labels = (x.requires_grad_(x.is_floating_point()) for x in sample(channels=(3, 5)))
    loss = make((3, 5))
    shapes = {name: tuple(x.shape) for name, x in loss.named_parameters()}
    assert shapes == {
        "projector.0.weight": (5, 3, 1, 1),
        "projector.1.weight": (5,),
        "projector.1.bias": (5,),
        "projector.3.weight": (5, 5, 1, 1),
    }
    loss(student, teacher, labels).backward()
    assert student.grad.any()
    assert all(x.grad.any() for x in loss.parameters())
    assert teacher.grad is None
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_without_gradient_the_value_is_the_same() -> None:
    one, two = make(), make()
    with torch.no_grad():
        value = one(*sample())
    assert not value.requires_grad
    assert value == two(*(x.requires_grad_(x.is_floating_point()) for x in sample()))


def test_no_logits_are_kept() -> None:
    student, teacher, labels = sample(channels=(3, 5), size=(20, 20))
    loss = make((3, 5), **WHOLE)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(student.requires_grad_(), teacher, labels)
    assert max(tensor.numel() for tensor in saved) <= teacher.numel()  # the logits have 600 numbers a position


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_give_the_float32_value_of_the_rounded_numbers(dtype: torch.dtype) -> None:
    student, teacher, labels = sample(channels=(3, 5))
    student, teacher = student.to(dtype), teacher.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value, grad = value_and_grad(make((3, 5)), student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, make((3, 5))(student.float(), teacher.float(), labels))
    assert grad.isfinite().all()


def test_labels_are_resized_by_nearest() -> None:
    student, teacher, _ = sample()
    labels = torch.randint(0, K, (2, 1, 40, 48), generator=torch.Generator().manual_seed(3))
    assert make()(student, teacher, labels) == make()(student, teacher, labels[:, :, ::8, ::8])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RmrkdError, match="enqueue must be one of class, released, got `all`"):
        make(enqueue="all")
    with pytest.raises(RmrkdError, match="pixels_pushed must be at most pixel_queue, got 16 and 10"):
        make(pixel_queue=10)
    student, teacher, labels = sample()
    with pytest.raises(RmrkdError, match="must have the same batch size, height and width"):
        make()(student, teacher[..., :3], labels)
