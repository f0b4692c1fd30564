# SPDX-License-Identifier: Apache-2.0
"""What a loop body computes from time alone is computed once, at export, and read from a table: one row per step.

Adaptive norms are the case that pays. pi0.5 turns the time into a scale, a shift and a gate per norm by a matrix each,
a third of its action expert's weights; GR00T's diffusion blocks do alike. The results for N steps are N rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

SHAPING = ("Cast", "Concat", "Expand", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
Table = NDArray[np.generic]


def tabulate(
    nodes: Sequence[ir.Node], rows: Sequence[ir.Value], tables: Sequence[Table], opset: int
) -> tuple[list[ir.Node], list[ir.Value], list[Table]]:
    """Take out of a loop body what follows from its rows and from weights.

    Args:
        nodes: of the body, in order, in no graph.
        rows: values that hold this step's row of each table, (1, ...).
        tables: (steps, 1, ...) each: step i reads `table[i]`.
        opset: of the nodes.

    Returns:
        The other nodes, and rows and tables that they read; what only reshapes a row stays in the body.
    """
    timed = _timed(nodes, rows)
    rest = [node for node in nodes if node not in timed]
    read = {value: None for node in rest for value in node.inputs if value is not None}
    wanted = [value for node in timed for value in node.outputs if value in read]
    if not wanted:
        return list(nodes), list(rows), list(tables)
    made = _evaluate(list(timed), rows, tables, wanted, opset)
    kept = [(row, table) for row, table in zip(rows, tables, strict=True) if row in read]
    fresh = []
    for value in wanted:
        row = ir.Value(name=value.name, type=value.type, shape=value.shape)
        for node in rest:
            for index, found in enumerate(node.inputs):
                if found is value:
                    node.replace_input_with(index, row)
        fresh.append(row)
    for node in reversed(list(timed)):
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    return rest, [*(row for row, _ in kept), *fresh], [*(table for _, table in kept), *made]


def _timed(nodes: Sequence[ir.Node], rows: Sequence[ir.Value]) -> dict[ir.Node, None]:
    """Nodes that depend on rows and weights alone, up to the last that computes something, in order."""
    known, found = set(rows), []
    for node in nodes:
        given = [value for value in node.inputs if value is not None]
        if any(v in known for v in given) and all(v in known or v.const_value is not None for v in given):
            known.update(node.outputs)
            found.append(node)
    needed: set[ir.Value] = set()
    kept: list[ir.Node] = []
    for node in reversed(found):
        if node.op_type not in SHAPING or any(value in needed for value in node.outputs):
            needed.update(value for value in node.inputs if value is not None)
            kept.append(node)
    return dict.fromkeys(reversed(kept))


def _evaluate(
    nodes: Sequence[ir.Node], rows: Sequence[ir.Value], tables: Sequence[Table], wanted: Sequence[ir.Value], opset: int
) -> list[Table]:
    """(steps, 1, ...) of every wanted value, computed row by row as the body would; weights are fed, not copied."""
    weights = {
        str(value.name): value.const_value.numpy()
        for node in nodes
        for value in node.inputs
        if value is not None and value.const_value is not None
    }
    given = [*(str(row.name) for row in rows), *weights]
    graph = onnx.helper.make_graph(
        [ir.serde.serialize_node(node) for node in nodes],
        "time",
        [onnx.ValueInfoProto(name=name) for name in given],
        [onnx.ValueInfoProto(name=str(value.name)) for value in wanted],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    session = ReferenceEvaluator(model)
    answers = []
    for step in range(len(tables[0])):
        here = {str(row.name): table[step] for row, table in zip(rows, tables, strict=True)}
        answers.append(session.run(None, {**here, **weights}))
    return [np.concatenate([np.asarray(answer)[None] for answer in found]) for found in zip(*answers, strict=True)]
