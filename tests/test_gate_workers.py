# SPDX-License-Identifier: Apache-2.0
"""Real worker processes with real deaths."""

from __future__ import annotations

import pytest
from gate_doubles import CannotLoad, KillsItsProcess, NeverAnswers, ZeroMotion, source

from compress.gate.episodes import SimulatorBroken
from compress.gate.jobs import Job, WorkerSetup
from compress.gate.plan import Pair
from compress.gate.policies import UnusablePolicy
from compress.gate.workers import WorkerPool

pytestmark = [pytest.mark.sim, pytest.mark.slow]
JOB = Job.of("candidate", "candidate", Pair(0, 0, 0), max_steps=4)


def run(tmp_path, policy, jobs=(JOB,), timeout_s: float = 120.0, suite: str = "dropgate_tabletop"):
    setup = WorkerSetup(suite, "", 32, 8, 1, {"candidate": policy})
    rows = []
    with WorkerPool(setup, 1, timeout_s, tmp_path / "logs", {0: "task"}) as pool:
        pool.run(jobs, rows.append)
    return rows


@pytest.mark.parametrize(("deaths", "cause"), [(1, ""), (2, "crash: the worker died (signal 9), 2 times")])
def test_an_episode_whose_worker_is_killed_gets_one_more_try_and_then_failed(tmp_path, deaths, cause):
    (tmp_path / "deaths").mkdir()
    policy = source(KillsItsProcess, folder=str(tmp_path / "deaths"), budget=deaths)
    (row,) = run(tmp_path, policy)
    assert (row.attempts, row.success, row.error) == (2, False, cause)
    assert row.steps == (4 if deaths == 1 else 0)


def test_a_worker_that_hangs_is_killed_and_its_episode_failed(tmp_path):
    (row,) = run(tmp_path, source(NeverAnswers), timeout_s=5.0)
    assert row.error == "crash: no answer for 5 s, 2 times"


def test_a_policy_that_cannot_be_loaded_is_not_a_failed_episode(tmp_path):
    with pytest.raises(UnusablePolicy, match="weights are missing"):
        run(tmp_path, source(CannotLoad))


def test_a_simulator_that_cannot_start_is_not_a_failed_episode(tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "no_such_renderer")
    with pytest.raises(SimulatorBroken):
        run(tmp_path, source(ZeroMotion))
