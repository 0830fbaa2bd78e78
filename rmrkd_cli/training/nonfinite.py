"""Losses and gradients that are infinite or NaN: find them before the update, report them, save them for replay."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmrkd_cli.checkpoints.reader import save_torch
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import RunError

GRADIENT = "gradient"
MAX_SKIPPED_IN_ROW = 10  # skipped steps before the run stops
MAX_OVERFLOWS_IN_ROW = 25  # the same for fp16, where the gradient scaler halves its scale each time
_MAX_FILES = 8  # file names in a message
_NOTE = (
    "state_dict has the weights before the update of this step. Its buffers (batch-norm statistics, the memory of "
    "cirkd-memory) are those at the time of writing, after a forward pass of this step or, on a GPU, of the next one."
)


def find_nonfinite(losses: Mapping[str, Tensor], *norms: Tensor | None) -> dict[str, float]:
    """Return the losses that are infinite or NaN; if all are finite but a norm is not, return `{"gradient": norm}`.

    All numbers are copied from the device at once.

    Args:
        losses: Scalars.
        norms: Gradient norms of the student and of the losses' own networks; None is ignored.
    """
    return name_nonfinite(losses, stack_numbers(losses, *norms).tolist())


def stack_numbers(losses: Mapping[str, Tensor], *norms: Tensor | None) -> Tensor:
    """Return losses and gradient norms as a vector on their device."""
    return torch.stack([value.detach().float() for value in (*losses.values(), *norms) if value is not None])


def name_nonfinite(losses: Collection[str], values: Sequence[float]) -> dict[str, float]:
    """Return what `find_nonfinite` returns, from the names of the losses and the values of `stack_numbers`."""
    nonfinite = {name: value for name, value in zip(losses, values, strict=False) if not math.isfinite(value)}
    nonfinite_norms = [value for value in values[len(losses) :] if not math.isfinite(value)]
    return {GRADIENT: nonfinite_norms[0]} if nonfinite_norms and not nonfinite else nonfinite


def save_for_replay(
    target: Path,
    batches: Sequence[Batch],
    images: Sequence[str],
    nonfinite: Mapping[str, float],
    state: Mapping[str, Any],
) -> str:
    """Save the tensors of a step, the files of its images, and the weights before the update.

    Args:
        images: Files, in the order of the batches.
        state: State dict of the distiller, whose weights are those before the update. Its buffers are not: batch-norm
            statistics, and the memory of a loss. They already contain this batch. On a GPU, where the outcome of a step
            is read one step later, they usually contain the next batch instead or as well. The file says so in `note`.

    Returns:
        Text to append to the error message: where the file is, or why it could not be written.
    """
    unlabelled = [batch.unlabelled.cpu() for batch in batches if batch.unlabelled is not None]
    contents = {
        "images": [batch.images.cpu() for batch in batches],
        "labels": [batch.labels.cpu() for batch in batches],
        **({"unlabelled": unlabelled} if unlabelled else {}),
        "files": list(images),
        "not_finite": dict(nonfinite),
        "state_dict": dict(state),
        "note": _NOTE,
    }
    try:
        save_torch(contents, target)
    except RunError as error:  # the user must see the nonfinite numbers first
        return f"; {error.message}"
    return f"; images, labels and weights of this step are saved in `{target}`"


def gather_nonfinite(
    dist_ctx: DistContext, nonfinite: Mapping[str, float], images: Sequence[str], iteration: int
) -> str:
    """Return the message about a step, the same on all workers.

    The message names the workers whose losses are not finite. If only the gradient is not finite it names all
    workers, because DDP averages gradients and all workers have the same.
    """
    own_loss = any(name != GRADIENT for name in nonfinite)
    gathered = dist_ctx.all_gather((own_loss, _describe(nonfinite, images, iteration)))
    return "; ".join([text for has_loss, text in gathered if has_loss] or [text for _, text in gathered])


def _describe(nonfinite: Mapping[str, float], images: Sequence[str], iteration: int) -> str:
    numbers = ", ".join(
        f"the gradient norm is {value}, every loss is finite" if name == GRADIENT else f"loss `{name}` is {value}"
        for name, value in nonfinite.items()
    )
    files = ", ".join(images[:_MAX_FILES])
    more = f" and {len(images) - _MAX_FILES} more" if len(images) > _MAX_FILES else ""
    return f"{numbers} at iteration {iteration}, on {files}{more}"


def nonfinite_error(message: str, skipped_in_row: int) -> RunError:
    """Return the error that stops a run because of nonfinite numbers."""
    skipped = f"; {skipped_in_row} steps in a row were skipped" if skipped_in_row else ""
    return RunError(
        message + skipped,
        "lower the learning rate with --set schedule.lr=…, clip gradients with --set schedule.clip_grad=10, or skip "
        "such steps with --skip-nonfinite; --resume continues from the last checkpoint",
    )


def overflow_error(in_row: int, iteration: int) -> RunError:
    """Return the error that stops an fp16 run whose gradients overflow at every scale."""
    return RunError(
        f"the gradient overflowed in fp16 for {in_row} steps in a row, up to iteration {iteration}, although the "
        "gradient scaler halved its scale each time; every loss is finite",
        "--amp bf16 or --amp off, or a lower --set schedule.lr=…; --resume continues from the last checkpoint",
    )
