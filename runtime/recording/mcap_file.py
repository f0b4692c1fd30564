# SPDX-License-Identifier: Apache-2.0
"""MCAP files: the one wrapper of the `mcap` library. JSON messages, so that Foxglove opens them as they are.

A file that is being written is called `*.mcap.part`; what is in it can be read up to its last whole chunk, whatever
killed its writer.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from runtime.errors import ContractError, DropGateRuntimeError

SETUP = "dropgate"  # metadata record
EVENTS = "/dropgate/events"  # everything, for replays; the others are for people
TOPICS = (EVENTS, "/dropgate/joints", "/dropgate/chunk_raw", "/dropgate/chunk_safe", "/dropgate/command",
          "/dropgate/status", "/dropgate/decision")  # fmt: skip
PART = ".part"
CHUNK_BYTES = 1 << 16  # what a SIGKILL may cost, before compression
MISSING = "recording needs the package `mcap`: pip install 'dropgate[control]'"


class RecordingError(DropGateRuntimeError):
    """A recording that cannot be written or read."""


class McapWriter:
    """One file. Raises RecordingError: no `mcap`, or the name is taken; OSError: the disk."""

    def __init__(self, path: Path, setup: dict[str, Any]) -> None:
        try:
            from mcap.writer import Writer
        except ImportError as error:
            raise RecordingError(MISSING) from error
        self.path, self._part = path, path.with_name(path.name + PART)
        if path.exists():
            raise RecordingError(f"{path} is there already; recordings are never overwritten: give another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: IO[bytes] = self._part.open("xb")  # a raw one the library buffers, and never flushes
        self._writer = Writer(self._stream, chunk_size=CHUNK_BYTES)
        self._writer.start(profile="", library="dropgate")
        self._writer.add_metadata(SETUP, {"setup": json.dumps(setup, sort_keys=True)})
        schema = {name: self._schema(name) for name in TOPICS}
        self._channels = {name: self._writer.register_channel(name, "json", schema[name]) for name in TOPICS}
        self._count = 0

    def _schema(self, topic: str) -> int:
        text = json.dumps({"type": "object", "title": topic}).encode()
        return int(self._writer.register_schema(topic.strip("/").replace("/", "."), "jsonschema", text))

    def add(self, topic: str, time_ns: int, message: dict[str, Any]) -> None:
        """One message, at nanoseconds of the Unix epoch."""
        data = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
        self._count += 1
        self._writer.add_message(self._channels[topic], time_ns, data, time_ns, self._count)
        self._stream.flush()  # a chunk that is done is in the file

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._writer.finish()  # type: ignore[no-untyped-call]
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._part.rename(self.path)

    def abandon(self) -> None:
        """Leave it as it is: a `.part` that can be read as far as it goes."""
        self._stream.close()


class McapRecording:
    """A recording on disk.

    Attributes:
        setup: what `McapWriter` was given.
        whole: the file was closed properly; known only after `events` has been exhausted.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.whole = path, False
        self.setup = self._read_setup()

    def events(self) -> Iterator[dict[str, Any]]:
        """Everything that happened, in order, as far as the file goes. Raises RecordingError: not JSON."""
        from mcap.records import Channel, DataEnd, Message

        names: dict[int, str] = {}
        for record in self._records():
            if isinstance(record, Channel):
                names[record.id] = record.topic
            elif isinstance(record, Message) and names.get(record.channel_id) == EVENTS:
                try:
                    yield json.loads(record.data)
                except ValueError as error:
                    raise RecordingError(f"{self._path}: an event is not JSON ({error})") from error
            elif isinstance(record, DataEnd):
                self.whole = True

    def _read_setup(self) -> dict[str, Any]:
        from mcap.records import Metadata

        for record in self._records():
            if isinstance(record, Metadata) and record.name == SETUP:
                try:
                    found = json.loads(record.metadata["setup"])
                except (KeyError, ValueError) as error:
                    raise ContractError(f"{self._path}: its setup cannot be read ({error})") from error
                return dict(found)
        raise RecordingError(f"{self._path}: found no DropGate setup in it, expected a recording of the controller")

    def _records(self) -> Iterator[Any]:
        try:
            from mcap.exceptions import McapError
            from mcap.stream_reader import StreamReader
        except ImportError as error:
            raise RecordingError(MISSING) from error
        with self._path.open("rb") as stream:
            records = StreamReader(stream).records
            while True:
                try:
                    record = next(records)
                except StopIteration:
                    return
                except (McapError, ValueError, EOFError, struct.error) as error:
                    if stream.tell() < 8:
                        raise RecordingError(f"{self._path}: is no MCAP file ({error})") from error
                    return  # its writer was killed: the last chunk is not whole
                yield record
