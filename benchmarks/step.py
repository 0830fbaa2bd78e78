"""One distillation step, against the released code."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.memory import memory_rows
from benchmarks.networks import build, preset, random_batch
from benchmarks.pairs import compare_tensors, time_pairs
from benchmarks.released_step import ReleasedStep
from benchmarks.result import Benchmark, Result, Row, Setting
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.losses import MGDLoss
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.training.optimizer_step import TrainStep

FASTER, LESS_MEMORY = 2.8, 2.0
LOSS_TOLERANCE = 1e-3
# Float32 gradients of the cross entropy alone, contiguous and channels-last, differ by 3.3e-3 and 7e-3 at 512x512.
UPDATE_TOLERANCES = {"layers": 1e-2, "stem": 3e-2}


def our_step(setting: Setting) -> TrainStep:
    """Return a step as `rmrkd train` sets it up."""
    spec = preset(setting.quick)
    model = build(spec, setting.device).distiller.to_device(setting.device, inference_network)
    model.train()
    return TrainStep(model, model, spec.schedule_for("distill"), torch.device(setting.device))


def released_step(setting: Setting) -> ReleasedStep:
    spec = preset(setting.quick)
    model = build(spec, setting.device).distiller
    model.train()
    return ReleasedStep(model, spec.schedule_for("distill"), setting.device)


def workload(name: str, side: str, setting: Setting) -> Callable[[], dict[str, Tensor]]:
    """Return a function that runs a step of one side."""
    batch = random_batch(preset(setting.quick))
    if side == "plain":
        released = released_step(setting)
        return lambda: released(batch)
    ours = our_step(setting)
    return lambda: ours([batch], 0)


def benchmark_step(setting: Setting) -> Result:
    checked, rows, parameters = _compare_and_time(setting)  # frees its networks before the memory is measured
    rows += memory_rows(__name__, "step", setting, goal=LESS_MEMORY, total=True, runs=2)
    spec = preset(setting.quick)
    shape = "x".join(map(str, random_batch(spec).images.shape))
    what = (
        f"a training step of `{spec.name}` on random images ({shape}) from the same initial weights; the plain side is "
        "the released step rebuilt: contiguous maps, batch norm of the teacher not folded, RMRKD's loop over classes, "
        f"MGD dense, and the layers that it trains without using, {parameters / 1e6:.1f} M parameters in all. Compared "
        "after the first step, with the same dropout and the same mask of MGD: every loss, and by how much the weights "
        "of the student changed. The memory is that of two steps"
    )
    return Result("step", what, checked, rows)


def _compare_and_time(setting: Setting) -> tuple[str, list[Row], int]:
    batch = random_batch(preset(setting.quick))
    released, ours = released_step(setting), our_step(setting)
    setting.log("  checking that both give the same result")
    checked = _compare(released, ours, batch)
    setting.log(f"  {checked}")
    times = time_pairs(lambda: released(batch), lambda: ours([batch], 0), setting)
    parameters = sum(parameter.numel() for parameter in released.parameters)
    return checked, [Row("time", "s", *times, goal=FASTER)], parameters


def _compare(released: ReleasedStep, ours: TrainStep, batch: Batch) -> str:
    keep_mask = random_mask(ours.model, batch).to(ours.device)
    start = _weights(ours.model)
    torch.manual_seed(1)  # for the student's dropout
    released.keep_mask = keep_mask
    theirs = released(batch)
    released.keep_mask = None
    torch.manual_seed(1)
    with patch.object(mgd_of(ours.model), "draw_mask", lambda _: keep_mask):
        mine = ours([batch], 0)
    sentences = [compare_tensors(LOSS_TOLERANCE)(theirs, mine)]
    for part, tolerance in UPDATE_TOLERANCES.items():
        moved = [
            {f"update of the {part}": _weights(model)[part] - start[part]} for model in (released.model, ours.model)
        ]
        sentences.append(compare_tensors(tolerance)(*moved))
    return "; ".join(sentences)


def _weights(model: Distiller) -> dict[str, Tensor]:
    """Return the weights of the student as two vectors: of the stem, and of all later layers."""
    parts: dict[str, list[Tensor]] = {part: [] for part in UPDATE_TOLERANCES}
    for name, parameter in model.student.named_parameters():
        parts["stem" if ".stem." in name else "layers"].append(parameter.detach().flatten())
    return {part: torch.cat(weights) for part, weights in parts.items()}


def mgd_of(model: Distiller) -> MGDLoss:
    return next(loss for loss in model.losses.values() if isinstance(loss, MGDLoss))


def random_mask(model: Distiller, batch: Batch) -> Tensor:
    """Return an MGD mask (B, 1, H, W) at stride 8, that of the last stage."""
    count, _, height, width = batch.images.shape
    generator = torch.Generator().manual_seed(2)
    share = 1 - mgd_of(model).mask_ratio
    return (torch.rand(count, 1, height // 8, width // 8, generator=generator) < share).float()


BENCHMARKS: dict[str, Benchmark] = {"step": benchmark_step}
