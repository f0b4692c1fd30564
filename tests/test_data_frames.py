# SPDX-License-Identifier: Apache-2.0
"""Frames that stay on disk: what is read when, at which size, and that batches do not depend on it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import algorithm_factory
import data_factory as factory
import numpy as np
import pytest
from data_factory import FRONT, LENGTHS, WRIST

from compress import digests
from compress.calibration import CalibrationSet, pick
from compress.data import fingerprint
from compress.data.contents import Camera, Contents, Vector
from compress.data.faults import DemoFileError
from compress.data.fit import check_fit
from compress.data.formats import detect, open_reader
from compress.data.frame_files import FrameFiles
from compress.data.frames import FrameSource, FrameStore
from compress.data.mapping import Column, FrameMap, MappingError
from compress.data.pictures import decoded, fitted
from compress.data.reader import ImageSource, Rows


class CountingReader:
    """Two episodes of pictures in memory; counts how often each is read."""

    def __init__(self, lengths: tuple[int, ...] = (6, 4), sides: tuple[int, ...] = (8, 8)) -> None:
        self.lengths, self.sides = lengths, sides
        self.reads: list[tuple[int, int]] = []

    def contents(self) -> Contents:
        return Contents(
            "counting", "", Path("mem"), 2, None, None, {"eye": Camera(None, None, "memory")},
            {"s": Vector(2), "a": Vector(3)},
        )  # fmt: skip

    def open(self, wanted: FrameMap) -> tuple[tuple[Rows, ...], ImageSource]:
        wanted.check(self.contents())
        shapes = enumerate(self.lengths)
        rows = [Rows(f"mem/{k}", f"mem {k}", np.zeros((n, 2)), np.ones((n, 3)), ["go"] * n) for k, n in shapes]
        return tuple(rows), self

    def read(self, camera: str, episode: int, rows: Any) -> list[np.ndarray]:
        self.reads += [(episode, row) for row in rows]
        side = self.sides[episode]
        return [np.full((side, side, 3), 100 * episode + row, np.uint8) for row in rows]

    def close(self) -> None: ...


WANTED = FrameMap({"base": "eye"}, (Column("s"),), (Column("a"),))


def test_only_what_is_asked_for_is_read_and_only_once() -> None:
    reader = CountingReader()
    demos = FrameFiles(reader, WANTED, "digest")
    reader.reads.clear()  # one picture told the size
    found = demos.samples([7, 2, 7, 0], 1)
    assert reader.reads == [(0, 0), (0, 2), (1, 1)], "in the files' order"
    assert [int(s.images["base"][0, 0, 0]) for s in found] == [101, 2, 101, 0], "in the order asked for"
    demos.samples([0, 2, 7], 1)
    assert len(reader.reads) == 3


def test_memory_for_pictures_is_bounded_and_the_oldest_leave() -> None:
    reader, one = CountingReader(), 8 * 8 * 3
    demos = FrameFiles(reader, WANTED, "digest", cache_bytes=3 * one)
    demos.samples([0, 1, 2], 1)
    demos.sample(0, 1)
    demos.sample(3, 1)  # 1 is the oldest now
    assert demos.cached_bytes == 3 * one
    reader.reads.clear()
    demos.samples([0, 2, 3], 1)
    assert reader.reads == []
    demos.sample(1, 1)
    assert reader.reads == [(0, 1)]
    assert len(demos.samples(range(10), 1)) == 10, "more than fits is still served"


def test_a_frame_outside_is_an_index_error() -> None:
    with pytest.raises(IndexError, match=r"frame 10: the set has frames 0\.\.9"):
        FrameFiles(CountingReader(), WANTED, "digest").samples([1, 10], 1)


def test_pictures_of_two_sizes_need_a_size() -> None:
    demos = FrameFiles(CountingReader(sides=(8, 6)), WANTED, "digest")
    with pytest.raises(
        DemoFileError, match=r"mem 1, frame 0: eye is 6 x 6, other pictures are 8 x 8. Next: write data.im"
    ):
        demos.sample(6, 1)
    sized = FrameMap({"base": "eye"}, (Column("s"),), (Column("a"),), image_size=(4, 4))
    assert FrameFiles(CountingReader(sides=(8, 6)), sized, "digest").sample(6, 1).images["base"].shape == (4, 4, 3)


def test_padding_follows_the_mapping() -> None:
    still = FrameMap({"base": "eye"}, (), (Column("a"),), padding="still")
    for wanted, past in ((WANTED, [1.0, 1.0, 1.0]), (still, [0.0, 0.0, 1.0])):
        actions, pad = FrameFiles(CountingReader(), wanted, "digest").chunk(5, 2)
        assert pad.tolist() == [False, True]
        assert actions[1].tolist() == past


def test_shrinking_averages_and_keeps_proportions() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    small = fitted(stripes, (16, 16))[2:-2, 2:-2]
    assert abs(small.astype(int) - 100).max() <= 10, "a filter without antialiasing would keep 0 or 200"
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, :20], wide[:, 60:] = 255, 255
    assert not fitted(wide, (20, 20)).any(), "the sides are cut off, nothing is squeezed"
    assert fitted(wide, (40, 80)) is wide


@pytest.mark.ros
def test_the_robots_own_resizing_is_the_same() -> None:
    """What the policy is recovered on must look like what the controller node will show it."""
    conversions = pytest.importorskip("dropgate_controller.conversions", reason="needs rclpy's messages")
    pytest.importorskip("cv2")
    down, across = np.mgrid[0:96, 0:128]
    ramp = np.stack([2 * down, across, down + across], axis=2).astype(np.uint8)
    assert np.abs(conversions._resized(ramp, 32, 32).astype(int) - fitted(ramp, (32, 32))).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_cut_off_pictures_are_named(kind: str) -> None:
    content = factory.png(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8), kind)
    with pytest.raises(DemoFileError, match=r"here: a picture of .* cannot be decoded"):
        decoded(content[: len(content) // 2], "here")


def test_depth_maps_are_refused() -> None:
    with pytest.raises(DemoFileError, match="mode I;16, expected 8-bit RGB; is it a depth map"):
        decoded(factory.png(np.zeros((4, 4), np.uint16)), "here")


def test_grey_becomes_rgb() -> None:
    image = decoded(factory.png(np.full((4, 5), 7, np.uint8)), "here")
    assert image.shape == (4, 5, 3)
    assert (image == 7).all()


STORES = ("lerobot", "rlds", "robomimic_hdf5")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FrameFiles:
    return opened(request.param, tmp_path)


def opened(kind: str, folder: Path) -> FrameFiles:
    if kind == "lerobot":
        root, cameras = factory.lerobot(folder / "arm"), {"agentview": FRONT, "wrist": WRIST}
        state, action = "observation.state", "action"
    elif kind == "rlds":
        root, cameras = factory.rlds(folder), {"agentview": "observation/image", "wrist": "observation/wrist"}
        state, action = "observation/state", "action"
    else:
        root, cameras = (
            factory.robomimic(folder / "lift.hdf5"),
            dict.fromkeys(("agentview", "wrist"), "obs/front_image"),
        )
        state, action = "obs/eef_pos", "actions"
    wanted = FrameMap(
        cameras,
        (Column.parse(f"{state}[0:4]"),) * 2,
        (Column(action), Column(action), Column.parse(f"{action}[0:1]")),
        (32, 32),
    )
    return FrameFiles(open_reader(detect(root), root), wanted, "digest")


def test_calibration_is_the_same_every_time_and_ids_are_unique(tmp_path: Path) -> None:
    for kind in STORES:
        first, again = (pick(opened(kind, tmp_path / kind / name), 9, 5, 4) for name in ("a", "b"))
        assert [s.sample_id for s in first] == [s.sample_id for s in again]
        assert len({s.sample_id for s in first}) == 9
        model = algorithm_factory.policy()
        assert CalibrationSet(model, first, 4).digest() == CalibrationSet(model, again, 4).digest()


def test_a_model_is_trained_on_batches_from_disk(store: FrameFiles) -> None:
    """The same batches as from a store that forgets everything, and the padding reaches the model."""
    model = algorithm_factory.policy()
    training, held_out = store.split(0.34, seed=0)
    assert len(training) + len(held_out) == sum(LENGTHS)
    assert not set(store.episode[training]) & set(store.episode[held_out])
    source = FrameSource(store, model, 4, 3, 1, training)
    batches = [source.batch(step) for step in range(source.per_epoch)]
    assert any(bool(batch.pad.any()) for batch in batches)
    assert all(bool(model.loss(batch).isfinite().all()) for batch in batches)
    store.close()
    again = FrameSource(store, model, 4, 3, 1, training).batch(1)
    assert again.sample_ids == batches[1].sample_ids
    assert bool((again.inputs["pixels"] == batches[1].inputs["pixels"]).all())


SIZES = {"agentview": (32, 32), "wrist": (32, 32)}


@pytest.mark.parametrize(
    ("cameras", "widths", "words"),
    [
        ({**SIZES, "side": (32, 32)}, (8, 7), ("camera side has no pictures", "48 x 64", "side: KEY")),
        (dict.fromkeys(SIZES, (224, 224)), (8, 7), ("are 32 x 32, the policy takes 224 x 224", "data.image_size: 224")),
        (dict.fromkeys(SIZES, (32, 48)), (8, 7), ("data.image_size: [32, 48]",)),
        (SIZES, (9, 7), ("the demonstrations' state has 8 numbers, the policy's has 9", "in data.state")),
        (SIZES, (8, 6), ("the demonstrations' action has 7 numbers, the policy's has 6", "in data.action")),
    ],
)
def test_what_does_not_fit_the_policy_says_what_to_write(
    store: FrameFiles, cameras: Any, widths: tuple[int, int], words: tuple[str, ...]
) -> None:
    check_fit(store, SIZES, 8, 7, store.contents)
    with pytest.raises(MappingError) as caught:
        check_fit(store, cameras, *widths, store.contents)
    for word in words:
        assert word in str(caught.value)


def test_arrays_in_memory_are_a_store_too() -> None:
    arrays: FrameStore = algorithm_factory.demos()
    check_fit(arrays, SIZES, 8, 7)
    assert [s.sample_id for s in arrays.samples([3, 1], 2)] == ["task_0/demo_0/3", "task_0/demo_0/1"]


def test_unknown_data_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DemoFileError, match=r"Looked for meta/info.json \(LeRobot\), features.json"):
        detect(tmp_path)
    with pytest.raises(DemoFileError, match="no such file or folder"):
        detect(tmp_path / "absent")


def aged(path: Path, seconds: float = 10.0) -> Path:
    old = time.time() - seconds
    os.utime(path, (old, old))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are really read."""
    seen: list[str] = []
    real = digests.of_file
    monkeypatch.setattr(digests, "of_file", lambda path: seen.append(path.name) or real(path))
    monkeypatch.setattr(fingerprint, "SETTLED_S", -1.0)  # files of a test are never old
    return seen


