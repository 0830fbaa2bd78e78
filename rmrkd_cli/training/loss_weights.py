"""The rule for weights that no source gives: every loss begins with the gradient of cross-entropy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.data.samples import Sample, find_samples
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import RmrkdError, RunError, first_line
from rmrkd_cli.networks.feature_maps import Place
from rmrkd_cli.networks.mmseg import network_config, zoo_address
from rmrkd_cli.presets.fields import AUTO, STAGES
from rmrkd_cli.presets.schema import CheckpointSource, Network, Preset, Schedule
from rmrkd_cli.storage.cache import cached_file
from rmrkd_cli.training.batches import run_batches
from rmrkd_cli.training.determinism import seed_step

BATCHES = 4  # that gradients are averaged over
RULE = "a loss starts with the gradient norm that cross-entropy has on the student's last stage"


def open_weights(preset: Preset) -> list[str]:
    """The losses of a preset whose weights are left to the rule."""
    return [name for name, spec in preset.losses.items() if spec.weight == AUTO]


def balanced_weights(
    model: Distiller, batches: Iterable[Batch], names: list[str], schedule: Schedule, seed: int, dist_ctx: DistContext
) -> dict[str, float]:
    """Weights under which each loss has the gradient norm of cross-entropy, rounded to two digits.

    The gradients are those on the map of the student's last stage (B, C, H, W), or of the deepest stage that a loss
    reaches, averaged over the batches and workers. Each weight is found alone, as if the loss were the only one.
    Nothing of the model is changed.

    Args:
        batches: Of this worker.
        names: The losses.

    Raises:
        RunError: When a loss has no gradient, or one that is not finite.
    """
    if not names:
        return {}
    sums = torch.zeros(len(names), 2, dtype=torch.float64, device=dist_ctx.device)
    mixed = schedule.amp == "bf16"  # fp16 would need its gradients scaled
    with _restored(model):
        model.train()
        for number, batch in enumerate(batches):
            seed_step(seed, number, dist_ctx.rank, dist_ctx.device.type)
            images, labels = (part.to(dist_ctx.device) for part in (batch.images, batch.labels.long()))
            with torch.autocast(dist_ctx.device.type, dtype=torch.bfloat16, enabled=mixed):
                named, maps = model.forward_with_features(images, labels)
            plain = model.total({name: value for name, value in named.items() if name in ("ce", "aux_ce")})
            sums += torch.stack([_norms(named[name], plain, maps) for name in names])
    means = (dist_ctx.sum(sums) / dist_ctx.size).tolist()
    return {name: _weight(name, *norms) for name, norms in zip(names, means, strict=True)}


def _norms(loss: Tensor, plain: Tensor, maps: Mapping[Place, Tensor]) -> Tensor:
    """Of the gradients of a loss and of cross-entropy on the deepest stage that the loss reaches."""
    for stage in reversed(STAGES):
        if stage in maps and loss.requires_grad:
            ours, theirs = (
                torch.autograd.grad(value, maps[stage], retain_graph=True, allow_unused=True)[0]
                for value in (loss, plain)
            )
            if ours is not None and theirs is not None:
                return torch.stack([torch.linalg.vector_norm(each.double()) for each in (ours, theirs)])
    return loss.new_zeros(2, dtype=torch.float64)


def _weight(name: str, norm: float, plain: float) -> float:
    weight = plain / norm if norm > 0 else 0.0
    if not 0.0 < weight < float("inf"):
        raise RunError(
            f"no weight can be computed for loss `{name}`: its gradient at the start has the norm {norm:g}, "
            f"cross-entropy's {plain:g}",
            f"give one: --set losses.{name}.weight=1",
        )
    return float(f"{weight:.1e}")


@contextmanager
def _restored(model: Distiller) -> Iterator[None]:
    """Statistics and queues are what they were before."""
    training = model.training
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        model.train(training)
        with torch.no_grad():
            for buffer, kept in before:
                buffer.copy_(kept)


def first_batches(
    preset: Preset,
    schedule: Schedule,
    info: DatasetInfo,
    samples: list[Sample],
    dist_ctx: DistContext,
    decoded: Path | None,
) -> Iterator[Batch]:
    """This worker's batches of the first steps, as training sees them."""
    plain = schedule.model_copy(update={"workers": 0})
    steps = run_batches(preset, plain, info, samples, dist_ctx, first_step=0, last_step=BATCHES, decoded=decoded)
    return (batches[0] for batches in steps)


def missing_here(preset: Preset) -> str:
    """What a rehearsal would have to fetch or train to compute the weights of training; empty where all is here."""
    info = dataset_info(preset)
    for what, network in (("teacher", preset.teacher), ("student", preset.student)):
        if what == "teacher" and network.checkpoint is None:
            return "a trained teacher"
        if not _is_here(what, network, info.num_classes):
            return f"the {what}'s weights"
    try:
        find_samples(info, "train")
    except RmrkdError as error:
        return f"training images ({first_line(error)})"
    return ""


def _is_here(what: str, network: Network, classes: int) -> bool:
    source: CheckpointSource | None = network.checkpoint
    if source is not None:
        return Path(source.path).is_file() if source.path is not None else cached_file(str(source.url)) is not None
    if network.init == "scratch":
        return True
    pretrained = network_config(network, classes).get("pretrained")
    return pretrained is not None and cached_file(zoo_address(pretrained)) is not None
