"""How an evaluation shows images to a network, from the words of a command line."""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Any

import typer

from rmrkd_cli.cli.usage_errors import cut
from rmrkd_cli.errors import RmrkdError

_MAX_SCALES = 32
_MOST_SIDE = 16_384
_SIZE = re.compile(r"([0-9]{1,5})(?:[xX]([0-9]{1,5}))?")


class Split(str, Enum):
    val = "val"
    test = "test"
    train = "train"


class Mode(str, Enum):
    whole = "whole"
    slide = "slide"


_HOW = "How images are shown"

SplitOption = Annotated[Split, typer.Option("--split", help="Which part of the data set.")]
ModeOption = Annotated[
    Mode,
    typer.Option("--mode", help="Show the network whole images, or slide a window over them.", rich_help_panel=_HOW),
]
Crop = Annotated[
    str | None,
    typer.Option(
        "--crop",
        metavar="HxW",
        help="Height and width of the window. (default: the checkpoint's)",
        rich_help_panel=_HOW,
    ),
]
Stride = Annotated[
    str | None,
    typer.Option(
        "--stride",
        metavar="HxW",
        help="Its steps. (default: the checkpoint's, else two thirds of the window)",
        rich_help_panel=_HOW,
    ),
]
Flip = Annotated[bool, typer.Option("--flip", help="Average with the mirrored image.", rich_help_panel=_HOW)]
Scales = Annotated[
    str,
    typer.Option("--scales", metavar="LIST", help="Average over these scales, as 0.5,1.0,1.5.", rich_help_panel=_HOW),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        max=1024,
        metavar="N",
        help="Images of equal size at once, for each worker. (default: 1 on CPUs, up to 4 on GPUs)",
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, max=256, metavar="N", help="Loader processes of each worker.")
]


def shown_as(split: Split, mode: Mode, crop: str | None, stride: str | None, flip: bool, scales: str) -> dict[str, Any]:
    """The keys of an evaluation's job that belong to its protocol.

    Raises:
        RmrkdError: For values that are none, or do not go together.
    """
    averaged = parsed_scales(scales)
    size, steps = parsed_window(mode, crop, stride)
    return {
        "split": split.value, "scales": averaged, "flip": flip, "mode": mode.value, "crop": size, "stride": steps,
    }  # fmt: skip


def parsed_scales(text: str) -> tuple[float, ...]:
    """Factors on the image scale.

    Raises:
        RmrkdError: For other than numbers in a sensible range.
    """
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not 1 <= len(scales) <= _MAX_SCALES or not all(0.05 <= scale <= 8 for scale in scales):
        raise RmrkdError(
            f"--scales `{cut(text)}` must be 1 to {_MAX_SCALES} numbers from 0.05 to 8, separated by commas",
            "--scales 0.5,1.0,1.5",
        )
    return scales


def parsed_window(
    mode: Mode, crop: str | None, stride: str | None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """(height, width) of the window and of its steps, none where they are not given.

    Raises:
        RmrkdError: For a size that is none, steps longer than the window, or either without `--mode slide`.
    """
    for option, text in (("--crop", crop), ("--stride", stride)):
        if text is not None and mode is not Mode.slide:
            raise RmrkdError(f"{option} is of a window that slides, --mode is {mode.value}", "--mode slide")
    size, steps = _size("--crop", crop), _size("--stride", stride)
    if size and steps and (steps[0] > size[0] or steps[1] > size[1]):
        raise RmrkdError(
            f"--stride {stride} is more than --crop {crop}: what lies between would not be seen",
            "a --stride of about two thirds of --crop",
        )
    return size, steps


def _size(option: str, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    sides = [int(side) for side in found.groups() if side is not None] if found else []
    if not sides or not all(1 <= side <= _MOST_SIDE for side in sides):
        raise RmrkdError(
            f"{option} `{cut(text)}` must be HEIGHTxWIDTH, or one number for both, each from 1 to {_MOST_SIDE}",
            f"{option} 512x1024",
        )
    return sides[0], sides[-1]
