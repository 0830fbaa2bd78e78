"""One distillation step, against the sum of its unavoidable parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks import build, preset, random_batch
from benchmarks.pairs import time_pairs
from benchmarks.result import Benchmark, Result, Row, Setting
from benchmarks.step import mgd_of, our_step, random_mask
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.losses._masked_conv import convolve_kept
from rmrkd_cli.networks.winograd import convolve, is_worth_it
from rmrkd_cli.training.optimizer_step import TrainStep

MAX_RATIO = 1.1


def benchmark_step_parts(setting: Setting) -> Result:
    spec = preset(setting.quick)
    batch, ours = random_batch(spec), our_step(setting)
    rows = []
    for label, convolutions in (
        ("dense convolutions", _dense(ours.model, batch)),
        ("rmrkd's convolutions", _sparse(ours.model, batch)),
    ):
        parts = _parts(ours, batch, convolutions, setting)
        setting.log(f"  {label}")
        parts()
        ours([batch], 0)
        times = time_pairs(parts, lambda: ours([batch], 0), setting)
        rows.append(Row(label, "s", *times, bound=True, goal=MAX_RATIO))
    what = (
        f"a training step of `{spec.name}` against the sum of its unavoidable parts: the teacher's forward pass (the "
        "network our step uses), a whole training step of the student alone, and the two 3x3 convolutions of MGD, "
        "forward and backward; those once as torch.nn.Conv2d in channels-last, once as our step computes them"
    )
    return Result("step-parts", what, "nothing to compare: the parts are a bound, not a step", rows)


def _parts(ours: TrainStep, batch: Batch, convolutions: Callable[[], None], setting: Setting) -> Callable[[], None]:
    """Return a function that runs teacher, student and convolutions one after the other."""
    baseline = build(preset(setting.quick), setting.device, "baseline").distiller.to_device(setting.device)
    baseline.train()
    student = TrainStep(baseline, baseline, ours.schedule, ours.device)
    teacher: Any = ours.model.teacher
    images = batch.images.to(ours.device).contiguous(memory_format=torch.channels_last)

    def call() -> None:
        with torch.no_grad():
            teacher.decode_head(teacher.extract_feat(images))
        student([batch], 0)
        convolutions()

    return call


def _dense(model: Distiller, batch: Batch) -> Callable[[], None]:
    generation = mgd_of(model).generation
    mask = random_mask(model, batch)
    features = _features(model, (len(mask), mgd_of(model).channels[1], *mask.shape[2:]))

    def call() -> None:
        _backward(generation(features), features, generation)

    return call


def _sparse(model: Distiller, batch: Batch) -> Callable[[], None]:
    generation = mgd_of(model).generation
    first, relu, second = generation
    assert isinstance(first, nn.Conv2d)
    keep = random_mask(model, batch)[:, 0] > 0
    rows = _features(model, (int(keep.sum()), mgd_of(model).channels[1]))
    keep = keep.to(rows.device)

    def call() -> None:
        hidden = relu(convolve_kept(rows, keep, first))
        assert isinstance(second, nn.Conv2d)
        _backward(convolve(hidden, second) if is_worth_it(second) else second(hidden), rows, generation)

    return call


def _features(model: Distiller, shape: tuple[int, ...]) -> Tensor:
    features = torch.randn(shape, device=next(model.parameters()).device)
    if features.dim() == 4:
        features = features.contiguous(memory_format=torch.channels_last)
    return features.requires_grad_()


def _backward(out: Tensor, features: Tensor, layers: nn.Module) -> None:
    torch.autograd.grad(out, [features, *layers.parameters()], torch.ones_like(out))


BENCHMARKS: dict[str, Benchmark] = {"step-parts": benchmark_step_parts}
