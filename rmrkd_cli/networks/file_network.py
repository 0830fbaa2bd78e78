"""A network that is a file: it gives logits, and no feature maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.networks.adapter import Adapter, MapName, set_adapter
from rmrkd_cli.networks.class_map import ChannelSum, ClassMap, resolve_class_map
from rmrkd_cli.networks.file_input import FileInput, describe_input, read_facts
from rmrkd_cli.networks.file_output import LOGITS, PROBABILITIES, count_channels
from rmrkd_cli.presets.schema import Teacher
from rmrkd_cli.storage.cache import sha256_of

_EDGE = 1e-6  # distance of a probability from 0 and 1, so that its logit is finite


class Runner(Protocol):
    """A loaded file.

    Attributes:
        file: Its name.
        metadata: Its texts by key.
        fixed: (height, width) of its input; None where any is taken.
        dtype: Of its input.
        parameters: Number of its weights.
        runtime: What runs it, in words.
    """

    file: str
    metadata: Mapping[str, str]
    fixed: tuple[int | None, int | None]
    dtype: torch.dtype
    parameters: int

    @property
    def runtime(self) -> str: ...

    def run(self, images: Tensor) -> Tensor:
        """Return (B, C, h, w) float32 of images in the file's form."""

    def try_once(self, size: tuple[int, int] | None) -> Tensor:
        """Return the output of a black image of this (height, width)."""

    def count_macs(self, images: Tensor) -> int | None:
        """Return the multiply-accumulate operations for one image in the file's form; None if unknown."""


class FileAdapter(Adapter):
    """Of a network that gives logits and no feature maps."""

    only_logits = True

    def __init__(
        self,
        num_classes: int,
        input_size: tuple[int, int] | None = None,
        *,
        align_corners: bool = False,
        resizes: bool = False,
    ) -> None:
        self.num_classes, self.input_size, self.align_corners = num_classes, input_size, align_corners
        self.resizes = resizes

    def maps(self, network: nn.Module, images: Tensor, *, auxiliary: bool = False) -> dict[MapName, Tensor]:
        return {"logits": network(images)}

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = network(images)
        return logits


class FileNetwork(nn.Module):
    """A network file as a module: images (B, 3, H, W), normalized as by rmrkd, to logits (B, K, h, w) of a data set.

    It has no parameters, and gives no gradient.

    Attributes:
        num_classes: K.
        source: How the file takes images.
        corner_stride: Pixels between two positions, if the corners of an input of the given size are positions; else 1.
        facts: What the file says about itself.
        names: Class names of the file's channels; None if it declares none.
        class_map: The class of each channel of the file; None where the channels are the classes.

    Args:
        runner: The loaded file.
        given: Description of the input, see `describe_input`; what is missing comes from the file.
        output: "logits" or "probabilities".
        classes: Class map; None where the channels are the classes.
        num_classes: Classes of the data set; None: as many as the file has channels.
        class_names: Names of these classes, for messages and maps by name.
        image_size: (height, width) of the whole images for which `size` is given: other images, such as crops, are
            scaled by the same factors. None: every image is run at `size`.

    Raises:
        RmrkdError: The description contradicts the file, or the class map does not fit file and data set.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        given: Mapping[str, Any] | None = None,
        output: str = LOGITS,
        classes: ClassMap | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] = (),
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.runner, self.output, self.facts = runner, output, read_facts(runner.metadata)
        if self.facts.output == "classes":
            raise RmrkdError(
                f"`{runner.file}` returns the class of each pixel, but a teacher must give a number for each class",
                "export it again with --output logits",
            )
        source = describe_input(
            given, self.facts, file=runner.file, raw=runner.dtype == torch.uint8, fixed=runner.fixed
        )
        tried = _try_once(runner, source.size)
        channels = count_channels(runner.file, tried, output)
        self.corner_stride = _corner_stride(source.size, tried)
        if source.align_corners:
            source = replace(source, stride=self.corner_stride)
        self.source: FileInput = source.relative_to(image_size) if _takes_any_size(runner, source) else source
        self.binary = channels == 1
        self.channels = 2 if self.binary else channels
        names = self.facts.names
        self.names = names if names and len(names) == self.channels else None
        self.class_names = tuple(class_names)
        self.num_classes = num_classes or (self.channels if classes is None else _count_targets(classes, class_names))
        self.class_map = resolve_class_map(
            classes, file=runner.file, channels=self.channels, names=self.names, num_classes=self.num_classes,
            class_names=class_names, binary=self.binary,
        )  # fmt: skip
        self.sums = ChannelSum(self.class_map, self.num_classes) if self.class_map is not None else None
        fixed = self.source.size if self.source.factors is None else None
        adapter = FileAdapter(
            self.num_classes, fixed, align_corners=source.align_corners, resizes=self.source.resizes
        )  # fmt: skip
        set_adapter(self, adapter)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K, h, w), float32, not resized."""
        if images.is_meta:  # only the shape is asked for
            black = torch.zeros(images.shape, device="cpu")
            height, width = self.runner.run(self.source.convert(black)).shape[2:]
            return images.new_empty(len(images), self.num_classes, height, width)
        with torch.autocast(images.device.type, enabled=False):
            out = self.runner.run(self.source.convert(images))
            if self.binary:
                out = out.clamp(_EDGE, 1 - _EDGE).logit() if self.output == PROBABILITIES else out
                threshold = math.log(self.facts.threshold / (1 - self.facts.threshold))
                out = torch.cat([torch.zeros_like(out), out - threshold], dim=1)
            elif self.output == PROBABILITIES:
                out = out.clamp_min(torch.finfo(out.dtype).tiny).log()
            result: Tensor = self.sums(out) if self.sums is not None else out
        return result

    def count_macs(self, size: tuple[int, int]) -> int | None:
        """Return the multiply-accumulate operations for one image of (width, height); None if unknown."""
        return self.runner.count_macs(self.source.convert(torch.zeros(1, 3, size[1], size[0], device="cpu")))

    def train(self, mode: bool = True) -> FileNetwork:
        """Stay in eval mode: a file computes one function."""
        return super().train(False)

    @property
    def origin(self) -> dict[str, str]:
        """The file and its SHA-256, as a run records where weights come from."""
        return {"source": self.runner.file, "sha256": sha256_of(Path(self.runner.file))}

    def describe(self) -> str:
        """Return how the file is used, in words."""
        classes = f"{self.channels} classes" + (" of one channel" if self.binary else "")
        if self.class_map is not None:
            dropped = self.class_map.count(None)
            channels = "one channel, that is 2 classes," if self.binary else f"{self.channels} channels"
            classes = f"{channels} summed to {self.num_classes} classes"
            classes += f", {dropped} of them ignored" if dropped else ""
        named = self._describe_names()
        hint = ""
        if self.corner_stride > 1 and not self.source.align_corners:
            hint = (
                f"; every {self.corner_stride}th pixel is a position of its output, also the corners: see whether its "
                "mIoU is higher with `teacher.input.align_corners: true`"
            )
        return f"`{self.runner.file}` runs in {self.runner.runtime}: {self.source}; {classes}{named}{hint}"

    def _describe_names(self) -> str:
        if not self.names:
            return "; it declares no class names"
        both = list(zip(self.names, self.class_names, strict=False)) if self.class_map is None else []
        other = [number for number, (own, ours) in enumerate(both) if own.casefold() != ours.casefold()]
        if not other:
            return ""
        own, ours = both[other[0]]
        return (
            f"; {len(other)} of its class names differ from the data set's, such as channel {other[0]}, `{own}` and "
            f"`{ours}`: if these are other classes, map them with `classes`"
        )

    def extra_repr(self) -> str:
        """Name the file: two files are two networks."""
        return f"{self.runner.file}, {self.source}"


