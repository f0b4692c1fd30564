# SPDX-License-Identifier: Apache-2.0
"""The robot's bench: turns, fresh processes, stages that add up, floors that are limits, peaks that are measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from artifact_factory import artifact_files, write_draft
from hypothesis import given
from hypothesis import strategies as st

from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.contract.artifact import Artifact
from runtime.contract.conventions import FileRole
from runtime.contract.manifest import canonical_json
from runtime.contract.write import ArtifactFile
from runtime.errors import BackendError, ContractError
from runtime.inference import machine, probe_graphs
from runtime.inference.bench import Bench, bench, named
from runtime.inference.bench_table import table
from runtime.inference.peak import measure
from runtime.inference.policy import STAGES
from runtime.inference.roofline import WORK_FILE, Peak, Product, Work, floor
from runtime.inference.turns import Contender, take_turns

WORK = Work((Product("float32", 2_000_000, 4096, 3),))
PEAK = Peak({"float32": 1e9, "int8": 4e9}, 1e9, 1e-6)


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    work = {WORK_FILE: ArtifactFile(FileRole.EVIDENCE, canonical_json(WORK.to_json()))}
    return write_draft(tmp_path_factory.mktemp("artifact") / "draft", files={**artifact_files(), **work})


@pytest.fixture(scope="module")
def report(draft: Artifact) -> Bench:
    return bench({"a": draft.root, "b": draft.root}, runs=4, threads=1)


class Recorder:
    """Writes down when it is asked."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    def wait_ready(self) -> dict[str, Any]:
        return {}

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        self.seen.append(f"{self.name}{question['call']}")
        return {"ms": 1.0}


def test_contenders_take_turns_and_the_order_is_reversed() -> None:
    seen: list[str] = []
    first, timed = take_turns({name: Recorder(name, seen) for name in "ab"}, 3, warm_up=1)  # type: ignore[misc]
    assert seen == ["a0", "b0", "a0", "b0", "b1", "a1", "a2", "b2"]
    assert [len(first["a"]), len(timed["b"])] == [1, 3]


CHATTY = """
from runtime.inference.turns import serve
def start():
    print("a library says hello")
    return {"up": True}, lambda question: {"twice": 2 * question["call"]}
serve(start)
"""


def test_what_libraries_print_is_no_answer() -> None:
    child = Contender("chatty", ["-c", CHATTY])
    assert child.wait_ready() == child.wait_ready() == {"up": True}
    assert child.ask({"call": 4}) == {"twice": 8}
    child.close()


def test_a_child_that_dies_is_named_with_its_last_words() -> None:
    child = Contender("lost", ["-c", "raise SystemExit('no engine of that name')"])
    with pytest.raises(BackendError, match="lost: its process ended with code 1: no engine of that name"):
        child.wait_ready()
    child.close()


def test_a_child_that_does_not_answer_is_ended_and_named() -> None:
    child = Contender("stuck", ["-c", "import sys; sys.stdin.read()"], timeout_s=0.0)
    with pytest.raises(BackendError, match=r"stuck: found no answer within 0 s, .* ended; its last words: no message"):
        child.wait_ready()
    with pytest.raises(BackendError, match="stuck: its process ended with code -9"):
        child.ask({"call": 0})
    child.close()


def test_an_artifact_that_cannot_run_is_refused_with_its_own_reason(tmp_path: Path) -> None:
    broken = write_draft(tmp_path / "draft")
    (broken.root / "policy.onnx").write_bytes(b"")
    with pytest.raises(Exception, match=r"policy\.onnx"):
        bench({"a": broken.root}, runs=1)
    good = write_draft(tmp_path / "good")
    with pytest.raises(BackendError, match=r"found 'warp', available"):
        bench({"a": good.root}, runs=1, backend="warp")


def test_stages_lie_inside_the_call(report: Bench) -> None:
    for row in report.artifacts:
        assert tuple(row.stages) == STAGES
        assert all(value > 0.0 for value in row.stages.values())
        assert all(value <= row.p50_ms for value in row.stages.values())  # a part of each call: so are the medians
        assert sum(row.stages.values()) <= 2.0 * row.max_ms  # a median is at most twice its mean, on any machine
        assert row.p50_ms <= row.p95_ms <= row.p99_ms <= row.max_ms


def test_scripted_latency_is_found_in_the_inference_stage(draft: Artifact) -> None:
    found = bench({"a": draft.root}, runs=3, backend="fake:" + ",".join(["0.2"] * 7)).artifacts[0]
    assert 200.0 <= found.stages["inference"] <= found.p50_ms
    assert found.stages["preprocess"] < 200.0


def test_cold_start_and_memory_are_those_of_a_fresh_process(report: Bench) -> None:
    for row in report.artifacts:
        assert 0.0 < row.cold["load_s"] < row.cold["first_action_s"]
        assert len(row.cold["warm_up_ms"]) == 3
        assert 0 < row.memory["loaded"] <= row.memory["rss_peak"]
    assert report.artifacts[0].times_first == 1.0


def test_report_is_json_with_machine_load_and_peaks(report: Bench) -> None:
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["machine"]["cpus"] >= 1
    assert set(data["load"]) == {"before", "after"}
    assert data["peaks"]["a"]["flops"]["float32"] > 1e8
    assert data["artifacts"][0]["floor"]["floor_ms"] > 0.0


