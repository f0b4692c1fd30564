# SPDX-License-Identifier: Apache-2.0
"""The station's benchmark says what ran, what did not and why; without a GPU it fails and still writes its report."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from artifact_factory import write_draft
from tensorrt_double import OnDouble

from runtime.backends.fake_backend import FakeBackend
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend


@pytest.fixture(scope="module")
def script(repo: Path) -> Any:
    path = repo / "benchmarks" / "tensorrt_station.py"
    spec = importlib.util.spec_from_file_location("tensorrt_station", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_contenders_are_proved_and_timed_and_failures_keep_their_reason(script: Any, tmp_path: Path) -> None:
    artifact = write_draft(tmp_path / "draft")
    found = script.measure(
        artifact,
        {
            "engine": OnDouble,
            "cpu": lambda: OnnxRuntimeBackend(threads=1),
            "wrong": FakeBackend,
            "none": lambda: OnnxRuntimeBackend(provider="NoSuchProvider"),
        },
        rounds=2,
    )
    assert [found[name]["status"] for name in ("engine", "cpu", "wrong", "none")] == ["measured"] * 3 + [
        "cannot run here"
    ]
    assert (found["engine"]["execution"], found["engine"]["parity_ok"], found["cpu"]["parity_ok"]) == (
        "CUDA graph", True, True,
    )  # fmt: skip
    assert found["wrong"]["parity_ok"] is False
    assert "found none called 'NoSuchProvider'" in found["none"]["why"]
    for name in ("engine", "cpu"):
        assert found[name]["policy"]["calls"] == 2 * script.PER_ROUND
        assert 0.0 < found[name]["engine"]["p50_ms"] <= found[name]["engine"]["p99_ms"]


def test_machine_without_tensorrt_fails_and_says_what_to_install(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    artifact = write_draft(tmp_path / "draft")
    out = tmp_path / "report.json"
    assert script.main([str(artifact.root), "--out", str(out), "--cache", str(tmp_path / "c"), "--rounds", "1"]) == 1
    report = json.loads(out.read_text())
    (only,) = report["artifacts"].values()
    assert (report["proven"], only["build"]["status"]) == (False, "failed")
    assert "run: pip install tensorrt" in only["build"]["why"]
    assert only["contenders"]["tensorrt"]["status"] == "cannot run here"
    assert only["contenders"]["onnxruntime CPU"]["status"] == "measured"