def file_config(spec: Teacher, num_classes: int, info: DatasetInfo | None = None) -> dict[str, Any]:
    """Return the description of a teacher that is a file, plain data; the file is not opened."""
    facts = data_facts(info) if info is not None else {}
    description = {"library": spec.library, "file": str(spec.file), **describe_use(spec)}
    return {**description, **facts, "num_classes": num_classes}


def describe_use(spec: Teacher) -> dict[str, Any]:
    """Return how a preset runs a file: `input`, `output` and `classes`."""
    given = spec.input.model_dump(exclude_none=True) if spec.input is not None else {}
    return {"input": given, "output": spec.output, "classes": spec.classes}


def data_facts(info: DatasetInfo) -> dict[str, Any]:
    """Return what a file needs to know of a data set: its classes, and (height, width) of its images."""
    return {
        "num_classes": info.num_classes, "class_names": list(info.classes), "image_size": list(info.eval_scale[::-1]),
    }  # fmt: skip


def build_file_network(config: Mapping[str, Any], runner: Runner) -> FileNetwork:
    """Return the network of a loaded file and its description.

    Raises:
        RmrkdError: The description does not fit the file.
    """
    size = config.get("image_size")
    return FileNetwork(
        runner, given=config.get("input"), output=config.get("output", LOGITS), classes=config.get("classes"),
        num_classes=config.get("num_classes"), class_names=config.get("class_names", ()),
        image_size=(size[0], size[1]) if size is not None else None,
    )  # fmt: skip


def _takes_any_size(runner: Runner, source: FileInput) -> bool:
    """Return whether a file that declares no size also runs at another than the given one."""
    if source.size is None or runner.fixed != (None, None):
        return False
    height, width = (max(32, side // 64 * 32) for side in source.size)
    try:
        return runner.try_once((height, width)).ndim == 4
    except RmrkdError:
        return False


def _corner_stride(size: tuple[int, int] | None, output: Tensor) -> int:
    """Return the pixels between two positions if these can lie on all corners of an input; else 1."""
    if size is None or output.ndim != 4 or min(output.shape[2:]) < 2:
        return 1
    strides = {(side - 1) / (count - 1) for side, count in zip(size, output.shape[2:], strict=True)}
    stride = strides.pop()
    return int(stride) if not strides and stride.is_integer() else 1


def _try_once(runner: Runner, size: tuple[int, int] | None) -> Tensor:
    """Return the output of a black image; a file that cannot process it is a wrong input, not a failed run."""
    try:
        return runner.try_once(size)
    except RunError as error:
        raise RmrkdError(error.message, error.hint) from error


def _count_targets(classes: ClassMap, class_names: Sequence[str]) -> int:
    entries = list(classes.values()) if isinstance(classes, Mapping) else list(classes)
    return len(class_names) or 1 + max((entry for entry in entries if isinstance(entry, int)), default=0)
