"""Run a TorchScript file, after its program was checked, as a function of torch tensors."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmrkd_cli.checkpoints.safety.torchscript_file import read_torchscript_file
from rmrkd_cli.errors import RmrkdError, RunError, summarize_error
from rmrkd_cli.networks.file_errors import describe_file_errors
from rmrkd_cli.networks.file_output import FIRST_CHOICE, no_map_error
from rmrkd_cli.storage.memory_limit import limit_memory

_EXTRA_FILE = "rmrkd.json"  # in which `rmrkd export` writes what it knows
_MAX_KEYS = 8  # in a message
_TRY_SIDE = 128  # pixels of the image that is tried
_EXTRA_MEMORY = 2 << 30  # bytes beside four times the file, for loading and a first run


class TorchScriptRunner:
    """A checked TorchScript file, loaded in torch.

    Attributes:
        file: Name of the file in messages.
        metadata: Texts of the file by key.
        fixed: A TorchScript file does not say which sizes it takes.
        parameters: Number of its weights; of a frozen file, which has none, that of its constants of real numbers.
        dtype: Of the input: uint8 for a file that normalizes its images itself, else that of its weights.

    Raises:
        RmrkdError: The file is unsafe, damaged, or no network from images to class maps.
    """

    fixed: tuple[int | None, int | None] = (None, None)
    runtime = "torch"

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.file = str(path)
        with describe_file_errors(self.file):
            archive = read_torchscript_file(path)
        self._bytes = path.stat().st_size
        self._module, self.metadata = self._load(archive)
        self.dtype = self._input_type()
        self.parameters = sum(each.numel() for each in self._module.parameters()) or self._count_constants()
        self._device = torch.device("cpu")
        if device.startswith("cuda"):
            self._move(torch.device(device))

    def __deepcopy__(self, _: Any) -> TorchScriptRunner:
        return self  # its weights never change

    def run(self, images: Tensor) -> Tensor:
        """Return the output (B, C, h, w), float32, of images (B, 3, H, W) in the file's form, on their device."""
        if images.device != self._device:
            self._move(images.device)
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                output = self._module(images.to(self.dtype).contiguous())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a program can raise anything
            raise RunError(
                f"`{self.file}` cannot process images of {images.shape[2]}x{images.shape[3]}: "
                f"{_last_line(error)[:300]}",
                "give the height and width it was made for as the size of its input",
            ) from error
        return self._map_of(output).float().clone()  # a tensor of inference mode could not be saved for a gradient

    def try_once(self, size: tuple[int, int] | None) -> Tensor:
        """Return the output of a black image of this (height, width), in limited memory."""
        black = torch.zeros(1, 3, *(size or (_TRY_SIDE, _TRY_SIDE)), dtype=self.dtype, device="cpu")
        with limit_memory(4 * self._bytes + _EXTRA_MEMORY):
            return self.run(black.to(self._device))

    def count_macs(self, images: Tensor) -> int | None:
        """Return the multiply-accumulate operations for one image of this size; it is run once. None if unknown."""
        from torch.utils.flop_counter import FlopCounterMode

        try:
            with FlopCounterMode(display=False) as counter:
                self.run(images[:1].to(self._device))
        except RunError:
            return None
        return int(counter.get_total_flops()) // 2

    def _count_constants(self) -> int:
        """Return how many real numbers are in the program: freezing writes the weights there."""
        graph = self._module.inlined_graph  # its nodes are valid as long as it is
        values = [
            node.t("value")
            for node in graph.findAllNodes("prim::Constant")
            if node.hasAttribute("value") and node.kindOf("value") == "t"
        ]
        return sum(value.numel() for value in values if value.is_floating_point())

    def _load(self, archive: io.BytesIO) -> tuple[Any, Mapping[str, str]]:
        extra: dict[str, Any] = {_EXTRA_FILE: ""}
        try:
            with warnings.catch_warnings(), limit_memory(4 * self._bytes + _EXTRA_MEMORY):
                warnings.simplefilter("ignore")  # torch 2.15 calls TorchScript deprecated
                module = torch.jit.load(archive, map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
                module.eval()
        except Exception as error:  # torch raises many types
            raise RmrkdError(
                f"torch cannot load `{self.file}`: {_last_line(error)[:300]}",
                "the file is damaged, or made for a newer torch",
            ) from error
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        return module, _texts(extra[_EXTRA_FILE])

    def _input_type(self) -> torch.dtype:
        try:
            described = json.loads(self.metadata.get("preprocessing", "{}"))
        except (ValueError, RecursionError):
            described = {}
        if isinstance(described, dict) and described.get("normalized_inside") is True:
            return torch.uint8
        weights = (each.dtype for each in self._module.parameters() if each.is_floating_point())
        return next(weights, torch.float32)

    def _move(self, device: torch.device) -> None:
        self._module.to(device)
        self._device = device

    def _map_of(self, output: Any) -> Tensor:
        """Return a tensor, the first of several, or of a mapping the only one or the one called `out` or `logits`."""
        if isinstance(output, dict):
            keys = list(output)
            name = keys[0] if len(keys) == 1 else next((key for key in FIRST_CHOICE if key in output), None)
            if name is None:
                shown = ", ".join(f"`{key}`" for key in keys[:_MAX_KEYS])
                raise RmrkdError(
                    f"`{self.file}` returns several outputs, {shown}, and none of them is called `out` or `logits`",
                    "export it with the logits alone",
                )
            output = output[name]
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not isinstance(output, Tensor) or not output.is_floating_point():
            tensor = isinstance(output, Tensor)
            kind = str(output.dtype).removeprefix("torch.") if tensor else type(output).__name__
            raise no_map_error(self.file, f"it returns {kind}", integers=tensor)
        return output


def _texts(extra: Any) -> dict[str, str]:
    """Return the entries of `rmrkd.json` as JSON texts."""
    try:
        contents = json.loads(extra) if extra else {}
    except (ValueError, RecursionError):
        return {}
    return {str(key): json.dumps(value) for key, value in contents.items()} if isinstance(contents, dict) else {}


def _last_line(error: BaseException) -> str:
    """Return the line of a TorchScript error that says what is wrong, which is the last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), summarize_error(error))
