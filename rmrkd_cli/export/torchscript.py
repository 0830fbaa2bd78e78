"""TorchScript files: traced, written and run by torch alone.

torch 2.15 calls tracing and scripting deprecated and still does both; libtorch and PyTorch Mobile read nothing else.
A trace keeps constants of its example, so it is run at other sizes before it counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rmrkd_cli.errors import RunError, first_line
from rmrkd_cli.export.exportable import Exportable, example
from rmrkd_cli.export.onnx import Run
from rmrkd_cli.installation.mmcv_ops import allow_any_size

EXTRA_FILE = "rmrkd.json"  # in the archive, for `torch.jit.load(path, _extra_files={EXTRA_FILE: ""})`


def write_torchscript(graph: Exportable, properties: Mapping[str, str], path: Path) -> None:
    """A traced graph with what is known of it as one JSON object.

    Raises:
        RunError: When torch cannot trace the network.
    """
    text = "{" + ", ".join(f'"{key}": {value}' for key, value in properties.items()) + "}"
    try:
        with warnings.catch_warnings(), allow_any_size(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(graph, example(graph), check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, str(path), _extra_files={EXTRA_FILE: text.encode()})
    except Exception as error:  # torch's tracer raises whatever it meets
        raise RunError(f"torch cannot trace this network: {first_line(error)[:300]}") from error


def torchscript_runner(path: Path) -> Run:
    """Runs a file on the CPU: from an image batch to its output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]

    def run(image: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            found: NDArray[Any] = np.asarray(loaded(torch.from_numpy(image)))
        return found

    return run
