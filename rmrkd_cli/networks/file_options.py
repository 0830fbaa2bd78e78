"""Check arguments that describe an ONNX or TorchScript file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rmrkd_cli.checkpoints.file_formats import network_file_format
from rmrkd_cli.errors import RmrkdError


def check_for_files(given: dict[str, Any] | None, files: Iterable[Path]) -> None:
    """Raise RmrkdError if the options are given, and no file is ONNX or TorchScript."""
    if given is not None and not any(network_file_format(file) for file in files if file.is_file()):
        raise RmrkdError(
            "--mean, --std, --color, --input-size, --output and --classes are for ONNX and TorchScript files, and no "
            "such file is given",
            "leave them out: a checkpoint describes its network",
        )