def test_fingerprint_is_the_plain_digest_and_is_not_taken_twice(tmp_path: Path, reads: list[str]) -> None:
    folder, memory = tmp_path / "data", tmp_path / "digests.json"
    folder.mkdir()
    (folder / "big").write_bytes(b"x" * 5000)
    (folder / "small").write_bytes(b"y")
    plain = digests.of_path(folder)
    reads.clear()
    assert fingerprint.of_path(folder, memory, large=1000) == plain
    assert fingerprint.of_path(folder, memory, large=1000) == plain
    assert reads == ["big", "small", "small"]


def test_fingerprint_sees_every_change(tmp_path: Path, reads: list[str]) -> None:
    file, memory = tmp_path / "big", tmp_path / "digests.json"
    file.write_bytes(b"x" * 5000)
    first = fingerprint.of_path(file, memory, large=1000)
    times = file.stat()
    file.write_bytes(b"z" * 5000)
    keep = (times.st_atime_ns, times.st_mtime_ns)
    os.utime(file, ns=keep)  # as a copying tool would set it
    while file.stat().st_ctime_ns == times.st_ctime_ns:  # the file system's clock moves in steps of some milliseconds
        os.utime(file, ns=keep)
    assert fingerprint.of_path(file, memory, large=1000) == digests.of_file(file) != first
    assert len((memory).read_text().splitlines()) == 3, "one entry: the old state has left"


def test_a_file_that_just_changed_is_not_remembered(tmp_path: Path) -> None:
    file, memory = tmp_path / "big", tmp_path / "digests.json"
    file.write_bytes(b"x" * 5000)
    fingerprint.of_path(file, memory, large=1000)
    assert not memory.exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}'])
def test_a_damaged_memory_is_done_without(tmp_path: Path, reads: list[str], content: str) -> None:
    file, memory = tmp_path / "big", tmp_path / "digests.json"
    file.write_bytes(b"x" * 5000)
    memory.write_text(content)
    assert fingerprint.of_path(file, memory, large=1000) == digests.of_file(file)
