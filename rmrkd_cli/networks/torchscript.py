"""TorchScript files, run by torch: a teacher that gives logits, and a network to measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from rmrkd_cli.networks.file_network import build_file_network
from rmrkd_cli.networks.file_network import file_config as network_config
from rmrkd_cli.networks.torchscript_runner import TorchScriptRunner

__all__ = ["build_network", "network_config"]


def build_network(config: Mapping[str, Any], *, device: str, **_: object) -> nn.Module:
    """Load the file that a description names; see `libraries.build_network`. The file's own size is checked.

    Raises:
        RmrkdError: The file is unsafe, damaged or no segmentation network, or the description does not fit it.
    """
    return build_file_network(config, TorchScriptRunner(Path(config["file"]), device))
