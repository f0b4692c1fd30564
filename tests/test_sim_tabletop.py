# SPDX-License-Identifier: Apache-2.0
"""The embedded suite: one scene, four sentences, exact scenes, images on demand, an expert that solves it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from compress.sim.envs import BadAction, NotReset, StaleImages, Suite, TaskEnv, UnknownTask, open_suite
from compress.sim.expert import TaskExpert

pytestmark = pytest.mark.sim
TASKS = range(4)
SIZE = 64


@pytest.fixture(scope="module")
def suite() -> Suite:
    return open_suite("dropgate_tabletop")


@pytest.fixture(scope="module")
def env(suite: Suite) -> Iterator[TaskEnv]:
    with TaskEnv(suite, 0, image_size=SIZE) as opened:
        yield opened


def simulator_state(env: TaskEnv) -> np.ndarray:
    return np.array(env.libero.get_sim_state())


def solve(env: TaskEnv) -> list[np.ndarray]:
    """Runs the expert without drawing; the actions that it took."""
    expert, actions = TaskExpert(env), []
    while env.steps < env.task.max_steps and not env.success:
        action = expert.act()
        assert action is not None, "the expert gave up"
        actions.append(action)
        env.step(action, want_images=False)
    return actions


def random_actions(count: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(-0.6, 0.6, (count, 7))


def test_only_the_sentence_tells_the_tasks_apart(suite: Suite) -> None:
    sentences = [task.language for task in suite.tasks]
    assert len(set(sentences)) == 4
    scenes = []
    for task in suite.tasks:
        text = task.bddl.read_text()
        assert task.language in text
        head, goal = text.split("(:goal")
        scenes.append(head.replace(task.language, "").split("(:obj_of_interest")[0] + head.split("(:init")[1])
        colour, side = task.language.split()[2], task.language.split()[-2]
        assert f"(In {colour}_block {side}_tray_contain_region)" in goal
    assert len(set(scenes)) == 1, "regions, objects and initial placement are the same text in all four files"


def test_a_stored_state_gives_the_same_bits_whatever_came_before(env: TaskEnv) -> None:
    first = env.reset(initial_state_index=3, seed=0)
    state = simulator_state(env)
    env.reset(seed=77)
    for action in random_actions(4):
        env.step(action)
    again = env.reset(initial_state_index=3, seed=12345)
    assert np.array_equal(simulator_state(env), state)
    for key, value in first.items():
        assert np.array_equal(again[key], value), key


def test_drawing_on_demand_changes_neither_pixels_nor_physics(env: TaskEnv) -> None:
    actions, always = random_actions(12), []
    env.reset(initial_state_index=1)
    for action in actions:
        env.step(action, want_images=True)
        always.append((env.observe(), simulator_state(env)))
    env.reset(initial_state_index=1)
    for k, action in enumerate(actions):
        env.step(action, want_images=k % 4 == 3)
        observation, state = always[k]
        assert np.array_equal(simulator_state(env), state)
        if k % 4 == 3:
            seen = env.observe()
            assert all(np.array_equal(seen[key], observation[key]) for key in observation), f"step {k}"
    assert not np.array_equal(always[3][0]["wrist"], always[7][0]["wrist"]), "the arm did move"


def test_old_images_are_never_handed_out(env: TaskEnv) -> None:
    env.reset(initial_state_index=0)
    env.step(np.zeros(7), want_images=False)
    with pytest.raises(StaleImages, match="want_images=True"):
        env.observe()
    assert env.state.shape == (8,)
    env.step(np.zeros(7), want_images=True)
    assert env.observe()["agentview"].shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 6])
def test_an_action_that_is_not_finite_is_refused_before_physics(env: TaskEnv, bad: float, axis: int) -> None:
    env.reset(initial_state_index=0)
    before, action = simulator_state(env), np.zeros(7)
    action[axis] = bad
    with pytest.raises(BadAction, match="not finite"):
        env.step(action)
    assert np.array_equal(simulator_state(env), before)


@pytest.mark.parametrize("shape", [(6,), (8,), (1, 7), ()])
def test_an_action_of_another_shape_is_refused(env: TaskEnv, shape: tuple[int, ...]) -> None:
    env.reset(initial_state_index=0)
    with pytest.raises(BadAction, match=r"expected \(7,\)"):
        env.step(np.zeros(shape))


def test_a_scene_must_be_set_before_it_is_used(suite: Suite) -> None:
    with TaskEnv(suite, 0, render=False) as fresh:
        for use in (fresh.observe, lambda: fresh.step(np.zeros(7)), lambda: fresh.state):
            with pytest.raises(NotReset, match="reset"):
                use()


def test_scenes_leave_numpys_global_generator_alone(env: TaskEnv) -> None:
    np.random.seed(9)
    expected = np.random.random(3)
    np.random.seed(9)
    env.reset(seed=4)
    assert np.array_equal(np.random.random(3), expected)


def test_fresh_layouts_vary_and_are_not_the_stored_ones(env: TaskEnv, suite: Suite) -> None:
    layouts = [env.draw_layout(seed, arm_noise=0.03) for seed in range(3)]
    stored = [suite.initial_state(env.task, i) for i in range(50)]
    for k, layout in enumerate(layouts):
        assert layout.shape == stored[0].shape
        assert not any(np.allclose(layout, other, atol=1e-3) for other in (*layouts[:k], *stored))


def test_blocks_have_room_for_the_fingers_and_trays_stand_apart(suite: Suite) -> None:
    with TaskEnv(suite, 0, render=False) as env:
        names = {name: env.libero.env.objects_dict[name].joints[-1] for name in env.libero.env.objects_dict}
        where = {name: env.libero.sim.model.get_joint_qpos_addr(joint)[0] + 1 for name, joint in names.items()}
    for task in suite.tasks:
        states = np.stack([suite.initial_state(task, i) for i in range(suite.n_initial_states(task))])
        xy = {name: states[:, at : at + 2] for name, at in where.items()}
        assert np.all(xy["red_block"][:, 1] - xy["blue_block"][:, 1] > 0.09), "an open hand is 12 cm wide"
        for block in ("red_block", "blue_block"):
            assert np.ptp(xy[block], axis=0).min() > 0.08, "the stored states use the whole zone"
            for tray in ("left_tray", "right_tray"):
                assert np.all(xy[tray][:, 0] - xy[block][:, 0] > 0.085), "half a tray and half a block"


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_solves_its_task_and_no_other(suite: Suite, task: int) -> None:
    with TaskEnv(suite, task, render=False) as env:
        for index in (task, 49 - task):
            env.reset(initial_state_index=index)
            solve(env)
            assert env.success, f"state {index}, {env.steps} steps"
            base = env.libero.env
            held = {
                (block, tray): bool(base._eval_predicate(["in", f"{block}_block", f"{tray}_tray_contain_region"]))
                for block in ("red", "blue")
                for tray in ("left", "right")
            }
            colour, side = env.task.language.split()[2], env.task.language.split()[-2]
            assert held == {key: key == (colour, side) for key in held}


def test_a_block_held_over_the_tray_is_not_yet_in_it(suite: Suite) -> None:
    with TaskEnv(suite, 0, render=False) as env:
        env.reset(initial_state_index=2)
        expert, carried = TaskExpert(env), 0
        while not env.success:
            action = expert.act()
            assert action is not None
            carried += expert.phase == "carry"
            env.step(action, want_images=False)
            assert not (env.success and expert.phase == "carry")
        assert carried > 5


def test_a_recorded_episode_played_blind_on_another_scene_fails(suite: Suite) -> None:
    with TaskEnv(suite, 0, render=False) as env:
        env.reset(initial_state_index=0)
        actions = solve(env)
        env.reset(initial_state_index=0)
        assert [env.step(action, want_images=False) for action in actions][-1], "the same scene: the same success"
        env.reset(initial_state_index=11)
        for action in actions:
            env.step(action, want_images=False)
        assert not env.success


def test_both_cameras_see_every_object(env: TaskEnv) -> None:
    colours = {"red": (200, 30, 30), "blue": (30, 60, 220), "yellow": (230, 190, 40), "green": (40, 150, 60)}
    observation = env.reset(initial_state_index=7)
    for camera in ("agentview", "wrist"):
        pixels = observation[camera].reshape(-1, 3).astype(int)
        for name, colour in colours.items():
            near = np.abs(pixels - np.array(colour)).max(1) < 45
            assert near.sum() >= 8, f"{camera} shows {near.sum()} {name} pixels of {len(pixels)}"


def test_left_is_left_in_the_agentview_image(env: TaskEnv) -> None:
    image = env.reset(initial_state_index=7)["agentview"].astype(int)
    yellow = (image[..., 0] > 180) & (image[..., 1] > 140) & (image[..., 2] < 80)
    green = (image[..., 1] > 100) & (image[..., 0] < 80) & (image[..., 2] < 100)
    assert np.argwhere(yellow)[:, 1].mean() < SIZE / 2 < np.argwhere(green)[:, 1].mean()


@pytest.mark.parametrize("key", ["put the red block in the left tray", "put_the_red_block_in_the_left_tray", 0])
def test_a_task_is_found_by_sentence_name_or_index(suite: Suite, key: int | str) -> None:
    assert suite.task(key) == suite.tasks[0]


def test_unknown_names_are_answered_with_the_known_ones(suite: Suite) -> None:
    with pytest.raises(UnknownTask, match="Available: dropgate_tabletop, libero_spatial"):
        open_suite("dropgate_table")
    with pytest.raises(UnknownTask, match="0: put_the_red_block_in_the_left_tray"):
        suite.task("put the green block away")
    with pytest.raises(UnknownTask, match=r"states 0\.\.49, not 50"):
        suite.initial_state(0, 50)
