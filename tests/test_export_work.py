# SPDX-License-Identifier: Apache-2.0
"""Work is counted from the graph: equal to torch's own count, loops multiplied, constants as they are stored."""

from __future__ import annotations

import json
from pathlib import Path

import export_factory as tiny
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress import cli
from compress.costs import count_flops
from compress.export.bench_artifacts import work_of
from compress.export.errors import ExportError
from compress.export.work import count, count_model
from runtime.inference.roofline import WORK_FILE, Product, Work

FLOAT = TensorProto.FLOAT


def value(name: str, *shape: int | str, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def constant(name: str, *shape: int, kind: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, kind), name)


def model(
    nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], out: onnx.ValueInfoProto,
    tensors: list[onnx.TensorProto],
) -> ir.Model:  # fmt: skip
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, [out], tensors), opset_imports=[helper.make_opsetid("", 21)]
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(made, data_prop=True))


def test_a_draft_says_its_work_and_it_is_torchs_own_count() -> None:
    policy, rows = tiny.model(), tiny.trims().saved[0]
    said = Work.from_json(json.loads((tiny.draft() / WORK_FILE).read_text()), WORK_FILE)
    assert said == count(tiny.draft() / "policy.onnx") == work_of(tiny.draft())
    whole = count_flops(policy, policy.collate(tiny.samples()[:1]), policy.groups[0])[0]
    assert said.flops == rows.after.flops < rows.before.flops == whole
    assert said.weight_bytes < 4 * sum(p.numel() for p in policy.module.parameters())


def test_a_loop_is_multiplied_by_its_trips() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("MatMul", ["h", "w"], ["h2"])],
        "body",
        [value("i", kind=TensorProto.INT64), value("go", kind=TensorProto.BOOL), value("h", 2, 4)],
        [value("on", kind=TensorProto.BOOL), value("h2", 2, 4)],
    )
    trips = numpy_helper.from_array(np.array(10, np.int64), "trips")
    go = numpy_helper.from_array(np.array(True), "start")
    looped = helper.make_node("Loop", ["trips", "start", "x"], ["y"], body=body)
    made = model([looped], [value("x", 2, 4)], value("y", 2, 4), [constant("w", 4, 4), trips, go])
    assert count_model(made).products == (Product("float32", 2 * 2 * 4 * 4, 64, 10),)
    unknown = helper.make_node("Loop", ["n", "start", "x"], ["y"], body=body)
    inputs = [value("x", 2, 4), value("n", kind=TensorProto.INT64)]
    with pytest.raises(ExportError, match="no constant trip count"):
        count_model(model([unknown], inputs, value("y", 2, 4), [constant("w", 4, 4), go]))


def test_gemm_conv_and_einsum_are_counted() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Reshape", ["c", "to"], ["r"]),
        helper.make_node("Gemm", ["r", "w"], ["g"], transB=1),
        helper.make_node("Einsum", ["g", "e"], ["y"], equation="ab,bc->ac"),
    ]
    to = numpy_helper.from_array(np.array([9, 5], np.int64), "to")
    tensors = [constant("k", 5, 3, 2, 2), to, constant("w", 7, 5), constant("e", 7, 2)]
    work = count_model(model(nodes, [value("x", 1, 3, 4, 4)], value("y", 9, 2), tensors))
    assert {p.flops for p in work.products} == {2 * 45 * 12, 2 * 63 * 5, 2 * 9 * 7 * 2}
    assert work.weight_bytes == 4 * (60 + 35 + 14)


def test_quantised_weights_count_as_they_are_stored() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    four = helper.make_tensor("w", TensorProto.INT4, [64, 8], np.zeros(512, np.int8))
    work = count_model(model(nodes, [value("x", 1, 64)], value("y", 1, 8), [four, constant("s", 2, 8)]))
    assert work.products == (Product("float32", 2 * 64 * 8, 256 + 64, 1),)


def test_int8_products_are_int8() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["y"]),
    ]
    tensors = [constant("w", 8, 4, kind=np.int8)]
    made = model(nodes, [value("x", 2, 8)], value("y", 2, 4, kind=TensorProto.INT32), tensors)
    assert count_model(made).products == (Product("int8", 128, 32, 1),)


def test_sizes_that_are_not_static_are_refused() -> None:
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", "n", 4)], value("y", "n", 4),
                 [constant("w", 4, 4)])  # fmt: skip
    with pytest.raises(ExportError, match="expected static sizes"):
        count_model(made)


def test_compress_bench_writes_json_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = str(tiny.draft())
    assert cli.main(["bench", draft, draft, "--rounds", "3", "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "binds" in text
    data = json.loads((tmp_path / "out/bench.json").read_text())
    assert [row["name"] for row in data["artifacts"]] == ["1:draft", "2:draft"]
    assert data["artifacts"][0]["floor"]["ratio"] > 1.0
    assert (tmp_path / "out/bench.png").read_bytes().startswith(b"\x89PNG")
    assert "floor, bandwidth" in (tmp_path / "out/bench.svg").read_text()
