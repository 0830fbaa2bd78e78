"""Numbers that go wrong: found before they reach the weights, named, and kept for replay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmrkd_cli.checkpoints.reader import save_torch
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import RunError

GRADIENT = "gradient"
MOST_IN_ROW = 10  # steps that may be left out one after the other before a run counts as lost
MOST_OVERFLOWS = 25  # the same for fp16, whose scale of gradients is halved until they fit
_SHOWN = 8


def not_finite(named: Mapping[str, Tensor], *norms: Tensor | None) -> dict[str, float]:
    """The losses that are not finite, and `gradient` where only a norm is not; one copy from the device.

    Args:
        named: Scalars.
        norms: Of all gradients together, and of opponents'; none where a gradient scaler takes care of them.
    """
    values = [value.detach().float() for value in (*named.values(), *norms) if value is not None]
    numbers = torch.stack(values).tolist()
    wrong = {name: value for name, value in zip(named, numbers, strict=False) if not math.isfinite(value)}
    spoilt = [value for value in numbers[len(named) :] if not math.isfinite(value)]
    return {GRADIENT: spoilt[0]} if spoilt and not wrong else wrong


def keep_for_replay(
    target: Path, batches: Sequence[Batch], images: Sequence[str], wrong: Mapping[str, float], state: Mapping[str, Any]
) -> str:
    """Writes the very tensors of the step, the names of its images, and the weights it began with.

    Args:
        images: Files, in the order of the batches.
        state: The distiller's state dict; its batch-norm statistics have seen this batch.

    Returns:
        Where they are, to be told; or why they are not.
    """
    contents = {
        "images": [batch.images.cpu() for batch in batches],
        "labels": [batch.labels.cpu() for batch in batches],
        "files": list(images),
        "not_finite": dict(wrong),
        "state_dict": dict(state),
    }
    try:
        save_torch(contents, target)
    except RunError as error:  # the numbers are what the user must hear of first
        return f"; {error.message}"
    return f"; images, labels and weights of that step are kept in `{target}`"


def describe(wrong: Mapping[str, float], images: Sequence[str], iteration: int) -> str:
    """Which numbers, at which step, on which images."""
    what = ", ".join(
        f"the norm of the gradient is {value}, every loss is finite"
        if name == GRADIENT
        else f"loss `{name}` is {value}"
        for name, value in wrong.items()
    )
    shown = ", ".join(images[:_SHOWN]) + (f" and {len(images) - _SHOWN} more" if len(images) > _SHOWN else "")
    return f"{what} at iteration {iteration}, on {shown}"


def gather_nonfinite(dist_ctx: DistContext, wrong: Mapping[str, float], images: Sequence[str], iteration: int) -> str:
    """What the workers met, told alike on all of them: by those whose own losses are wrong, or by all.

    A gradient is the same on all workers, whose-ever images spoilt it.
    """
    lost = any(name != GRADIENT for name in wrong)
    told = dist_ctx.gather((lost, describe(wrong, images, iteration)))
    return "; ".join([text for guilty, text in told if guilty] or [text for _, text in told])


def run_error(told: str, skipped_in_row: int) -> RunError:
    """What ends the run."""
    again = f"; {skipped_in_row} steps in a row were left out" if skipped_in_row else ""
    return RunError(
        told + again,
        "lower the learning rate with --set schedule.lr=…, clip gradients with --set schedule.clip_grad=10, or leave "
        "such steps out with --skip-nonfinite; --resume goes on before it",
    )


def overflow_error(in_row: int, iteration: int) -> RunError:
    """What ends a run in fp16 whose gradients fit no scale."""
    return RunError(
        f"the gradient overflowed in fp16 for {in_row} steps in a row, up to iteration {iteration}, though its scale "
        "was halved each time; every loss is finite",
        "--amp bf16 or --amp off, or a lower --set schedule.lr=…; --resume goes on before it",
    )
