# SPDX-License-Identifier: Apache-2.0
"""tf.train.Example and SequenceExample off the wire: name -> numbers, or where the bytes of each value lie.

Example         { Features context = 1 }
SequenceExample { Features context = 1; FeatureLists { map<string, FeatureList> } = 2 }
Features        { map<string, Feature> = 1 }      FeatureList { repeated Feature = 1 }
Feature         { one of: BytesList = 1, FloatList = 2, Int64List = 3, each with repeated value = 1 }
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

BYTES, FLOAT, INT = 1, 2, 3
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_WIDTH = {_FIXED64: 8, _FIXED32: 4}


class WireError(ValueError):
    """Bytes that are no such message."""


@dataclass(frozen=True)
class Feature:
    """One feature of an Example, or the same feature of all steps of a SequenceExample, not decoded yet.

    Attributes:
        memory: what the spans point into.
        kind: BYTES, FLOAT or INT; 0 for an empty feature.
        spans: (start, end) of each list message.
    """

    memory: memoryview
    kind: int
    spans: tuple[tuple[int, int], ...]

    def floats(self) -> np.ndarray:
        """float32 (N,), packed or not."""
        parts = [self._part(wire, start, end, _FIXED32) for _, wire, start, end in self._values()]
        return np.concatenate([np.zeros(0, np.float32), *(np.frombuffer(part, "<f4") for part in parts)])

    def integers(self) -> np.ndarray:
        """int64 (N,), packed or not."""
        parts = [np.zeros(0, np.int64)]
        for _, wire, start, end in self._values():
            if wire not in (_VARINT, _LENGTH):
                raise WireError(f"an integer of wire type {wire}")
            parts.append(_varints(np.frombuffer(self.memory[start:end], np.uint8)))
        return np.concatenate(parts)

    def places(self) -> np.ndarray:
        """Where the bytes of each value lie in `memory`, int64 (N, 2): start, end."""
        found = [(start, end) for _, wire, start, end in self._values() if wire == _LENGTH]
        return np.array(found, np.int64).reshape(-1, 2)

    def numbers(self) -> np.ndarray:
        """Whichever numbers they are."""
        return self.floats() if self.kind == FLOAT else self.integers()

    def _values(self) -> Iterator[tuple[int, int, int, int]]:
        return (field for span in self.spans for field in _fields(self.memory, *span) if field[0] == 1)

    def _part(self, wire: int, start: int, end: int, single: int) -> memoryview:
        if wire not in (single, _LENGTH) or (end - start) % _WIDTH[single]:
            raise WireError(f"a number of wire type {wire} with {end - start} bytes")
        return self.memory[start:end]


def parse(memory: memoryview, start: int, end: int) -> Mapping[str, Feature]:
    """All features of the message between `start` and `end`.

    Raises:
        WireError: not such a message.
    """
    found: dict[str, Feature] = {}
    for number, wire, at, stop in _fields(memory, start, end):
        if number in (1, 2) and wire == _LENGTH:
            for name, place in _entries(memory, at, stop):
                values = [place] if number == 1 else [s[2:] for s in _fields(memory, *place) if s[0] == 1]
                found[name] = _feature(memory, values)
    return found


def _feature(memory: memoryview, places: list[tuple[int, int]]) -> Feature:
    """One list message per Feature; all of one kind."""
    lists = [field for place in places for field in _fields(memory, *place) if field[0] in (BYTES, FLOAT, INT)]
    kinds = {field[0] for field in lists}
    if len(kinds) > 1:
        raise WireError(f"values of the kinds {sorted(kinds)} in one feature")
    return Feature(memory, next(iter(kinds), 0), tuple((start, end) for _, _, start, end in lists))


def _entries(memory: memoryview, start: int, end: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """A protobuf map: repeated { string key = 1; value = 2 }."""
    for number, wire, at, stop in _fields(memory, start, end):
        if number == 1 and wire == _LENGTH:
            parts = {field: (a, b) for field, _, a, b in _fields(memory, at, stop)}
            key = bytes(memory[slice(*parts.get(1, (0, 0)))])
            yield key.decode("utf-8", "replace"), parts.get(2, (stop, stop))


def _fields(memory: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start, end) of each field's payload; a varint's is its own bytes."""
    while at < end:
        tag, at = _varint(memory, at, end)
        wire = tag & 7
        if wire == _LENGTH:
            length, start = _varint(memory, at, end)
        elif wire == _VARINT:
            start, length = at, _varint(memory, at, end)[1] - at
        elif wire in _WIDTH:
            start, length = at, _WIDTH[wire]
        else:
            raise WireError(f"wire type {wire} at byte {at}")
        at = start + length
        if at > end:
            raise WireError(f"a field of {length} bytes at byte {start} passes the end at {end}")
        yield tag >> 3, wire, start, at


def _varint(memory: memoryview, at: int, end: int) -> tuple[int, int]:
    """Value and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = memory[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise WireError(f"a number without an end at byte {at}")


def _varints(data: np.ndarray) -> np.ndarray:
    """All varints in `data`, uint8 (N,), as int64."""
    if not len(data):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(data < 0x80)
    if not len(ends) or ends[-1] != len(data) - 1:
        raise WireError("a number without an end")
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 9:
        raise WireError("a number of more than ten bytes")
    values = np.zeros(len(ends), np.uint64)
    for place in range(int((ends - starts).max()) + 1):
        longer = starts + place <= ends
        values[longer] |= (data[starts[longer] + place].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(7 * place)
    return values.view(np.int64)
