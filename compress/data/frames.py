# SPDX-License-Identifier: Apache-2.0
"""A demonstration set as numbered frames, and batches by step number: the same step always gives the same batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from compress.data.samples import Sample


class FrameStore(Protocol):
    """A demonstration set as N numbered frames; pictures may be read only when they are asked for."""

    def __len__(self) -> int:
        """N."""
        ...

    @property
    def episode(self) -> np.ndarray:
        """int64 (N,), the episode of each frame; frames of an episode are contiguous and in order."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """One `dataset/episode` name per episode."""
        ...

    @property
    def instructions(self) -> tuple[str, ...]:
        """The distinct sentences."""
        ...

    @property
    def digest(self) -> str:
        """sha256 that changes when any number or picture does."""
        ...

    @property
    def image_sizes(self) -> Mapping[str, tuple[int, int]]:
        """Camera -> (H, W) of its pictures."""
        ...

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers in a state and in an action."""
        ...

    def chunk(self, index: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """The next `horizon` actions, float32 (T, A), and which lie past the episode's end, bool (T,)."""
        ...

    def sample(self, index: int, horizon: int) -> Sample:
        """Frame `index` as a neutral sample."""
        ...

    def samples(self, indices: Iterable[int], horizon: int) -> tuple[Sample, ...]:
        """Several frames, in the order given; cheaper than one by one where files have to be read."""
        ...

    def split(self, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame indices (training, held out), by whole episodes; at least one is held out if `held_out` > 0."""
        ...


@dataclass(frozen=True)
class FrameArrays:
    """A demonstration set in memory; implements `FrameStore`.

    Attributes:
        images: camera -> uint8 (N, H, W, 3), in policy orientation.
        states: float32 (N, S).
        actions: float32 (N, A).
        episode: int64 (N,), index of the episode of each frame; frames of an episode are contiguous and in order.
        instruction: int64 (N,), index into `instructions`.
        instructions: sentences.
        names: one `task/demo` name per episode.
        digest: sha256 of the demonstrations.
    """

    images: Mapping[str, np.ndarray]
    states: np.ndarray
    actions: np.ndarray
    episode: np.ndarray
    instruction: np.ndarray
    instructions: tuple[str, ...]
    names: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.states)

    @property
    def image_sizes(self) -> Mapping[str, tuple[int, int]]:
        """Camera -> (H, W)."""
        return {camera: (int(frames.shape[1]), int(frames.shape[2])) for camera, frames in self.images.items()}

    @property
    def widths(self) -> tuple[int, int]:
        """(S, A)."""
        return int(self.states.shape[1]), int(self.actions.shape[1])

    def chunk(self, index: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """The next `horizon` actions and which of them lie past the episode's end (no motion, gripper as it was)."""
        return chunk_of(self.actions, self.episode, index, horizon, still=True)

    def sample(self, index: int, horizon: int) -> Sample:
        """Frame `index` as a neutral sample."""
        actions, pad = self.chunk(index, horizon)
        start = int(np.searchsorted(self.episode, self.episode[index]))
        name = self.names[int(self.episode[index])]
        return Sample(
            images={camera: frames[index] for camera, frames in self.images.items()},
            state=self.states[index],
            actions=actions,
            pad=pad,
            instruction=self.instructions[int(self.instruction[index])],
            sample_id=f"{name}/{index - start}",
        )

    def samples(self, indices: Iterable[int], horizon: int) -> tuple[Sample, ...]:
        """Several frames."""
        return tuple(self.sample(int(index), horizon) for index in indices)

    def split(self, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame indices (training, held out), by whole episodes; at least one is held out if `held_out` > 0."""
        return split_of(self.episode, len(self.names), held_out, seed)


def chunk_of(
    actions: np.ndarray, episode: np.ndarray, index: int, horizon: int, still: bool, rest: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The chunk that starts at frame `index`, (T, A), and its padding mask, (T,).

    Past the episode's end the last action is repeated; `still` then sets all but the last number (the gripper) to those
    of `rest`, (A,): zero motion.
    """
    last = int(np.searchsorted(episode, episode[index], side="right")) - 1
    wanted = np.arange(index, index + horizon)
    pad = wanted > last
    chunk = actions[np.minimum(wanted, last)].copy()
    if still:
        chunk[pad, :-1] = np.broadcast_to(rest, chunk.shape[1:])[:-1]
    return chunk, pad


def split_of(episode: np.ndarray, count: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame indices (training, held out) of `count` episodes."""
    episodes = np.random.default_rng(seed).permutation(count)
    chosen = max(1, round(held_out * count)) if held_out > 0 else 0
    out = np.isin(episode, episodes[:chosen])
    return np.flatnonzero(~out), np.flatnonzero(out)


class Collator(Protocol):
    """The part of a model that a frame source needs."""

    def collate(self, samples: Sequence[Sample]) -> Any:
        """Samples -> batch."""
        ...


class FrameSource:
    """Shuffled epochs over chosen frames; implements `compress.training.BatchSource`."""

    def __init__(
        self,
        arrays: FrameStore,
        model: Collator,
        horizon: int,
        batch_size: int,
        seed: int,
        frames: np.ndarray | None = None,
    ) -> None:
        """Serve `frames` of `arrays` (all by default) in batches of `batch_size`.

        Raises:
            ValueError: fewer frames than one batch.
        """
        self.arrays, self.model, self.horizon, self.batch_size, self.seed = arrays, model, horizon, batch_size, seed
        self.frames = np.arange(len(arrays)) if frames is None else frames
        self.per_epoch = len(self.frames) // batch_size
        if self.per_epoch == 0:
            raise ValueError(
                f"{len(self.frames)} frames do not fill one batch of {batch_size}: "
                "use more demonstrations or a smaller batch"
            )
        self._epoch, self._order = -1, self.frames

    def batch(self, step: int) -> Any:
        """The batch of `step`."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.frames)
            self._epoch = epoch
        chosen = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        return self.model.collate(self.arrays.samples(chosen.tolist(), self.horizon))

    def digest(self) -> str:
        """sha256 over the demonstrations, the chosen frames, batch size and seed."""
        head = f"{self.arrays.digest} {self.batch_size} {self.horizon} {self.seed}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.frames, np.int64).tobytes()).hexdigest()
