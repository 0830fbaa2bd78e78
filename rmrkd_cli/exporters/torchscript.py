"""TorchScript files: traced, written and run by torch.

torch 2.15 deprecates TorchScript but still writes it, and libtorch and PyTorch Mobile read no other format. A trace may
keep constants of its example input, so the file is checked at other image sizes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rmrkd_cli.errors import RunError, summarize_error
from rmrkd_cli.exporters.graph import ExportGraph, example_input
from rmrkd_cli.exporters.onnx import Runner
from rmrkd_cli.installation.mmcv_ops import allow_any_size

EXTRA_FILE = "rmrkd.json"  # in the archive: `torch.jit.load(path, _extra_files={EXTRA_FILE: ""})`


def write_torchscript(graph: ExportGraph, properties: Mapping[str, str], path: Path) -> None:
    """Trace a graph and write it, with the properties (JSON text by key) as an extra file.

    Raises:
        RunError: torch cannot trace the network.
    """
    text = "{" + ", ".join(f'"{key}": {value}' for key, value in properties.items()) + "}"
    try:
        with warnings.catch_warnings(), allow_any_size(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(graph, example_input(graph), check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, str(path), _extra_files={EXTRA_FILE: text.encode()})
    except Exception as error:  # torch's tracer raises many types
        raise RunError(f"torch cannot trace this network: {summarize_error(error)[:300]}") from error


def torchscript_runner(path: Path) -> Runner:
    """Load a file and return a function that runs it on the CPU: image batch to output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]

    def run(image: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            output: NDArray[Any] = np.asarray(module(torch.from_numpy(image)))
        return output

    return run
