"""How a network file takes images: mean, standard deviation, colour order and size, given or read from the file."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.data.transforms import NORMALIZE
from rmrkd_cli.errors import RmrkdError

_MAX_TEXT = 1 << 16  # characters of one entry of a file's metadata
_MAX_NAMES, _MAX_NAME = 4096, 200
_NAME_KEYS = ("classes", "names", "CLASSES")  # rmrkd, Ultralytics, mmsegmentation
_THRESHOLD = re.compile(r"class 1 where the sigmoid of the logit exceeds ([0-9.e-]{1,20})")


@dataclass(frozen=True)
class FileInput:
    """What a file expects of an image.

    Attributes:
        mean, std: Of the three channels in the file's order, for values from 0 to 255.
        color: "rgb" or "bgr".
        size: (height, width) that the network is run at; None: the size of the image.
        raw: The file takes uint8 images and normalizes them itself.
        factors: Of height and width, by which images are scaled instead of to `size`.
        align_corners: The outermost positions of the output lie on the corners of the input.
        stride: Pixels between two positions, where the corners are positions at `size`; scaled images then have such a
            size too. 1: they have any size.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    color: str = "rgb"
    size: tuple[int, int] | None = None
    raw: bool = False
    factors: tuple[float, float] | None = None
    align_corners: bool = False
    stride: int = 1

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        values = "uint8" if self.raw else f"mean {mean}, std {std}"
        at = f", run at {self.size[0]}x{self.size[1]}" if self.size is not None else ""
        crops = f" (crops scaled by {self.factors[0]:.3g}x{self.factors[1]:.3g})" if self.factors is not None else ""
        corners = ", the corners are positions of the output" if self.align_corners else ""
        return f"images in {self.color.upper()} order, {values}{at}{crops}{corners}"

    @property
    def resizes(self) -> bool:
        """Whether images are resized before the file gets them."""
        return self.size is not None and (self.factors != (1.0, 1.0) or self.stride > 1)

    def relative_to(self, image_size: tuple[int, int] | None) -> FileInput:
        """Return the description that scales images as `size` scales those of (height, width)."""
        if self.size is None or image_size is None:
            return self
        return replace(self, factors=(self.size[0] / image_size[0], self.size[1] / image_size[1]))

    def convert(self, images: Tensor) -> Tensor:
        """Return the file's input, uint8 if `raw`, else float32, of images (B, 3, H, W) normalized as by rmrkd."""
        if self == _UNCHANGED:
            return images.float()
        pixels = images.float() * _channels(NORMALIZE["std"], images) + _channels(NORMALIZE["mean"], images)
        size = self._size_of(images)
        if tuple(pixels.shape[2:]) != size:
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        if self.color == "bgr":
            pixels = pixels.flip(1)
        if self.raw:
            return pixels.round().clamp(0, 255).to(torch.uint8)
        return (pixels - _channels(self.mean, images)) / _channels(self.std, images)

    def _size_of(self, images: Tensor) -> tuple[int, int]:
        height, width = images.shape[2:]
        if self.factors is not None:
            return self._side(height * self.factors[0]), self._side(width * self.factors[1])
        return self.size or (height, width)

    def _side(self, pixels: float) -> int:
        return max(1, round((pixels - 1) / self.stride)) * self.stride + 1 if self.stride > 1 else max(1, round(pixels))


_UNCHANGED = FileInput(tuple(NORMALIZE["mean"]), tuple(NORMALIZE["std"]))  # type: ignore[arg-type]


@dataclass(frozen=True)
class FileFacts:
    """What a file says about itself.

    Attributes:
        names: Class names; None if it declares none.
        preprocessing: As `rmrkd export` writes it; empty for other files.
        output: "logits", "classes" or None.
        threshold: Probability above which a pixel has class 1, of a file with one channel.
        entries: All readable entries, by key.
    """

    names: tuple[str, ...] | None = None
    preprocessing: Mapping[str, Any] | None = None
    output: str | None = None
    threshold: float = 0.5
    entries: Mapping[str, Any] = field(default_factory=dict)


