"""IDD, IFVD and MGD against their plain implementations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.pairs import check_and_time, compare_tensors
from benchmarks.result import Benchmark, Result, Row, Setting
from benchmarks.rmrkd import get_size, make_inputs, value_and_gradient
from rmrkd_cli.losses import IDDLoss, IFVDLoss, MGDLoss

_HOW = {
    "idd": "loops over all pairs of classes and takes each pair's four prototypes from masked maps, as released",
    "ifvd": "loops over the classes, puts each mean into a map, and takes the cosine with that map",
}


def benchmark_class_loss(name: str, setting: Setting) -> Result:
    """Run the benchmark of IDD or IFVD."""
    size = get_size("19x512", setting)
    given = make_inputs(size, setting.device)
    kind = {"idd": IDDLoss, "ifvd": IFVDLoss}[name]
    ours = kind(size.channels, size.channels, size.classes)
    checked, times = check_and_time(
        lambda: value_and_gradient(partial(getattr(plain, name), num_classes=size.classes), given),
        lambda: value_and_gradient(ours, given),
        compare_tensors(1e-4),
        setting,
    )
    what = f"{name.upper()}'s loss, forward and backward, {size.text()}; the plain side {_HOW[name]}"
    return Result(name, what, checked, [Row("time", "s", *times)])


def benchmark_mgd(setting: Setting) -> Result:
    student, teacher, side = (16, 32, 8) if setting.quick else (512, 2048, 64)
    generator = torch.Generator().manual_seed(5)
    ours, theirs = (torch.randn(2, c, side, side, generator=generator).to(setting.device) for c in (student, teacher))
    keep = (torch.rand(2, 1, side, side, generator=generator) < 0.25).float().to(setting.device)
    torch.manual_seed(5)
    contiguous = MGDLoss(student, teacher).to(setting.device)
    loss = MGDLoss(student, teacher).to(setting.device).to(memory_format=torch.channels_last)
    loss.load_state_dict(contiguous.state_dict())
    layers = contiguous.align, contiguous.generation
    checked, times = check_and_time(
        _with_gradients(lambda x: plain.mgd(x, theirs, keep, *layers), ours, contiguous),
        _with_gradients(
            partial(_ours, loss, keep, theirs.contiguous(memory_format=torch.channels_last)),
            ours.contiguous(memory_format=torch.channels_last),
            loss,
        ),
        compare_tensors(1e-4),
        setting,
    )
    what = (
        f"MGD's loss, forward and backward, {student} to {teacher} channels, batch 2, maps of {side}x{side}, three "
        "quarters hidden; the plain side aligns, multiplies by the mask and convolves densely; each side in the memory "
        "format that its step has (contiguous, channels-last)"
    )
    return Result("mgd", what, checked, [Row("time", "s", *times)])


def _ours(loss: MGDLoss, keep: Tensor, teacher: Tensor, student: Tensor) -> Tensor:
    value: Tensor = loss(student, teacher, keep_mask=keep)
    return value


def _with_gradients(
    loss: Callable[[Tensor], Tensor], student: Tensor, module: torch.nn.Module
) -> Callable[[], dict[str, Tensor]]:
    """Return a function that computes value and gradients, for the map and for every weight."""
    leaf = student.detach().clone().requires_grad_()
    names = ["map", *(name for name, _ in module.named_parameters())]
    leaves = [leaf, *module.parameters()]

    def call() -> dict[str, Tensor]:
        value = loss(leaf)
        return {"value": value.detach(), **dict(zip(names, torch.autograd.grad(value, leaves), strict=True))}

    return call


BENCHMARKS: dict[str, Benchmark] = {
    "idd": partial(benchmark_class_loss, "idd"),
    "ifvd": partial(benchmark_class_loss, "ifvd"),
    "mgd": benchmark_mgd,
}
