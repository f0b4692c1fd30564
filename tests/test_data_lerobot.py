# SPDX-License-Identifier: Apache-2.0
"""LeRobotDataset v3.0 and v2.1: numbers exactly, pictures as they were stored, and every fault by file and episode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_factory as factory
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_factory import FRONT, LENGTHS, WRIST

from compress.data.faults import DemoFileError
from compress.data.formats import detect, open_reader
from compress.data.frame_files import FrameFiles
from compress.data.mapping import Column, FrameMap, MappingError

STATE, ACTION = (Column("observation.state"),), (Column("action"),)
VERSIONS = ("v3.0", "v2.1")


def frames(root: Path, **changed: Any) -> FrameFiles:
    mapping = {"cameras": {"base": FRONT, "hand": WRIST}, "state": STATE, "action": ACTION, **changed}
    return FrameFiles(open_reader("lerobot", root), FrameMap(**mapping), "digest")


@pytest.fixture(params=VERSIONS)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return factory.lerobot(tmp_path / "arm", request.param)


def positions() -> list[tuple[int, int]]:
    return [(episode, frame) for episode, length in enumerate(LENGTHS) for frame in range(length)]


def test_numbers_are_exact_and_sentences_belong_to_their_frames(root: Path) -> None:
    demos = frames(root)
    assert len(demos) == sum(LENGTHS)
    assert demos.widths == (5, 3)
    for index, (episode, frame) in enumerate(positions()):
        states, actions = factory.truth(episode, LENGTHS[episode])
        sample = demos.sample(index, 1)
        assert np.array_equal(sample.state, states[frame])
        assert np.array_equal(sample.actions[0], actions[frame])
        assert sample.instruction == factory.sentence(episode)
        assert sample.sample_id == f"arm/episode_{episode:06d}/{frame}"


def test_pictures_in_parquet_are_equal_and_in_video_close(root: Path) -> None:
    demos = frames(root)
    for index, (episode, frame) in reversed(list(enumerate(positions()))):  # every step back is a seek
        images = demos.sample(index, 1).images
        assert np.array_equal(images["hand"], factory.picture(episode, frame, 1))
        found, wanted = images["base"].astype(int), factory.picture(episode, frame).astype(int)
        off = np.abs(found - wanted)
        assert off[20:, 20:].max() <= 5, (episode, frame)  # frames are 25 grey levels apart, episodes 3
        assert off[4:12, 4:12].max() < 30, "the corner is still the corner"


def test_a_chunk_holds_the_last_action_past_the_end_and_marks_it(root: Path) -> None:
    demos = frames(root)
    _, actions = factory.truth(0, LENGTHS[0])
    found, pad = demos.chunk(LENGTHS[0] - 2, 5)
    assert pad.tolist() == [False, False, True, True, True]
    assert np.array_equal(found, actions[[5, 6, 6, 6, 6]])


def test_reading_in_order_or_at_random_gives_the_same_frames(tmp_path: Path) -> None:
    root = factory.lerobot(tmp_path / "arm", g="100", bf="2")  # one key frame, frames stored out of order
    together = frames(root).samples(range(sum(LENGTHS)), 1)
    alone = frames(root)
    for index in np.random.default_rng(0).permutation(sum(LENGTHS)):
        other = alone.sample(int(index), 1)
        assert np.array_equal(together[index].images["base"], other.images["base"])
        episode, frame = positions()[index]
        assert abs(int(other.images["base"][30, 40, 0]) - (40 + 25 * frame + 3 * episode)) <= 5


def test_av1_is_read(tmp_path: Path) -> None:
    root = factory.lerobot(tmp_path / "arm", storage={FRONT: "video"}, lengths=(3,), codec="libsvtav1", crf="20")
    image = frames(root, cameras={"base": FRONT}).sample(2, 1).images["base"]
    assert abs(int(image[30, 40, 0]) - 90) <= 5


def test_groot_names_are_parts_of_vectors(tmp_path: Path) -> None:
    root = factory.modality(factory.lerobot(tmp_path / "arm", "v2.1"))
    demos = frames(
        root, cameras={"ego": "video.front"}, state=(Column("state.hand"), Column("state.arm", 1, 3)),
        action=(Column("action.hand"),), instruction_key="annotation.human.task_description",
    )  # fmt: skip
    states, actions = factory.truth(1, LENGTHS[1])
    sample = demos.sample(LENGTHS[0], 2)
    assert np.array_equal(sample.state, states[0, [4, 1, 2]])
    assert np.array_equal(sample.actions, actions[:2, 2:])
    assert sample.instruction == factory.sentence(1)
    assert sample.images["ego"].shape == (factory.HIGH, factory.WIDE, 3)


def test_one_sentence_for_all(root: Path) -> None:
    assert frames(root, instruction="do it").instructions == ("do it",)


def test_contents_come_from_the_metadata(root: Path) -> None:
    found = open_reader(detect(root), root).contents()
    assert (found.format, found.episodes, found.frames, found.fps) == ("lerobot", 3, sum(LENGTHS), factory.FPS)
    assert {key: camera.size for key, camera in found.cameras.items()} == {FRONT: (48, 64), WRIST: (48, 64)}
    assert {key: vector.width for key, vector in found.vectors.items()} == {"observation.state": 5, "action": 3}
    assert found.instructions == factory.SENTENCES


def test_depth_is_no_camera(root: Path) -> None:
    edit(root, lambda info: info["features"][FRONT].update(info={"video.is_depth_map": True}))
    assert list(open_reader("lerobot", root).contents().cameras) == [WRIST]


def edit(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def data_file(root: Path) -> Path:
    """Of the last episode."""
    return sorted((root / "data").rglob("*.parquet"))[-1]


def rewrite(path: Path, name: str, change: Callable[[list[Any]], list[Any]]) -> None:
    table = pq.read_table(path)
    column = table.schema.get_field_index(name)
    values = pa.array(change(table.column(name).to_pylist()), table.schema.field(column).type)
    pq.write_table(table.set_column(column, table.schema.field(column), values), path)


def spoilt(values: list[Any], row: int, number: float) -> list[Any]:
    values[row][1] = number
    return values


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("key", ["action", "observation.state"])
def test_a_number_that_is_not_finite_is_named(root: Path, key: str, value: float) -> None:
    path = data_file(root)
    rewrite(path, key, lambda values: spoilt(values, 3, value))
    with pytest.raises(DemoFileError) as caught:
        frames(root)
    assert f"{path}: episode 2/{key}[3, 1] is {value}" in str(caught.value)


def test_truncated_parquet_is_named(root: Path) -> None:
    path = data_file(root)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DemoFileError, match=r"\.parquet \(\d+ bytes\) is truncated or not parquet.*copy it again"):
        frames(root)


def test_damaged_parquet_pages_are_named(root: Path) -> None:
    path = data_file(root)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    with pytest.raises(DemoFileError, match=str(path)):
        frames(root).samples(range(sum(LENGTHS)), 1)


def test_missing_rows_are_named(root: Path) -> None:
    path = data_file(root)
    pq.write_table(pq.read_table(path).slice(0, 4), path)
    with pytest.raises(DemoFileError, match="episode 2 has 4 rows, meta says 6"):
        frames(root)


def test_wrong_rate_is_named(root: Path) -> None:
    edit(root, lambda info: info.update(fps=25))
    with pytest.raises(DemoFileError, match=r"episode 0: timestamps .* expected steps of 0.0400 s at fps 25"):
        frames(root)


def test_a_frame_that_the_video_lacks_is_named(root: Path) -> None:
    for path in (root / "videos").rglob("*.mp4"):
        factory.write_video(path, [factory.picture(0, 0)] * 3)
    demos = frames(root)
    demos.sample(1, 1)
    with pytest.raises(DemoFileError, match=r"\.mp4: episode 2, frame 5 needs the frame at .* within 0.0500 s, found"):
        demos.sample(len(demos) - 1, 1)


def test_a_video_of_another_rate_is_named(tmp_path: Path) -> None:
    root = factory.lerobot(tmp_path / "arm", "v2.1")
    path = root / f"videos/chunk-000/{FRONT}/episode_000001.mp4"
    factory.write_video(path, [factory.picture(1, t) for t in range(4)], fps=3)
    with pytest.raises(DemoFileError, match=r"episode_000001\.mp4: episode 1, frame 1 needs the frame at 0.1000 s"):
        frames(root).sample(LENGTHS[0] + 1, 1)


@pytest.mark.parametrize("flags", [None, "faststart"], ids=["index-last", "index-first"])
def test_truncated_video_is_named(tmp_path: Path, flags: str | None) -> None:
    options = {} if flags is None else {"movflags": flags}
    root = factory.lerobot(tmp_path / "arm", **options)
    path = next((root / "videos").rglob("*.mp4"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(DemoFileError, match=r"file-000\.mp4.*episode 2, frame 5"):
        frames(root).sample(sum(LENGTHS) - 1, 1)


def test_missing_video_is_named(root: Path) -> None:
    for path in (root / "videos").rglob("*.mp4"):
        path.unlink()
    with pytest.raises(DemoFileError, match=r"mp4: no such file, needed for episode 0, frame 2"):
        frames(root).sample(2, 1)


def test_missing_video_library_says_how_to_install_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    demos = frames(root)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'dropgate\[compress\]'"):
        demos.sample(0, 1)


def test_empty_episode_is_named(tmp_path: Path) -> None:
    root = factory.lerobot(tmp_path / "arm", storage={WRIST: "image"}, lengths=(3, 0, 2))
    with pytest.raises(DemoFileError, match="episode 1 has length 0"):
        open_reader("lerobot", root)


def test_incomplete_copy_is_named(root: Path) -> None:
    edit(root, lambda info: info.update(total_episodes=5))
    with pytest.raises(DemoFileError, match=r"3 different episodes in 3 entries, meta/info.json promises 5"):
        open_reader("lerobot", root)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda info: info.update(codebase_version="v1.6"), "codebase_version is v1.6, expected v2.0, v2.1 or v3.x"),
        (lambda info: info.pop("fps"), "'fps'"),
        (lambda info: info.update(fps=0), "fps is 0"),
        (lambda info: info.update(data_path="../{episode_index}{file_index}"), "cannot be filled in|leads out"),
    ],
)
def test_malformed_metadata_are_named(root: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    edit(root, change)
    with pytest.raises(DemoFileError, match=words):
        open_reader("lerobot", root)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"cameras": {"base": "front"}}, ("`data.cameras.base` is 'front'", f"{FRONT} (48 x 64 video)", "Next: write")),
        ({"cameras": {}}, ("`data.cameras` is empty", WRIST, "data.cameras: {MODEL_CAMERA:")),
        ({"state": (Column("qpos"),)}, ("`data.state` names 'qpos'", "observation.state (5)")),
        ({"state": (Column("observation.state", 2, 9),)}, ("takes observation.state[2:9]", "0 to 4", "STOP <= 5")),
        ({"action": ()}, ("`data.action` is missing", "action (3)", "Next: write data.action: action")),
        ({"instruction_key": "words"}, ("`data.instruction_key` is 'words'", "task_index", "data.instruction:")),
    ],
)
def test_a_mapping_that_does_not_fit_says_what_to_write(
    root: Path, mapping: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(MappingError) as caught:
        frames(root, **mapping)
    for word in words:
        assert word in str(caught.value)
