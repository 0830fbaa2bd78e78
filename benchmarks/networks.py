"""The networks and batches of the benchmarks."""

from __future__ import annotations

from typing import Any

import torch

from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.factory import Built, build_distiller
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import Preset

CLASSES = 19
LOGIT_SCALE = 30.0


def preset(quick: bool) -> Preset:
    """Return the preset PSPNet-R101 to PSPNet-R18; with `quick`, two narrow PSPNet-R18 and a small crop."""
    if quick:
        return load_preset("demo", overrides=["schedule.crop=[64, 64]", "schedule.batch_size=2"])
    return load_preset("psp101-psp18-city")


def build(preset: Preset, device: str, role: str = "distill") -> Built:
    """Return a distiller with random weights, equal in every call, and logits as large as those of trained networks.

    mmsegmentation initializes its classifiers near zero. DKD would then compare nearly uniform distributions, and its
    value would be mostly rounding error.
    """
    built = build_distiller(preset, role, CLASSES, device=device, log=lambda _: None, with_weights=False)
    networks: list[Any] = [built.distiller.student, built.distiller.teacher]
    with torch.no_grad():
        for network in filter(None, networks):
            network.decode_head.conv_seg.weight.mul_(LOGIT_SCALE)
    return built


def random_batch(preset: Preset) -> Batch:
    """Return a batch of noise images; labels are blocks of an eighth of the crop."""
    schedule = preset.schedule_for("distill")
    generator = torch.Generator().manual_seed(0)
    height, width = schedule.crop
    images = torch.randn(schedule.batch_size, 3, height, width, generator=generator)
    blocks = torch.randint(0, CLASSES, (schedule.batch_size, 1, 8, 8), generator=generator)
    labels = blocks.repeat_interleave(height // 8, 2).repeat_interleave(width // 8, 3)
    return Batch(images, labels, list(range(schedule.batch_size)))
