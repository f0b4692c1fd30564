# SPDX-License-Identifier: Apache-2.0
"""LIBERO's HDF5 demonstrations become neutral samples; whatever is wrong with a file is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from compress.data.libero_hdf5 import DemoFileError, open_demos

LENGTHS = (5, 3)
SIZE = 8
SENTENCE = "put the red block in the left tray"


def write_file(path: Path, lengths: tuple[int, ...] = LENGTHS, sentence: Any = SENTENCE, **gzip: Any) -> Path:
    """A file in LIBERO's layout with pixels that say where they come from."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": sentence})
        for k, steps in enumerate(lengths):
            rng, demo = np.random.default_rng([k, 9]), data.create_group(f"demo_{k}")
            demo.attrs["seed"] = 100 + k
            actions = rng.uniform(-1, 1, (steps, 7))
            actions[:, 6] = np.where(np.arange(steps) < 2, -1, 1)
            demo.create_dataset("actions", data=actions)
            for name, width in (("ee_pos", 3), ("ee_ori", 3), ("gripper_states", 2)):
                demo.create_dataset(f"obs/{name}", data=rng.normal(size=(steps, width)))
            for name in ("agentview_rgb", "eye_in_hand_rgb"):
                pixels = rng.integers(0, 256, (steps, SIZE, SIZE, 3), dtype=np.uint8)
                demo.create_dataset(f"obs/{name}", data=pixels, **gzip)
    return path


@pytest.fixture
def demo_file(tmp_path: Path) -> Path:
    return write_file(tmp_path / "put_it_there_demo.hdf5")


def test_pixels_are_turned_and_states_joined_in_order(demo_file: Path) -> None:
    sample = open_demos(demo_file).sample(2, horizon=1)
    with h5py.File(demo_file) as file:
        demo = file["data/demo_0"]
        assert np.array_equal(sample.images["agentview"], demo["obs/agentview_rgb"][2][::-1, ::-1])
        assert np.array_equal(sample.images["wrist"], demo["obs/eye_in_hand_rgb"][2][::-1, ::-1])
        parts = [demo[f"obs/{name}"][2] for name in ("ee_pos", "ee_ori", "gripper_states")]
    assert sample.state == pytest.approx(np.concatenate(parts), abs=1e-6)
    assert sample.state.dtype == np.float32
    assert sample.instruction == SENTENCE


def test_a_chunk_past_the_end_is_still_and_marked(demo_file: Path) -> None:
    demos = open_demos(demo_file)
    sample = demos.sample(LENGTHS[0] - 2, horizon=4)
    assert sample.sample_id == "put_it_there/demo_0/3"
    assert sample.pad.tolist() == [False, False, True, True]
    last = demos.episodes[0].actions[-1]
    assert np.array_equal(sample.actions[1], last)
    assert not sample.actions[2:, :6].any()
    assert (sample.actions[2:, 6] == last[6]).all(), "the gripper stays as it was"
    assert demos.sample(LENGTHS[0], 4).sample_id == "put_it_there/demo_1/0", "chunks never cross into the next episode"


def test_random_access_and_arrays_give_the_same_samples(demo_file: Path) -> None:
    demos = open_demos(demo_file)
    arrays = demos.load_arrays()
    assert len(demos) == len(arrays) == sum(LENGTHS)
    assert arrays.digest == demos.digest
    for index, name in enumerate(demos.sample_ids):
        one, other = demos.sample(index, 4), arrays.sample(index, 4)
        assert one.sample_id == other.sample_id == name
        assert one.instruction == other.instruction
        for key in one.images:
            assert np.array_equal(one.images[key], other.images[key])
        for key in ("state", "actions", "pad"):
            assert np.array_equal(getattr(one, key), getattr(other, key)), key


