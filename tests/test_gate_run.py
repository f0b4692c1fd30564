# SPDX-License-Identifier: Apache-2.0
"""Whole gate runs in the real simulator, small: a wide margin decides within a handful of pairs."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from gate_doubles import Obedient, ZeroMotion, source

from compress.gate.recheck import recheck
from compress.gate.rows import read_rows
from compress.gate.sim_gate import gate_policies, run_gate
from compress.gate.spec import GateSpec
from compress.gate.verdict import Verdict

TESTS = Path(__file__).parent
SPEC = GateSpec(
    tasks=(0, 3), pairs=6, margin=0.4, alpha=0.3, floor_states=1, floor_gap=0.45, max_steps=120, image_size=32,
    filmstrips=0, workers=2,
    panels={"instruction_swap": {"pairs": 1, "advisory": True}, "robot_pose": {"pairs": 6, "margin": 0.4}},
)  # fmt: skip
BAD = replace(SPEC, tasks=(0,), margin=0.2, filmstrips=1)
GATE = """
import sys
sys.path.insert(0, {tests!r})
from test_gate_run import bad_run
bad_run(sys.argv[1])
"""


def bad_run(folder: str, spec: GateSpec = BAD):
    return gate_policies(source(ZeroMotion), source(Obedient), spec, Path(folder))


@pytest.mark.sim
@pytest.mark.slow
def test_a_good_candidate_is_promoted_with_evidence_that_can_be_rechecked(tmp_path):
    report = gate_policies(source(Obedient, "candidate"), source(Obedient, "baseline"), SPEC, tmp_path)
    assert (report.verdict, report.exit_code) == (Verdict.PROMOTE, 0), report.reason
    data = json.loads(report.path.read_text())
    assert data["paired"]["candidate"]["rate"] == 1.0
    assert [panel["name"] for panel in data["panels"]] == ["in_distribution", "robot_pose", "instruction_swap"]
    assert [panel["outcome"] for panel in data["panels"][:2]] == ["pass", "pass"]
    assert report.reason.endswith("panels passed: robot_pose")
    assert data["panels"][2]["baseline"]["successes"] == 1, "counted: NOT reaching the goal under a wrong sentence"
    assert data["wrong_instruction"]["baseline"]["successes"] == 0
    assert all(task["blind_floor"] is not None for task in data["tasks"])
    assert recheck(tmp_path) == (Verdict.PROMOTE, report.reason)


@pytest.mark.sim
@pytest.mark.slow
def test_a_planted_bad_candidate_is_held_and_a_killed_gate_goes_on_without_repeating_anything(tmp_path):
    """SIGKILL of the gate process after some episodes, then resume with other workers; and once in one piece."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", GATE.format(tests=str(TESTS)), str(killed)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    process = subprocess.Popen(command, env=environment)
    rows = killed / "episodes.jsonl"
    deadline = time.monotonic() + 1800
    while not rows.exists() or rows.read_bytes().count(b"\n") < 6:
        assert process.poll() is None, "the gate ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read_rows(rows)
    with rows.open("ab") as stream:
        stream.write(b'{"torn')
    report = bad_run(str(killed), replace(BAD, workers=1))
    after = read_rows(rows)
    assert after[: len(before)] == before
    assert max(collections.Counter(row.key for row in after).values()) == 1
    assert (report.verdict, report.exit_code) == (Verdict.HOLD, 1)
    assert "worse than the baseline" in report.reason
    assert (killed / report.data["filmstrips"][0]["file"]).read_bytes()[:4] == b"\x89PNG"
    assert report.data["filmstrips"][0]["reproduced"]

    other = bad_run(str(whole), replace(BAD, filmstrips=0))
    assert (other.verdict, other.reason) == (report.verdict, report.reason)
    assert other.data["paired"] == report.data["paired"]
    assert other.data["plan_digest"] == report.data["plan_digest"]


@pytest.mark.sim
def test_missing_assets_hold(tmp_path, monkeypatch):
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path / "nowhere"))
    spec = replace(SPEC, suite="libero_goal")
    report = gate_policies(source(Obedient), source(Obedient), spec, tmp_path / "run")
    assert (report.verdict, report.exit_code) == (Verdict.HOLD, 1)
    assert "nowhere" in report.reason
    assert json.loads(report.path.read_text())["verdict"] == "hold"


@pytest.mark.sim
def test_a_simulator_that_is_not_installed_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    report = gate_policies(source(Obedient), source(Obedient), SPEC, tmp_path / "run")
    assert (report.verdict, report.exit_code) == (Verdict.HOLD, 1)
    assert "not installed" in report.reason


@pytest.mark.sim
@pytest.mark.parametrize("change", [{"tasks": (9,)}, {"states": 10_000}, {"suite": "no_suite"}])
def test_a_question_that_cannot_be_asked_is_an_error(tmp_path, change):
    report = gate_policies(source(Obedient), source(Obedient), replace(SPEC, **change), tmp_path / "run")
    assert (report.verdict, report.exit_code) == (Verdict.ERROR, 2)
    assert not report.path.exists()


@pytest.mark.sim
def test_two_gates_cannot_share_a_folder(tmp_path):
    import fcntl

    with (tmp_path / ".lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        report = bad_run(str(tmp_path))
    assert report.verdict is Verdict.ERROR
    assert "in use" in report.reason


def test_a_folder_that_is_no_artifact_is_an_error_and_says_so(tmp_path):
    report = run_gate(tmp_path / "none", tmp_path / "none", SPEC, tmp_path / "run")
    assert (report.verdict, report.exit_code) == (Verdict.ERROR, 2)
    assert "manifest.json" in report.reason
