# SPDX-License-Identifier: Apache-2.0
"""Demonstrations are recorded in LIBERO's format, replay to the same end, and survive an interruption."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from compress.data.libero_hdf5 import open_demos
from compress.progress import Silent
from compress.sim.demos import DemoPlanMismatch, write_demos
from compress.sim.envs import TaskEnv, open_suite

pytestmark = pytest.mark.sim
TASK = "put_the_blue_block_in_the_left_tray"
PLAN = {"tasks": [TASK], "episodes_per_task": 2, "seed": 11, "image_size": 32}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos")
    (result,) = write_demos(folder, workers=0, progress=Silent(), **PLAN)
    assert result.path == folder / f"{TASK}_demo.hdf5"
    assert (result.episodes, result.bytes) == (2, result.path.stat().st_size)
    return folder


def test_the_file_has_liberos_layout(written: Path) -> None:
    with h5py.File(written / f"{TASK}_demo.hdf5") as file:
        data = file["data"]
        assert json.loads(data.attrs["problem_info"])["language_instruction"] == TASK.replace("_", " ")
        assert json.loads(data.attrs["env_args"])["bddl_file"] == data.attrs["bddl_file_name"] == f"{TASK}.bddl"
        assert data.attrs["env_name"] == "DropGate_Tabletop_Manipulation"
        demo = data["demo_0"]
        steps = int(demo.attrs["num_samples"])
        assert set(demo) >= {"actions", "dones", "obs", "rewards", "robot_states", "states"}
        widths = {"ee_pos": 3, "ee_ori": 3, "ee_states": 6, "gripper_states": 2, "joint_states": 7}
        assert {name: demo["obs"][name].shape for name in widths} == {n: (steps, w) for n, w in widths.items()}
        assert demo["obs/agentview_rgb"].shape == demo["obs/eye_in_hand_rgb"].shape == (steps, 32, 32, 3)
        assert demo["robot_states"].shape == (steps, 9)
        assert demo["dones"][:].tolist() == demo["rewards"][:].tolist() == [0] * (steps - 1) + [1]
        assert int(data.attrs["total"]) == sum(int(d.attrs["num_samples"]) for d in data.values())


def test_labels_are_sane_and_noise_only_touches_what_was_executed(written: Path) -> None:
    with h5py.File(written / f"{TASK}_demo.hdf5") as file:
        for demo in file["data"].values():
            clean, executed = demo["actions"][:], demo["executed_actions"][:]
            assert np.abs(clean).max() <= 1
            assert set(clean[:, 6]) == {-1.0, 1.0}
            assert (np.diff(clean[:, 6]) > 0).sum() == 1, "one grasp"
            assert np.array_equal(clean[:, 6], executed[:, 6])
            disturbed = (clean != executed).any(1)
            assert 0 < disturbed.sum() < len(clean), "bursts: some steps, not all"


def test_an_episode_replays_from_its_start_to_the_same_end(written: Path) -> None:
    with h5py.File(written / f"{TASK}_demo.hdf5") as file:
        demo = file["data/demo_1"]
        executed, states, seed = demo["executed_actions"][:], demo["states"][:], int(demo.attrs["seed"])
        arm_noise, start = float(demo.attrs["arm_noise"]), np.array(demo.attrs["init_state"])
    with TaskEnv(open_suite("dropgate_tabletop"), TASK, render=False) as env:
        env.reset(seed=seed, arm_noise=arm_noise)
        assert np.array_equal(env.libero.get_sim_state(), start)
        for k, action in enumerate(executed):
            assert np.allclose(env.libero.get_sim_state(), states[k], atol=1e-4), f"step {k}"
            env.step(action)
        assert env.success


def test_a_recording_reads_back_as_the_policy_would_see_it(written: Path) -> None:
    demos = open_demos(written)
    episode = demos.episodes[0]
    with TaskEnv(open_suite("dropgate_tabletop"), TASK, image_size=32) as env:
        seen = env.reset(seed=episode.attributes["seed"], arm_noise=episode.attributes["arm_noise"])
    sample = demos.sample(0, horizon=8)
    assert np.array_equal(sample.images["agentview"], seen["agentview"])
    assert np.array_equal(sample.images["wrist"], seen["wrist"])
    assert np.array_equal(sample.state, seen["state"])
    assert sample.instruction == TASK.replace("_", " ")


def test_a_killed_run_continues_to_the_same_content(written: Path, tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from compress.sim import demo_workers, demos
finish = demo_workers.write_part
def finish_one_and_die(*args):
    finish(*args)
    os._exit(9)
demo_workers.write_part = finish_one_and_die
demos.write_demos(Path({str(tmp_path)!r}), workers=0, **{PLAN!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert killed.returncode == 9, killed.stderr
    assert not list(tmp_path.glob("*.hdf5")), "an unfinished file has no name yet"
    (kept,) = (tmp_path / ".parts" / TASK).glob("*.hdf5")
    made = kept.stat().st_mtime_ns
    assert made > 0
    write_demos(tmp_path, workers=1, progress=Silent(), **PLAN)
    assert open_demos(tmp_path).digest == open_demos(written).digest
    assert not (tmp_path / ".parts").exists()


def test_a_finished_folder_is_left_as_it_is(written: Path) -> None:
    path = written / f"{TASK}_demo.hdf5"
    before = path.stat().st_mtime_ns
    (result,) = write_demos(written, workers=0, progress=Silent(), **PLAN)
    assert path.stat().st_mtime_ns == before
    assert result.attempts >= 2


def test_another_plan_in_the_same_folder_is_refused(written: Path) -> None:
    with pytest.raises(DemoPlanMismatch, match=r"seed: found 11, asked 12.*use a new folder"):
        write_demos(written, workers=0, progress=Silent(), **{**PLAN, "seed": 12})