def read_facts(texts: Mapping[str, str]) -> FileFacts:
    """Return what the metadata of a file says; entries that are no plain data are left out."""
    entries = {key: value for key, text in texts.items() if (value := _parse(text)) is not None}
    names = next(filter(None, (_names(entries.get(key)) for key in _NAME_KEYS)), None)
    preprocessing = entries.get("preprocessing")
    decision = _THRESHOLD.fullmatch(str(entries.get("decision")))
    output = entries.get("output")
    return FileFacts(
        names,
        preprocessing if isinstance(preprocessing, Mapping) else None,
        output if output in ("logits", "classes") else None,
        float(decision[1]) if decision else 0.5,
        entries,
    )


def describe_input(
    given: Mapping[str, Any] | None, facts: FileFacts, *, file: str, raw: bool, fixed: tuple[int | None, int | None]
) -> FileInput:
    """Return how a file takes images: the given description, else the file's own, else rmrkd's normalization in RGB.

    Args:
        given: Keys `mean`, `std`, `color`, `size` (height, width) and `align_corners`; those that are missing or None
            are not given.
        raw: The file's input is uint8.
        fixed: Height and width of the file's input; None where any is taken.

    Raises:
        RmrkdError: The description contradicts the file, or a number cannot be right.
    """
    given = {key: value for key, value in (given or {}).items() if value is not None}
    own = facts.preprocessing or {}
    color = given.get("color") or ("bgr" if own.get("channels") == "BGR" else "rgb")
    size, corners = _size(given.get("size"), fixed, file), bool(given.get("align_corners"))
    if raw:
        if given.keys() & {"mean", "std"}:
            raise RmrkdError(
                f"`{file}` takes uint8 images and normalizes them itself, but a mean or std is given",
                "remove `mean` and `std` from its input",
            )
        return FileInput((0.0,) * 3, (1.0,) * 3, color, size, raw=True, align_corners=corners)
    defaults = {key: own.get(key) if _is_triple(own.get(key)) else NORMALIZE[key] for key in ("mean", "std")}
    if color == "bgr" and not own:
        defaults = {key: value[::-1] for key, value in defaults.items()}  # type: ignore[index]
    mean, std = (tuple(map(float, given.get(key, defaults[key]))) for key in ("mean", "std"))
    _check_range(mean, std, file)
    return FileInput(mean, std, color, size, align_corners=corners)


def _check_range(mean: tuple[float, ...], std: tuple[float, ...], file: str) -> None:
    if any(value <= 0 for value in std):
        raise RmrkdError(f"the std of `{file}`'s input is {list(std)}, every number must be above 0")
    if max(std) < 1:
        scaled = [[round(255 * value, 4) for value in values] for values in (mean, std)]
        raise RmrkdError(
            f"the std of `{file}`'s input is {list(std)}: numbers below 1 are for images from 0 to 1, rmrkd's are for "
            "images from 0 to 255",
            f"multiply by 255: mean {scaled[0]}, std {scaled[1]}",
        )


def _size(given: Any, fixed: tuple[int | None, int | None], file: str) -> tuple[int, int] | None:
    shown = "x".join(str(side) if side is not None else "any" for side in fixed)
    if given is not None:
        size = int(given[0]), int(given[1])
        if any(side is not None and side != own for side, own in zip(fixed, size, strict=True)):
            raise RmrkdError(
                f"the input size {size[0]}x{size[1]} does not fit `{file}`, which takes {shown} (height x width)",
                "remove the size, or give the file's",
            )
        return size
    if fixed == (None, None):
        return None
    if fixed[0] is None or fixed[1] is None:
        raise RmrkdError(f"`{file}` takes {shown} (height x width)", "give both with the size of its input")
    return fixed[0], fixed[1]


def _parse(text: str) -> Any:
    """Return JSON text, or a Python literal as Ultralytics writes it; None for anything else."""
    if len(text) > _MAX_TEXT:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def _names(value: Any) -> tuple[str, ...] | None:
    """Return class names from a list, or from a mapping of 0, 1, … to names."""
    if isinstance(value, Mapping):
        try:
            numbered = {int(key): name for key, name in value.items()}
        except (TypeError, ValueError):
            return None
        value = [numbered[key] for key in sorted(numbered)] if set(numbered) == set(range(len(numbered))) else None
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= _MAX_NAMES:
        return None
    if not all(isinstance(name, str) for name in value) or len(set(value)) != len(value):
        return None
    return tuple(name[:_MAX_NAME] for name in value)


def _is_triple(value: object) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in value)
    )


def _channels(values: Any, like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(1, 3, 1, 1)
