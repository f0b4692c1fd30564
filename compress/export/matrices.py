# SPDX-License-Identifier: Apache-2.0
"""Which weight matrices does a graph multiply with, and which of them are quantised? Loop bodies are looked into.

A quantiser that finds nothing to do says so in a log line at best, so what it did is counted here, in its output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Matrix:
    """A constant weight (rows, columns) that node `node` multiplies with from the right."""

    node: str
    rows: int
    columns: int


def float_matrices(model: ModelProto) -> list[Matrix]:
    """The `MatMul` nodes with a constant floating matrix, in graph order."""
    return [
        Matrix(node.name, *weight.dims)
        for node, constants, _ in _nodes(model.graph, {}, {})
        if node.op_type == "MatMul" and (weight := constants.get(node.input[1])) is not None
        if weight.data_type in FLOATS and len(weight.dims) == 2
    ]


def int8_matrices(model: ModelProto) -> list[Matrix]:
    """The `MatMulInteger` nodes with a constant matrix of int8."""
    return [
        Matrix(node.name, *weight.dims)
        for node, constants, _ in _nodes(model.graph, {}, {})
        if node.op_type == "MatMulInteger" and (weight := constants.get(node.input[1])) is not None
        if weight.data_type == TensorProto.INT8
    ]


def int4_matrices(model: ModelProto, block: int) -> list[Matrix]:
    """The `MatMul` nodes whose matrix is dequantised from int4 in blocks of `block` rows, without zero points."""
    found = []
    for node, constants, makers in _nodes(model.graph, {}, {}):
        maker = makers.get(node.input[1]) if node.op_type == "MatMul" else None
        if maker is None or maker.op_type != "DequantizeLinear" or len(maker.input) != 2:
            continue
        weight = constants.get(maker.input[0])
        attributes = {a.name: helper.get_attribute_value(a) for a in maker.attribute}
        if weight is not None and weight.data_type == TensorProto.INT4 and attributes.get("block_size") == block:
            found.append(Matrix(node.name, *weight.dims))
    return found


def _nodes(
    graph: GraphProto, constants: Mapping[str, TensorProto], makers: Mapping[str, NodeProto]
) -> Iterator[tuple[NodeProto, Mapping[str, TensorProto], Mapping[str, NodeProto]]]:
    """Each node with the constants and the nodes that it can see, those of enclosing graphs too."""
    constants = {**constants, **{tensor.name: tensor for tensor in graph.initializer}}
    makers = {**makers, **{name: node for node in graph.node for name in node.output}}
    for node in graph.node:
        yield node, constants, makers
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g, constants, makers)
