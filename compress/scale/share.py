# SPDX-License-Identifier: Apache-2.0
"""Which part of the samples a process takes, so that all parts together are what one process would have taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from compress.data.frames import FrameSource, FrameStore
from compress.data.samples import Sample
from compress.models.base import Batch
from compress.scale.world import World


class ShareError(ValueError):
    """Work that cannot be split evenly."""


class Source(Protocol):
    """`compress.training.BatchSource`."""

    def batch(self, step: int) -> Batch:
        """The batch of `step`."""
        ...

    def digest(self) -> str:
        """sha256 of what it is made from."""
        ...


@runtime_checkable
class Numbered(Protocol):
    """Batches that can be asked for one by one."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`."""
        ...


def own_batches(batches: Iterable[Batch], world: World) -> Iterator[tuple[int, Batch]]:
    """Every `world.size`-th batch with its number; the others are not even collated where `batches` has an index."""
    if isinstance(batches, Numbered):
        for number in range(world.rank, len(batches), world.size):
            yield number, batches[number]
        return
    for number, batch in enumerate(batches):
        if number % world.size == world.rank:
            yield number, batch


def share_of(source: Source, world: World) -> Source:
    """The rank's part of every batch: rows rank * B / size and on; pictures of other parts are not read.

    The digest is the whole source's: the processes train on one data set.
    """
    if world.alone:
        return source
    if isinstance(source, FrameSource):
        own: Any = _OwnFrames(source.arrays, world)
        return FrameSource(own, source.model, source.horizon, source.batch_size, source.seed, source.frames)
    return _OwnRows(source, world)


def require_even(batch_size: int, world: World) -> None:
    """ShareError unless every process gets as many rows: a mean of means is the mean only then."""
    if batch_size % world.size:
        below = batch_size - batch_size % world.size
        usable = f"{below} or {below + world.size}" if below else str(world.size)
        raise ShareError(
            f"batch_size {batch_size} cannot be split over {world.size} processes: set batch_size to {usable}, or "
            "start another number of processes"
        )


def _part(count: int, world: World) -> slice:
    require_even(count, world)
    each = count // world.size
    return slice(world.rank * each, (world.rank + 1) * each)


class _OwnFrames:
    """A frame store that looks up its own part of what it is asked for."""

    def __init__(self, store: FrameStore, world: World) -> None:
        self.store, self.world = store, world
        self.digest: str = store.digest

    def __len__(self) -> int:
        return len(self.store)

    def samples(self, indices: Sequence[int], horizon: int) -> Sequence[Sample]:
        wanted = list(indices)
        return self.store.samples(wanted[_part(len(wanted), self.world)], horizon)


class _OwnRows:
    """The rank's rows of another source's batches."""

    def __init__(self, source: Source, world: World) -> None:
        self.source, self.world = source, world

    def batch(self, step: int) -> Batch:
        """The rank's rows of the batch of `step`."""
        whole = self.source.batch(step)
        part = _part(len(whole), self.world)
        inputs = {name: value[part] for name, value in whole.inputs.items()}
        return Batch(inputs, whole.actions[part], whole.pad[part], whole.sample_ids[part])

    def digest(self) -> str:
        """The whole source's."""
        return self.source.digest()
