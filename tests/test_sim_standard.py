# SPDX-License-Identifier: Apache-2.0
"""LIBERO's own suites open, reset, step and draw; needs LIBERO's assets (LIBERO_ASSETS)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from compress.sim.envs import TaskEnv, open_suite
from compress.sim.expert import TaskExpert, UnsupportedGoal
from compress.sim.suites import MAX_STEPS

pytestmark = [pytest.mark.sim, pytest.mark.slow]
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")


@pytest.fixture(scope="session")
def assets() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "libero_assets"
    folder = Path(os.environ.get("LIBERO_ASSETS") or beside)
    if not folder.is_dir():
        pytest.skip(f"no LIBERO assets: LIBERO_ASSETS is not set and {beside} does not exist")
    return folder


@pytest.mark.parametrize("name", SUITES)
def test_a_standard_suite_steps_and_draws(assets: Path, name: str) -> None:
    suite = open_suite(name, assets)
    assert len(suite.tasks) == 10
    assert suite.n_initial_states(0) == 50
    with TaskEnv(suite, 0, image_size=64) as env:
        assert env.task.max_steps == MAX_STEPS[name]
        observation = env.reset(initial_state_index=0, seed=0)
        first = observation["state"]
        for k in range(20):
            env.step(np.array([0.3, 0.0, -0.3, 0.0, 0.0, 0.0, -1.0]), want_images=k == 19)
        observation = env.observe()
    for camera in ("agentview", "wrist"):
        assert observation[camera].std() > 5, f"{camera} is a constant image"
    moved = observation["state"] - first
    assert moved[0] > 0.02
    assert moved[2] < -0.02


def test_the_expert_puts_the_bowl_on_the_stove(assets: Path) -> None:
    with TaskEnv(open_suite("libero_goal", assets), "put_the_bowl_on_the_stove", render=False) as env:
        env.reset(initial_state_index=0, seed=0)
        expert = TaskExpert(env)
        while env.steps < env.task.max_steps and not env.success:
            action = expert.act()
            assert action is not None
            env.step(action)
        assert env.success


def test_opening_the_embedded_suite_does_not_take_the_assets_away(assets: Path) -> None:
    with TaskEnv(open_suite("libero_object", assets), 0, render=False) as env:
        open_suite("dropgate_tabletop")
        assert env.reset(initial_state_index=0)["state"].shape == (8,), "a hard reset reads the assets again"


def test_goals_that_are_not_pick_and_place_are_refused(assets: Path) -> None:
    with TaskEnv(open_suite("libero_goal", assets), "turn_on_the_stove", render=False) as env:
        env.reset(initial_state_index=0, seed=0)
        with pytest.raises(UnsupportedGoal, match="turnon"):
            TaskExpert(env)
