"""Run an ONNX file in onnxruntime, on the CPU or a GPU, as a function of torch tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmrkd_cli.checkpoints.safety.onnx_file import read_onnx_file
from rmrkd_cli.errors import RmrkdError, RunError, summarize_error
from rmrkd_cli.installation.requirements import install_extra_command
from rmrkd_cli.networks.file_errors import describe_file_errors
from rmrkd_cli.networks.file_output import FIRST_CHOICE, no_map_error
from rmrkd_cli.networks.onnx_macs import count_macs, is_countable, return_shapes
from rmrkd_cli.storage.memory_limit import limit_memory

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_PACKAGES = ("onnx", "onnxruntime")
_SILENT = 4  # of onnxruntime's log levels: its messages come with its exceptions
_FREE_SIDE = 128  # pixels of the image that is tried where any size is allowed
_EXTRA_MEMORY = 2 << 30  # bytes beside four times the file, for loading and a first run
_TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64,
          "tensor(uint8)": torch.uint8}  # fmt: skip


def check_onnx_installed() -> None:
    """Raise RmrkdError with the install command if a package is missing."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise RmrkdError(
            f"reading ONNX files needs packages that are not installed: {', '.join(missing)}",
            install_extra_command("export"),
        )


class OnnxRunner:
    """A checked ONNX file, loaded in onnxruntime.

    Attributes:
        file: Name of the file in messages.
        metadata: Texts of the file by key.
        fixed: (height, width) of the input; None where any is taken.
        batch: Images that the file takes at once; None for any number.
        dtype: Of the input: float32, float16, float64, or uint8.
        parameters: Number of its weights.
        provider: Of onnxruntime: `CUDAExecutionProvider` or `CPUExecutionProvider`.

    Raises:
        RmrkdError: A package is missing, or the file is unsafe, damaged, or no network from images to class maps.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        check_onnx_installed()
        self.file = str(path)
        with describe_file_errors(self.file):
            model = read_onnx_file(path)
        self.parameters = _count_parameters(model)
        self.metadata: Mapping[str, str] = {entry.key: entry.value for entry in model.metadata_props}
        self._wants_gpu = device.startswith("cuda")
        self._session = _open_session(path, *_choose_provider(device))
        self.provider = str(self._session.get_providers()[0])  # onnxruntime may have fallen back to the CPU
        entries = self._session.get_inputs()
        if len(entries) != 1 or len(entries[0].shape) != 4 or entries[0].type not in _TYPES:
            shown = "; ".join(f"`{entry.name}` {entry.type} {list(entry.shape)}" for entry in entries[:4])
            raise _no_network(self.file, f"it takes {shown}")
        self.input_name, self.dtype = entries[0].name, _TYPES[entries[0].type]
        batch, channels, *sides = (side if isinstance(side, int) else None for side in entries[0].shape)
        self.channels_last = channels != 3 and sides[1] == 3
        if self.channels_last:
            channels, *sides = sides[1], channels, sides[0]
        if channels not in (3, None):
            raise _no_network(self.file, f"its input has {channels} channels, an image has 3")
        self.batch, self.fixed = batch, (sides[0], sides[1])
        self.output_name = self._choose_output()

    @property
    def runtime(self) -> str:
        """What runs the file, in words."""
        if self.provider == CUDA:
            return "onnxruntime on the GPU"
        return "onnxruntime on the CPU" + (", which has no GPU here" if self._wants_gpu else "")

    def __deepcopy__(self, _: Any) -> OnnxRunner:
        return self  # it has no state, and a session cannot be copied

    def run(self, images: Tensor) -> Tensor:
        """Return the output (B, C, h, w), float32 on the images' device, of images (B, 3, H, W) in the file's form.

        A file of a fixed batch size gets as many images at once; the last ones are repeated to fill a batch.
        """
        count = len(images)
        inputs = images.detach().to("cpu", self.dtype)
        if self.channels_last:
            inputs = inputs.permute(0, 2, 3, 1)
        step = self.batch or count
        outputs = [self._run(inputs[start : start + step]) for start in range(0, count, step)]
        result = torch.cat(outputs)[:count] if len(outputs) > 1 else outputs[0][:count]
        return result.to(images.device, torch.float32)

    def _run(self, inputs: Tensor) -> Tensor:
        if self.batch is not None and len(inputs) < self.batch:
            inputs = torch.cat([inputs, inputs[-1:].expand(self.batch - len(inputs), *inputs.shape[1:])])
        feed = {self.input_name: inputs.contiguous().numpy()}
        try:
            output = torch.from_numpy(np.ascontiguousarray(self._session.run([self.output_name], feed)[0]))
        except Exception as error:  # onnxruntime's errors have no common base class
            sides = "x".join(map(str, inputs.shape[1:3] if self.channels_last else inputs.shape[2:]))
            raise RunError(
                f"`{self.file}` cannot process images of {sides}: {summarize_error(error)[:300]}",
                "give the height and width it was made for as the size of its input",
            ) from error
        return output.permute(0, 3, 1, 2) if self.channels_last and output.ndim == 4 else output

    def try_once(self, size: tuple[int, int] | None) -> Tensor:
        """Return the output of a black image of this (height, width), in limited memory."""
        height, width = size or (self.fixed[0] or _FREE_SIDE, self.fixed[1] or _FREE_SIDE)
        black = torch.zeros(self.batch or 1, 3, height, width, dtype=self.dtype, device="cpu")
        with _limit(Path(self.file), self.provider):
            return self.run(black)

    def count_macs(self, images: Tensor) -> int | None:
        """Return the multiply-accumulate operations for one image of this size; it is run once. None if unknown.

        Args:
            images: (1, 3, H, W) in the file's form.
        """
        model, path = read_onnx_file(Path(self.file)), Path(self.file)
        if not is_countable(model):
            return None
        names = return_shapes(model)
        black = torch.zeros(self.batch or 1, 3, *images.shape[2:], dtype=self.dtype, device="cpu")
        feed = {self.input_name: (black.permute(0, 2, 3, 1) if self.channels_last else black).contiguous().numpy()}
        try:
            shapes = _open_session(path, CPU, {}, model.SerializeToString()).run(None, feed)
        except Exception:  # such as a file of more than 2 GB; a file that cannot be run at all is reported elsewhere
            return None
        sizes = {name: tuple(map(int, shape)) for name, shape in zip(names, shapes, strict=True)}
        return count_macs(model, sizes) // len(black)

    def _choose_output(self) -> str:
        """Return the output that can be a map of each class: the one called `out` or `logits`, else the first."""
        outputs = self._session.get_outputs()
        maps = [
            str(entry.name)
            for entry in outputs
            if entry.type in _TYPES and entry.type != "tensor(uint8)" and len(entry.shape or [0] * 4) == 4
        ]
        if maps:
            return next((name for name in FIRST_CHOICE if name in maps), maps[0])
        shown = "; ".join(f"`{entry.name}` {entry.type} {list(entry.shape)}" for entry in outputs[:4])
        integers = any("int" in entry.type for entry in outputs)
        raise no_map_error(self.file, f"its output is {shown}", integers=integers)


def _count_parameters(model: Any) -> int:
    """Return the number of weights, without the scales and zero points of a quantized file."""
    quantizing = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    ranges = {name for node in quantizing for name in node.input[1:]}
    return sum(math.prod(weights.dims) for weights in model.graph.initializer if weights.name not in ranges)


def _choose_provider(device: str) -> tuple[str, dict[str, Any]]:
    """Return onnxruntime's provider and its options; the CPU where onnxruntime has no CUDA."""
    import onnxruntime

    if not device.startswith("cuda") or CUDA not in onnxruntime.get_available_providers():
        return CPU, {}
    index = torch.device(device).index
    return CUDA, {"device_id": torch.cuda.current_device() if index is None else index}


def _open_session(path: Path, provider: str, options: dict[str, Any], contents: bytes | None = None) -> Any:
    """Return a session of a file, or of changed contents whose weights may lie beside the file."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _SILENT
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are for torch in between
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    providers = [(provider, options), *([(CPU, {})] if provider != CPU else [])]
    try:
        with _limit(path, provider):
            return onnxruntime.InferenceSession(contents or str(path), settings, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base class
        if provider == CUDA:  # its libraries may be missing, or not fit the driver
            return _open_session(path, CPU, {})
        raise RmrkdError(
            f"onnxruntime cannot load `{path}`: {summarize_error(error)[:300]}",
            "the file is damaged, or made for a newer onnxruntime",
        ) from error


def _limit(path: Path, provider: str) -> Any:
    """Limit the memory of this block; CUDA reserves any amount of addresses."""
    return limit_memory(4 * path.stat().st_size + _EXTRA_MEMORY) if provider == CPU else nullcontext()


def _no_network(file: str, why: str, hint: str = "") -> RmrkdError:
    return RmrkdError(
        f"`{file}` is no segmentation network: {why}",
        hint or "a network takes images (N, 3, height, width) or (N, height, width, 3), and nothing else",
    )
