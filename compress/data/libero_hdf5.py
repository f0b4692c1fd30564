# SPDX-License-Identifier: Apache-2.0
"""LIBERO's HDF5 demonstrations, real or our own, as a set of neutral samples.

LIBERO stores images upside down and mirrored; they are turned by 180 degrees here, as openvla-oft and openpi do, so
that they look like `compress.sim.envs` observations. The no-op rule is openvla-oft's (`regenerate_libero_dataset.py`).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.demo_checks import (
    CAMERAS,
    attributes,
    demo_names,
    image_shape,
    instruction_of,
    low_dimensional,
    opened,
    read,
)
from compress.data.faults import DemoFileError
from compress.data.frames import FrameArrays
from compress.data.samples import Sample

__all__ = ["DemoFileError", "DemoSet", "Episode", "open_demos"]

_SUFFIX = "_demo"
_NO_MOTION = 1e-4


@dataclass(frozen=True)
class Episode:
    """One demonstration. Low-dimensional data is in memory, images are read on request.

    Attributes:
        name: `task/demo_k`, unique in the set.
        path: the HDF5 file.
        demo: the group under `data`.
        instruction: the sentence of its task.
        states: float32 (T, 8); actions: float32 (T, 7); both checked to be finite.
        frames: int64 (T,), row in the file of each kept frame.
        image_shape: (H, W, 3) of both cameras.
        attributes: the file's own scalar attributes (seed, speed, noise, ... where present).
    """

    name: str
    path: Path
    demo: str
    instruction: str
    states: np.ndarray = field(repr=False)
    actions: np.ndarray = field(repr=False)
    frames: np.ndarray = field(repr=False)
    image_shape: tuple[int, int, int]
    attributes: Mapping[str, Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class DemoSet:
    """Demonstrations in a fixed order: files by name, demonstrations by number, frames in time."""

    episodes: tuple[Episode, ...]

    def __post_init__(self) -> None:
        shapes = {episode.image_shape for episode in self.episodes}
        if len(shapes) > 1:
            raise DemoFileError(f"images differ in size within one set: {sorted(shapes)}; use files of one size")

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.episodes else 0

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(episode) for episode in self.episodes])

    @property
    def instructions(self) -> tuple[str, ...]:
        """The distinct sentences, in order of appearance."""
        return tuple(dict.fromkeys(episode.instruction for episode in self.episodes))

    @functools.cached_property
    def sample_ids(self) -> tuple[str, ...]:
        """`task/demo_k/frame` of every frame."""
        return tuple(f"{episode.name}/{t}" for episode in self.episodes for t in range(len(episode)))

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over sentences, actions, states and pixels: of the content, however it is compressed."""
        parts = [_episode_digest(e, *(_raw_images(e, camera) for camera in CAMERAS)) for e in self.episodes]
        return _set_digest(parts)

    def sample(self, index: int, horizon: int) -> Sample:
        """Frame `index` of the set with the next `horizon` actions; images are read from the file.

        Raises:
            IndexError: no such frame.
            DemoFileError: the file has been damaged since it was opened.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index}: the set has frames 0..{len(self) - 1}")
        k = int(np.searchsorted(self._ends, index, side="right"))
        episode = self.episodes[k]
        t = index - (int(self._ends[k - 1]) if k else 0)
        wanted = np.arange(t, t + horizon)
        pad = wanted >= len(episode)
        actions = episode.actions[np.minimum(wanted, len(episode) - 1)].copy()
        actions[pad, :-1] = 0.0  # past the end: no motion, gripper as it was
        with opened(episode.path) as file:
            demo, row = file["data"][episode.demo], int(episode.frames[t])
            images = {c: _turned(read(episode.path, episode.demo, demo, key, row)) for c, key in CAMERAS.items()}
        return Sample(images, episode.states[t], actions, pad, episode.instruction, f"{episode.name}/{t}")

    def split(self, held_out: float, seed: int) -> tuple[DemoSet, DemoSet]:
        """(training, held out), by whole episodes; the same choice as `FrameArrays.split`."""
        order = np.random.default_rng(seed).permutation(len(self.episodes))
        count = max(1, round(held_out * len(order))) if held_out > 0 else 0
        out = {int(k) for k in order[:count]}
        kept = tuple(e for k, e in enumerate(self.episodes) if k not in out)
        return DemoSet(kept), DemoSet(tuple(e for k, e in enumerate(self.episodes) if k in out))

    def load_arrays(self) -> FrameArrays:
        """Everything in memory: one uint8 (N, H, W, 3) array per camera, states (N, 8), actions (N, 7)."""
        shape = (len(self), *self.episodes[0].image_shape)
        images, parts, start = {camera: np.empty(shape, dtype=np.uint8) for camera in CAMERAS}, [], 0
        for episode in self.episodes:
            raw = [_raw_images(episode, camera) for camera in CAMERAS]
            for camera, frames in zip(CAMERAS, raw, strict=True):
                images[camera][start : start + len(episode)] = frames[:, ::-1, ::-1]
            parts.append(_episode_digest(episode, *raw))
            start += len(episode)
        lengths = [len(episode) for episode in self.episodes]
        sentence = [self.instructions.index(episode.instruction) for episode in self.episodes]
        return FrameArrays(
            images=images,
            states=np.concatenate([episode.states for episode in self.episodes]),
            actions=np.concatenate([episode.actions for episode in self.episodes]),
            episode=np.repeat(np.arange(len(lengths), dtype=np.int64), lengths),
            instruction=np.repeat(np.asarray(sentence, dtype=np.int64), lengths),
            instructions=self.instructions,
            names=tuple(episode.name for episode in self.episodes),
            digest=_set_digest(parts),
        )


def open_demos(paths: Path | str | Iterable[Path | str], drop_noops: bool = False) -> DemoSet:
    """Opens and checks demonstrations; pixels are read later.

    Args:
        paths: HDF5 files, or folders with `*_demo.hdf5` files.
        drop_noops: leave out frames whose action moves nothing and keeps the gripper's command.

    Raises:
        DemoFileError: missing, truncated or malformed file, NaN or inf, wrong shapes; names file, demo, field, index.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files = [file for path in given for file in _files(Path(path))]
    episodes = tuple(episode for file in files for episode in _episodes(file, drop_noops))
    names = [episode.name for episode in episodes]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DemoFileError(f"two demonstrations have the same name, such as {twice[0]}: give one file per task")
    return DemoSet(episodes)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob(f"*{_SUFFIX}.hdf5"))
    if not found:
        raise DemoFileError(f"{path} holds no *{_SUFFIX}.hdf5 files. Next: compress reference demos {path}")
    return found


