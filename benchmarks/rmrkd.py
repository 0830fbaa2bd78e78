"""RMRKD's loss: against a loop over classes, against its own growth, and against bare matrix products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plain
from benchmarks.memory import SIDES, memory_rows
from benchmarks.pairs import agree, checked_pairs, timed_pairs
from benchmarks.result import Measure, Result, Row, Setting
from rmrkd_cli.losses import RMRKDLoss

Answer = dict[str, Tensor]
_TAU = 0.1
_AT_ONCE = 100  # classes whose graph the loop keeps


@dataclass(frozen=True)
class Size:
    """Batch 2, square maps of `side` positions a side."""

    classes: int
    channels: int
    side: int = 64

    def text(self) -> str:
        return f"batch 2, maps of {self.side}x{self.side}, {self.classes} classes, {self.channels} channels"


SIZES = {"rmrkd-19x2048": Size(19, 2048), "rmrkd-150x512": Size(150, 512), "19x512": Size(19, 512)}
GOALS = {"rmrkd-19x2048": (150.0, 10.0), "rmrkd-150x512": (700.0, None)}  # speed, memory
GROWTH = 2.5
TIMES_THE_PRODUCTS = 2.0


def size_of(name: str, setting: Setting) -> Size:
    size = SIZES[name]
    return replace(size, channels=size.channels // 128, side=8) if setting.quick else size


def inputs(size: Size, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Student's map, teacher's map, labels: blocks of classes, with an ignored strip at the top."""
    generator = torch.Generator().manual_seed(3)
    side = size.side * 8
    blocks = torch.randint(0, size.classes, (2, 1, 6, 6), generator=generator)
    labels = F.interpolate(blocks.float(), size=(side, side)).long()
    labels[:, :, : side // 25] = 255
    shape = (2, size.channels, size.side, size.side)
    student, teacher = (torch.randn(shape, generator=generator) for _ in range(2))
    return student.to(device).requires_grad_(), teacher.to(device), labels.to(device)


def value_and_gradient(loss: Callable[[Tensor, Tensor, Tensor], Tensor], given: tuple[Tensor, ...]) -> Answer:
    """The loss and its gradient for the student's map."""
    value = loss(given[0], given[1], given[2])
    return {"value": value.detach(), "gradient": torch.autograd.grad(value, given[0])[0]}


def class_by_class(size: Size, given: tuple[Tensor, Tensor, Tensor]) -> Answer:
    """The same, with a backward pass after each class: kept for all of them, the graph takes more than 24 GiB."""
    value, gradient = torch.zeros(()), torch.zeros_like(given[0])
    for term in plain.rmrkd_by_class(*given, num_classes=size.classes, tau=_TAU):
        gradient += torch.autograd.grad(term, given[0])[0]
        value = value.to(term.device) + term.detach()
    return {"value": value, "gradient": gradient}


def workload(name: str, side: str, setting: Setting) -> Callable[[], Answer]:
    """One side's forward and backward pass."""
    size = size_of(name, setting)
    given = inputs(size, setting.device)
    if side == "plain" and size.classes > _AT_ONCE:
        return lambda: class_by_class(size, given)
    if side == "plain":
        return lambda: value_and_gradient(partial(plain.rmrkd, num_classes=size.classes, tau=_TAU), given)
    return partial(value_and_gradient, RMRKDLoss(size.channels, size.channels, size.classes, _TAU), given)


def against_the_loop(name: str, setting: Setting) -> Result:
    speed, memory = GOALS[name]
    looped, ours = (workload(name, side, setting) for side in SIDES)
    checked, times = checked_pairs(looped, ours, agree(1e-4), setting)
    rows = [Row("time", "s", *times, goal=speed)]
    if memory is not None:
        rows += memory_rows(__name__, name, setting, goal=memory)
    if name == "rmrkd-150x512":
        rows.append(growth(setting))
    backward = ", with a backward pass after each" if size_of(name, setting).classes > _AT_ONCE else ""
    what = (
        f"RMRKD's loss, forward and backward, {size_of(name, setting).text()}, tau {_TAU}; the plain side is the "
        f"formula's loop with masked copies of the features, over all classes as released{backward}, of which at most "
        f"{present(name, setting)} occur in one image"
    )
    return Result(name, what, checked, rows)


def present(name: str, setting: Setting) -> int:
    """The most classes in one image at the size of the maps, blends of labels included."""
    size = size_of(name, setting)
    student, _, labels = inputs(size, "cpu")
    small = plain.small_labels(labels, student, "bilinear")
    return max(int((each.unique() < size.classes).sum()) for each in small)


def growth(setting: Setting) -> Row:
    """Our time at 150 classes over our time at 19."""
    few, many = (workload(name, "rmrkd", setting) for name in ("19x512", "rmrkd-150x512"))
    few(), many()
    label = "time at 150 classes, by that at 19"
    return Row(label, "s", *timed_pairs(few, many, setting), bound=True, goal=GROWTH)


def against_bare_products(setting: Setting) -> Result:
    rows, figures = [], []
    for name in GOALS:
        size = size_of(name, setting)
        most = present(name, setting)
        products = bare_products(size, most, setting.device)
        ours = workload(name, "rmrkd", setting)
        products(), ours()
        label = f"{size.classes} classes, {size.channels} channels"
        times = timed_pairs(products, ours, setting)
        rows.append(Row(label, "s", *times, bound=True, goal=TIMES_THE_PRODUCTS))
        figures.append(f"{label}: K is {most}")
    what = (
        "RMRKD's loss, forward and backward, against the seven batched matrix products (torch.bmm) that it cannot do "
        "without: prototypes of both maps, cosines of 2K prototypes with both maps, and three products of the backward "
        "pass; K is the largest number of classes in one image"
    )
    return Result("rmrkd-bmm", what, "no answer to compare: the products are a bound, not a loss", rows, figures)


def bare_products(size: Size, present: int, device: str) -> Callable[[], None]:
    """The products over P positions and C channels, with K classes present."""
    student, teacher, _ = inputs(size, device)
    ours, theirs = student.detach().flatten(2), teacher.flatten(2)
    batch, channels, positions = ours.shape
    masks, prototypes, vectors, gradients = (
        torch.randn(batch, rows, columns, device=device)
        for rows, columns in (
            (present, positions), (present, channels), (2 * present, channels), (2 * present, positions),
        )
    )  # fmt: skip

    def call() -> None:
        torch.bmm(masks, ours.transpose(1, 2))
        torch.bmm(masks, theirs.transpose(1, 2))
        torch.bmm(vectors, ours)
        torch.bmm(vectors, theirs)
        torch.bmm(vectors.transpose(1, 2), gradients)
        torch.bmm(gradients[:, :present], ours.transpose(1, 2))
        torch.bmm(prototypes.transpose(1, 2), masks)

    return call


MEASURES: dict[str, Measure] = {
    **{name: partial(against_the_loop, name) for name in GOALS},
    "rmrkd-bmm": against_bare_products,
}
