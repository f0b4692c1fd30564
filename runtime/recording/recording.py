# SPDX-License-Identifier: Apache-2.0
"""From the tape to the file, in a thread of its own: the control loop never waits for a disk.

A full disk, or a writer that cannot keep up, ends the recording and says so in `trouble`; the robot goes on. What was
written stays readable.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from runtime.recording import values
from runtime.recording.mcap_file import EVENTS, McapWriter, RecordingError
from runtime.recording.setup import Setup
from runtime.recording.tape import DECISION, Event, Tape

QUEUE = 20_000  # events; about a minute
LEAST_FREE_BYTES = 256 << 20
CLOSE_S = 0.2  # between looks whether the writer still lives
LOOK_EVERY = 500  # events between looks at the disk


class Recording:
    """An MCAP file that is being written.

    Args:
        path: of the finished file; until then it ends in `.part`.
        setup: of the controller.
        least_free: bytes of disk that are left alone.

    Raises:
        RecordingError: no `mcap`, the name is taken, or not enough disk; OSError.
    """

    def __init__(self, path: Path, setup: Setup, least_free: int = LEAST_FREE_BYTES) -> None:
        self.trouble = ""
        self._least_free, self._path = least_free, path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._require_disk()  # before a file takes the name
        self._writer = McapWriter(path, setup.to_json())
        self._queue: queue.Queue[tuple[int, Event] | None] = queue.Queue(QUEUE)
        self.tape = Tape(self._keep)
        self._thread = threading.Thread(target=self._write_all, name="recording", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is waiting, finish the file."""
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):  # a writer that has just died empties it no more
                self._queue.put(None, timeout=CLOSE_S)
                break
        self._thread.join()

    def _keep(self, event: Event) -> None:
        if self.trouble:
            return
        try:
            self._queue.put_nowait((time.time_ns(), event))
        except queue.Full:
            self.trouble = f"the disk does not keep up: more than {QUEUE} events are waiting"

    def _write_all(self) -> None:
        written = 0
        try:
            while (item := self._queue.get()) is not None:
                if written % LOOK_EVERY == 0:
                    self._require_disk()
                self._write(*item)
                written += 1
            self._writer.close()
        except (OSError, RecordingError, ValueError) as error:
            self.trouble = f"{type(error).__name__}: {error}"
            self._writer.abandon()

    def _write(self, time_ns: int, event: Event) -> None:
        self._writer.add(EVENTS, time_ns, event)
        for topic, message in shown(event):
            self._writer.add(topic, time_ns, message)

    def _require_disk(self) -> None:
        free = shutil.disk_usage(self._path.parent).free
        if free < self._least_free:
            raise RecordingError(
                f"{self._path.parent}: {free >> 20} MiB are free, a recording leaves {self._least_free >> 20} alone"
            )


def shown(event: Event) -> list[tuple[str, dict[str, Any]]]:
    """The same for people's plots: joints, chunks, commands, status."""
    if event["call"] == "put" and "joints" in event["args"]["value"]:
        return [("/dropgate/joints", event["args"]["value"]["joints"])]
    if event["call"] == DECISION:
        return [("/dropgate/decision", event["args"])]
    out = event.get("out")
    if event["call"] != "tick" or not isinstance(out, dict):
        return []
    found: list[tuple[str, dict[str, Any]]] = []
    for told in (said for said in event["link"] if said[0] == "answer" and said[1] is not None):
        raw = told[1][0]
        rows = values.to_array(raw["values"]).tolist()
        found.append(("/dropgate/chunk_raw", {"stamp_s": raw["stamp_s"], "names": raw["names"], "rows": rows}))
    if out["admitted"] is not None:
        found.append(("/dropgate/chunk_safe", {"rows": values.to_array(out["admitted"]).tolist()}))
    if out["command"] is not None:
        command = out["command"]
        arrays = {
            name: values.to_array(command[name]).tolist()
            for name in ("times_s", "velocities", "positions")
            if command[name] is not None
        }
        found.append(("/dropgate/command", {**command, **arrays}))
    if event["link"] or out["command"] is not None or out["cause"] != "none":
        found.append(("/dropgate/status", {"state": out["state"], "cause": out["cause"], "text": out["text"]}))
    return found
