# SPDX-License-Identifier: Apache-2.0
"""What a graph costs: FLOPs of its matrix products and convolutions, and bytes of its weights."""

from __future__ import annotations

import math

import onnx_ir as ir


def graph_flops(model: ir.Model) -> int:
    """Two per multiplication of MatMul, Gemm and Conv, at static shapes; the body of a loop counts once per trip.

    Shapes that are not known count as nothing.
    """
    return _flops(model.graph)


def weight_bytes(model: ir.Model) -> int:
    """Of all initializers."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def _flops(graph: ir.Graph) -> int:
    total = 0
    for node in graph:
        bodies = [a.as_graph() for a in node.attributes.values() if a.type is ir.AttributeType.GRAPH]
        trips = _trips(node) if node.op_type == "Loop" else 1
        total += trips * sum(map(_flops, bodies)) + _of_node(node)
    return total


def _trips(node: ir.Node) -> int:
    count = node.inputs[0]
    return int(count.const_value.numpy()) if count is not None and count.const_value is not None else 1


def _of_node(node: ir.Node) -> int:
    if node.op_type not in ("MatMul", "Gemm", "Conv"):
        return 0
    first, second, made = (_sizes(value) for value in (node.inputs[0], node.inputs[1], node.outputs[0]))
    if first is None or second is None or made is None:
        return 0
    if node.op_type == "Conv":
        inner = math.prod(second[1:])
    else:
        turned = node.op_type == "Gemm" and "transA" in node.attributes and node.attributes["transA"].as_int()
        inner = first[0] if turned else first[-1]
    return 2 * math.prod(made) * inner


def _sizes(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(size) for size in value.shape.numpy())
