"""ONNX files, run by onnxruntime: a teacher that gives logits, and a network to measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.networks.file_network import build_file_network, file_config
from rmrkd_cli.networks.onnx_runner import OnnxRunner
from rmrkd_cli.presets.schema import Teacher


def network_config(spec: Teacher, num_classes: int, info: DatasetInfo | None = None) -> dict[str, Any]:
    """Return the description of a preset's teacher; the file is not opened."""
    return file_config(spec, num_classes, info)


def build_network(
    config: Mapping[str, Any], *, device: str, name: str = "network", max_parameters: int = 0, hint: str = ""
) -> nn.Module:
    """Load the file that a description names; see `libraries.build_network`.

    Raises:
        RmrkdError: The file is unsafe, damaged or no segmentation network, or the description does not fit it.
    """
    del name, max_parameters, hint  # the file's own size is checked
    return build_file_network(config, OnnxRunner(Path(config["file"]), device))


def build_outline(config: Mapping[str, Any], name: str) -> nn.Module:
    """Load the file: its shapes are known only when it runs."""
    return build_network(config, device="cpu", name=name)
