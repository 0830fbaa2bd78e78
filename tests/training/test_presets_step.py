from __future__ import annotations

import math

import pytest
import torch

from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.presets.loader import load_preset, preset_names
from rmrkd_cli.training.optimizer_step import TrainStep

CHANNELS = {  # student's and teacher's at the stage of RMRKD, from the paper's released configurations
    "psp101-psp18-city": (512, 2048),
    "psp101-dl18-city": (256, 1024),
    "dlp101-dlmbv2-city": (96, 1024),
    "dl101-dlmbv2-city": (96, 1024),
    "psp101-psp18-voc12aug": (256, 1024),
    "psp101-dl18-voc12aug": (512, 2048),
    "dlp101-dlpmbv2-city": (96, 1024),
}
CLASSES = {"cityscapes": 19, "voc12aug": 21, "camvid": 11, "demo": 8}


# Each of the paper's pairs takes ten seconds.
FAST = ("psp18w32-psp18w8-camvid", "dlp18w32-dlpmbv2x025-camvid", "demo")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in preset_names()]
)
def test_preset_builds_and_steps_twice(name: str) -> None:
    preset = load_preset(name)
    classes = CLASSES[preset.dataset]
    built = build_distiller(preset, "distill", classes, device="cpu", log=lambda _: None, with_weights=False)
    model = built.distiller.to_device("cpu")
    model.train()
    assert model.teacher is not None
    assert not model.teacher.training
    buffers = {key: value.clone() for key, value in model.teacher.named_buffers()}
    if name in CHANNELS:
        align = model.losses["rmrkd"].align
        assert (align.in_channels, align.out_channels) == CHANNELS[name]
        assert model.losses["dkd"].num_classes == classes
    step = TrainStep(model, model, preset.schedule, torch.device("cpu"))
    for number in range(2):
        labels = torch.randint(0, classes, (2, 1, 64, 64))
        labels[:, :, :8] = 255
        named = step([Batch(torch.randn(2, 3, 64, 64), labels, [])], number)
        assert all(math.isfinite(value) for value in named.values())
    assert named.keys() == {"ce", "aux_ce", *preset.losses}
    unused = [key for key, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert unused == []
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    assert all(torch.equal(value, buffers[key]) for key, value in model.teacher.named_buffers())
