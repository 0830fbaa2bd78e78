"""Count the multiply-accumulate operations of an ONNX graph, from the shapes that one run of it has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

Shapes = Mapping[str, tuple[int, ...]]

_STANDARD = ("", "ai.onnx")
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}  # operator → number of the input with the weights
_PRODUCTS = ("MatMul", "MatMulInteger", "QLinearMatMul")
_UNKNOWN = ("Attention", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan")
_PRODUCTS_OF_RUNTIME = ("Attention", "Conv", "Gemm", "MatMul", "MoE")  # in the names of onnxruntime's own operators
_RUNTIME = "com.microsoft"
_PREFIX = "rmrkd_shape_"


def is_countable(model: onnx.ModelProto) -> bool:
    """Return whether the operations of all nodes are known: of no loop, fused operator or function of the file."""
    for node in model.graph.node:
        if node.domain == _RUNTIME:
            if any(part in node.op_type for part in _PRODUCTS_OF_RUNTIME):
                return False
        elif node.domain not in _STANDARD or node.op_type in _UNKNOWN:
            return False
    return True


def return_shapes(model: onnx.ModelProto) -> list[str]:
    """Change a model so that it returns the shapes that `count_macs` needs; return their names in that order."""
    from onnx import TensorProto, helper

    names = list(dict.fromkeys(name for node in model.graph.node for name in _needed(node)))
    del model.graph.output[:]
    for number, name in enumerate(names):
        shape = f"{_PREFIX}{number}"
        model.graph.node.append(helper.make_node("Shape", [name], [shape]))
        model.graph.output.append(helper.make_tensor_value_info(shape, TensorProto.INT64, None))
    return names


def count_macs(model: onnx.ModelProto, shapes: Shapes) -> int:
    """Return the operations of all convolutions and matrix products.

    Args:
        shapes: Of the values that `return_shapes` names.
    """
    return sum(_macs_of(node, shapes) for node in model.graph.node)


def _needed(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values whose shapes decide how many operations a node has."""
    kind = node.op_type
    if kind in _CONVOLUTIONS:
        yield from (node.output[0], node.input[_CONVOLUTIONS[kind]])
    elif kind == "ConvTranspose":
        yield from node.input[:2]
    elif kind in _PRODUCTS or kind == "Gemm":
        yield from (node.output[0], node.input[0])


def _macs_of(node: onnx.NodeProto, shapes: Shapes) -> int:
    kind = node.op_type
    sizes = [shapes[name] for name in _needed(node)]
    if not sizes:
        return 0
    first, second = sizes
    if kind in _CONVOLUTIONS or kind == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(first) * second[0 if transposed else -1]
