"""The first step of each preset and method: losses on this device beside the CPU's, in each precision."""

from __future__ import annotations

import torch

from benchmarks.gpu_parts.common import (
    FP32,
    Options,
    Precision,
    Record,
    build_model,
    copy_to,
    fix_masks,
    gradient_norm,
    load,
    make_batch,
    precisions,
    turn_off_dropout,
)
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.presets.loader import preset_names
from rmrkd_cli.presets.methods import method_names
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.training.determinism import seed_step
from rmrkd_cli.training.optimizer_step import TrainStep

_CROP = (128, 128)


def run(options: Options, record: Record) -> None:
    """Record a row for each preset or method and precision; the CPU's float32 comes first."""
    cases: list[tuple[str, str | None]] = [(name, None) for name in preset_names()]
    cases += [("demo", name) for name in method_names() if name != "rmrkd"]
    if options.toy:
        cases = [("demo", None)]
    for name, method in cases:
        preset = load(name, FP32, method=method)
        built = build_model(preset, options.device)
        turn_off_dropout(built)
        fix_masks(built)
        variants = [("cpu", FP32), *((options.device, precision) for precision in precisions(options))]
        for device, precision in dict.fromkeys(variants):
            row = {"preset": name, "method": method, "device": device, "precision": precision.name}
            record(row | _first_step(preset, copy_to(device, built), device, precision))


def _first_step(preset: Preset, model: Distiller, device: str, precision: Precision) -> dict[str, object]:
    precision.apply()
    schedule = preset.schedule_for("distill").model_copy(update={"amp": precision.amp})
    step = TrainStep(model, model, schedule, torch.device(device))
    seed_step(0, 0, 0, device)
    losses = step.backward([make_batch(preset, _CROP, 2)], 0)
    values = {key: float(value) for key, value in losses.items()}
    return {"losses": values, "gradient norm": gradient_norm(model)}
