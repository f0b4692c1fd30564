# SPDX-License-Identifier: Apache-2.0
"""Robustness axes: each changes what it says and nothing else, the same for everybody, and is gone after the reset."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from compress.sim.envs import Suite, TaskEnv, open_suite
from compress.sim.expert import TaskExpert
from compress.sim.perturb.base import BadPerturbation
from compress.sim.perturb.language import paraphrases
from compress.sim.perturb.layout import Layout
from compress.sim.perturb.registry import AXES, perturbation
from compress.sim.perturb.scene_model import SceneModel
from compress.sim.perturb.sensor_noise import blurred

SIZE, TASK, STATE = 48, 0, 3
IN_THE_SCENE = ("camera", "light", "background")
IN_THE_STATE = ("robot_pose", "layout")
SENTENCES = (
    "put the red block in the left tray", "put the bowl on the stove", "open the middle drawer of the cabinet",
    "turn on the stove", "push the plate to the front of the stove", "open the top drawer and put the bowl inside",
    "pick up the alphabet soup and place it in the basket", "put both moka pots on the stove",
    "put the wine bottle on top of the cabinet", "put the yellow and white mug in the microwave and close it",
    "pick up the black bowl between the plate and the ramekin and place it on the plate",
    "turn on the stove and put the moka pot on it", "close the microwave",
)  # fmt: skip
VERBS = ("put", "pick", "up", "place", "open", "close", "push", "turn", "on", "and")
ELSEWHERE = "import sys; sys.path.insert(0, {tests!r}); import test_sim_perturb as t; print(t.fingerprints())"


@pytest.fixture(scope="module")
def suite() -> Suite:
    return open_suite("dropgate_tabletop")


@pytest.fixture(scope="module")
def env(suite: Suite) -> Iterator[TaskEnv]:
    with TaskEnv(suite, TASK, image_size=SIZE) as opened:
        yield opened


@pytest.fixture(scope="module")
def plain(suite: Suite) -> tuple[np.ndarray, ...]:
    """A few steps without a perturbation, in an environment that has seen none."""
    with TaskEnv(suite, TASK, image_size=SIZE) as fresh:
        fresh.reset(STATE, 0)
        return walked(fresh)


def simulator_state(env: TaskEnv) -> np.ndarray:
    return np.array(env.libero.get_sim_state())


def walked(env: TaskEnv, steps: int = 3) -> tuple[np.ndarray, ...]:
    """Everything that can be seen of a few random steps."""
    seen: list[np.ndarray] = []
    for action in np.random.default_rng(5).uniform(-0.6, 0.6, (steps, 7)):
        env.step(action)
        seen += [simulator_state(env), *(value for _, value in sorted(env.observe().items()))]
    return tuple(seen)


def started(env: TaskEnv, axis: str | None, task: int = TASK, state: int = STATE, seed: int = 0, strength=None):
    """(first observation, simulator state) of an episode of that axis."""
    change = None if axis is None else perturbation(axis, task, state, seed, strength)
    return env.reset(STATE, 0, change=change), simulator_state(env)


def fingerprints() -> str:
    """Of one episode of every axis in this process."""
    with TaskEnv(open_suite("dropgate_tabletop"), TASK, image_size=SIZE) as env:
        digest = hashlib.sha256()
        for axis in AXES:
            observation, state = started(env, axis)
            digest.update(state.tobytes() + b"".join(value.tobytes() for _, value in sorted(observation.items())))
            digest.update(perturbation(axis, TASK, STATE, 0).sentence(env.task.language).encode())
        return digest.hexdigest()


@pytest.mark.sim
@pytest.mark.parametrize("axis", AXES)
def test_an_episode_after_a_perturbed_one_is_the_one_of_a_fresh_environment_bit_by_bit(env, plain, axis):
    env.reset(7, 0, change=perturbation(axis, TASK, 7, 0))
    walked(env)
    env.reset(STATE, 0)
    after = walked(env)
    assert len(after) == len(plain)
    assert all(np.array_equal(one, other) for one, other in zip(after, plain, strict=True))


@pytest.mark.sim
@pytest.mark.parametrize("axis", IN_THE_STATE + IN_THE_SCENE + ("sensor_noise",))
def test_the_same_episode_is_perturbed_alike_and_another_one_differently(env, axis):
    first, state = started(env, axis)
    started(env, "camera", seed=9)
    again, same = started(env, axis)
    assert np.array_equal(state, same)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    for other in ({"seed": 1}, {"state": STATE + 1}, {"task": TASK + 1}):
        observation, moved = started(env, axis, **other)
        differs = not np.array_equal(observation["agentview"], first["agentview"])
        assert differs or not np.array_equal(moved, state), f"{axis} does not depend on {other}"


@pytest.mark.sim
@pytest.mark.slow
def test_another_process_perturbs_alike():
    command = [sys.executable, "-c", ELSEWHERE.format(tests=str(Path(__file__).parent))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.split()[-1] == fingerprints()


@pytest.mark.sim
@pytest.mark.parametrize("axis", AXES)
def test_numpys_global_generator_is_left_alone(env, axis):
    np.random.seed(11)
    before = np.random.get_state()[1].copy()
    started(env, axis)
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.sim
def test_each_axis_changes_what_it_says_and_nothing_else(env):
    observation, state = started(env, None)
    scene, nq = SceneModel.of(env), env.libero.env.sim.model._model.nq
    start = env.suite.initial_state(TASK, STATE)
    places = [p for place in scene.free_objects() for p in (place, place + 1)]
    for axis, may_move in (("robot_pose", list(scene.arm)), ("layout", places)):
        change = perturbation(axis, TASK, STATE, 0)
        moved = np.flatnonzero(change.initial_state(env, start) != start) - 1
        assert set(moved) == set(may_move)
        assert max(moved) < nq
        started(env, None)
    for axis in (*IN_THE_SCENE, "sensor_noise", "language"):
        seen, same = started(env, axis)
        assert np.array_equal(same, state), f"{axis} moved the scene"
        changed = {key for key in seen if not np.array_equal(seen[key], observation[key])}
        expected = {"camera": {"agentview"}, "sensor_noise": {"agentview", "wrist", "state"}, "language": set()}
        assert changed == expected.get(axis, {"agentview", "wrist"}), axis
        changes_words = perturbation(axis, TASK, STATE, 0).sentence(env.task.language) != env.task.language
        assert changes_words == (axis == "language")


@pytest.mark.sim
def test_the_perturbed_pose_is_still_held_when_the_policy_first_looks(env):
    """Without a new goal and rest posture the controller turns the hand back within the ten settle steps."""
    start = env.suite.initial_state(TASK, STATE)
    wanted = perturbation("robot_pose", TASK, STATE, 0, 0.4).initial_state(env, start)
    _, state = started(env, "robot_pose", strength=0.4)
    arm = 1 + SceneModel.of(env).arm
    assert np.abs(wanted[arm] - start[arm]).max() > 0.1
    assert np.abs(state[arm] - wanted[arm]).max() < 0.02


@pytest.mark.sim
@pytest.mark.parametrize("strength", [0.01, 0.04, 0.12])
def test_objects_move_no_farther_than_the_strength_and_stay_where_they_are_put(env, strength):
    started(env, None)
    scene, start = SceneModel.of(env), env.suite.initial_state(TASK, STATE)
    moved = Layout(strength, TASK, STATE, 0).initial_state(env, start)
    shifts = [np.linalg.norm(moved[1 + p : 3 + p] - start[1 + p : 3 + p]) for p in scene.free_objects()]
    assert 0 < max(shifts) <= strength
    assert scene.rests(moved, 100, 0.006)
    red, blue = scene.free_objects()[:2]
    moved[1 + blue : 4 + blue] = moved[1 + red : 4 + red]
    assert not scene.rests(moved, 100, 0.006), "one block inside the other"


@pytest.mark.sim
def test_noise_belongs_to_the_step_and_not_to_how_often_somebody_looked(env):
    started(env, "sensor_noise")
    env.step(np.zeros(7), want_images=False)
    env.step(np.zeros(7))
    seldom = env.observe()
    started(env, "sensor_noise")
    for _ in range(2):
        env.step(np.zeros(7))
        env.observe()
        often = env.observe()
    assert all(np.array_equal(seldom[key], often[key]) for key in seldom)


def test_a_blur_keeps_a_plain_image_and_the_mean_of_any_inner_one():
    plain = np.full((20, 24, 3), 7.0)
    assert np.allclose(blurred(plain, 1.5), 7.0)
    spot = np.zeros((21, 21, 1))
    spot[10, 10] = 1.0
    soft = blurred(spot, 1.0)
    assert np.isclose(soft.sum(), 1.0)
    assert np.isclose(soft[10, 10, 0], 0.159, atol=0.01)


@pytest.mark.parametrize("text", SENTENCES)
def test_paraphrases_say_something_else_about_the_same_things(text):
    found = paraphrases(text)
    assert found
    assert len({text, *found}) == len(found) + 1
    things = {word for word in text.split() if word not in VERBS}
    for other in found:
        assert things <= set(other.split())
        assert other not in SENTENCES


def test_a_sentence_without_a_known_verb_cannot_be_paraphrased():
    with pytest.raises(BadPerturbation, match="no verb"):
        paraphrases("juggle the red block")


def test_unknown_axes_and_impossible_strengths_are_refused_with_what_is_possible():
    with pytest.raises(BadPerturbation, match=r"no robustness axis 'wind'. Available: robot_pose, camera"):
        perturbation("wind", 0, 0, 0)
    for strength in (0, -1, float("nan"), 99, True, "0.1"):
        with pytest.raises(BadPerturbation, match=r"rad per joint; default 0.15"):
            perturbation("robot_pose", 0, 0, 0, strength)
    with pytest.raises(BadPerturbation, match="expected 1 or 2"):
        perturbation("language", 0, 0, 0, 1.5)


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("axis", IN_THE_STATE)
def test_the_expert_still_solves_what_an_axis_makes_of_the_scene(suite, axis):
    with TaskEnv(suite, 3, render=False) as env:
        solved = 0
        for state in range(4):
            env.reset(state, 0, change=perturbation(axis, 3, state, 0))
            expert = TaskExpert(env)
            while env.steps < env.task.max_steps and not env.success and (action := expert.act()) is not None:
                env.step(action)
            solved += env.success
    assert solved == 4
