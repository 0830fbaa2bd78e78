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

from rmrkd_cli.errors import RmrkdError, RunError, first_line
from rmrkd_cli.export.exportable import SMALLEST_SIDE, Exportable, example
from rmrkd_cli.installation.mmcv_ops import allow_any_size
from rmrkd_cli.installation.requirements import install_extra_command

if TYPE_CHECKING:
    import onnx

Run = Callable[[NDArray[Any]], NDArray[Any]]
OPSET = 20  # what torch's exporter writes without converting, and onnxruntime runs since 1.17
INPUT, LOGITS, CLASSES = "image", "logits", "classes"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_MOST_BYTES = 2_000_000_000  # of one protobuf message


def check_installed() -> None:
    """Raises RmrkdError with the command that installs what is missing."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise RmrkdError(
            f"ONNX files need {', '.join(missing)}, not installed here",
            f"{install_extra_command('export')}; or write TorchScript, which needs nothing more: OUT.pt",
        )


def write_onnx(graph: Exportable, properties: Mapping[str, str], path: Path) -> None:
    """One file, all weights inside, whose batch, height and width are open.

    Raises:
        RunError: When torch cannot export the network, or it is too large for one file.
    """
    import onnx

    model = _exported(graph)
    _strip(model)
    onnx.helper.set_model_props(model, dict(properties))
    model.producer_name, model.producer_version = "rmrkd", properties.get("rmrkd_version", "").strip('"')
    size = model.ByteSize()
    if size > _MOST_BYTES:
        raise RunError(f"the network has {size / 1e9:.1f} GB, one ONNX file holds {_MOST_BYTES / 1e9:.0f}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # of two kinds, neither of them a subclass of much
        raise RunError(f"torch wrote no sound ONNX graph: {first_line(error)[:300]}", "OUT.pt may do") from error
    path.write_bytes(model.SerializeToString())


def onnx_runner(path: Path, threads: int | None = None) -> Run:
    """Runs a file in onnxruntime on the CPU: from an image batch to its only output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = np.asarray(session.run(None, {INPUT: image})[0])
        return found

    return run


def runtime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _exported(graph: Exportable) -> onnx.ModelProto:
    """By way of `torch.export`: the exporter that traced TorchScript is deprecated, and its graphs are less exact."""
    least = SMALLEST_SIDE // 4
    open_sizes = {
        0: torch.export.Dim("batch", min=1),
        2: torch.export.Dim("height", min=least),
        3: torch.export.Dim("width", min=least),
    }
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), allow_any_size(), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                graph,
                (example(graph),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[CLASSES if graph.classes else LOGITS],
                opset_version=OPSET,
                dynamic_shapes={"image": open_sizes},
                verbose=False,
            )
        model: onnx.ModelProto = program.model_proto
        return model
    except Exception as error:  # torch's exporter raises whatever it meets
        raise RunError(
            f"torch cannot export this network to ONNX: {first_line(error)[:300]}", "TorchScript may do: OUT.pt"
        ) from error
    finally:
        logging.disable(level)


def _strip(model: onnx.ModelProto) -> None:
    """Without what the exporter notes of the source text: it names files of this machine."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.metadata_props[:]
    del graph.metadata_props[:]
    graph.name, graph.doc_string = "rmrkd", ""
