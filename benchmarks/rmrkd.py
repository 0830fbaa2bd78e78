"""The RMRKD loss: against a loop over classes, for more classes, and against its matrix products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plain
from benchmarks.memory import SIDES, memory_rows
from benchmarks.pairs import check_and_time, compare_tensors, time_pairs
from benchmarks.result import Benchmark, Result, Row, Setting
from rmrkd_cli.losses import RMRKDLoss

Answer = dict[str, Tensor]
_TAU = 0.1
_MAX_GRAPH_CLASSES = 100  # of the loop; the graph of more classes does not fit into memory


@dataclass(frozen=True)
class Size:
    """Batch 2, square maps of `side` positions a side."""

    classes: int
    channels: int
    side: int = 64

    def text(self) -> str:
        return f"batch 2, maps of {self.side}x{self.side}, {self.classes} classes, {self.channels} channels"


SIZES = {"rmrkd-19x2048": Size(19, 2048), "rmrkd-150x512": Size(150, 512), "19x512": Size(19, 512)}
TARGETS = {"rmrkd-19x2048": (150.0, 10.0), "rmrkd-150x512": (700.0, None)}  # speed, memory
GROWTH = 2.5
MAX_RATIO = 2.0


def get_size(name: str, setting: Setting) -> Size:
    size = SIZES[name]
    return replace(size, channels=size.channels // 128, side=8) if setting.quick else size


def make_inputs(size: Size, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return student map, teacher map and labels: blocks of classes, and an ignored strip at the top."""
    generator = torch.Generator().manual_seed(3)
    side = size.side * 8
    blocks = torch.randint(0, size.classes, (2, 1, 6, 6), generator=generator)
    labels = F.interpolate(blocks.float(), size=(side, side)).long()
    labels[:, :, : side // 25] = 255
    shape = (2, size.channels, size.side, size.side)
    student, teacher = (torch.randn(shape, generator=generator) for _ in range(2))
    return student.to(device).requires_grad_(), teacher.to(device), labels.to(device)


def value_and_gradient(loss: Callable[[Tensor, Tensor, Tensor], Tensor], given: tuple[Tensor, ...]) -> Answer:
    """Return the loss and its gradient for the student map."""
    value = loss(given[0], given[1], given[2])
    return {"value": value.detach(), "gradient": torch.autograd.grad(value, given[0])[0]}


def class_by_class(size: Size, given: tuple[Tensor, Tensor, Tensor]) -> Answer:
    """Return the same with a backward pass after each class: the graph of all classes takes more than 24 GiB."""
    value, gradient = torch.zeros(()), torch.zeros_like(given[0])
    for term in plain.rmrkd_by_class(*given, num_classes=size.classes, tau=_TAU):
        gradient += torch.autograd.grad(term, given[0])[0]
        value = value.to(term.device) + term.detach()
    return {"value": value, "gradient": gradient}


def workload(name: str, side: str, setting: Setting) -> Callable[[], Answer]:
    """Return a function that runs the forward and backward pass of one side."""
    size = get_size(name, setting)
    given = make_inputs(size, setting.device)
    if side == "plain" and size.classes > _MAX_GRAPH_CLASSES:
        return lambda: class_by_class(size, given)
    if side == "plain":
        return lambda: value_and_gradient(partial(plain.rmrkd, num_classes=size.classes, tau=_TAU), given)
    return partial(value_and_gradient, RMRKDLoss(size.channels, size.channels, size.classes, _TAU), given)


def benchmark_loss(name: str, setting: Setting) -> Result:
    speed, memory = TARGETS[name]
    looped, ours = (workload(name, side, setting) for side in SIDES)
    checked, times = check_and_time(looped, ours, compare_tensors(1e-4), setting)
    rows = [Row("time", "s", *times, goal=speed)]
    if memory is not None:
        rows += memory_rows(__name__, name, setting, goal=memory)
    if name == "rmrkd-150x512":
        rows.append(measure_growth(setting))
    backward = ", with a backward pass after each" if get_size(name, setting).classes > _MAX_GRAPH_CLASSES else ""
    what = (
        f"RMRKD's loss, forward and backward, {get_size(name, setting).text()}, tau {_TAU}; the plain side is the "
        f"formula's loop with masked copies of the features, over all classes as released{backward}, of which at most "
        f"{max_classes_per_image(name, setting)} occur in one image"
    )
    return Result(name, what, checked, rows)


def max_classes_per_image(name: str, setting: Setting) -> int:
    """Return the largest number of classes in one image at the size of the maps, after bilinear resizing."""
    size = get_size(name, setting)
    student, _, labels = make_inputs(size, "cpu")
    small = plain.resize_labels(labels, student, "bilinear")
    return max(int((each.unique() < size.classes).sum()) for each in small)


def measure_growth(setting: Setting) -> Row:
    """Return the time at 150 classes relative to the time at 19."""
    few, many = (workload(name, "rmrkd", setting) for name in ("19x512", "rmrkd-150x512"))
    few(), many()
    label = "time at 150 classes, by that at 19"
    return Row(label, "s", *time_pairs(few, many, setting), bound=True, goal=GROWTH)


def benchmark_matrix_products(setting: Setting) -> Result:
    rows, figures = [], []
    for name in TARGETS:
        size = get_size(name, setting)
        most = max_classes_per_image(name, setting)
        products = matrix_products(size, most, setting.device)
        ours = workload(name, "rmrkd", setting)
        products(), ours()
        label = f"{size.classes} classes, {size.channels} channels"
        times = time_pairs(products, ours, setting)
        rows.append(Row(label, "s", *times, bound=True, goal=MAX_RATIO))
        figures.append(f"{label}: K is {most}")
    what = (
        "RMRKD's loss, forward and backward, against the seven batched matrix products (torch.bmm) that it needs at "
        "least: prototypes of both maps, cosines of 2K prototypes with both maps, and three products of the backward "
        "pass; K is the largest number of classes in one image"
    )
    return Result("rmrkd-bmm", what, "nothing to compare: the products are a bound, not a loss", rows, figures)


def matrix_products(size: Size, count: int, device: str) -> Callable[[], None]:
    """Return a function that computes the products for P positions, C channels and K classes."""
    student, teacher, _ = make_inputs(size, device)
    ours, theirs = student.detach().flatten(2), teacher.flatten(2)
    batch, channels, positions = ours.shape
    masks, prototypes, vectors, gradients = (
        torch.randn(batch, rows, columns, device=device)
        for rows, columns in (
            (count, positions), (count, channels), (2 * count, channels), (2 * count, positions),
        )
    )  # fmt: skip

    def call() -> None:
        torch.bmm(masks, ours.transpose(1, 2))
        torch.bmm(masks, theirs.transpose(1, 2))
        torch.bmm(vectors, ours)
        torch.bmm(vectors, theirs)
        torch.bmm(vectors.transpose(1, 2), gradients)
        torch.bmm(gradients[:, :count], ours.transpose(1, 2))
        torch.bmm(prototypes.transpose(1, 2), masks)

    return call


BENCHMARKS: dict[str, Benchmark] = {
    **{name: partial(benchmark_loss, name) for name in TARGETS},
    "rmrkd-bmm": benchmark_matrix_products,
}
