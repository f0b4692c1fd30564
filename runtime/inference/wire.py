# SPDX-License-Identifier: Apache-2.0
"""Frames between controller and policy worker: a fixed header, then a payload of a length that was checked first.

Layout, little-endian, 28 bytes: magic `DGPW`, version u16, kind u16, sequence u64, payload length u32, CRC-32 of the
payload u32, CRC-32 of the 24 bytes before u32. The header has a CRC of its own so that a damaged length is never
believed. Chosen over pickle (runs code), JSON (slow for images) and a schema library (one more thing to install).
What payloads mean: `runtime.inference.messages`.
"""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from runtime.errors import WireError

MAGIC = b"DGPW"
VERSION = 1
_FIELDS = struct.Struct("<4sHHQII")
_CRC = struct.Struct("<I")
HEADER_SIZE = _FIELDS.size + _CRC.size
MAX_SEQUENCE = 2**64 - 1
READ_SIZE = 256 * 1024

Part = bytes | memoryview


class Kind(IntEnum):
    """What a frame is. Ready, chunk and failure come from the worker, requests from the controller."""

    READY = 1
    REQUEST = 2
    CHUNK = 3
    FAILURE = 4


@dataclass(frozen=True)
class Frame:
    """One frame whose header and payload passed their checks; the payload's meaning is not checked yet."""

    kind: Kind
    sequence: int
    payload: bytes


@dataclass(frozen=True)
class _Header:
    kind: Kind
    sequence: int
    length: int
    crc: int


def pack_frame(kind: Kind, sequence: int, parts: Sequence[Part]) -> bytes:
    """The bytes of a frame whose payload is `parts` joined; copied once, so the parts may change afterwards.

    Raises WireError for a sequence outside u64 or a payload that the header cannot express.
    """
    length = sum(memoryview(part).nbytes for part in parts)
    if not 0 <= sequence <= MAX_SEQUENCE or length >= 2**32:
        raise WireError(f"frame: found sequence {sequence}, {length} bytes, expected both to fit u64 and u32")
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    fields = _FIELDS.pack(MAGIC, VERSION, kind, sequence, length, crc)
    return b"".join([fields, _CRC.pack(zlib.crc32(fields)), *parts])


class FrameReader:
    """Cuts a stream of bytes into frames. `limits`: the kinds that may come and their largest payload [bytes].

    Holds what was fed and no more: a header is refused before anything is reserved for its payload.
    """

    def __init__(self, limits: Mapping[Kind, int]) -> None:
        self._limits = dict(limits)
        self._held = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._held)

    def feed(self, data: bytes) -> None:
        """Append bytes as they came from the stream."""
        self._held += data

    def take(self) -> Frame | None:
        """The next complete frame, or None until more is fed. WireError if the stream is not one of ours."""
        if len(self._held) < HEADER_SIZE:
            return None
        header = _header(bytes(self._held[:HEADER_SIZE]), self._limits)
        end = HEADER_SIZE + header.length
        if len(self._held) < end:
            return None
        payload = bytes(memoryview(self._held)[HEADER_SIZE:end])
        del self._held[:end]
        if zlib.crc32(payload) != header.crc:
            raise WireError(f"{header.kind.name} frame {header.sequence}: its payload is damaged (CRC-32 differs)")
        return Frame(header.kind, header.sequence, payload)


def _header(data: bytes, limits: Mapping[Kind, int]) -> _Header:
    magic, version, kind, sequence, length, crc = _FIELDS.unpack_from(data)
    if magic != MAGIC:
        raise WireError(f"frame: found {magic!r}, expected {MAGIC!r}: the other side does not speak this protocol")
    if version != VERSION:
        raise WireError(f"frame: found version {version}, expected {VERSION}; install the same runtime on both sides")
    if zlib.crc32(data[: _FIELDS.size]) != _CRC.unpack_from(data, _FIELDS.size)[0]:
        raise WireError("frame: its header is damaged (CRC-32 differs)")
    if kind not in limits:
        raise WireError(f"frame: found kind {kind}, expected one of {[item.name for item in limits]}")
    known = Kind(kind)
    if length > limits[known]:
        raise WireError(f"{known.name} frame: found {length} bytes, expected at most {limits[known]}")
    return _Header(known, sequence, length, crc)


def unpack_frame(data: bytes, limits: Mapping[Kind, int]) -> Frame:
    """The frame that is exactly `data`; WireError also when it is cut short or something follows it."""
    reader = FrameReader(limits)
    reader.feed(data)
    frame = reader.take()
    if frame is None:
        raise WireError(f"frame: found {len(data)} bytes, expected more: it was cut short")
    if reader.pending:
        raise WireError(f"{frame.kind.name} frame: found {reader.pending} bytes after it, expected none")
    return frame


def receive(link: socket.socket, reader: FrameReader) -> Frame | None:
    """Block until a frame is there; None when the other side has closed between two frames.

    Raises WireError, also when it closed in the middle of one.
    """
    while (frame := reader.take()) is None:
        try:
            data = link.recv(READ_SIZE)
        except ConnectionResetError:
            data = b""
        if not data:
            if reader.pending:
                raise WireError(f"frame: the other side closed after {reader.pending} bytes of it")
            return None
        reader.feed(data)
    return frame
