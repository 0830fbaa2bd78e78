"""ONNX files: written by torch's exporter, run by onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from rmrkd_cli.errors import RmrkdError, RunError, summarize_error
from rmrkd_cli.exporters.graph import MIN_SIDE, ExportGraph, example_input
from rmrkd_cli.installation.mmcv_ops import allow_any_size
from rmrkd_cli.installation.requirements import install_extra_command

if TYPE_CHECKING:
    import onnx

Runner = Callable[[NDArray[Any]], NDArray[Any]]
OPSET = 20  # the exporter writes it without conversion, and onnxruntime supports it since 1.17
INPUT, LOGITS, CLASSES = "image", "logits", "classes"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_MAX_BYTES = 2_000_000_000  # of a protobuf message


def check_installed() -> None:
    """Raise RmrkdError with the install command if a package is missing."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise RmrkdError(
            f"ONNX export needs packages that are not installed: {', '.join(missing)}",
            f"{install_extra_command('export')}; or write TorchScript (OUT.pt), which needs only torch",
        )


def write_onnx(graph: ExportGraph, properties: Mapping[str, str], path: Path) -> None:
    """Write a graph as one file with all weights and with dynamic batch size, height and width.

    Args:
        properties: Metadata of the file: JSON text by key.

    Raises:
        RunError: torch cannot export the network, or it is too large for one file.
    """
    model = _export(graph)
    save_model(model, properties, path)


def save_model(model: onnx.ModelProto, properties: Mapping[str, str], path: Path) -> None:
    """Check a graph and write it, with the properties as its only metadata.

    Raises:
        RunError: It is invalid, or too large for one file.
    """
    import onnx

    _remove_source_info(model)
    onnx.helper.set_model_props(model, dict(properties))
    model.producer_name, model.producer_version = "rmrkd", properties.get("rmrkd_version", "").strip('"')
    size = model.ByteSize()
    if size > _MAX_BYTES:
        raise RunError(f"the network has {size / 1e9:.1f} GB, an ONNX file can hold at most {_MAX_BYTES / 1e9:.0f} GB")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker raises two unrelated types
        raise RunError(
            f"the exporter wrote an invalid ONNX graph: {summarize_error(error)[:300]}", "try TorchScript: OUT.pt"
        ) from error
    path.write_bytes(model.SerializeToString())


def onnx_runner(path: Path, threads: int | None = None) -> Runner:
    """Load a file in onnxruntime and return a function that runs it on the CPU: image batch to output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: NDArray[Any]) -> NDArray[Any]:
        output: NDArray[Any] = np.asarray(session.run(None, {INPUT: image})[0])
        return output

    return run


def runtime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _export(graph: ExportGraph) -> onnx.ModelProto:
    """Export by `torch.export`: the TorchScript-based exporter is deprecated and less exact."""
    min_side = MIN_SIDE // 4
    dynamic_sizes = {
        0: torch.export.Dim("batch", min=1),
        2: torch.export.Dim("height", min=min_side),
        3: torch.export.Dim("width", min=min_side),
    }
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), allow_any_size(), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                graph,
                (example_input(graph),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[CLASSES if graph.classes else LOGITS],
                opset_version=OPSET,
                dynamic_shapes={"image": dynamic_sizes},
                verbose=False,
            )
        model: onnx.ModelProto = program.model_proto
        return model
    except Exception as error:  # torch's exporter raises many types
        raise RunError(
            f"torch cannot export this network to ONNX: {summarize_error(error)[:300]}", "try TorchScript: OUT.pt"
        ) from error
    finally:
        logging.disable(level)


def _remove_source_info(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes about the source code, which contain paths of this machine."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.metadata_props[:]
    del graph.metadata_props[:]
    graph.name, graph.doc_string = "rmrkd", ""
