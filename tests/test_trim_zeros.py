# SPDX-License-Identifier: Apache-2.0
"""Zeros of stubs, unread keys and values, and what was computed for them alone, leave the graph; nothing else does."""

from __future__ import annotations

import family_pi05
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from family_cases import samples_for
from family_pi0 import tiny_config
from onnx import TensorProto, checker, helper, numpy_helper
from trim_cases import stub

from compress.export import parity
from compress.export.onnx_export import ExportedGraph, export_stage
from compress.export.trims import Saved, TrimSpec, trimmed
from compress.export.work import count_model, stored_bytes
from compress.export.zeros import skip_zeros
from compress.models.base import ExportStage, VlaModel

SHAPE = (1, 3, 4)


def graph(nodes: list[tuple[str, list[str], str]], **weights: np.ndarray) -> ir.Model:
    """Inputs x and gate, output y, all of `SHAPE`."""
    made = helper.make_graph(
        [helper.make_node(op, inputs, [output]) for op, inputs, output in nodes],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("x", "gate")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def answer(model: ir.Model) -> np.ndarray:
    proto = ir.to_proto(model)
    checker.check_model(proto, full_check=True)
    draw = np.random.default_rng(0)
    feed = {name: draw.normal(size=SHAPE).astype(np.float32) for name in ("x", "gate")}
    wanted = {i.name for i in proto.graph.input}
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {k: v for k, v in feed.items() if k in wanted})
    return np.asarray(found)


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ([("Add", ["x", "zero"], "a"), ("Relu", ["a"], "y")], ["Relu"]),
        ([("Add", ["zero", "x"], "a"), ("Relu", ["a"], "y")], ["Relu"]),
        ([("Sub", ["x", "zero"], "a"), ("Relu", ["a"], "y")], ["Relu"]),
        ([("Sub", ["zero", "x"], "a"), ("Relu", ["a"], "y")], ["Sub", "Relu"]),
        (  # a gate that is computed for nothing
            [("Tanh", ["gate"], "g"), ("Mul", ["g", "zero"], "m"), ("Add", ["x", "m"], "a"), ("Relu", ["a"], "y")],
            ["Relu"],
        ),
        ([("Identity", ["zero"], "z"), ("Add", ["x", "z"], "a"), ("Relu", ["a"], "y")], ["Relu"]),
        ([("Add", ["x", "one"], "a"), ("Relu", ["a"], "y")], ["Add", "Relu"]),
        ([("Add", ["row", "zero"], "a"), ("Add", ["a", "x"], "y")], ["Add", "Add"]),  # the zeros give it its shape
        ([("Add", ["x", "zero"], "y")], ["Add"]),  # an output keeps its name
        ([("Mul", ["x", "zero"], "a"), ("Softmax", ["a"], "y")], ["Mul", "Softmax"]),
    ],
)
def test_what_leaves_and_what_stays(nodes: list[tuple[str, list[str], str]], left: list[str]) -> None:
    weights = {"zero": np.zeros(SHAPE), "one": np.ones(SHAPE), "row": np.arange(4.0)}
    used = {name for _, inputs, _ in nodes for name in inputs}
    model = graph(nodes, **{name: value for name, value in weights.items() if name in used})
    before = answer(model)
    skip_zeros(model)
    assert operators(model) == left
    assert np.array_equal(answer(model), before)


def test_almost_zero_is_not_zero() -> None:
    small = np.zeros(SHAPE)
    small[0, 1, 2] = 1e-38
    model = graph([("Add", ["x", "small"], "a"), ("Relu", ["a"], "y")], small=small)
    assert skip_zeros(model) == 0
    assert operators(model) == ["Add", "Relu"]