def test_the_split_is_by_episode_and_agrees_with_the_arrays(tmp_path: Path) -> None:
    demos = open_demos(write_file(tmp_path / "many_demo.hdf5", lengths=(3, 4, 2, 5, 3)))
    training, held_out = demos.split(0.4, seed=3)
    assert len(held_out.episodes) == 2
    assert {e.name for e in training.episodes} | {e.name for e in held_out.episodes} == {e.name for e in demos.episodes}
    arrays = demos.load_arrays()
    _, frames = arrays.split(0.4, seed=3)
    assert {arrays.names[k] for k in arrays.episode[frames]} == {e.name for e in held_out.episodes}
    assert demos.split(0.4, seed=4)[1] is not held_out


def test_the_digest_is_of_the_content_not_of_its_packing(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("plain", "packed", "other")]
    for folder in folders:
        folder.mkdir()
    plain = write_file(folders[0] / "a_demo.hdf5")
    packed = write_file(folders[1] / "a_demo.hdf5", compression="gzip", chunks=(1, SIZE, SIZE, 3))
    other = write_file(folders[2] / "a_demo.hdf5")
    with h5py.File(other, "r+") as file:
        pixel = file["data/demo_1/obs/eye_in_hand_rgb"]
        pixel[0, 0, 0, 0] = int(pixel[0, 0, 0, 0]) ^ 1
    assert open_demos(plain).digest == open_demos(packed).digest != open_demos(other).digest


def test_demonstrations_come_in_numeric_order(tmp_path: Path) -> None:
    demos = open_demos(write_file(tmp_path / "many_demo.hdf5", lengths=(2,) * 12))
    assert [episode.demo for episode in demos.episodes] == [f"demo_{k}" for k in range(12)]
    assert [episode.attributes["seed"] for episode in demos.episodes] == list(range(100, 112))


def test_a_folder_is_read_file_by_file(tmp_path: Path) -> None:
    write_file(tmp_path / "b_demo.hdf5", sentence="b")
    write_file(tmp_path / "a_demo.hdf5", sentence=["two", "words"])  # some of LIBERO's files hold a list
    demos = open_demos(tmp_path)
    assert demos.instructions == ("two words", "b")
    assert demos.load_arrays().instruction.tolist() == [0] * sum(LENGTHS) + [1] * sum(LENGTHS)


def test_frames_without_motion_can_be_left_out(demo_file: Path) -> None:
    with h5py.File(demo_file, "r+") as file:
        actions = file["data/demo_0/actions"]
        actions[0, :6] = 0.0  # still, but first: nothing to compare with, dropped
        actions[2, :6] = 0.0  # still, but the gripper's command changes here
        actions[4, :6] = 1e-6  # still
    kept = open_demos(demo_file, drop_noops=True)
    assert kept.episodes[0].frames.tolist() == [1, 2, 3]
    arrays = kept.load_arrays()
    with h5py.File(demo_file) as file:
        assert np.array_equal(arrays.images["wrist"][1], file["data/demo_0/obs/eye_in_hand_rgb"][2][::-1, ::-1])
    assert np.array_equal(kept.sample(1, 1).images["wrist"], arrays.images["wrist"][1])
    assert len(open_demos(demo_file).episodes[0]) == 5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["actions", "obs/ee_pos", "obs/ee_ori", "obs/gripper_states"])
def test_a_number_that_is_not_finite_is_named(demo_file: Path, field: str, value: float) -> None:
    with h5py.File(demo_file, "r+") as file:
        file[f"data/demo_1/{field}"][2, 1] = value
    with pytest.raises(DemoFileError) as caught:
        open_demos(demo_file)
    text = str(caught.value)
    assert str(demo_file) in text
    assert f"demo_1/{field}[2, 1] is {value}" in text


def replaced(field: str, values: np.ndarray) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[f"data/demo_0/{field}"]
        file.create_dataset(f"data/demo_0/{field}", data=values)

    return change


