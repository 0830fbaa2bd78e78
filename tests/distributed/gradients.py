"""A worker that saves the gradients of its images, then takes two steps like all others; run by test_ddp."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.distributed.process_group import distributed_context
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.determinism import seed_step
from rmrkd_cli.training.optimizer_step import TrainStep

SEGFORMER = [
    "student={library: transformers, name: SegformerForSemanticSegmentation, options: {depths: [1, 1, 1, 1], "
    "hidden_sizes: [8, 16, 24, 32], num_attention_heads: [1, 1, 1, 2], decoder_hidden_size: 16}}",
    "losses={kd: {type: kd, weight: 1.0}}", "schedule.optimizer.type=AdamW", "schedule.lr=0.001",
    "schedule.optimizer.custom_keys.head.lr_mult=10", "schedule.warmup.iters=2",
]  # fmt: skip
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


def adamw(preset_file: str, target: str) -> None:
    """Save the gradients of a SegFormer on this worker's images, and its weights after three steps of AdamW."""
    torch.set_num_threads(1)
    preset = load_preset(preset_file, overrides=SEGFORMER)
    with distributed_context("cpu") as dist_ctx:
        model = build_distiller(preset, "distill", 11, device="cpu", log=lambda _: None, with_weights=False).distiller
        model.eval()  # batch norm and dropout see other images on two workers
        own = slice(dist_ctx.rank * 4 // dist_ctx.size, (dist_ctx.rank + 1) * 4 // dist_ctx.size)
        wrapped = dist_ctx.wrap_ddp(model, find_unused_parameters=adapter_of(model.student).may_skip_layers)
        generator = torch.Generator().manual_seed(0)
        before = flat(model)
        step = TrainStep(model, wrapped, preset.schedule, dist_ctx.device)
        gradients = None
        for number in range(3):
            images = torch.randn(4, 3, 64, 64, generator=generator)
            labels = torch.randint(0, 11, (4, 1, 64, 64), generator=generator)
            step([Batch(images[own], labels[own], [])], number)
            gradients = flat(model, gradient=True) if gradients is None else gradients
        digests = [hashlib.sha256(parameter.detach().numpy().tobytes()).digest() for parameter in model.parameters()]
        assert all(others == digests for others in dist_ctx.all_gather(digests))
        if dist_ctx.is_rank0:
            torch.save({"gradients": gradients, "change": flat(model) - before}, target)


def flat(model: nn.Module, *, gradient: bool = False) -> Tensor:
    """Return all parameters, or all gradients, as one vector."""
    values = [parameter.grad if gradient else parameter for parameter in model.parameters()]
    return torch.cat([value.detach().double().flatten() for value in values if value is not None])


def rank_of_two(work: Callable[[str, str], None], preset_file: str, target: str, port: int, rank: int) -> None:
    """Call `main` or `adamw` in one of two processes, with the environment variables of torch's launcher."""
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    work(preset_file, target)
