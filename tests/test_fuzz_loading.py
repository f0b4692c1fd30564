# SPDX-License-Identifier: Apache-2.0
"""Damaged artifacts are refused or, where that is no harm, load; and the fuzzer sees a crash when there is one.

`benchmarks/fuzz_loading.py` runs ten thousand and more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fuzz_artifacts
import pytest
from fuzz_artifacts import Found, defect, isolated

from runtime.errors import ContractError

COUNT = 270  # three of every kind


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> dict[str, Any]:
    """In a process of its own: the fuzzer forks, which a process with an engine's threads must not."""
    file = tmp_path_factory.mktemp("fuzz") / "report.json"
    command = [sys.executable, str(repo / "tests/fuzz_artifacts.py"), "--count", str(COUNT), "--report", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(repo)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert file.exists(), done.stderr[-2000:]
    return json.loads(file.read_text())


def outcomes(report: dict[str, Any], expect: str) -> set[str]:
    return {name for kind, counts in report["by_kind"].items() if kind.endswith(f"[{expect}]") for name in counts}


def test_nothing_crashes_hangs_or_raises_a_foreign_error(report: dict[str, Any]) -> None:
    assert report["defects"] == []
    assert report["count"] == COUNT


def test_nothing_loads_that_was_not_sealed_again(report: dict[str, Any]) -> None:
    assert outcomes(report, "refused") == {"refused early"}


def test_structural_rules_hold_also_when_sealed_again(report: dict[str, Any]) -> None:
    assert outcomes(report, "early") == {"refused early"}


def test_notes_change_no_answer(report: dict[str, Any]) -> None:
    assert outcomes(report, "neutral") == {"loads, equal"}


def test_damage_reaches_the_engine(report: dict[str, Any]) -> None:
    """Otherwise the early checks would hide what lies behind them."""
    assert {"refused by the engine", "loads, other answer"} <= outcomes(report, "any")


def test_every_kind_has_its_turn(report: dict[str, Any]) -> None:
    kinds = len(fuzz_artifacts.fuzz_files.UNSEALED) + len(fuzz_artifacts.fuzz_files.RESEALED)
    kinds += len(fuzz_artifacts.fuzz_wire.RAW) + len(fuzz_artifacts.fuzz_onnx.EDITS)
    assert len(report["by_kind"]) == kinds


def fail_with(error: BaseException) -> Any:
    def attempt(folder: Path, sample: Any) -> Found:
        raise error

    return attempt


def stuck(folder: Path, sample: Any) -> Found:
    while True:
        pass


@pytest.mark.parametrize(
    ("attempt", "outcome"),
    [
        (lambda folder, sample: os.abort(), "crashes"),
        (lambda folder, sample: os.kill(os.getpid(), 11), "crashes"),
        (fail_with(KeyError("x")), "foreign error"),
        (lambda folder, sample: bytearray(fuzz_artifacts.MEMORY_BYTES), "out of memory"),
        (stuck, "hangs"),
        (fail_with(ContractError("x")), "refused early"),
    ],
)
def test_fuzzer_sees_what_happens_in_a_child(
    attempt: Any, outcome: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fuzz_artifacts, "attempt", attempt)
    monkeypatch.setattr(fuzz_artifacts, "SECONDS", 2.0)
    found = isolated(tmp_path, None)
    assert found.outcome == outcome
    assert bool(defect("any", found, found)) is (outcome != "refused early")


@pytest.mark.parametrize(
    ("expect", "outcome", "bad"),
    [
        ("refused", "loads", True),
        ("early", "loads", True),
        ("early", "loads, refuses to answer", True),
        ("early", "refused by the engine", True),
        ("early", "refused early", False),
        ("neutral", "refused early", True),
        ("any", "loads", False),
    ],
)
def test_what_counts_as_a_defect(expect: str, outcome: str, bad: bool) -> None:
    assert bool(defect(expect, Found(outcome, "a"), Found("loads", "a"))) is bad


def test_other_answer_to_a_note_is_a_defect() -> None:
    assert defect("neutral", Found("loads", "b"), Found("loads", "a")) == "a note changed the answer"
