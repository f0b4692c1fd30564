# SPDX-License-Identifier: Apache-2.0
"""Fewer bits in a graph with a loop: what its body reads comes before it, and what was not asked for stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import flow_factory as tiny
import numpy as np
import onnx
import pytest
from family_cases import case, samples_for
from test_guided_graph import ACTION, GUIDED, NORM, SHA, observations, stage

from compress.export.answers import engine_for, graph_answers
from compress.export.draft import export_draft
from compress.export.matrices import float_matrices, int4_matrices
from compress.export.onnx_export import export_stage
from compress.export.options import GraphOptions
from compress.export.quantize import INT4_OPSET, quantize_graph
from compress.export.quantize_budget import Quantize, quantize_within
from runtime.contract.conventions import Precision


def test_loop_in_int8_comes_after_what_its_body_reads(tmp_path: Path) -> None:
    """ONNX Runtime's quantiser puts it first, with guidance or without; the checker refuses that."""
    for name in ("float", "int8"):
        (tmp_path / name).mkdir()
    graph = export_stage(stage(), tmp_path / "float", options=GUIDED)
    small = quantize_graph(graph, tmp_path / "int8", "int8")
    assert len(small.quantized) == 10
    free = graph_answers(engine_for(Precision.FP32), graph.path, graph.spec, observations(), 1)
    found = graph_answers(engine_for(Precision.FP32), small.graph.path, graph.spec, observations(), 1)
    assert 0.0 < np.abs(found - free).max() < 0.2


@pytest.mark.parametrize("pulled", [False, True])
def test_loop_in_int4_leaves_what_no_block_divides(pulled: bool, tmp_path: Path) -> None:
    """Rows of 8, 10 and 14 in the loop's body: they stay float, by name, and the answers stay within the budget."""
    seen, options = (observations(), GUIDED) if pulled else (tiny.observations(), GraphOptions())
    exported = export_stage(stage() if pulled else tiny.stage(), tmp_path, options=replace(options, opset=INT4_OPSET))
    before = {m.node: m.rows for m in float_matrices(onnx.load(str(exported.path)))}
    free = graph_answers(engine_for(Precision.FP32), exported.path, exported.spec, seen, 1)
    small, report = quantize_within(exported, Quantize("int4", 0.25), seen, ACTION, NORM, lambda _: None)
    uneven = {node for node, rows in before.items() if rows % report.block}
    assert any(node.startswith("step.") for node in uneven)
    whole = onnx.load(str(small.path))
    assert {m.node for m in float_matrices(whole)} == set(report.kept) >= uneven
    assert len(int4_matrices(whole, report.block)) == report.quantized == len(before) - len(report.kept) > 0
    found = graph_answers(engine_for(Precision.FP32), small.path, small.spec, seen, 1)
    error = np.abs(found - free).reshape(-1, len(NORM.scale)).max(axis=0) * NORM.scale
    assert 0.0 < error.max() <= 0.25


@pytest.mark.slow
@pytest.mark.parametrize("pulled", [False, True])
def test_smolvla_ships_in_int4(pulled: bool, tmp_path: Path) -> None:
    model = case("smolvla").make(0)
    lineage = {"source": {"name": "tiny", "revision": "t", "sha256": SHA}, "recipe_sha256": SHA, "plan_sha256": SHA}
    made = export_draft(
        model, samples_for(model, 8), tmp_path / "draft", lineage,
        quantize=Quantize("int4", 0.25), options=GraphOptions(guided=pulled),
    )  # fmt: skip
    assert made.golden.ok
    assert made.quantized is not None
    assert made.quantized.quantized > 0
    assert any(node.startswith("step.") for node in made.quantized.kept)
