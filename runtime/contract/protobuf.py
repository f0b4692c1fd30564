# SPDX-License-Identifier: Apache-2.0
"""The protobuf wire format, read strictly and without building objects.

Protobuf readers are lenient: unknown fields are kept, the last of two values wins, two halves of a message are merged.
Two readers of the same bytes may then see two graphs. Here a field that the table does not know, a second value of a
single field, a number that is longer than needed, a group, or a length that leaves its message is a ContractError: what
this reader accepts has one meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from runtime.errors import ContractError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_VARIABLE = (BYTES, VARINT)
_BLOCK = 1 << 20  # bytes
_WIRE_NAMES = {0: "varint", 1: "64 bit", 2: "bytes", 3: "group", 4: "end of group", 5: "32 bit"}


class Field(NamedTuple):
    """One field of a message: name, wire types it may have, whether it may repeat, and why it is refused (or '')."""

    name: str
    wires: tuple[int, ...]
    repeated: bool = False
    refused: str = ""


class Message:
    """The fields of one message type, by number."""

    def __init__(self, name: str, fields: Mapping[int, Field]) -> None:
        self.name = name
        self.fields = dict(fields)
        self.by_tag = {
            number << 3 | wire: (field.name, 0 if field.repeated else 1 << number)
            for number, field in fields.items()
            if not field.refused
            for wire in field.wires
        }


class Budget:
    """How many fields may still be read, over all messages of a file. ContractError when they are used up."""

    def __init__(self, fields: int) -> None:
        self.limit = self.left = fields

    def spend(self, fields: int) -> None:
        """Take `fields` off."""
        self.left -= fields
        if self.left < 0:
            raise ContractError(f"protobuf: found more than {self.limit} fields, expected a smaller file")


def fields(data: bytes, begin: int, end: int, message: Message, budget: Budget) -> Iterator[tuple[str, int, int]]:
    """Name and value of each field in `data[begin:end]`, in file order.

    A number comes as (value, 0); bytes and packed numbers as (start, stop); fixed 32 and 64 bit numbers likewise.
    ContractError names message, byte and what is wrong there.
    """
    at, seen, count, by_tag, left = begin, 0, 0, message.by_tag, budget.left
    while at < end:
        count += 1
        if count > left:
            break
        start, tag = at, data[at]
        at += 1
        if tag >= 0x80:
            tag, at = varint(data, start, end)
        known = by_tag.get(tag)
        if known is None:
            raise _unknown(message, tag, start)
        name, bit = known
        if bit:
            if seen & bit:
                raise ContractError(f"{message.name}: field {name!r} comes twice at byte {start}, expected it once")
            seen |= bit
        wire = tag & 7
        if wire in _VARIABLE:
            if at < end and data[at] < 0x80:
                value = data[at]
                at += 1
            else:
                value, at = varint(data, at, end)
            if wire == VARINT:
                yield name, value, 0
                continue
            stop = at + value
        else:
            stop = at + (4 if wire == FIXED32 else 8)
        if stop > end:
            raise ContractError(
                f"{message.name}.{name}: {stop - at} bytes at byte {at} leave their message, which ends at {end}"
            )
        yield name, at, stop
        at = stop
    budget.spend(count)


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The unsigned number at byte `at` and the byte after it; ContractError if cut off, too large or overlong."""
    value = shift = 0
    for position in range(at, min(at + 10, end)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if (byte == 0 and position > at) or value >= 1 << 64:
                raise ContractError(f"protobuf: number at byte {at} is overlong, expected its shortest form in 64 bits")
            return value, position + 1
    raise ContractError(f"protobuf: number at byte {at} does not end within its message, found a truncated file")


def signed(value: int) -> int:
    """The int64 that a varint stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def count_packed(data: bytes, start: int, stop: int) -> int:
    """How many varints `data[start:stop]` packs; ContractError if the last is cut off or one exceeds 10 bytes."""
    count, last = 0, start - 1
    for at in range(start, stop, _BLOCK):  # in blocks: the positions take eight times the memory of the bytes
        ends = np.flatnonzero(np.frombuffer(data, np.uint8, min(_BLOCK, stop - at), at) < 0x80) + at
        if ends.size:
            if np.diff(ends, prepend=last).max() > 10:
                break
            count, last = count + int(ends.size), int(ends[-1])
    if last != stop - 1:
        raise ContractError(f"protobuf: packed numbers at byte {start} are cut off or too long")
    return count


def text(data: bytes, start: int, stop: int, where: str, limit: int) -> str:
    """`data[start:stop]` as UTF-8 without NUL; ContractError names `where`."""
    if stop - start > limit:
        raise ContractError(f"{where}: found {stop - start} bytes of text, expected at most {limit}")
    try:
        value = data[start:stop].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ContractError(f"{where}: not UTF-8 at byte {start} ({error.reason})") from None
    if "\0" in value:
        raise ContractError(f"{where}: found {value!r}, expected text without NUL")
    return value


def _unknown(message: Message, tag: int, start: int) -> ContractError:
    number, wire = tag >> 3, tag & 7
    field = message.fields.get(number)
    if field is None:
        return ContractError(f"{message.name}: found field number {number} at byte {start}, which ONNX does not define")
    if field.refused:
        return ContractError(f"{message.name}.{field.name} at byte {start} is refused: {field.refused}")
    wires = " or ".join(_WIRE_NAMES[known] for known in field.wires)
    found = _WIRE_NAMES.get(wire, f"wire type {wire}")
    return ContractError(f"{message.name}.{field.name} at byte {start}: found {found}, expected {wires}")
