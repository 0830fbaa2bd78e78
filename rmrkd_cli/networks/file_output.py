"""What a network file returns: a map of logits or probabilities for each class, or the reason why it is none."""

from __future__ import annotations

import torch
from torch import Tensor

from rmrkd_cli.errors import RmrkdError

LOGITS, PROBABILITIES = "logits", "probabilities"
OUTPUTS = (LOGITS, PROBABILITIES)
FIRST_CHOICE = ("out", "logits")  # names of an output, which comes before others
_MAX_NEGATIVE = -1e-3  # of numbers that are said to be probabilities
_MAX_SUM_ERROR = 1e-2
_SET_OUTPUT = "in the preset, or --output {kind}"


def no_map_error(file: str, what: str, *, integers: bool = False) -> RmrkdError:
    """Return the error of a file whose output is no map of each class.

    Args:
        what: The output, in words, such as "it returns int64".
        integers: The output holds integers, so it is probably the class of each pixel.
    """
    return RmrkdError(
        f"`{file}` is no segmentation network: {what}, but a teacher must give a number for each class, "
        "(N, classes, height, width)",
        "export it without the argmax; `rmrkd export` does with --output logits"
        if integers
        else "export a network whose output is the map of logits, with the batch as its first dimension",
    )


def count_channels(file: str, output: Tensor, kind: str) -> int:
    """Return the channels of an output, which must be maps, and of the kind that it is said to be.

    Args:
        output: Of a black image, float.
        kind: "logits" or "probabilities".

    Raises:
        RmrkdError: The output is no map, holds infinite numbers, or is of the other kind.
    """
    if output.ndim != 4:
        raise no_map_error(file, f"it returns {tuple(output.shape)}")
    if not torch.isfinite(output).all():
        raise RmrkdError(f"`{file}` returns infinite or NaN numbers for a black image", "use another file")
    channels = int(output.shape[1])
    sums, smallest, largest = output.sum(1), float(output.min()), float(output.max())
    in_range = smallest >= _MAX_NEGATIVE and largest <= 1 + _MAX_SUM_ERROR
    sums_to_one = in_range and bool(((sums - 1).abs() <= _MAX_SUM_ERROR).all())
    if kind == LOGITS and channels > 1 and sums_to_one and smallest >= 0:
        raise RmrkdError(
            f"`{file}` returns probabilities, not logits: the channels of every pixel sum to 1, and none is negative",
            f"write `output: {PROBABILITIES}` {_SET_OUTPUT.format(kind=PROBABILITIES)}",
        )
    if kind == PROBABILITIES and not (in_range if channels == 1 else sums_to_one):
        sigmoid = in_range and channels > 1 and smallest > 0
        raise RmrkdError(
            f"`{file}` does not return probabilities: the channels of a pixel sum to {sums.flatten()[0]:.4g}, "
            f"the smallest is {smallest:.4g}",
            "if it ends with a sigmoid for each class, export it without: logits"
            if sigmoid
            else f"write `output: {LOGITS}` {_SET_OUTPUT.format(kind=LOGITS)}",
        )
    return channels
