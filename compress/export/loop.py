# SPDX-License-Identifier: Apache-2.0
"""A flow policy as one graph whose sampler is an ONNX `Loop`: prefix, body and end are traced once each and joined.

    inputs -> prefix -> what no step changes -> Loop, N times: row of each table -> step -> cut out -> actions

The body reads keys, values, masks and weights from the outer scope. What it computes from those alone (masks, rotary
angles, keys of cross-attention) is moved in front of the loop: same nodes, same inputs, so the same numbers, but once.
What it computes from the flow's time alone becomes a table (`time_tables`).
Chosen over unrolling, which writes each step's nodes again (export time and nodes grow with the number of steps). The
trip count and the condition are constants; TensorRT refuses a `Loop` without a condition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from compress.export.backward import written_out
from compress.export.convert import converted, examples
from compress.export.exact import cpu_copy, narrowed
from compress.export.options import GraphOptions
from compress.export.rewrite import norms_of_one_output
from compress.export.time_tables import Table, tabulate
from compress.models.flow import Sampler
from compress.models.guidance import GuidedSampler

CHUNK, NEXT = "chunk", "next_chunk"


class _Prefix(nn.Module):
    def __init__(self, sampler: Sampler, dtype: torch.dtype) -> None:
        super().__init__()
        self.sampler, self.dtype = sampler, dtype

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        chunk, context = self.sampler.begin(*narrowed(inputs, self.dtype))
        return (chunk.contiguous(), *context)


class _Step(nn.Module):
    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(self, chunk: Tensor, rows: tuple[Tensor, ...], context: tuple[Tensor, ...]) -> Tensor:
        return self.sampler.step(chunk, rows, context)


class _Finish(nn.Module):
    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(self, chunk: Tensor) -> Tensor:
        return self.sampler.finish(chunk)


def looped(
    name: str, module: Sampler, inputs: Mapping[str, Tensor], outputs: tuple[str, ...], options: GraphOptions,
    dtype: torch.dtype,
) -> ir.Model:  # fmt: skip
    """The joined graph, weights in `dtype`.

    Args:
        name: of the stage, for messages.
        module: on any device and in any mode; a copy is exported.
        inputs: example inputs by name.
        outputs: name of the answer.
        options: batch and opset.
        dtype: of the weights.

    Raises:
        ExportError: an operator has no ONNX form, or a part cannot be traced.
    """
    sampler = cpu_copy(module, dtype)
    if not isinstance(sampler, Sampler):
        raise TypeError(f"stage {name!r}: found a {type(sampler).__name__}, expected a Sampler")
    given = examples(inputs, options)
    with torch.no_grad():
        chunk, *context = (value.clone() for value in _Prefix(sampler, dtype)(given))
    rows = tuple(table[:1].clone() for table in sampler.tables)
    row_names = [f"row{number}" for number in range(len(rows))]
    names = [f"context{number}" for number in range(len(context))]
    prefix = converted(name, _Prefix(sampler, dtype).eval(), (given,), list(inputs), ["start", *names], options)
    given_step = (chunk, rows, tuple(context))
    body: nn.Module = _Step(sampler).eval()
    pulled = isinstance(sampler, GuidedSampler)
    if pulled:
        body = written_out(name, body, given_step)
    step = converted(name, body, given_step, [CHUNK, *row_names, *names], [NEXT], options, fixed=row_names)
    if pulled:
        norms_of_one_output(step.graph)
    finish = converted(name, _Finish(sampler).eval(), (chunk,), [CHUNK], list(outputs), options)
    return join(prefix, step, finish, [table.numpy() for table in sampler.tables])


def join(prefix: ir.Model, step: ir.Model, finish: ir.Model, tables: list[Table]) -> ir.Model:
    """Prefix, then the step once per row of `tables` (steps, ...), then the end; `prefix` becomes the joined graph.

    The prefix answers (chunk, *context), the step takes (chunk, a row of every table, *context) and answers the next
    chunk, the end takes it. All three are used up.
    """
    outer = prefix.graph
    start, *context = list(outer.outputs)
    _rename(step.graph, "step")
    _rename(finish.graph, "finish")
    for part in (step, finish):
        _adopt_weights(outer, part.graph)
    chunk_in, *others = list(step.graph.inputs)
    rows, wanted = others[: len(tables)], others[len(tables) :]
    ir.convenience.replace_all_uses_with(wanted, context)
    (next_chunk,), nodes = list(step.graph.outputs), list(step.graph)
    _release(step.graph, nodes)
    inside = _hoist(outer, nodes, (chunk_in, *rows))
    stacked: list[Table] = [table[:, None] for table in tables]
    inside, rows, stacked = tabulate(inside, rows, stacked, outer.opset_imports[""])
    loop = _loop(outer, stacked, start, (chunk_in, rows, next_chunk), inside)
    outer.append(loop)
    (end_in,), ends, end_nodes = list(finish.graph.inputs), list(finish.graph.outputs), list(finish.graph)
    ir.convenience.replace_all_uses_with(end_in, loop.outputs[0])
    _release(finish.graph, end_nodes)
    outer.extend(end_nodes)
    outer.outputs.clear()
    outer.outputs.extend(ends)
    for end in ends:
        end.name = str(end.name).removeprefix("finish.")
    return prefix


def _rename(graph: ir.Graph, part: str) -> None:
    """Names are unique across the joined graph and its body, which may not shadow one another."""
    for value in (*graph.inputs, *graph.initializers.values()):
        value.name = f"{part}.{value.name}"
    for node in ir.traversal.RecursiveGraphIterator(graph):
        node.name = f"{part}.{node.name}"
        for value in node.outputs:
            if value.name:
                value.name = f"{part}.{value.name}"


def _adopt_weights(outer: ir.Graph, part: ir.Graph) -> None:
    for value in list(part.initializers.values()):
        part.initializers.pop(str(value.name))
        outer.register_initializer(value)


def _release(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    graph.outputs.clear()
    graph.inputs.clear()
    graph.remove(nodes)


def _hoist(outer: ir.Graph, nodes: Iterable[ir.Node], changing: Iterable[ir.Value]) -> list[ir.Node]:
    """Append to `outer` what does not depend on a `changing` value; give back the rest, in order."""
    moving, inside = set(changing), []
    for node in nodes:
        has_body = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        if has_body or any(value in moving for value in node.inputs):
            moving.update(node.outputs)
            inside.append(node)
        else:
            outer.append(node)
    return inside


def _loop(
    outer: ir.Graph, tables: list[Table], start: ir.Value,
    ports: tuple[ir.Value, list[ir.Value], ir.Value], inside: list[ir.Node],
) -> ir.Node:  # fmt: skip
    """The `Loop` node; its constants are registered in `outer`."""
    chunk_in, rows, next_chunk = ports
    number = ir.Value(name="step.number", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    go = ir.Value(name="step.go", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    gathers = []
    for index, (row, table) in enumerate(zip(rows, tables, strict=True)):
        held = _constant(outer, f"step.table{index}", table)
        gathers.append(ir.node("Gather", [held, number], {"axis": 0}, name=f"step.read_row{index}", outputs=[row]))
    still = ir.Value(name="step.still_go", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    going = ir.node("Identity", [go], name="step.keep_going", outputs=[still])
    body = ir.Graph([number, go, chunk_in], [still, next_chunk], nodes=[going, *gathers, *inside], name="step")
    count = _constant(outer, "steps", np.array(len(tables[0]), np.int64))
    first = _constant(outer, "first_go", np.array(True))
    last = ir.Value(name="last_chunk", type=chunk_in.type, shape=chunk_in.shape)
    return ir.node("Loop", [count, first, start], {"body": body}, name="sampler", outputs=[last])


def _constant(graph: ir.Graph, name: str, content: Table) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(content).reshape(content.shape), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(content.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
