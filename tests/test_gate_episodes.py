# SPDX-License-Identifier: Apache-2.0
"""One episode in the real simulator, in this process and without a renderer."""

from __future__ import annotations

import pytest
from gate_doubles import NotFinite, Obedient, RaisesOnce, ZeroMotion

from compress.gate.episodes import Replay, Script, SimulatorBroken, run_episode

pytestmark = [pytest.mark.sim, pytest.mark.slow]


@pytest.fixture(scope="module")
def env():
    from compress.sim.suites import open_suite

    suite = open_suite("dropgate_tabletop")
    from compress.sim.envs import TaskEnv

    with TaskEnv(suite, 0, render=False) as env:
        yield env


def episode(env, policy, told: int = 0, max_steps: int = 130, **more):
    return run_episode(env, policy, 3, 0, env.suite.task(told).language, max_steps, 8, **more)


def test_a_recording_replayed_blind_on_its_own_scene_repeats_it_exactly(env):
    recorded = episode(env, Script(), past_success=True)
    assert recorded.success
    assert len(recorded.actions) == recorded.steps
    again = episode(env, Replay(recorded.actions))
    assert again.success
    assert again.actions == recorded.actions[: again.steps]
    assert again.error == ""


def test_the_sentence_decides_what_an_obedient_policy_does(env):
    assert episode(env, Obedient()).success
    assert not episode(env, Obedient(), told=3).success


def test_a_policy_that_never_moves_fails_at_the_cap(env):
    outcome = episode(env, ZeroMotion(), max_steps=20)
    assert (outcome.success, outcome.steps, outcome.queries, outcome.error) == (False, 20, 3, "")


@pytest.mark.parametrize(("policy", "cause"), [(RaisesOnce, "planted exception"), (NotFinite, "not finite")])
def test_an_exception_or_a_command_that_is_not_finite_is_a_failure_with_its_cause(env, policy, cause):
    outcome = episode(env, policy())
    assert (outcome.success, outcome.steps) == (False, 0)
    assert cause in outcome.error


def test_a_scene_that_cannot_be_reset_says_nothing_about_a_policy(env):
    with pytest.raises(SimulatorBroken, match="stored states"):
        run_episode(env, ZeroMotion(), 10_000, 0, "x", 10, 8)
