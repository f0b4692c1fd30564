# SPDX-License-Identifier: Apache-2.0
"""What was asked for is what was quantised, what it costs is known in commands, and above the budget nothing ships."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import export_factory as tiny
import numpy as np
import onnx
import pytest
from artifact_factory import normalizers
from onnx import numpy_helper
from quantize_factory import SPEC, chain, observations, weights

from compress.export import draft as draft_module
from compress.export import quantize as quantize_module
from compress.export.draft import export_draft
from compress.export.engine_error import answers, engine_errors
from compress.export.errors import ExportError, ParityError
from compress.export.matrices import float_matrices, int4_matrices, int8_matrices
from compress.export.onnx_export import ExportedGraph
from compress.export.proofs import PARITY_FILE
from compress.export.quantize import BLOCKS, block_size, needed_opset, quantize_graph
from compress.export.quantize_budget import Quantize, quantize_within
from compress.report import view_export
from compress.report.evidence import collect
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.contract.artifact import read_artifact
from runtime.contract.conventions import Precision
from runtime.inference.golden import golden_parity
from runtime.inference.policy import Policy

ALL = ("matmul.in", "matmul.0", "matmul.1", "matmul.2", "matmul.out")


@pytest.fixture
def graph(tmp_path: Path) -> ExportedGraph:
    return chain(tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def said(graph: ExportedGraph) -> np.ndarray:
    inputs = [{n: v.numpy() for n, v in tensors.items()} for tensors in observations().values()]
    return answers(OnnxRuntimeBackend(threads=1), graph.path, graph.spec, inputs)


def within(graph: ExportedGraph, kind: str, budget: float, say: Any = lambda _: None) -> Any:
    return quantize_within(graph, Quantize(kind, budget), observations(), SPEC.action, normalizers().action, say)


def test_every_matrix_becomes_int8_and_answers_stay_close(graph: ExportedGraph, out: Path) -> None:
    made = quantize_graph(graph, out, "int8")
    model = onnx.load(str(made.graph.path))
    assert (made.quantized, made.kept, made.block) == (ALL, (), 0)
    assert (len(int8_matrices(model)), float_matrices(model)) == (5, [])
    assert 0.0 < np.abs(said(made.graph) - said(graph)).max() < 0.1
    assert made.graph.parameters_bytes < 0.4 * graph.parameters_bytes


def test_int8_weights_use_seven_bits(graph: ExportedGraph, out: Path) -> None:
    """Two products of 8 bits overflow the 16-bit sums of processors without VNNI."""
    model = onnx.load(str(quantize_graph(graph, out, "int8").graph.path))
    found = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    largest = [int(np.abs(values.astype(int)).max()) for values in found if values.ndim == 2]
    assert len(largest) == 5
    assert max(largest) <= 64


def test_int4_blocks_are_the_weights_to_half_a_step(graph: ExportedGraph, out: Path) -> None:
    made = quantize_graph(graph, out, "int4")
    assert (made.block, made.quantized, made.kept) == (64, ALL[1:], ("matmul.in",))  # 8 rows are no block of 64
    model = onnx.load(str(made.graph.path))
    constants = {t.name: t for t in model.graph.initializer}
    named = dict(zip(ALL, weights(), strict=True))
    shown = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(shown) == len(int4_matrices(model, 64)) == 4
    for node in shown:
        packed, scales = (numpy_helper.to_array(constants[name]) for name in node.input)
        true = weights()[named[node.name.removesuffix("_DQ_Q4")]]
        assert packed.astype(np.int64).min() >= -8
        error = np.abs(packed.astype(np.float32) * scales.repeat(64, axis=0) - true)
        assert (error <= 0.51 * np.abs(scales)).all() or error.max() <= np.abs(scales).max()
    assert 0.0 < np.abs(said(made.graph) - said(graph)).max() < 0.6


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_matrices_at_both_ends_may_stay(graph: ExportedGraph, out: Path, kind: str) -> None:
    made = quantize_graph(graph, out, kind, ends=1)
    assert (made.quantized, made.kept) == (ALL[1:-1], (ALL[0], ALL[-1]))
    assert [m.node for m in float_matrices(onnx.load(str(made.graph.path)))] == [ALL[0], ALL[-1]]


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantising_twice_gives_the_same_bytes(graph: ExportedGraph, tmp_path: Path, kind: str) -> None:
    read = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        made = quantize_graph(graph, tmp_path / name, kind)
        read.append((made.graph.path.read_bytes(), made.graph.data.read_bytes()))
    assert read[0] == read[1]


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_identity_stays_and_the_quantiser_leaves_no_note(graph: ExportedGraph, out: Path, kind: str) -> None:
    model = onnx.load(str(quantize_graph(graph, out, kind).graph.path), load_external_data=False)
    assert [(p.key, p.value) for p in model.metadata_props] == [("dropgate.lineage_id", "a" * 64)]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
    assert {node.domain for node in model.graph.node} == {""}


def test_quantiser_that_silently_does_nothing_is_refused(
    graph: ExportedGraph, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's own quantiser, asked for 8-bit weights as QDQ: it answers, and every matrix is still float."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.quant_utils import QuantFormat

    def eight_bit_weights(path: Path, asked: Any) -> onnx.ModelProto:
        del asked
        quantizer = MatMulNBitsQuantizer(onnx.load(str(path)), bits=8, is_symmetric=True, quant_format=QuantFormat.QDQ)
        quantizer.process()
        return quantizer.model.model

    monkeypatch.setattr(quantize_module, "_int8", eight_bit_weights)
    with pytest.raises(
        ExportError, match=r"int8: found 0 quantised matrices in the result, expected 5; still float: \["
    ):
        quantize_graph(graph, out, "int8")


def test_graph_without_matrices_is_refused(tmp_path: Path, out: Path) -> None:
    with pytest.raises(
        ExportError, match=r"int8: found 5 constant matrices, 0 of them to quantise \(3 kept at each end"
    ):
        quantize_graph(chain(tmp_path), out, "int8", ends=3)


def test_int4_needs_opset_21(tmp_path: Path, out: Path) -> None:
    with pytest.raises(ExportError, match="int4: found a graph of opset 20, expected 21 or above"):
        quantize_graph(chain(tmp_path, opset=20), out, "int4")
    assert (needed_opset("int4", 20), needed_opset("int4", 22), needed_opset("int8", 20)) == (21, 22, 20)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_matrices_inside_a_loop_are_quantised_too(tmp_path: Path, out: Path, kind: str) -> None:
    graph = chain(tmp_path, loop=True)
    assert tuple(m.node for m in float_matrices(onnx.load(str(graph.path)))) == ALL
    made = quantize_graph(graph, out, kind)
    assert set(made.quantized) == set(ALL if kind == "int8" else ALL[1:])
    assert 0.0 < np.abs(said(made.graph) - said(graph)).max() < 0.6


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_matrices_inside_a_loop_that_were_not_asked_for_stay(tmp_path: Path, out: Path, kind: str) -> None:
    made = quantize_graph(chain(tmp_path, loop=True), out, kind, ends=2)
    assert (made.quantized, made.kept) == (("matmul.1",), (*ALL[:2], *ALL[3:]))
    model = onnx.load(str(made.graph.path))
    assert sorted(m.node for m in float_matrices(model)) == sorted(made.kept)
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name in ("in", "block.0", "block.2", "out"):
        assert np.array_equal(held[name], weights()[name])


def test_block_is_the_largest_that_most_matrices_take() -> None:
    from compress.export.matrices import Matrix

    assert block_size([Matrix("a", 256, 8), Matrix("b", 384, 8)]) == BLOCKS[0] == 128
    assert block_size([Matrix("a", 192, 8), Matrix("b", 768, 8)]) == 64
    assert block_size([Matrix("a", 96, 8), Matrix("b", 7, 8)]) == 32


def test_logging_is_as_it_was(graph: ExportedGraph, out: Path) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.root.manager.disable)
    quantize_graph(graph, out, "int4")
    assert (list(root.handlers), root.level, logging.root.manager.disable) == before


def test_errors_are_in_the_units_of_each_dimension() -> None:
    wanted = np.zeros((2, 8, 7))
    found = wanted.copy()
    found[1, 3, :] = 0.5
    scale = normalizers().action.scale
    for dim, spec, share in zip(
        engine_errors(found, wanted, SPEC.action, normalizers().action), SPEC.action.dims, scale, strict=True
    ):
        assert (dim.name, dim.unit) == (spec.name, spec.unit.value)
        assert dim.largest_command == pytest.approx(0.5 * share)
        assert dim.largest == pytest.approx(0.5 * share * spec.scale)
        assert dim.rms_command == pytest.approx(0.5 * share / 4)


def test_budget_that_everything_meets_keeps_nothing(graph: ExportedGraph) -> None:
    before = said(graph)
    made, report = within(graph, "int8", 0.25)
    assert (report.kept, report.quantized, report.observations) == ((), 5, 8)
    assert made.path == graph.path
    assert int8_matrices(onnx.load(str(graph.path)))
    error = np.abs(said(made) - before).max(axis=(0, 1)) * normalizers().action.scale
    np.testing.assert_allclose([dim.largest_command for dim in report.dims], error, rtol=1e-6)


def test_tighter_budget_keeps_the_ends(graph: ExportedGraph, tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "copy").mkdir()
    with pytest.raises(ParityError):
        within(chain(tmp_path / "copy", blocks=6), "int4", 1e-4, lines.append)
    reached = sorted(float(line.split(" of a command")[0].split()[-1]) for line in lines)
    assert reached[0] < reached[-1]
    (tmp_path / "again").mkdir()
    made, report = within(chain(tmp_path / "again", blocks=6), "int4", (reached[0] + reached[-1]) / 2)
    assert len(report.kept) > 1
    assert report.worst.largest_command <= report.budget
    assert made.parameters_bytes == report.bytes_after


def test_error_above_the_budget_is_refused_and_leaves_the_graph_alone(graph: ExportedGraph) -> None:
    before = graph.data.read_bytes()
    message = (
        r"int4: \w+ is off by 0\.\d+ of a command \(.* (m|rad|ratio)\) at best, with \d matrices in float; the budget"
    )
    with pytest.raises(ParityError, match=message):
        within(graph, "int4", 1e-4)
    assert graph.data.read_bytes() == before
    assert sorted(path.name for path in graph.path.parent.iterdir()) == ["policy.onnx", "policy.onnx.data"]


@pytest.mark.parametrize(("kind", "budget"), [("int8", 0.0), ("int8", 0.3), ("int8", float("nan")), ("int2", 0.1)])
def test_budget_that_is_none_is_refused(kind: Any, budget: float) -> None:
    with pytest.raises(ExportError, match="quantize"):
        Quantize(kind, budget)


def test_draft_declares_what_it_is_and_golden_follows_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real path of the exporter, with a graph of the tiny policy that was exported before."""

    def copy(stage: Any, folder: Path, metadata: Any = None, **options: Any) -> ExportedGraph:
        made = tiny.exported()
        for path in (made.path, made.data):
            shutil.copy(path, folder)
        return replace(made, path=folder / made.path.name, data=folder / made.data.name)

    model = tiny.model()
    tiny.exported()
    monkeypatch.setattr(draft_module, "export_stage", copy)
    asked = Quantize("int8", 0.2)
    made = export_draft(model, tiny.samples(), tmp_path / "draft", tiny.lineage(model), quantize=asked)
    manifest = read_artifact(tmp_path / "draft").manifest
    assert (manifest.policy.engine.precision, manifest.golden.max_abs) == (Precision.INT8, 0.2)
    told = json.loads((tmp_path / "draft" / PARITY_FILE).read_bytes())
    assert told["passed"]
    assert (told["quantize"]["kind"], told["quantize"]["budget"]) == ("int8", 0.2)
    assert [d["name"] for d in told["quantize"]["dims"]] == list(manifest.policy.action.names)
    shown = view_export.parity(collect(tmp_path / "draft"))
    assert shown is not None
    assert "Shipped in int8: " in shown.notes[-1]
    assert "0.2 was allowed" in shown.notes[-1]
    assert made.quantized is not None
    assert made.parameters_bytes == made.quantized.bytes_after < made.quantized.bytes_before
    with Policy.load(tmp_path / "draft", threads=1, allow_unsealed=True) as policy:
        found = golden_parity(policy)
    assert found.ok
    assert max(found.max_abs.values()) > 1e-4  # the float tolerance would have refused it
    with pytest.raises(ParityError, match=r"the budget is 0\.0001"):
        export_draft(model, tiny.samples(), tmp_path / "no", tiny.lineage(model), quantize=Quantize("int8", 1e-4))
    assert not (tmp_path / "no").exists()
