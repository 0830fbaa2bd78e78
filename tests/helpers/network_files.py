"""Write tiny ONNX and TorchScript networks: a 1x1 convolution of the image, so that every output is known."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

SHAPE = ("n", 3, "h", "w")


def weights(channels: int, seed: int = 0) -> np.ndarray:
    """Return the weights (channels, 3) of a tiny network."""
    return np.random.default_rng(seed).normal(size=(channels, 3)).astype(np.float32)


def write_onnx(
    path: Path,
    channels: int = 4,
    *,
    shape: Sequence[int | str] = SHAPE,
    kind: int = TensorProto.FLOAT,
    scale: float = 0.01,
    after: Sequence[Any] = (),
    output: tuple[str, int, Sequence[int | str]] | None = None,
    metadata: Mapping[str, str] | None = None,
    save: Mapping[str, Any] | None = None,
) -> Path:
    """Write `logits = scale * weights(channels) @ image` as ONNX, opset 17.

    Args:
        after: Nodes that follow `logits`.
        output: Name, type and shape of the output, where `after` makes another one.
        save: Options of `onnx.save`.
    """
    kernel = numpy_helper.from_array(scale * weights(channels)[:, :, None, None], "kernel")
    channels_last = shape[-1] == 3 and shape[1] != 3
    first = [helper.make_node("Cast", ["image"], ["number"], to=TensorProto.FLOAT)]
    if channels_last:
        first += [
            helper.make_node("Transpose", ["number"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["planes", "kernel"], ["maps"]),
            helper.make_node("Transpose", ["maps"], ["logits"], perm=[0, 2, 3, 1]),
        ]
    else:
        first.append(helper.make_node("Conv", ["number", "kernel"], ["logits"]))
    name, dtype, sizes = output or ("logits", TensorProto.FLOAT, ("n2", channels, "h2", "w2"))
    if channels_last:
        sizes = ("n2", "h2", "w2", channels)
    graph = helper.make_graph(
        [*first, *after], "tiny", [helper.make_tensor_value_info("image", kind, list(shape))],
        [helper.make_tensor_value_info(name, dtype, list(sizes) or None)], [kernel],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path, **(save or {}))
    return path


class Tiny(nn.Module):
    """The same network in torch."""

    def __init__(self, channels: int = 4, scale: float = 0.01) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1, bias=False)
        self.conv.weight.data = scale * torch.from_numpy(weights(channels))[:, :, None, None]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image.float())


def write_torchscript(path: Path, module: nn.Module | None = None, *, extra: str = "") -> Path:
    """Write a module, by default `Tiny`, as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script((module or Tiny()).eval())
        torch.jit.save(scripted, str(path), _extra_files={"rmrkd.json": extra.encode()} if extra else None)
    return path
