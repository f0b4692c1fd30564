# SPDX-License-Identifier: Apache-2.0
"""RLDS without TensorFlow: framing, checksums, the wire format, and episodes as they were written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_factory as factory
import numpy as np
import pytest
from data_factory import LENGTHS
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data.crc32c import crc32c, masked_crc32c
from compress.data.faults import DemoFileError
from compress.data.formats import detect, open_reader
from compress.data.frame_files import FrameFiles
from compress.data.mapping import Column, FrameMap
from compress.data.tf_example import WireError, parse

MAP = {
    "cameras": {"base": "observation/image", "hand": "observation/wrist"},
    "state": (Column("observation/state"),),
    "action": (Column("action"),),
}


def frames(root: Path, **changed: Any) -> FrameFiles:
    return FrameFiles(open_reader("rlds", root), FrameMap(**{**MAP, **changed}), "digest")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return factory.rlds(tmp_path)


@pytest.mark.parametrize(
    ("data", "crc"),
    [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (b"", 0)],
)
def test_checksum_matches_published_values(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


@pytest.mark.parametrize("count", [1, 3, 2047, 2048, 2049, 4097, 9999])
def test_checksum_of_large_buffers_matches_the_definition(count: int) -> None:
    data = np.random.default_rng(count).bytes(count)
    assert masked_crc32c(memoryview(data)) == factory._crc(data)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
def test_episodes_are_read_as_written(tmp_path: Path, packed: bool) -> None:
    demos = frames(factory.rlds(tmp_path, packed=packed))
    assert (len(demos), demos.widths, demos.instructions) == (sum(LENGTHS), (5, 3), factory.SENTENCES)
    index = 0
    for episode, length in enumerate(LENGTHS):
        states, actions = factory.truth(episode, length)
        for frame in range(length):
            sample = demos.sample(index, 2)
            assert sample.sample_id == f"tiny_arm/train_{episode:06d}/{frame}"
            assert np.array_equal(sample.state, states[frame])
            assert np.array_equal(sample.actions, actions[[frame, min(frame + 1, length - 1)]])
            assert sample.pad.tolist() == [False, frame == length - 1]
            assert sample.instruction == factory.sentence(episode)
            assert np.array_equal(sample.images["base"], factory.picture(episode, frame)), "PNG is lossless"
            near = np.abs(sample.images["hand"].astype(int) - factory.picture(episode, frame, 1))
            assert near[20:, 20:].max() <= 4, "JPEG is close"
            index += 1


def test_pictures_stored_as_packed_memory(root: Path) -> None:
    demos = frames(root, cameras={"base": "observation/raw"})
    assert np.array_equal(demos.sample(8, 1).images["base"], factory.picture(1, 1, 2))


def test_integers_become_numbers(root: Path) -> None:
    demos = frames(root, state=(Column("is_first"), Column("observation/state", 0, 1)))
    assert [float(demos.sample(k, 1).state[0]) for k in range(8)] == [1, 0, 0, 0, 0, 0, 0, 1]


def test_the_name_folder_finds_its_version(root: Path) -> None:
    assert detect(root.parent) == "rlds"
    assert open_reader("rlds", root.parent).contents().episodes == 3


def test_contents_come_from_the_metadata(root: Path) -> None:
    found = open_reader("rlds", root).contents()
    assert found.cameras["observation/wrist"].size == (48, 64)
    assert {key: vector.width for key, vector in found.vectors.items()} == {
        "observation/state": 5,
        "action": 3,
        "is_first": 1,
    }
    assert found.texts == ("language_instruction",)


numbers = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30)
floats = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30)


@given(numbers, floats, st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_example_comes_back(whole: list[int], real: list[float], raw: list[bytes], packed: bool) -> None:
    message = memoryview(factory.example({"a/b": whole, "c": np.array(real, np.float32), "d": raw}, packed))
    found = parse(message, 0, len(message))
    assert found["a/b"].integers().tolist() == whole
    assert np.array_equal(found["c"].floats(), np.array(real, np.float32))
    assert [bytes(message[a:b]) for a, b in found["d"].places()] == raw


def test_steps_of_a_sequence_example_come_in_order() -> None:
    message = memoryview(
        factory.sequence_example({"x": [[1.0, 2.0], [3.0]], "t": [[b"one"], [b"two"]], "n": [[7], [-1]]})
    )
    found = parse(message, 0, len(message))
    assert found["x"].floats().tolist() == [1.0, 2.0, 3.0]
    assert found["n"].numbers().tolist() == [7, -1]
    assert [bytes(message[a:b]) for a, b in found["t"].places()] == [b"one", b"two"]


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_noise_is_refused_or_read_but_never_crashes(noise: bytes) -> None:
    try:
        found = parse(memoryview(noise), 0, len(noise))
        for feature in found.values():
            feature.numbers()
    except WireError:
        pass


def shard(root: Path, number: int = 1) -> Path:
    return root / f"tiny_arm-train.tfrecord-{number:05d}-of-00002"


@pytest.mark.parametrize("keep", [1, 6, 100])
def test_truncated_file_is_named_with_its_record(root: Path, keep: int) -> None:
    path = shard(root)
    path.write_bytes(path.read_bytes()[:-keep])
    with pytest.raises(DemoFileError, match=rf"{path.name}: record 0 at byte 0 needs .* truncated"):
        frames(root)


def test_truncation_between_records_is_seen(root: Path) -> None:
    path = shard(root, 0)
    path.write_bytes(factory.framed([factory.example(factory.rlds_episode(0, LENGTHS[0]))]))
    with pytest.raises(DemoFileError, match=r"holds 1 records, dataset_info\.json promises 2: truncated"):
        frames(root)


@pytest.mark.parametrize(("at", "words"), [(3, "its length does not match"), (500, "do not match their checksum")])
def test_one_flipped_bit_is_seen(root: Path, at: int, words: str) -> None:
    path = shard(root)
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)
    with pytest.raises(DemoFileError, match=rf"{path.name}: record 0 at byte 0.*{words}"):
        frames(root)


def test_empty_file_is_named(root: Path) -> None:
    shard(root).write_bytes(b"")
    with pytest.raises(DemoFileError, match=r"00001-of-00002: is empty"):
        frames(root)


def replaced(root: Path, **values: Any) -> None:
    """The only record of the second file (episode 2), with other values."""
    record = {**factory.rlds_episode(2, LENGTHS[2]), **{f"steps/{k.replace('__', '/')}": v for k, v in values.items()}}
    shard(root).write_bytes(factory.framed([factory.example({k: v for k, v in record.items() if v is not None})]))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"action": np.full((6, 3), np.nan, np.float32)}, r"episode 2\)/action\[0, 0\] is nan"),
        ({"observation__state": np.full((6, 5), np.inf, np.float32)}, r"episode 2\)/observation/state\[0, 0\] is inf"),
        ({"action": np.zeros((5, 3), np.float32)}, r"observation/state has shape \(6, 5\), expected \(5, N\)"),
        ({"action": np.zeros(17, np.float32)}, "17 numbers in action, expected a multiple of 3"),
        ({"action": None}, "lacks steps/action. Available: .*steps/is_first"),
        ({"observation__image": [b"x"] * 5}, "5 pictures in observation/image, expected 6"),
        ({"language_instruction": [b"once"]}, "1 sentences in language_instruction, expected 6"),
        ({"language_instruction": [b" "] * 6}, "the instruction is empty"),
    ],
)
def test_a_malformed_episode_is_named(root: Path, values: dict[str, Any], words: str) -> None:
    replaced(root, **values)
    with pytest.raises(DemoFileError, match=words):
        frames(root)


def test_an_episode_without_steps_is_named(tmp_path: Path) -> None:
    root = factory.rlds(tmp_path, lengths=(2, 2, 2))
    nothing = {key: [] for key in factory.rlds_episode(2, 1)}
    entries = (factory.field(1, factory.field(1, name.encode()) + factory.field(2, b"")) for name in nothing)
    shard(root).write_bytes(factory.framed([factory.field(1, b"".join(entries))]))
    with pytest.raises(DemoFileError, match=r"record 0 \(episode 2\) has no steps"):
        frames(root)


def test_a_damaged_picture_is_named_when_it_is_read(root: Path) -> None:
    replaced(root, observation__image=[b"no picture"] * 6)
    demos = frames(root)
    with pytest.raises(DemoFileError, match=r"episode 2, frame 3, observation/image: a picture of 10 bytes cannot be"):
        demos.sample(LENGTHS[0] + LENGTHS[1] + 3, 1)


def info_with(**changed: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        info = json.loads((root / "dataset_info.json").read_text())
        (root / "dataset_info.json").write_text(json.dumps({**info, **changed}))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "features.json").unlink(), r"features\.json: no such file; without it the shapes"),
        (lambda root: (root / "features.json").write_text("{}"), "no `steps` data set among no features"),
        (lambda root: (root / "features.json").write_text("{"), "is not JSON"),
        (lambda root: (root / "dataset_info.json").unlink(), r"dataset_info\.json: no such file"),
        (lambda root: shard(root).unlink(), r"00001-of-00002 \(1 such\) is missing"),
        (info_with(fileFormat="array_record"), "fileFormat is array_record, expected tfrecord"),
        (info_with(splits=[]), "the splits are none, expected one called train"),
        (info_with(splits=[{"name": "train"}]), "the splits lack 'shardLengths'|KeyError"),
    ],
)
def test_incomplete_metadata_are_named(root: Path, change: Callable[[Path], Any], words: str) -> None:
    change(root)
    with pytest.raises(DemoFileError, match=words):
        open_reader("rlds", root)


def test_data_without_sentences_asks_for_one(root: Path) -> None:
    features = factory.rlds_features()
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    del steps["language_instruction"]
    (root / "features.json").write_text(json.dumps(features))
    with pytest.raises(DemoFileError, match=r"texts: none. Next: write data.instruction_key, or data.instruction: one"):
        frames(root)
    assert frames(root, instruction="stack").instructions == ("stack",)
