"""Loss weights set to `auto`: scale each distillation loss to the gradient norm of cross-entropy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.data.sample_table import SampleTable
from rmrkd_cli.data.stored_outputs import StoredOutputs
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import RunError
from rmrkd_cli.networks.adapter import MapName
from rmrkd_cli.presets.fields import AUTO, STAGES
from rmrkd_cli.presets.schema import Preset, Schedule
from rmrkd_cli.terminal.text import join_and
from rmrkd_cli.training.batches import training_batches
from rmrkd_cli.training.determinism import seed_step

_WITHOUT_STAGES: tuple[MapName, ...] = ("head", "logits")  # where gradients of a network without stages are taken
BATCHES = 4  # over which gradient norms are averaged
RULE = "each loss starts with the gradient norm of cross-entropy at the student's last stage"


def describe_rule(preset: Preset) -> str:
    """Return the rule of `auto` in words, for the images of a preset."""
    data = preset.data
    has_labels = data.train_labels == "files" and data.unlabelled is None
    return RULE if has_labels else f"{RULE}, with the teacher's prediction as labels of images without"


def auto_weighted_losses(preset: Preset) -> list[str]:
    """Return the names of the losses whose weight is `auto`."""
    return [name for name, spec in preset.losses.items() if spec.weight == AUTO]


def compute_auto_weights(
    model: Distiller, batches: Iterable[Batch], names: list[str], schedule: Schedule, seed: int, dist_ctx: DistContext
) -> dict[str, float]:
    """Return weights that give each loss the gradient norm of cross-entropy, rounded to two digits.

    The gradients are those of the student's last feature map (B, C, H, W), or of the deepest map that the loss
    depends on; of a network that gives no stages, those of `head` or `logits`. Norms are averaged over the batches of
    all workers that have labels: without any, cross-entropy has no gradient. Each weight is computed on its own, as if
    the loss were the only one. Images without label maps have the teacher's prediction as labels here, unless it gives
    no logits. The model does not change.

    Args:
        batches: Of this worker.
        names: The losses.

    Raises:
        RunError: When a loss has no gradient, or an infinite or NaN one, or no batch has labels.
    """
    if not names:
        return {}
    sums = torch.zeros(len(names), 3, dtype=torch.float64, device=dist_ctx.device)
    source = replace(model.label_source, teacher=model.teacher_gives_logits, threshold=0.0)
    use_bf16 = schedule.amp == "bf16"  # fp16 would need scaled gradients
    with _preserve_state(model):
        model.train()
        for number, batch in enumerate(batches):
            seed_step(seed, number, dist_ctx.rank, dist_ctx.device.type)
            images, labels = (part.to(dist_ctx.device) for part in (batch.images, batch.labels.long()))
            unlabelled = None if batch.unlabelled is None else batch.unlabelled.to(dist_ctx.device)
            logits = None if batch.teacher_logits is None else batch.teacher_logits.to(dist_ctx.device)
            with torch.autocast(dist_ctx.device.type, dtype=torch.bfloat16, enabled=use_bf16):
                losses, maps = model.forward_with_features(
                    images, labels, unlabelled=unlabelled, teacher_logits=logits, label_source=source
                )
            cross_entropy = model.total({name: value for name, value in losses.items() if name in ("ce", "aux_ce")})
            # Without labels too: batch norm and losses may wait for the other workers.
            norms = [_gradient_norms(losses[name], cross_entropy, maps) for name in names]
            if source.teacher or unlabelled is None or len(unlabelled) < len(images):
                sums += torch.stack([F.pad(pair, (0, 1), value=1.0) for pair in norms])
    totals = dist_ctx.all_reduce_sum(sums).tolist()
    _check_has_labels(totals[0][2], names)
    return {
        name: _weight(name, loss / count, cross_entropy / count)
        for name, (loss, cross_entropy, count) in zip(names, totals, strict=True)
    }


def _check_has_labels(batches: float, names: Sequence[str]) -> None:
    if not batches:
        fixes = " ".join(f"--set losses.{name}.weight=1" for name in names)
        raise RunError(
            f"cannot compute the weight of {join_and([f'`{name}`' for name in names])}: the first batches have no "
            "image with labels, so cross-entropy has no gradient",
            f"labelled images in every batch: --set data.labelled_share=0.5; or set the weight: {fixes}",
        )


def _gradient_norms(loss: Tensor, cross_entropy: Tensor, maps: Mapping[MapName, Tensor]) -> Tensor:
    """Return the gradient norms (2,) of a loss and of cross-entropy at the deepest stage the loss depends on."""
    for stage in (*reversed(STAGES), *_WITHOUT_STAGES):
        if stage in maps and loss.requires_grad:
            gradients = [
                torch.autograd.grad(value, maps[stage], retain_graph=True, allow_unused=True)[0]
                for value in (loss, cross_entropy)
            ]
            if all(gradient is not None for gradient in gradients):
                return torch.stack([torch.linalg.vector_norm(gradient.double()) for gradient in gradients])
    return loss.new_zeros(2, dtype=torch.float64)


def _weight(name: str, norm: float, cross_entropy_norm: float) -> float:
    weight = cross_entropy_norm / norm if norm > 0 else 0.0
    if not 0.0 < weight < float("inf"):
        raise RunError(
            f"cannot compute a weight for loss `{name}`: its gradient norm at the start is {norm:g}, that of "
            f"cross-entropy {cross_entropy_norm:g}",
            f"set the weight: --set losses.{name}.weight=1",
        )
    return float(f"{weight:.1e}")


@contextmanager
def _preserve_state(model: Distiller) -> Iterator[None]:
    """Restore the model's mode and its buffers, such as batch-norm statistics and memory banks, at the end."""
    training = model.training
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        model.train(training)
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def first_batches(
    preset: Preset,
    schedule: Schedule,
    info: DatasetInfo,
    samples: SampleTable,
    dist_ctx: DistContext,
    image_cache: Path | None,
    outputs: StoredOutputs | None = None,
) -> Iterator[Batch]:
    """Return this worker's first batch of each of the first `BATCHES` steps, as training sees them."""
    without_processes = schedule.model_copy(update={"workers": 0})
    steps = training_batches(
        preset,
        without_processes,
        info,
        samples,
        dist_ctx,
        first_step=0,
        last_step=BATCHES,
        image_cache=image_cache,
        outputs=outputs,
    )
    return (batches[0] for batches in steps)
