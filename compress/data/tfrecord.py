# SPDX-License-Identifier: Apache-2.0
"""TFRecord files without TensorFlow: where each record lies, and whether it is what was written.

A record is its length (uint64), the masked CRC-32C of the length, the bytes, and their masked CRC-32C.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from compress.data.crc32c import masked_crc32c
from compress.data.faults import DemoFileError

_HEAD, _TAIL = 12, 4


def mapped(path: Path) -> memoryview:
    """The whole file as memory, read from disk as it is looked at; gone when nothing refers to it.

    Raises:
        DemoFileError: missing or empty.
    """
    if not path.is_file() or path.stat().st_size == 0:
        state = "is empty" if path.is_file() else "no such file"
        raise DemoFileError(f"{path}: {state}. Next: copy the data set completely")
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def records(path: Path, memory: memoryview, checked: bool = True) -> Iterator[tuple[int, int]]:
    """Start and end of the content of each record.

    Args:
        path: for messages.
        memory: the file.
        checked: compare the checksums of the contents; those of the lengths are always compared.

    Raises:
        DemoFileError: truncated or damaged; names the record and where it starts.
    """
    at, number = 0, 0
    while at < len(memory):
        where = f"{path}: record {number} at byte {at}"
        if at + _HEAD > len(memory):
            raise DemoFileError(f"{where} is cut off ({len(memory)} bytes in all). Next: copy the file again")
        length, head_crc = struct.unpack("<QI", memory[at : at + _HEAD])
        if masked_crc32c(memory[at : at + 8]) != head_crc:
            raise DemoFileError(f"{where}: its length does not match its checksum. Next: copy the file again")
        start, end = at + _HEAD, at + _HEAD + length
        if end + _TAIL > len(memory):
            raise DemoFileError(
                f"{where} needs {length + _HEAD + _TAIL} bytes, {len(memory) - at} are left: the file is truncated. "
                "Next: copy it again"
            )
        if checked and masked_crc32c(memory[start:end]) != struct.unpack("<I", memory[end : end + _TAIL])[0]:
            raise DemoFileError(f"{where}: {length} bytes do not match their checksum. Next: copy the file again")
        yield start, end
        at, number = end + _TAIL, number + 1
