# SPDX-License-Identifier: Apache-2.0
"""Edits of an ONNX file that know its structure; each says what must come of it.

`early`: refused before an engine sees the file. `neutral`: loads and answers the same. `any`: refused, or loads.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import onnx
from onnx import TensorProto, helper

Edit = Callable[[random.Random, Any], None]
EDITS: dict[str, tuple[str, Edit]] = {}
HUGE = (2**31, 2**40, 2**62, 2**63 - 1)


def edit(expect: str) -> Callable[[Edit], Edit]:
    def register(function: Edit) -> Edit:
        EDITS[function.__name__] = (expect, function)
        return function

    return register


def nodes(model: Any) -> list[Any]:
    """All nodes, inner graphs included."""
    found, pending = [], [model.graph]
    while pending:
        graph = pending.pop()
        for node in graph.node:
            found.append(node)
            pending += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found


@edit("early")
def operator_renamed(rng: random.Random, model: Any) -> None:
    rng.choice(nodes(model)).op_type = rng.choice(
        ["Evil", "mul", "PyOp", "ATen", "FusedMatMul", "Affine", "é", "A" * 99]
    )


@edit("early")
def operator_refused(rng: random.Random, model: Any) -> None:
    rng.choice(nodes(model)).op_type = rng.choice(["ImageDecoder", "RegexFullMatch", "RandomNormal", "SequenceEmpty"])


@edit("any")
def operator_exchanged(rng: random.Random, model: Any) -> None:
    rng.choice(nodes(model)).op_type = rng.choice(
        ["Add", "Mul", "Neg", "Loop", "If", "Constant", "Expand", "Tile", "Pad"]
    )


@edit("early")
def domain_set(rng: random.Random, model: Any) -> None:
    rng.choice(nodes(model)).domain = rng.choice(["com.microsoft", "evil", "ai.onnx.ml", "com.microsoft.nchwc", " "])


@edit("early")
def domain_imported(rng: random.Random, model: Any) -> None:
    model.opset_import.append(helper.make_opsetid(rng.choice(["com.microsoft", "evil", "ai.onnx.ml", "ai.onnx"]), 1))


@edit("early")
def opset_changed(rng: random.Random, model: Any) -> None:
    model.opset_import[0].version = rng.choice([0, 1, 7, 16, 23, 99, -1, 2**62])


@edit("early")
def ir_version_changed(rng: random.Random, model: Any) -> None:
    model.ir_version = rng.choice([-1, 0, 1, 3, 6, 99, 2**62])


@edit("early")
def function_added(rng: random.Random, model: Any) -> None:
    name = rng.choice(["Add", "Mul", "Evil"])
    model.functions.append(helper.make_function("", name, ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])],
                                                model.opset_import))  # fmt: skip


@edit("early")
def training_added(rng: random.Random, model: Any) -> None:
    model.training_info.add().algorithm.name = "x"


@edit("early")
def trips_huge(rng: random.Random, model: Any) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "rounds":
            tensor.raw_data = rng.choice([2**62, 2**63 - 1, -1, 1025]).to_bytes(8, "little", signed=True)
            return
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["never"], body=onnx.GraphProto(name="b")))


@edit("early")
def trips_computed(rng: random.Random, model: Any) -> None:
    model.graph.node.append(helper.make_node("Size", ["pixels"], ["many"]))
    model.graph.node.append(helper.make_node("Loop", ["many", ""], ["never"], body=onnx.GraphProto(name="b")))


@edit("early")
def graphs_nested(rng: random.Random, model: Any) -> None:
    graph = onnx.GraphProto(name="leaf")
    for _ in range(rng.choice([9, 15, 25])):
        outer = onnx.GraphProto(name="g")
        outer.node.append(
            helper.make_node("If", ["go"], ["x"], then_branch=graph, else_branch=onnx.GraphProto(name="e"))
        )
        graph = outer
    model.graph.node.append(graph.node[0])


@edit("early")
def input_changed(rng: random.Random, model: Any) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    if rng.random() < 0.3:
        value.name = rng.choice(["", "x", "actions", "pixels", "actions2"]) or "renamed"
        value.name += "_"
    else:
        rng.choice(value.type.tensor_type.shape.dim).dim_value = rng.choice([97, *HUGE])  # sizes that no axis has


@edit("early")
def axes_many(rng: random.Random, model: Any) -> None:
    model.graph.value_info.append(
        helper.make_tensor_value_info("wide", TensorProto.FLOAT, [1] * rng.choice([9, 64, 999]))
    )


@edit("any")
def attribute_removed(rng: random.Random, model: Any) -> None:
    having = [node for node in nodes(model) if node.attribute]
    node = rng.choice(having)
    node.attribute.remove(rng.choice(node.attribute))


@edit("any")
def attribute_changed(rng: random.Random, model: Any) -> None:
    attribute = rng.choice([a for node in nodes(model) for a in node.attribute])
    attribute.i = rng.choice([-1, 0, 1, 2, 99, *HUGE, -(2**63)])
    if rng.random() < 0.5:
        attribute.type = rng.choice([1, 2, 3, 4, 5, 7])


@edit("any")
def node_removed(rng: random.Random, model: Any) -> None:
    model.graph.node.remove(rng.choice(model.graph.node))


@edit("any")
def node_doubled(rng: random.Random, model: Any) -> None:
    model.graph.node.append(rng.choice(model.graph.node))


@edit("any")
def wires_crossed(rng: random.Random, model: Any) -> None:
    having = [node for node in nodes(model) if node.input]
    names = [name for node in nodes(model) for name in (*node.input, *node.output)] + ["", "none"]
    node = rng.choice(having)
    node.input[rng.randrange(len(node.input))] = rng.choice(names)


@edit("any")
def memory_asked_for(rng: random.Random, model: Any) -> None:
    size = rng.choice([2**33, 2**36, 2**40, 2**62])
    model.graph.initializer.append(helper.make_tensor("much", TensorProto.INT64, [1], [size]))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["much"], ["filled"]))
    model.graph.node.insert(1, helper.make_node("ReduceSum", ["filled"], ["sum"], keepdims=0))
    last = model.graph.node[-1]
    model.graph.node.append(helper.make_node("Add", ["before", "sum"], ["actions"]))
    last.output[0] = "before"


@edit("early")
def metadata_foreign(rng: random.Random, model: Any) -> None:
    key = rng.choice(["ort_config", "evil", "", "dropgate.lineage_id"])
    model.metadata_props.add(key=key, value='{"session_options": {"inter_op_num_threads": 99}}')


@edit("neutral")
def notes_changed(rng: random.Random, model: Any) -> None:
    choice = rng.randrange(4)
    if choice == 0:
        model.producer_name = f"tool {rng.random()}"
    elif choice == 1:
        model.graph.doc_string = f"note {rng.random()}"
    elif choice == 2:
        rng.choice(nodes(model)).name = f"node {rng.random()}"
    else:
        model.metadata_props.add(key=f"dropgate.{rng.randrange(10**6)}", value="x")
