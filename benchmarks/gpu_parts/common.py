"""What the parts share: options, precisions, and models that compute the same on every device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks import LOGIT_SCALE
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.evaluation.precision import select_precision
from rmrkd_cli.losses import MGDLoss
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import Preset

Record = Callable[[dict[str, Any]], None]
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Options:
    """How the parts run.

    Attributes:
        device: "cuda", or "cpu" to check that all parts run.
        toy: Use tiny sizes.
        folder: For files of the parts.
    """

    device: str
    toy: bool
    folder: Path


@dataclass(frozen=True)
class Precision:
    """How a step computes: `amp` as in a preset, and whether float32 products may use TF32."""

    name: str
    amp: str = "off"
    tf32: bool = False

    def apply(self) -> None:
        """Set torch's switches, for convolutions and matrix products."""
        select_precision(self.tf32)


FP32, TF32 = Precision("fp32"), Precision("tf32", tf32=True)
BF16, FP16 = Precision("bf16", "bf16", tf32=True), Precision("fp16", "fp16", tf32=True)


def precisions(options: Options) -> Sequence[Precision]:
    """Return the precisions to measure on the device."""
    return (FP32, TF32, BF16) if options.device == "cuda" else (FP32, BF16)


def load(name: str, precision: Precision, *overrides: str, method: str | None = None) -> Preset:
    return load_preset(name, method=method, overrides=[f"schedule.amp={precision.amp}", *overrides])


def build_model(preset: Preset, device: str) -> Distiller:
    """Return a distiller with random weights as `rmrkd train` builds it, still on the CPU.

    All weights of losses are numbers. The teacher's logits are as large as those of a trained network.
    """
    classes = dataset_info(preset).num_classes
    built = build_distiller(preset, "distill", classes, device=device, log=lambda _: None, with_weights=False)
    model = built.distiller
    teacher: Any = model.teacher
    with torch.no_grad():
        teacher.decode_head.conv_seg.weight.mul_(LOGIT_SCALE)
    for name in preset.losses:
        model.weights.setdefault(name, 1.0)
    return model


def copy_to(device: str, model: Distiller) -> Distiller:
    """Return a copy on a device, ready to train: building a network takes longer than copying it."""
    return copy.deepcopy(model).to_device(device, inference_network).train()


def turn_off_dropout(model: Distiller) -> None:
    """Set the probability of all dropout layers to 0."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def fix_masks(model: Distiller) -> None:
    """Give MGD the same mask on every device."""
    for loss in model.losses.values():
        if isinstance(loss, MGDLoss):
            loss.draw_mask = _same_mask  # type: ignore[method-assign]


def _same_mask(like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(len(like), 1, *like.shape[2:], generator=generator) < 0.25
    return mask.to(like.device, like.dtype)


def make_batch(preset: Preset, crop: Sequence[int] | None = None, batch_size: int | None = None) -> Batch:
    """Return noise over blocks of colour, one colour a class, so that a network can learn the labels."""
    schedule = preset.schedule_for("distill")
    classes = dataset_info(preset).num_classes
    height, width = crop or schedule.crop
    count = batch_size or schedule.batch_size
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, classes, (count, 1, 8, 8), generator=generator)
    labels = nn.functional.interpolate(blocks.float(), (height, width)).long()
    colours = 2 * torch.randn(classes, 3, generator=generator)
    images = colours[labels[:, 0]].movedim(3, 1) + 0.3 * torch.randn(count, 3, height, width, generator=generator)
    labels[:, :, : height // 16] = 255
    return Batch(images.contiguous(), labels.to(torch.uint8), list(range(count)))


def gradient_norm(model: nn.Module) -> float:
    gradients = [parameter.grad.double() for parameter in model.parameters() if parameter.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in gradients])))
