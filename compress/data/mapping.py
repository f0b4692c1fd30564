# SPDX-License-Identifier: Apache-2.0
"""Which of a data set's keys become the policy's cameras, state, action and sentence; nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from compress.data.contents import Contents
from compress.data.faults import DemoFileError, require_finite
from compress.data.values import ValueMap

_SLICE = re.compile(r"(?P<key>.+)\[(?P<start>\d+):(?P<stop>\d+)\]")


class MappingError(ValueError):
    """A mapping that does not fit the data set or the policy; the message says what to write in the recipe."""


@dataclass(frozen=True)
class Column:
    """A vector of the data set, or with `key[start:stop]` a part of it."""

    key: str
    start: int = 0
    stop: int | None = None

    @classmethod
    def parse(cls, text: str) -> Column:
        """`observation.state` or `observation.state[0:7]`."""
        found = _SLICE.fullmatch(text)
        return cls(found["key"], int(found["start"]), int(found["stop"])) if found else cls(text)

    def __str__(self) -> str:
        return self.key if self.stop is None else f"{self.key}[{self.start}:{self.stop}]"

    def width(self, whole: int) -> int:
        """How many numbers it takes of `whole`."""
        return whole - self.start if self.stop is None else self.stop - self.start


@dataclass(frozen=True)
class FrameMap:
    """One data set's keys in the policy's terms.

    Attributes:
        cameras: the policy's camera key -> the data set's.
        state: vectors that are joined to the state, in order; empty for policies that see none.
        action: vectors that are joined to the action, in order.
        image_size: (H, W) pictures are brought to (`pictures.fitted`); None leaves them as they are.
        rotate_180: turn every picture, for data stored upside down and mirrored.
        instruction_key: where the sentence stands; None is the format's own place.
        instruction: one sentence for all episodes, instead.
        padding: what a chunk holds past its episode's end: `hold` the last action, or `still`: zero motion, the last
            number (the gripper) as it was. Either way it is marked in `Sample.pad` and carries no loss.
        action_values: by the policy's name of an action dimension, how its numbers are to be read.
    """

    cameras: Mapping[str, str]
    state: tuple[Column, ...]
    action: tuple[Column, ...]
    image_size: tuple[int, int] | None = None
    rotate_180: bool = False
    instruction_key: str | None = None
    instruction: str | None = None
    padding: Literal["hold", "still"] = "hold"
    action_values: Mapping[str, ValueMap] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """What decides which numbers and pictures samples hold; for digests."""
        plain = asdict(self)
        if not self.action_values:
            del plain["action_values"]  # digests stay those of mappings from before there were any
        return plain

    def check(self, contents: Contents) -> None:
        """Every key exists and every slice lies inside its vector.

        Raises:
            MappingError: which key, what there is, what to write.
        """
        start = contents.suggestion()
        if not self.cameras:
            raise MappingError(
                f"`data.cameras` is empty; {contents.root} has the cameras {contents.cameras_text()}. "
                f"Next: write data.cameras: {{MODEL_CAMERA: {_first(contents.cameras)}}}"
            )
        for name, key in self.cameras.items():
            if key not in contents.cameras:
                raise MappingError(
                    f"`data.cameras.{name}` is {key!r}; {contents.root} has no such camera. "
                    f"Available: {contents.cameras_text()}. Next: write one of these as data.cameras.{name}"
                )
        if not self.action:
            raise MappingError(
                f"`data.action` is missing; {contents.root} has {contents.vectors_text()}. "
                f"Next: write data.action: {start['action']}"
            )
        for section, columns in (("state", self.state), ("action", self.action)):
            for column in columns:
                _check_column(contents, section, column)
        if self.instruction_key is not None and self.instruction_key not in contents.texts:
            raise MappingError(
                f"`data.instruction_key` is {self.instruction_key!r}; {contents.root} has "
                f"{', '.join(contents.texts) or 'no text'}. Next: write one of these, "
                "or data.instruction: one sentence for every episode"
            )

    def widths(self, contents: Contents) -> tuple[int, int]:
        """Numbers in a state and in an action."""
        sums = [sum(c.width(contents.vectors[c.key].width) for c in columns) for columns in (self.state, self.action)]
        return sums[0], sums[1]


def joined(columns: tuple[Column, ...], steps: int, where: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
    """The columns side by side, float32 (T, D), checked to be finite.

    Args:
        columns: in order.
        steps: T.
        where: file and episode, for messages.
        read: key -> (T, W).

    Raises:
        DemoFileError: a field of another length, or a number that is not finite.
    """
    parts = [np.zeros((steps, 0), np.float32)]
    for column in columns:
        values = np.asarray(read(column.key))
        if values.ndim != 2 or len(values) != steps:
            raise DemoFileError(f"{where}: {column.key} has shape {values.shape}, expected ({steps}, N)")
        stop = values.shape[1] if column.stop is None else column.stop
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused as that
            part = values[:, column.start : stop].astype(np.float32)
        require_finite(f"{where}/{column}", part)
        parts.append(part)
    return np.concatenate(parts, axis=1)


def as_policy(actions: np.ndarray, values: Mapping[str, ValueMap], names: Sequence[str]) -> np.ndarray:
    """Actions in the policy's convention, float32, a copy.

    Args:
        actions: (T, A) as the data set stores them.
        values: by dimension.
        names: of the policy's dimensions, in order.

    Raises:
        MappingError: `values` names no dimension, or the actions have another width.
    """
    unknown = [name for name in values if name not in names]
    if unknown:
        there = ", ".join(names) or "no names"
        raise MappingError(
            f"`data.action_values` names {', '.join(unknown)}; the policy's action has {there}. "
            "Next: write one of these"
        )
    if actions.shape[1] != len(names):
        raise MappingError(
            f"the demonstrations' action has {actions.shape[1]} numbers, the policy's has {len(names)}. "
            "Next: name the vectors, or parts of them as KEY[START:STOP], in data.action"
        )
    found = actions.astype(np.float32, copy=True)
    for name, how in values.items():
        found[:, names.index(name)] = how.apply(actions[:, names.index(name)])
    return found


def _check_column(contents: Contents, section: str, column: Column) -> None:
    vector = contents.vectors.get(column.key)
    if vector is None:
        raise MappingError(
            f"`data.{section}` names {column.key!r}; {contents.root} has no such vector. "
            f"Available: {contents.vectors_text()}. Next: write one of these in data.{section}"
        )
    if column.stop is not None and not 0 <= column.start < column.stop <= vector.width:
        raise MappingError(
            f"`data.{section}` takes {column}; {column.key} has the numbers 0 to {vector.width - 1}. "
            f"Next: write {column.key}[START:STOP] with 0 <= START < STOP <= {vector.width}"
        )


def _first(keys: Mapping[str, object]) -> str:
    return next(iter(keys), "KEY")
