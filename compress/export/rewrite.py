# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of a graph in memory: equal weights stored once, casts around operators that ONNX does not define in
bfloat16, and statistics of a norm computed beside it."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnx_ir as ir


def merge_equal_weights(model: ir.Model) -> None:
    """Let equal initializers of the main graph be one: constant folding copies a transposed weight for every use.

    onnx_ir has two passes for this. One keeps every weight's bytes in memory as a key, the other cannot hash bfloat16.
    """
    first: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or value.is_graph_output() or value.is_graph_input():
            continue
        digest = hashlib.sha256(tensor.tobytes()).digest()
        kept = first.setdefault((tensor.dtype, tuple(tensor.shape.numpy()), digest), value)
        if kept is not value:
            ir.convenience.replace_all_uses_with(value, kept)
            model.graph.initializers.pop(str(value.name))


def legalise(model: ir.Model, opset: int) -> None:
    """Compute in float32 what has no bfloat16 form at `opset` (`Conv` below 22), with bfloat16 going in and out.

    That is what torch does: it multiplies bfloat16 numbers, adds in float32 and rounds once.
    """
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if node.domain in ("", "ai.onnx") and _touches_bfloat16(node) and not _defined(node, opset):
            _widen(node)


def norms_of_one_output(graph: ir.Graph) -> None:
    """Compute mean and inverse deviation, which a backward pass reads, from a norm's input: TensorRT takes no
    `LayerNormalization` with more than one output. Float32, last axis; what is normalised stays as it is."""
    for node in list(graph):
        if node.op_type == "LayerNormalization" and any(value.uses() for value in node.outputs[1:]):
            parts = _statistics(node)
            ir.convenience.replace_all_uses_with(node.outputs[1:], [parts[1].outputs[0], parts[-1].outputs[0]])
            node.resize_outputs(1)
            graph.insert_before(node, parts)


def _statistics(node: ir.Node) -> list[ir.Node]:
    """Nodes for the mean (the second) and the inverse deviation (the last) of what `node` normalises."""
    whole, row = node.outputs[:2]
    parts: list[ir.Node] = []

    def add(operator: str, like: ir.Value | None, *given: ir.Value | None, **attributes: ir.TensorProtocol) -> ir.Value:
        made = ir.node(operator, given, attributes, name=f"{node.name}.statistics{len(parts)}")
        if like is not None:
            made.outputs[0].type, made.outputs[0].shape = like.type, like.shape
        parts.append(made)
        return made.outputs[0]

    last = add("Constant", None, value=ir.tensor(np.array([-1], np.int64)))
    mean = add("ReduceMean", row, node.inputs[0], last)
    away = add("Sub", whole, node.inputs[0], mean)
    variance = add("ReduceMean", row, add("Mul", whole, away, away), last)
    least = ir.tensor(np.array(node.attributes["epsilon"].as_float(), np.float32))
    add("Reciprocal", row, add("Sqrt", row, add("Add", row, variance, add("Constant", None, value=least))))
    return parts


def _touches_bfloat16(node: ir.Node) -> bool:
    return any(v is not None and v.dtype is ir.DataType.BFLOAT16 for v in (*node.inputs, *node.outputs))


def _defined(node: ir.Node, opset: int) -> bool:
    """Whether the operator's schema admits the types that this node has."""
    schema = onnx.defs.get_schema(node.op_type, opset)
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for index, value in enumerate(values):
            formal = formals[min(index, len(formals) - 1)]
            if value is None or value.dtype is not ir.DataType.BFLOAT16:
                continue
            if "tensor(bfloat16)" not in allowed.get(formal.type_str, {formal.type_str}):
                return False
    return True


def _widen(node: ir.Node) -> None:
    graph = node.graph
    if graph is None:
        return
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype is ir.DataType.BFLOAT16:
            wide = _like(value, f"{node.name}.in{index}", ir.DataType.FLOAT)
            cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{node.name}.widen{index}", outputs=[wide])
            graph.insert_before(node, cast)
            node.replace_input_with(index, wide)
    for index, value in enumerate(node.outputs):
        if value.dtype is ir.DataType.BFLOAT16:
            narrow = _like(value, f"{node.name}.out{index}", ir.DataType.BFLOAT16)
            ir.convenience.replace_all_uses_with(value, narrow, replace_graph_outputs=True)
            value.dtype = ir.DataType.FLOAT
            graph.insert_after(
                node,
                ir.node(
                    "Cast", [value], {"to": ir.DataType.BFLOAT16}, name=f"{node.name}.narrow{index}", outputs=[narrow]
                ),
            )


def _like(value: ir.Value, name: str, dtype: ir.DataType) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
