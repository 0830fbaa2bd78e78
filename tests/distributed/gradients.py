"""A worker that saves the gradients of its images, then takes two steps like all others; run by test_ddp."""

from __future__ import annotations

import hashlib
import os

import torch
from torch.nn.parallel import DistributedDataParallel

from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.distributed.process_group import distributed_context
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.determinism import seed_step
from rmrkd_cli.training.optimizer_step import TrainStep

ADVERSARIAL = [
    f"losses.{name.replace('-', '_')}={{type: adversarial, weight: 1, objective: {name}}}"
    for name in ("hinge", "wgan-gp")
]


def main(preset_file: str, target: str) -> None:
    torch.set_num_threads(1)
    overrides = [*ADVERSARIAL, "losses.mgd.mask_ratio=0", "student.overrides.decode_head.dropout_ratio=0"]
    preset = load_preset(preset_file, overrides=[*overrides, "student.overrides.auxiliary_head.dropout_ratio=0"])
    with distributed_context("cpu") as dist_ctx:
        model = build_distiller(preset, "distill", 11, device="cpu", log=lambda _: None, with_weights=False).distiller
        model.eval()
        own = slice(dist_ctx.rank * 4 // dist_ctx.size, (dist_ctx.rank + 1) * 4 // dist_ctx.size)
        model.losses["wgan_gp"].draw_mix = lambda _: torch.linspace(0.1, 0.9, 4)[own].view(-1, 1, 1, 1)
        assert dist_ctx.size == int(os.environ.get("WORLD_SIZE", "1"))
        wrapped = DistributedDataParallel(model) if dist_ctx.size > 1 else model
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(4, 3, 48, 48, generator=generator)
        labels = torch.randint(0, 11, (4, 1, 48, 48), generator=generator)
        model.total(wrapped(images[own], labels[own])).backward()
        if dist_ctx.is_rank0:
            torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, target)
        step = TrainStep(model.train(), wrapped, preset.schedule, dist_ctx.device)
        for number in range(2):
            seed_step(0, number, dist_ctx.rank, "cpu")
            step([Batch(images[own], labels[own], [])], number)
        digests = [hashlib.sha256(parameter.detach().numpy().tobytes()).digest() for parameter in model.parameters()]
        assert all(others == digests for others in dist_ctx.all_gather(digests))


def rank_of_two(preset_file: str, target: str, port: int, rank: int) -> None:
    """Call `main` in one of two processes, with the environment variables of torch's launcher."""
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    main(preset_file, target)
