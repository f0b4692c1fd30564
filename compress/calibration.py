# SPDX-License-Identifier: Apache-2.0
"""Which demonstration frames the blocks are scored on: spread over episodes and over the phases of a task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from compress.data.frames import FrameStore
from compress.data.samples import Sample
from compress.models.base import Batch, VlaModel


class CalibrationError(ValueError):
    """No calibration set of that size can be made."""


class CalibrationSet:
    """Samples in batches; iterating twice gives the same batches."""

    def __init__(self, model: VlaModel, samples: Sequence[Sample], batch_size: int) -> None:
        """Collate `samples` with the model's own preprocessing, `batch_size` at a time; the last batch may be smaller.

        Raises:
            CalibrationError: no samples, an id twice, or a batch size below 1.
        """
        ids = tuple(sample.sample_id for sample in samples)
        if not ids or batch_size < 1:
            raise CalibrationError(f"{len(ids)} samples in batches of {batch_size}, expected at least one of each")
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise CalibrationError(f"sample {twice} occurs twice; every calibration sample counts once")
        self.model, self.samples, self.batch_size, self.sample_ids = model, tuple(samples), batch_size, ids

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`, from 0."""
        start = number * self.batch_size
        return self.model.collate(self.samples[start : start + self.batch_size])

    def __iter__(self) -> Iterator[Batch]:
        for number in range(len(self)):
            yield self[number]

    def digest(self) -> str:
        """sha256 over the samples' contents, in order."""
        state = hashlib.sha256()
        for sample in self.samples:
            state.update(f"{sample.sample_id}\0{sample.instruction}\0".encode())
            for name in sorted(sample.images):
                state.update(name.encode() + np.ascontiguousarray(sample.images[name]).tobytes())
            for array in (sample.state, sample.actions, sample.pad):
                state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()


def pick(
    demos: FrameStore, count: int, seed: int, horizon: int, frames: Sequence[int] | np.ndarray | None = None
) -> tuple[Sample, ...]:
    """Choose `count` different frames: episodes take turns, and each draws from another stretch of its length.

    Args:
        demos: the demonstrations.
        count: how many frames.
        seed: the same seed picks the same frames.
        horizon: actions per sample, `model.specs()["action"].horizon`.
        frames: choose among these only (for example, not the held-out ones).

    Raises:
        CalibrationError: there are fewer frames.
    """
    allowed = np.arange(len(demos)) if frames is None else np.unique(np.asarray(frames, np.int64))
    if not 1 <= count <= len(allowed):
        raise CalibrationError(f"{count} calibration samples wanted, expected 1 to {len(allowed)} (the frames at hand)")
    draw = np.random.default_rng(seed)
    episodes = [allowed[demos.episode[allowed] == e] for e in draw.permutation(np.unique(demos.episode[allowed]))]
    turns = -(-count // len(episodes))
    while sum(min(turns, len(e)) for e in episodes) < count:  # short episodes cannot fill their share
        turns += 1
    rounds: list[list[int]] = [[] for _ in range(turns)]
    for frames_of in episodes:
        stretches = np.array_split(frames_of, min(turns, len(frames_of)))
        for turn, which in enumerate(draw.permutation(len(stretches))):
            rounds[turn].append(int(draw.choice(stretches[which])))
    chosen = [index for turn in rounds for index in turn][:count]
    return demos.samples(chosen, horizon)


def from_demos(
    model: VlaModel, demos: FrameStore, count: int, batch_size: int, seed: int, frames: np.ndarray | None = None
) -> CalibrationSet:
    """`pick` at the model's own horizon, in batches."""
    return CalibrationSet(model, pick(demos, count, seed, int(model.specs()["action"].horizon), frames), batch_size)