def deleted(path: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[path]

    return change


def sentence_set_to(text: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file["data"].attrs["problem_info"] = text

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (deleted("data/demo_0/obs/ee_ori"), ("demo_0 lacks obs/ee_ori", "Available: actions", "obs/ee_pos")),
        (deleted("data/demo_0/actions"), ("demo_0 lacks actions",)),
        (deleted("data/demo_0/obs"), ("lacks obs/ee_pos", "Available: actions")),
        (deleted("data"), ("expected 'data'",)),
        (replaced("actions", np.zeros((5, 6))), ("actions has shape (5, 6), expected (5, 7)",)),
        (replaced("obs/ee_pos", np.zeros((4, 3))), ("obs/ee_pos has shape (4, 3), expected (5, 3)",)),
        (replaced("obs/agentview_rgb", np.zeros((5, 8, 8, 3))), ("float64", "expected uint8 (5, H, W, 3)")),
        (replaced("obs/agentview_rgb", np.zeros((5, 3, 8, 8), np.uint8)), ("expected uint8 (5, H, W, 3)",)),
        (replaced("obs/agentview_rgb", np.zeros((5, 4, 4, 3), np.uint8)), ("images of different sizes",)),
        (replaced("actions", np.zeros((0, 7))), ("demo_0 has no steps",)),
        (sentence_set_to("{}"), ("problem_info", "language_instruction")),
        (sentence_set_to("not json"), ("problem_info",)),
        (sentence_set_to('{"language_instruction": " "}'), ("language_instruction is empty",)),
    ],
)
def test_a_malformed_file_is_refused_with_its_fault(
    demo_file: Path, change: Callable[[h5py.File], None], words: tuple[str, ...]
) -> None:
    with h5py.File(demo_file, "r+") as file:
        change(file)
    with pytest.raises(DemoFileError) as caught:
        open_demos(demo_file)
    assert str(demo_file) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_named(demo_file: Path, part: float) -> None:
    content = demo_file.read_bytes()
    demo_file.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(DemoFileError, match=r"truncated or not HDF5.*Next: copy or generate it again"):
        open_demos(demo_file)


def test_a_damaged_picture_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a_demo.hdf5", compression="gzip", chunks=(1, SIZE, SIZE, 3), fletcher32=True)
    with h5py.File(path) as file:
        chunk = file["data/demo_1/obs/agentview_rgb"].id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(content)
    demos = open_demos(path)
    with pytest.raises(DemoFileError, match="demo_1/obs/agentview_rgb is damaged"):
        demos.load_arrays()


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DemoFileError, match=r"holds no \*_demo.hdf5 files"):
        open_demos(tmp_path)
    with pytest.raises(DemoFileError, match="no such file"):
        open_demos(tmp_path / "absent.hdf5")


def test_the_same_task_twice_is_refused(tmp_path: Path, demo_file: Path) -> None:
    (tmp_path / "other").mkdir()
    again = write_file(tmp_path / "other" / demo_file.name)
    with pytest.raises(DemoFileError, match="same name, such as put_it_there/demo_0"):
        open_demos([demo_file, again])


def test_files_of_different_image_sizes_do_not_mix(tmp_path: Path, demo_file: Path) -> None:
    other = write_file(tmp_path / "small_demo.hdf5")
    with h5py.File(other, "r+") as file:
        for k, steps in enumerate(LENGTHS):
            for name in ("agentview_rgb", "eye_in_hand_rgb"):
                del file[f"data/demo_{k}/obs/{name}"]
                file.create_dataset(f"data/demo_{k}/obs/{name}", data=np.zeros((steps, 4, 4, 3), np.uint8))
    with pytest.raises(DemoFileError, match="differ in size"):
        open_demos([demo_file, other])


def test_a_frame_outside_the_set_is_an_index_error(demo_file: Path) -> None:
    demos = open_demos(demo_file)
    for index in (-1, len(demos)):
        with pytest.raises(IndexError, match=r"frames 0\.\.7"):
            demos.sample(index, 1)
