# SPDX-License-Identifier: Apache-2.0
"""robomimic's HDF5 with any keys, and LIBERO's through the same reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_factory as factory
import h5py
import numpy as np
import pipeline_factory
import pytest
from data_factory import LENGTHS

from compress.data.faults import DemoFileError
from compress.data.formats import open_reader
from compress.data.frame_files import FrameFiles
from compress.data.libero_hdf5 import open_demos
from compress.data.mapping import Column, FrameMap, MappingError
from compress.recipe_sections import DataSection
from compress.stages.data import frame_map

MAP = {
    "cameras": {"base": "obs/front_image"},
    "state": (Column("obs/eef_pos"), Column("obs/gripper")),
    "action": (Column("actions"),),
}


def frames(root: Path, **changed: Any) -> FrameFiles:
    return FrameFiles(open_reader("robomimic_hdf5", root), FrameMap(**{**MAP, **changed}), "digest")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return factory.robomimic(tmp_path / "lift.hdf5")


def test_chosen_keys_are_read_exactly(path: Path) -> None:
    demos, index = frames(path), 0
    for episode, length in enumerate(LENGTHS):
        states, actions = factory.truth(episode, length)
        for frame in range(length):
            sample = demos.sample(index, 1)
            assert sample.sample_id == f"lift/demo_{episode}/{frame}"
            assert np.array_equal(sample.state, states[frame])
            assert np.array_equal(sample.actions[0], actions[frame])
            assert np.array_equal(sample.images["base"], factory.picture(episode, frame))
            assert sample.instruction == factory.sentence(episode)
            index += 1


def test_pictures_can_be_turned(path: Path) -> None:
    turned = frames(path, rotate_180=True).sample(3, 1).images["base"]
    assert np.array_equal(turned, factory.picture(0, 3)[::-1, ::-1])


def test_files_of_a_folder_keep_their_names_apart(tmp_path: Path) -> None:
    for name in ("b/lift.hdf5", "a/lift_demo.hdf5", "can.hdf5"):
        factory.robomimic(tmp_path / name, lengths=(2,))
    assert frames(tmp_path).names == ("a.lift/demo_0", "b.lift/demo_0", "can/demo_0")


def test_sentence_of_an_attribute_or_of_the_recipe(path: Path) -> None:
    assert frames(path, instruction_key="words").instructions == ("do 0", "do 1", "do 2")
    assert frames(path, instruction="lift").instructions == ("lift",)
    with h5py.File(path, "r+") as file:
        for episode, length in enumerate(LENGTHS):
            file[f"data/demo_{episode}/told"] = [f"step {t}" for t in range(length)]
    assert frames(path, instruction_key="told").sample(4, 1).instruction == "step 4"


def test_data_without_sentences_asks_for_one(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["data/demo_1"].attrs["ep_meta"]
    with pytest.raises(
        DemoFileError, match=r"demo_1 has no instruction; text attributes: env_args, words. Next: write"
    ):
        frames(path)


def test_contents_tell_cameras_and_widths(path: Path) -> None:
    found = open_reader("robomimic_hdf5", path).contents()
    assert (found.format, found.episodes, found.frames, found.fps) == ("robomimic_hdf5", 3, sum(LENGTHS), 20)
    assert found.cameras["obs/front_image"].size == (48, 64)
    assert {key: vector.width for key, vector in found.vectors.items()} == {
        "actions": 3, "obs/eef_pos": 4, "obs/gripper": 1, "states": 30,
    }  # fmt: skip
    assert found.suggestion()["state"] == ["obs/eef_pos", "obs/gripper"]
    assert found.suggestion()["cameras"] == {"front_image": "obs/front_image"}


def test_liberos_files_give_the_same_samples_through_the_mapping(tmp_path: Path) -> None:
    """The reader that keeps all in memory and the one that reads frame by frame are two readings of one layout."""
    folder = pipeline_factory.demos(tmp_path / "demos", episodes=2, length=5)
    whole = open_demos(folder).load_arrays()
    section = DataSection(path=folder, cameras={"left": "obs/agentview_rgb", "right": "obs/eye_in_hand_rgb"})
    lazy = FrameFiles(open_reader("libero_hdf5", folder), frame_map(section), "digest")
    assert lazy.names == whole.names
    assert len(lazy) == len(whole)
    for index in range(len(whole)):
        one, other = whole.sample(index, 3), lazy.sample(index, 3)
        assert (one.sample_id, one.instruction) == (other.sample_id, other.instruction)
        assert np.array_equal(one.images["agentview"], other.images["left"])
        assert np.array_equal(one.images["wrist"], other.images["right"])
        for key in ("state", "actions", "pad"):
            assert np.array_equal(getattr(one, key), getattr(other, key)), key
    assert open_reader("libero_hdf5", folder).contents().format == "libero_hdf5"


def put(name: str, values: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[f"data/demo_1/{name}"]
        if values is not None:
            file[f"data/demo_1/{name}"] = values

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("actions", np.full((4, 3), np.nan)), r"demo_1/actions\[0, 0\] is nan"),
        (put("obs/eef_pos", np.full((4, 4), 1e300)), r"demo_1/obs/eef_pos\[0, 0\] is inf"),
        (put("obs/eef_pos", np.zeros((3, 4))), r"demo_1: obs/eef_pos has shape \(3, 4\), expected \(4, N\)"),
        (put("obs/eef_pos", None), "demo_1 lacks obs/eef_pos. Available: actions, next_obs/front_image, obs/front"),
        (put("actions", np.zeros((0, 3))), "demo_1 has no steps"),
        (put("obs/front_image", np.zeros((4, 3, 48, 64), np.uint8)), r"expected uint8 \(4, H, W, 3\)"),
        (put("obs/front_image", np.zeros((4, 48, 64, 3))), "is float64"),
    ],
)
def test_a_malformed_demonstration_is_named(path: Path, change: Callable[[h5py.File], None], words: str) -> None:
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(DemoFileError, match=words) as caught:
        frames(path)
    assert str(path) in str(caught.value)


def test_truncated_file_is_named(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DemoFileError, match=r"lift\.hdf5 \(2000 bytes\) is truncated or not HDF5"):
        frames(path)


def test_unknown_key_names_the_others(path: Path) -> None:
    with pytest.raises(
        MappingError, match=r"`data.state` names 'obs/qpos'.*Available: actions \(3\), obs/eef_pos \(4\)"
    ):
        frames(path, state=(Column("obs/qpos"),))


def test_language_in_problem_info_is_the_files_own_place(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["data"].attrs["problem_info"] = json.dumps({"language_instruction": ["two", "words"]})
    assert frames(path).instructions == ("two words",)