def test_table_has_every_artifact_in_every_block(report: Bench) -> None:
    lines = table(report)
    assert sum(line.startswith("a ") for line in lines) == 4
    assert any("binds" in line for line in lines)


def test_nothing_to_measure_is_refused(draft: Artifact) -> None:
    for artifacts, runs in (({}, 1), ({"a": draft.root}, 0)):
        with pytest.raises(ContractError, match="expected at least 1 of each"):
            bench(artifacts, runs)


def test_names_tell_artifacts_apart() -> None:
    assert list(named([Path("/x/a"), Path("/x/b")])) == ["a", "b"]
    assert list(named([Path("/run1/seal/artifact"), Path("/run2/seal/artifact")])) == [
        "run1/seal/artifact", "run2/seal/artifact",
    ]  # fmt: skip
    assert list(named([Path("/x/a"), Path("/x/a")])) == ["1:a", "2:a"]


@pytest.mark.parametrize(
    ("product", "binds", "ms"),
    [
        (Product("float32", 2_000_000, 4096, 5), "compute", 5 * 2.001),
        (Product("int8", 2_000_000, 4096, 5), "compute", 5 * 0.501),
        (Product("float32", 2_000, 3_000_000, 2), "bandwidth", 2 * 3.001),
        (Product("float32", 20, 30, 7), "launch", 7 * 0.00103),
    ],
)
def test_floor_is_the_sum_of_the_larger_terms(product: Product, binds: str, ms: float) -> None:
    found = floor(Work((product,)), PEAK, achieved_ms=1.2 * ms)
    assert found.floor_ms == pytest.approx(ms, rel=1e-6)
    assert (found.binds, found.ratio) == (binds, pytest.approx(1.2))
    assert floor(Work((product,)), PEAK, achieved_ms=5 * ms).binds == "overhead"


PRODUCTS = st.builds(
    Product, st.sampled_from(["float32", "int8"]), st.integers(1, 10**9), st.integers(0, 10**9), st.integers(1, 40)
)


@given(st.lists(PRODUCTS, min_size=1, max_size=6), st.floats(1.0, 8.0))
def test_a_faster_machine_never_has_a_higher_floor(products: list[Product], factor: float) -> None:
    work = Work(tuple(products))
    faster = Peak({k: v * factor for k, v in PEAK.flops.items()}, PEAK.bytes_per_s * factor, PEAK.launch_s)
    slow, fast = floor(work, PEAK, 1.0), floor(work, faster, 1.0)
    assert fast.floor_ms <= slow.floor_ms * (1 + 1e-9)
    assert slow.floor_ms == pytest.approx(slow.compute_ms + slow.bandwidth_ms + slow.launch_ms)
    assert slow.floor_ms >= 1e3 * max(work.weight_bytes / PEAK.bytes_per_s, work.flops / 4e9) * (1 - 1e-9)


def test_a_precision_without_a_peak_has_no_floor() -> None:
    with pytest.raises(ContractError, match=r"no peak of \['bfloat16'\]"):
        floor(Work((Product("bfloat16", 1, 1, 1),)), PEAK, 1.0)


def test_work_round_trips_and_refuses_other_json() -> None:
    assert Work.from_json(WORK.to_json(), "x") == WORK
    for wrong in ({}, {"schema": "other"}, {**WORK.to_json(), "products": [{"flops": 1}]}):
        with pytest.raises(ContractError, match="export again"):
            Work.from_json(wrong, "x")


@pytest.mark.parametrize("precision", probe_graphs.PRECISIONS)
def test_probe_graphs_are_valid_onnx(tmp_path: Path, precision: str) -> None:
    path = tmp_path / "p.onnx"
    probe_graphs.product(path, precision, 3, 16, 16, depth=2)
    onnx.checker.check_model(str(path), full_check=True)
    probe_graphs.chain(path, 5)
    onnx.checker.check_model(str(path), full_check=True)


def test_probe_graph_multiplies(tmp_path: Path) -> None:
    graph = probe_graphs.product(tmp_path / "p.onnx", "float32", 3, 16, 8)
    engine = OnnxRuntimeBackend(threads=1)
    engine.load(tmp_path / "p.onnx", graph)
    x = np.arange(48, dtype=np.float32).reshape(3, 16)
    np.testing.assert_allclose(engine.infer({"x": x})["y"], x @ np.full((16, 8), 2.0**-10, np.float32))


def test_peaks_are_of_the_precisions_that_the_engine_has() -> None:
    found = measure("onnxruntime", 1, None, ("float32", "int8", "bfloat16"), [1 << 20])[1 << 20]
    assert {"float32", "int8"} <= set(found.flops)
    assert all(value > 1e8 for value in found.flops.values())
    assert 1e8 < found.bytes_per_s < 1e13
    assert 0.0 <= found.launch_s < 1e-3
    best = found.best(Peak({"float32": 1e15}, 1.0, 0.0))
    assert (best.flops["float32"], best.bytes_per_s, best.launch_s) == (1e15, found.bytes_per_s, 0.0)


def test_memory_of_this_process_is_told() -> None:
    found = machine.memory()
    assert 0 < found["rss"] <= found["rss_peak"]
