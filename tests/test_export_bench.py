# SPDX-License-Identifier: Apache-2.0
"""Latency is measured fairly: same inputs, turns in both orders, ratios per round, threads recorded."""

from __future__ import annotations

import json

import export_factory as tiny
import numpy as np
import pytest
import torch

from compress.export import bench
from compress.export.errors import ExportError


@pytest.fixture(scope="module")
def report() -> bench.BenchReport:
    return bench.compare({"before": (tiny.draft(), tiny.model()), "after": (tiny.draft(), None)}, rounds=4)


def test_contenders_take_turns_in_both_orders() -> None:
    seen: list[str] = []
    bench.interleave({name: lambda _, name=name: seen.append(name) for name in "abc"}, rounds=3)
    assert "".join(seen[3 * bench.WARM_UP :]) == "abccbaabc"


def test_every_contender_sees_the_same_inputs_in_the_same_order() -> None:
    seen: dict[str, list[int]] = {"a": [], "b": []}
    bench.interleave({name: calls.append for name, calls in seen.items()}, rounds=5)
    assert seen["a"] == seen["b"]


def test_report_covers_torch_graph_and_robot_path(report: bench.BenchReport) -> None:
    names = [timing.name for timing in report.timings]
    expected = ["before/torch", "before/onnxruntime", "before/policy", "after/onnxruntime", "after/policy"]
    assert names == expected
    for timing in report.timings:
        assert 0 < timing.p50_ms <= timing.p95_ms <= timing.p99_ms
        assert timing.rounds == 4


def test_first_artifact_is_the_reference(report: bench.BenchReport) -> None:
    assert report.speedup["before"] == 1.0
    assert list(report.torch_over_graph) == ["before"]


def test_ratio_is_the_median_of_rounds_not_the_ratio_of_medians() -> None:
    wall = {"a/onnxruntime": np.array([1.0, 10.0, 1.0]), "b/onnxruntime": np.array([0.5, 5.0, 2.0])}
    made = bench.report_of(("a", "b"), wall, wall, threads=1)
    assert made.speedup["b"] == 2.0


def test_report_is_json_with_threads_and_machine(report: bench.BenchReport) -> None:
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["threads"] == 1
    assert data["machine"]["cpus"] >= 1
    assert "torch" in data["versions"]


def test_threads_of_torch_are_restored() -> None:
    before = torch.get_num_threads()
    bench.compare({"one": (tiny.draft(), None)}, rounds=1, threads=before + 1)
    assert torch.get_num_threads() == before


def test_table_has_a_line_per_contender(report: bench.BenchReport) -> None:
    lines = bench.table(report)
    assert sum("/" in line for line in lines) == len(report.timings)


def test_unknown_contender_lists_what_there_is(report: bench.BenchReport) -> None:
    with pytest.raises(ExportError, match=r"available.*before/torch"):
        report.timing("before", "tensorrt")


@pytest.mark.parametrize(("rounds", "threads"), [(0, 1), (1, 0)])
def test_nothing_to_measure_is_refused(rounds: int, threads: int) -> None:
    with pytest.raises(ExportError, match="expected at least 1 of each"):
        bench.compare({"one": (tiny.draft(), None)}, rounds=rounds, threads=threads)
