# SPDX-License-Identifier: Apache-2.0
"""What every format of demonstrations answers: what is in it, its numbers all at once, its pictures one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from compress.data.contents import Contents
from compress.data.mapping import FrameMap


@dataclass(frozen=True)
class Rows:
    """The numbers of one episode, checked: finite, of one length, at least one frame.

    Attributes:
        name: `dataset/episode`, unique in the data set and the same on every machine.
        where: file and episode, for messages.
        states: float32 (T, S).
        actions: float32 (T, A).
        instructions: T sentences.
    """

    name: str
    where: str
    states: np.ndarray = field(repr=False)
    actions: np.ndarray = field(repr=False)
    instructions: Sequence[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.actions)


class ImageSource(Protocol):
    """Pictures of an opened data set, as they are stored."""

    def read(self, camera: str, episode: int, rows: Sequence[int]) -> list[np.ndarray]:
        """Pictures of one camera, uint8 (H, W, 3) RGB each.

        Args:
            camera: the data set's own key.
            episode: position of the episode in what `DemoReader.open` returned.
            rows: frames of the episode, ascending.

        Raises:
            DemoFileError: a picture is missing or damaged; names file, episode and frame.
        """
        ...

    def close(self) -> None:
        """Let go of open files."""
        ...


class DemoReader(Protocol):
    """One data set of one format."""

    def contents(self) -> Contents:
        """What the metadata say; reads no pictures."""
        ...

    def open(self, wanted: FrameMap) -> tuple[tuple[Rows, ...], ImageSource]:
        """All episodes in a fixed order, and their pictures.

        Raises:
            MappingError: the mapping does not fit.
            DemoFileError: a file is missing, damaged or inconsistent, or a number is not finite.
        """
        ...