def test_zeros_leave_the_body_of_a_loop() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Add", ["state", "zero"], ["same"]),
            helper.make_node("MatMul", ["same", "weight"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, SHAPE),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, SHAPE),
        ],
        value_info=[helper.make_tensor_value_info("same", TensorProto.FLOAT, SHAPE)],
    )
    weights = [
        numpy_helper.from_array(np.zeros(SHAPE, np.float32), "zero"),
        numpy_helper.from_array(np.eye(4, dtype=np.float32), "weight"),
        numpy_helper.from_array(np.array(5, np.int64), "trips"),
        numpy_helper.from_array(np.array(True), "first"),
    ]
    made = helper.make_graph(
        [helper.make_node("Loop", ["trips", "first", "x"], ["y"], body=body)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)], weights,
    )  # fmt: skip
    model = ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    before, size = answer(model), stored_bytes(model)
    assert count_model(model).flops == 5 * 2 * 3 * 4 * 4
    assert skip_zeros(model) == 1
    assert np.array_equal(answer(model), before)
    assert stored_bytes(model) == size - 4 * 12
    assert count_model(model).flops == 5 * 2 * 3 * 4 * 4


def cut_pi05() -> VlaModel:
    """Pair 1 gone from both stacks; of pair 2 the expert's attention alone; the language stack's last block unread."""
    config = tiny_config()
    config.num_inference_steps = 1
    model = family_pi05.make(0, config)
    stub(model, "language", (1, 3))
    stub(model, "action", (1,))
    stub(model, "action", (2,), "a")
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportedGraph, Saved]:
    model, folder = cut_pi05(), tmp_path_factory.mktemp("kv")
    small = trimmed(model.stages()[0], model.specs(), model.side_files()["tokenizer.json"], TrimSpec(("kv",)))
    made = export_stage(small.stage, folder, rewrite=small.rewrite)
    (saved,) = small.saved
    return made, saved


def test_a_cut_policy_gets_smaller_and_answers_the_same(exported: tuple[ExportedGraph, Saved]) -> None:
    made, saved = exported
    assert int(saved.what[0].split()[0]) >= 2  # of pair 1's language block, and of pair 2's attention
    assert saved.after.bytes < saved.before.bytes
    model = cut_pi05()
    seen = parity.observations([(s.sample_id, model.collate([s]).inputs) for s in samples_for(model, 8)])
    action, norms = model.specs()["action"], model.io.normalizers.action  # type: ignore[attr-defined]
    assert parity.check(model.stages()[0], made.path, made.spec, seen, action, norms).passed


def test_no_zeros_are_added_and_no_unread_keys_are_left(exported: tuple[ExportedGraph, Saved]) -> None:
    model = ir.load(exported[0].path)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.inputs if node.op_type in ("Add", "Mul") else ():
            held = None if value is None else value.const_value
            wide = held is not None and held.dtype is ir.DataType.FLOAT and len(held.shape) > 1
            assert not (wide and not np.any(held.numpy())), node
    # keys and values of language blocks: 48 wide to one head of 8. Blocks 0 and 3 are read by the expert, block 2 by
    # itself; block 1 is read by nobody
    keys = [v for v in model.graph.initializers.values() if v.shape is not None and tuple(v.shape.numpy()) == (48, 8)]
    assert len(keys) == 6


def test_the_module_is_left_alone() -> None:
    model = cut_pi05()
    stage = model.stages()[0]
    inputs = list(model.collate(samples_for(model, 1)).inputs.values())
    small = trimmed(stage, model.specs(), model.side_files()["tokenizer.json"], TrimSpec(("kv",)))
    with torch.no_grad():
        assert torch.equal(small.stage.module(*inputs), stage.module(*inputs))
    assert small.saved == []


def test_nothing_to_save_is_said() -> None:
    model = graph([("Relu", ["x"], "y")])
    found = trimmed(*_plain())
    found.rewrite(model)
    assert found.saved[-1].describe() == "trim kv: nothing to do"


def _plain() -> tuple[ExportStage, dict[str, object], bytes, TrimSpec]:
    model = cut_pi05()
    return model.stages()[0], model.specs(), model.side_files()["tokenizer.json"], TrimSpec(("kv",))
