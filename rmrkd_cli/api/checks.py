"""Checks of arguments that the command line has in its types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.terminal.text import shorten_value

MAX_SCALES = 32
MIN_SCALE, MAX_SCALE = 0.05, 8
BOUNDARY_WIDTH = 0.02  # of the image's diagonal, as in the released code
MAX_BOUNDARY_WIDTH = 0.5
_CHOICES = {
    "split": ("val", "test", "train"),
    "mode": ("whole", "slide"),
    "device": ("auto", "cpu", "cuda"),
    "color": ("rgb", "bgr"),
    "input": ("raw", "normalized"),
    "overlay": ("png", "jpg", "none"),
}

Size = tuple[int, int]


def check_choices(**given: str) -> None:
    """Raise RmrkdError for the first argument that has none of its values."""
    for name, value in given.items():
        if value not in _CHOICES[name]:
            allowed = _CHOICES[name]
            raise RmrkdError(
                f"`{name}` must be {', '.join(allowed[:-1])} or {allowed[-1]}, got `{shorten_value(value)}`",
                did_you_mean(str(value), allowed),
            )


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Return the factors of the image size.

    Raises:
        RmrkdError: If they are not 1 to 32 numbers from 0.05 to 8.
    """
    factors = tuple(map(float, scales))
    if not 1 <= len(factors) <= MAX_SCALES or not all(MIN_SCALE <= factor <= MAX_SCALE for factor in factors):
        raise RmrkdError(
            f"`scales` must be 1 to {MAX_SCALES} numbers from {MIN_SCALE} to {MAX_SCALE}, got {shorten_value(scales)}",
            "scales=(0.5, 1.0, 1.5)",
        )
    return factors


def check_window(mode: str, crop: Size | None, stride: Size | None) -> None:
    """Raise RmrkdError for a window without `mode="slide"`, or for steps longer than the window."""
    for name, size in (("crop", crop), ("stride", stride)):
        if size is not None and mode != "slide":
            raise RmrkdError(f"--{name} needs a sliding window, but --mode is {mode}", "--mode slide")
    if crop and stride and (stride[0] > crop[0] or stride[1] > crop[1]):
        window, steps = ("x".join(map(str, size)) for size in (crop, stride))
        raise RmrkdError(
            f"--stride {steps} is more than --crop {window}, so pixels between two windows would be skipped",
            "a --stride of about two thirds of --crop",
        )


def used_boundary_width(boundary_iou: bool, width: float | None) -> float | None:
    """Return the width of the boundaries as a share of the image's diagonal; None if they are not measured.

    Raises:
        RmrkdError: For a width that is not above 0 and at most 0.5, or that no measurement uses.
    """
    if width is not None and not boundary_iou:
        raise RmrkdError("--boundary-width is for the boundary IoU, which is not measured", "--boundary-iou")
    if width is not None and not 0 < width <= MAX_BOUNDARY_WIDTH:
        raise RmrkdError(
            f"--boundary-width must be above 0 and at most {MAX_BOUNDARY_WIDTH} of the image's diagonal, got {width:g}",
            f"--boundary-width {BOUNDARY_WIDTH}",
        )
    return (BOUNDARY_WIDTH if width is None else float(width)) if boundary_iou else None


def paths(given: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return one path or several as a list."""
    return [Path(given)] if isinstance(given, (str, Path)) else [Path(each) for each in given]


def path_or_none(given: str | Path | None) -> Path | None:
    """Return a path; None for None."""
    return Path(given) if given is not None else None


def file_input(
    mean: Sequence[float] | None, std: Sequence[float] | None, color: str | None, input_size: Size | None,
    output: str | None, classes: Any,
) -> dict[str, Any] | None:  # fmt: skip
    """Return how an ONNX or TorchScript file takes images, as in a preset's teacher; None if nothing is given."""
    if all(value is None for value in (mean, std, color, input_size, output, classes)):
        return None
    given = {"mean": mean, "std": std, "color": color, "size": input_size}
    return {
        "input": {
            key: list(value) if isinstance(value, (list, tuple)) else value
            for key, value in given.items()
            if value is not None
        },
        "output": output or "logits",
        "classes": classes,
    }
