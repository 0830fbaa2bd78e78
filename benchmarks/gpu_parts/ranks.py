"""Two ranks over gloo that share a device: their averaged gradients beside those of one rank with both halves.

On a GPU this runs SyncBN and DDP on CUDA tensors. CPUs have no SyncBN, so batch norm is in eval mode there.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.gpu_parts.common import (
    FP32,
    ROOT,
    Options,
    Record,
    build_model,
    copy_to,
    load,
    make_batch,
    turn_off_dropout,
)
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.training.optimizer_step import TrainStep

_RANKS = 2
_TIMEOUT = timedelta(seconds=25)


def run(options: Options, record: Record) -> None:
    """Record the largest relative difference of a gradient."""
    command = [sys.executable, "-m", __name__, options.device, str(options.folder)]
    processes = [subprocess.Popen([*command, str(rank)], cwd=ROOT, stderr=subprocess.PIPE) for rank in range(_RANKS)]
    one = _gradients(options.device, 0, 1)
    for process in processes:
        _, errors = process.communicate(timeout=_TIMEOUT.total_seconds() * 3)
        if process.returncode:
            record({"error": errors.decode(errors="replace").strip().splitlines()[-1][:300]})
            return
    two: dict[str, Tensor] = torch.load(options.folder / "two.pth", weights_only=True)
    smallest = 1e-6 * max(float(value.norm()) for value in one.values())
    differences = {name: float((one[name] - two[name]).norm() / max(one[name].norm(), smallest)) for name in one}
    name = max(differences, key=lambda key: differences[key])
    record({"gradients": len(one), "largest relative difference": differences[name], "of": name})


def _gradients(device: str, rank: int, size: int, group: Any = None) -> dict[str, Tensor]:
    """Return the gradients of a step on this rank's part of a batch of four, after their average over ranks."""
    FP32.apply()
    preset = load("demo", FP32, "losses.mgd.mask_ratio=0")
    built = build_model(preset, device)
    turn_off_dropout(built)
    model = copy_to(device, built)
    if device == "cpu":
        model.eval()
    dist_ctx = DistContext(rank, size, torch.device(device, 0) if device == "cuda" else torch.device(device), group)
    whole = make_batch(preset, (64, 64), 2 * _RANKS)
    own = slice(rank * len(whole.images) // size, (rank + 1) * len(whole.images) // size)
    step = TrainStep(model, dist_ctx.wrap_ddp(model), preset.schedule_for("distill"), dist_ctx.device)
    step.backward([Batch(whole.images[own], whole.labels[own], [])], 0)
    named = model.named_parameters()
    return {name: parameter.grad.cpu() for name, parameter in named if parameter.grad is not None}


def main(device: str, folder: str, rank: int) -> None:
    store = dist.FileStore(f"{folder}/store", _RANKS)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=_RANKS, timeout=_TIMEOUT)
    gradients = _gradients(device, rank, _RANKS, dist.group.WORLD)
    if rank == 0:
        torch.save(gradients, Path(folder) / "two.pth")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