def _episodes(path: Path, drop_noops: bool) -> list[Episode]:
    task = path.stem.removesuffix(_SUFFIX)
    with opened(path) as file:
        names, sentence = demo_names(path, file), instruction_of(path, file)
        found = []
        for name in names:
            demo = file["data"][name]
            states, actions = low_dimensional(path, name, demo)
            keep = _moving(actions) if drop_noops else np.arange(len(actions))
            label, shape = f"{task}/{name}", image_shape(path, name, demo)
            rows = (states[keep], actions[keep], keep)
            found.append(Episode(label, path, name, sentence, *rows, shape, attributes(demo)))
    return found


def _moving(actions: np.ndarray) -> np.ndarray:
    """Rows that move the arm or change the gripper's command relative to the last kept row."""
    kept: list[int] = []
    for t, action in enumerate(actions):
        still = np.linalg.norm(action[:-1]) < _NO_MOTION
        if not still or (kept and action[-1] != actions[kept[-1]][-1]):
            kept.append(t)
    return np.asarray(kept or [0], dtype=np.int64)


def _raw_images(episode: Episode, camera: str) -> np.ndarray:
    with opened(episode.path) as file:
        frames = read(episode.path, episode.demo, file["data"][episode.demo], CAMERAS[camera])
    return frames if len(frames) == len(episode.frames) else frames[episode.frames]


def _turned(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[::-1, ::-1])


def _episode_digest(episode: Episode, *images: np.ndarray) -> bytes:
    state = hashlib.sha256(f"{episode.name}\n{episode.instruction}\n{len(episode)}\n".encode())
    for array in (episode.states, episode.actions, *images):
        state.update(np.ascontiguousarray(array).data)
    return state.digest()


def _set_digest(parts: list[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()
