"""A worker that takes one distillation step on given images and leaves the student's gradients; run by test_ddp."""

from __future__ import annotations

import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from rmrkd_cli.engine.build import build_distiller
from rmrkd_cli.engine.distributed import world
from rmrkd_cli.presets import load_preset


def main(preset_file: str, target: str) -> None:
    torch.set_num_threads(1)
    overrides = ["losses.mgd.mask_ratio=0", "student.overrides.decode_head.dropout_ratio=0"]
    preset = load_preset(preset_file, overrides=[*overrides, "student.overrides.auxiliary_head.dropout_ratio=0"])
    with world("cpu") as here:
        model = build_distiller(preset, "distill", 11, device="cpu", say=lambda _: None, with_weights=False).distiller
        model.eval()
        wrapped = DistributedDataParallel(model) if here.size > 1 else model
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(4, 3, 48, 48, generator=generator)
        labels = torch.randint(0, 11, (4, 1, 48, 48), generator=generator)
        own = slice(here.rank * 4 // here.size, (here.rank + 1) * 4 // here.size)
        model.total(wrapped(images[own], labels[own])).backward()
        if here.is_first:
            torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, target)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
