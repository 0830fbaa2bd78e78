"""Check an ONNX file before onnxruntime opens it: it may name only onnxruntime's own operators and files beside it.

An ONNX file is data. It could still ask for code, by operators that another library would have to register. It could
also read other files of this machine, as "external data" at any path.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from rmrkd_cli.checkpoints.safety.placeholders import MalformedFileError, UnsafeFileError, shorten

if TYPE_CHECKING:
    import onnx

MAX_BYTES = (1 << 31) - 1  # of a protobuf message
MAX_EXTERNAL_BYTES = 8 << 30  # of all files that the weights are in
MAX_NODES = 200_000
_MAX_DEPTH = 16  # of graphs inside graphs
_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
# Operators of onnxruntime that its optimizer and its quantization tools write.
_RUNTIME = "com.microsoft"
_RUNTIME_OPERATORS = """
Attention BiasAdd BiasGelu BiasSoftmax BiasSplitGelu ConvTransposeWithDynamicPads DequantizeLinear
DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul Gelu GroupNorm MatMulIntegerToFloat MatMulNBits
MultiHeadAttention NhwcConv NhwcFusedConv NhwcMaxPool PackedAttention QAttention QGemm QLinearAdd QLinearAveragePool
QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid
QLinearSoftmax QLinearWhere QMoE QuantizeLinear QuickGelu SkipGroupNorm SkipLayerNormalization
"""
_EXTERNAL_KEYS = ("location", "offset", "length", "checksum")


def read_onnx_file(path: Path) -> onnx.ModelProto:
    """Return the contents of a checked ONNX file, without the weights that other files hold.

    Raises:
        UnsafeFileError: It names an operator that onnxruntime does not have, or a file that is not beside it.
        MalformedFileError: It is no ONNX file, or its weights are missing or cut off.
        OSError: It cannot be read.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UnsafeFileError(f"it has {size / 1e9:.1f} GB; an ONNX file can have at most {MAX_BYTES / 1e9:.1f} GB")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise MalformedFileError("it is damaged or not an ONNX file") from error
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise MalformedFileError("it is damaged or not an ONNX file: it has no graph")
    _check_operators(model)
    _check_external_data(model, path)
    return model


def _check_operators(model: onnx.ModelProto) -> None:
    """Check the operators of the graph, of the graphs inside it, and of the functions that the file defines."""
    own = {(function.domain, function.name) for function in model.functions}
    count = 0
    for part in (model.graph, *model.functions):
        for node in _nodes(part, 0):
            count += 1
            if count > MAX_NODES:
                raise UnsafeFileError(f"it has more than {MAX_NODES:,} operators")
            known = (
                node.domain in _STANDARD
                or (node.domain, node.op_type) in own
                or (node.domain == _RUNTIME and node.op_type in _RUNTIME_OPERATORS.split())
            )
            if not known:
                raise UnsafeFileError(
                    f"it uses the custom operator {shorten(f'{node.domain}.{node.op_type}')}, whose code would come "
                    "from another library"
                )


def _nodes(part: Any, depth: int) -> Iterator[Any]:
    if depth > _MAX_DEPTH:
        raise UnsafeFileError(f"it has graphs nested more than {_MAX_DEPTH} levels deep")
    for node in part.node:
        yield node
        for graph in _graphs_of(node):
            yield from _nodes(graph, depth + 1)


def _graphs_of(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(model: onnx.ModelProto) -> Iterator[Any]:
    """Yield every tensor of the file, those of attributes and of sparse tensors too."""

    def of_graph(part: Any, depth: int) -> Iterator[Any]:
        if depth > _MAX_DEPTH:
            raise UnsafeFileError(f"it has graphs nested more than {_MAX_DEPTH} levels deep")
        yield from getattr(part, "initializer", ())
        sparse = list(getattr(part, "sparse_initializer", ()))
        for node in part.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
                for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                    yield from of_graph(graph, depth + 1)
        for tensor in sparse:
            yield from (tensor.values, tensor.indices)

    for part in (model.graph, *model.functions):
        yield from of_graph(part, 0)


def _check_external_data(model: onnx.ModelProto, path: Path) -> None:
    folder, sizes = path.resolve().parent, dict[str, int]()
    for tensor in _tensors(model):
        if tensor.data_location != tensor.EXTERNAL and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in sizes:
            sizes[location] = _external_size(folder, location)
        numbers = [entries.get(key, "0") for key in ("offset", "length")]
        if not all(text.isascii() and text.isdigit() and len(text) < 16 for text in numbers):
            raise MalformedFileError(f"the place of the weights {shorten(tensor.name)} is no number")
        if sum(map(int, numbers)) > sizes[location]:
            raise MalformedFileError(
                f"its weights file `{location[:80]}` is incomplete: it has {sizes[location]:,} bytes, and "
                f"{shorten(tensor.name)} ends at {sum(map(int, numbers)):,}"
            )
    if sum(sizes.values()) > MAX_EXTERNAL_BYTES:
        raise UnsafeFileError(f"its weights have more than {MAX_EXTERNAL_BYTES >> 30} GiB")


def _external_size(folder: Path, location: str) -> int:
    """Return the bytes of a file that weights are in; it must be a regular file in the folder of the ONNX file."""
    parts = PurePosixPath(location).parts
    inside = location and not location.startswith(("/", "~")) and ".." not in parts and "\\" not in location
    if not inside or PureWindowsPath(location).drive or "\0" in location:
        raise UnsafeFileError(f"its weights are in {shorten(location)}, which is outside its folder")
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise UnsafeFileError(f"its weights are in {shorten(location)}, which is a symbolic link")
    if not path.is_file():
        raise MalformedFileError(f"its weights file {shorten(location)} is missing, it belongs beside the ONNX file")
    return path.stat().st_size
