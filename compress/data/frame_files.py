# SPDX-License-Identifier: Apache-2.0
"""A demonstration set that stays on disk: numbers in memory, pictures decoded when asked for, kept while they fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compress.data.contents import Contents
from compress.data.faults import DemoFileError
from compress.data.frames import chunk_of, split_of
from compress.data.mapping import FrameMap, as_policy
from compress.data.pictures import fitted, turned
from compress.data.reader import DemoReader, Rows
from compress.data.samples import Sample

CACHE_BYTES = 4 << 30  # of decoded pictures at the policy's resolution; 512 frames of two 224 px cameras are 0.15 GB


@dataclass(frozen=True)
class _Numbers:
    """All episodes one after another."""

    states: np.ndarray
    actions: np.ndarray
    episode: np.ndarray
    starts: np.ndarray
    instruction: np.ndarray
    instructions: tuple[str, ...]
    names: tuple[str, ...]


class FrameFiles:
    """Frames of files; implements `compress.data.frames.FrameStore`."""

    def __init__(
        self, reader: DemoReader, wanted: FrameMap, digest: str, cache_bytes: int = CACHE_BYTES,
        action_names: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Open the data set and read all its numbers.

        Args:
            reader: of the data set.
            wanted: which of its keys become what.
            digest: sha256 of data set and mapping.
            cache_bytes: how much memory decoded pictures may take; the least recently used leave first.
            action_names: of the policy's dimensions; needed where `wanted` has `action_values`.

        Raises:
            MappingError: the mapping does not fit the data set.
            DemoFileError: a file is missing or damaged, or a number is not finite.
        """
        self.contents: Contents = reader.contents()
        rows, self._source = reader.open(wanted)
        numbers, self._rest = _joined(rows), np.zeros(1, np.float32)
        if wanted.action_values:
            still = np.zeros_like(numbers.actions[:1])
            numbers, self._rest = (
                replace(numbers, actions=as_policy(numbers.actions, wanted.action_values, action_names)),
                as_policy(still, wanted.action_values, action_names)[0],
            )
        self._wanted, self._numbers, self._digest, self._room = wanted, numbers, digest, cache_bytes
        self._where = tuple(item.where for item in rows)
        self._kept: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()
        self._bytes = 0
        self._sizes = {name: self._size_of(key) for name, key in wanted.cameras.items()}

    def __len__(self) -> int:
        return len(self._numbers.episode)

    @property
    def episode(self) -> np.ndarray:
        """int64 (N,)."""
        return self._numbers.episode

    @property
    def names(self) -> tuple[str, ...]:
        """`dataset/episode` of every episode."""
        return self._numbers.names

    @property
    def instructions(self) -> tuple[str, ...]:
        """The distinct sentences, in order of appearance."""
        return self._numbers.instructions

    @property
    def digest(self) -> str:
        """sha256 of the data set's files and of the mapping."""
        return self._digest

    @property
    def image_sizes(self) -> Mapping[str, tuple[int, int]]:
        """Camera -> (H, W) of the pictures that samples hold."""
        return self._sizes

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers in a state and in an action."""
        return int(self._numbers.states.shape[1]), int(self._numbers.actions.shape[1])

    @property
    def cached_bytes(self) -> int:
        """Memory that decoded pictures take now."""
        return self._bytes

    def chunk(self, index: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """The next `horizon` actions, (T, A), and which lie past the episode's end, (T,)."""
        still = self._wanted.padding == "still"
        return chunk_of(self._numbers.actions, self._numbers.episode, index, horizon, still, self._rest)

    def split(self, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame indices (training, held out), by whole episodes."""
        return split_of(self._numbers.episode, len(self.names), held_out, seed)

    def sample(self, index: int, horizon: int) -> Sample:
        """Frame `index`; its pictures are read unless they are still in memory."""
        return self.samples([index], horizon)[0]

    def samples(self, indices: Iterable[int], horizon: int) -> tuple[Sample, ...]:
        """Frames in the order given; files are read in their own order, each once.

        Raises:
            IndexError: no such frame.
            DemoFileError: a picture is missing or damaged.
        """
        wanted = [int(index) for index in indices]
        for index in wanted:
            if not 0 <= index < len(self):
                raise IndexError(f"frame {index}: the set has frames 0..{len(self) - 1}")
        images = self._images(sorted(set(wanted)))
        return tuple(self._sample(index, horizon, images[index]) for index in wanted)

    def close(self) -> None:
        """Let go of open files and of decoded pictures."""
        self._source.close()
        self._kept.clear()
        self._bytes = 0

    def _sample(self, index: int, horizon: int, images: Mapping[str, np.ndarray]) -> Sample:
        numbers, (actions, pad) = self._numbers, self.chunk(index, horizon)
        episode = int(numbers.episode[index])
        sentence = numbers.instructions[int(numbers.instruction[index])]
        name = f"{numbers.names[episode]}/{index - int(numbers.starts[episode])}"
        return Sample(images, numbers.states[index], actions, pad, sentence, name)

    def _images(self, indices: Sequence[int]) -> dict[int, dict[str, np.ndarray]]:
        """Pictures of these frames, ascending, out of memory or out of the files."""
        found: dict[int, dict[str, np.ndarray]] = {}
        missing: dict[int, list[int]] = {}
        for index in indices:
            if index in self._kept:
                self._kept.move_to_end(index)
                found[index] = self._kept[index]
            else:
                missing.setdefault(int(self._numbers.episode[index]), []).append(index)
        for episode, frames in missing.items():
            rows = [index - int(self._numbers.starts[episode]) for index in frames]
            read = {name: self._source.read(key, episode, rows) for name, key in self._wanted.cameras.items()}
            for at, index in enumerate(frames):
                where = f"{self._where[episode]}, frame {rows[at]}"
                found[index] = {name: self._shown(name, raw[at], where) for name, raw in read.items()}
                self._keep(index, found[index])
        return found

    def _shown(self, name: str, image: np.ndarray, where: str) -> np.ndarray:
        """As the policy sees it."""
        size = self._sizes[name]
        if self._wanted.image_size is None and image.shape[:2] != size:
            raise DemoFileError(
                f"{where}: {self._wanted.cameras[name]} is {image.shape[0]} x {image.shape[1]}, other pictures are "
                f"{size[0]} x {size[1]}. Next: write data.image_size, the policy's own, to bring all to one size"
            )
        image = fitted(image, size)
        return turned(image) if self._wanted.rotate_180 else image

    def _keep(self, index: int, images: dict[str, np.ndarray]) -> None:
        self._kept[index] = images
        self._bytes += sum(image.nbytes for image in images.values())
        while self._bytes > self._room and len(self._kept) > 1:
            self._bytes -= sum(image.nbytes for image in self._kept.popitem(last=False)[1].values())

    def _size_of(self, key: str) -> tuple[int, int]:
        """The size asked for, else the one that the metadata say, else that of the first picture."""
        told = self._wanted.image_size or self.contents.cameras[key].size
        if told is not None:
            return told
        first = self._source.read(key, 0, [0])[0]
        return int(first.shape[0]), int(first.shape[1])


def _joined(rows: Sequence[Rows]) -> _Numbers:
    names = tuple(item.name for item in rows)
    if not rows:
        raise DemoFileError("no episodes")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DemoFileError(f"two episodes are called {twice}: give one folder per data set")
    lengths = [len(item) for item in rows]
    known: dict[str, int] = {}
    number = [known.setdefault(text, len(known)) for item in rows for text in item.instructions]
    empty = next((item.where for item in rows if not all(text.strip() for text in set(item.instructions))), None)
    if empty is not None:
        raise DemoFileError(f"{empty}: the instruction is empty. Next: write data.instruction_key or data.instruction")
    return _Numbers(
        states=np.concatenate([item.states for item in rows]),
        actions=np.concatenate([item.actions for item in rows]),
        episode=np.repeat(np.arange(len(rows), dtype=np.int64), lengths),
        starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
        instruction=np.asarray(number, np.int64),
        instructions=tuple(known),
        names=names,
    )
