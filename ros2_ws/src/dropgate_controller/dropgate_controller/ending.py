# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM as a fact that a node can act on, while everything that it needs to stop an arm still works.

rclpy's own handlers invalidate the context at once: nothing can be sent any more, not even a stop. Python's raise
KeyboardInterrupt in the middle of whatever the main thread does, and run only once it comes back from waiting. So the
handlers here do nothing, and a thread reads which signals came.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_S = 0.25  # `timeout`, or a terminal below a launcher, sends one and the same twice


class Ending:
    """Whether the process was told to end. To be made once, in the main thread; also where SIGINT was ignored.

    A second signal, not the same one sent twice, ends the process at once: an arm comes to rest by itself, the worker
    dies with its parent, and the recording stays a `.part` that can be read.
    """

    def __init__(self) -> None:
        self.why = ""  # the signal's name, once one came
        self._since_s = 0.0
        self._calls: list[Callable[[str], None]] = []
        self._lock = threading.Lock()
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, _nothing)
        threading.Thread(target=self._hear, name="signals", daemon=True).start()

    def then(self, call: Callable[[str], None]) -> None:
        """Call this with the signal's name in a thread of its own, once one comes or if one has come."""
        with self._lock:
            if not self.why:
                self._calls.append(call)
                return
        _start(call, self.why)

    def _hear(self) -> None:
        while True:
            number = self._ear.recv(1)[0]
            if number not in SIGNALS:
                continue
            if not self.why:
                self._first(signal.Signals(number).name)
            elif time.monotonic() - self._since_s > SAME_S:
                os.write(2, b"a second signal: ended at once\n")
                os._exit(128 + number)

    def _first(self, name: str) -> None:
        with self._lock:
            self.why, self._since_s = name, time.monotonic()
            calls, self._calls = self._calls, []
        for call in calls:
            _start(call, name)


def _nothing(number: int, frame: object) -> None:
    """That it came is known from elsewhere."""


def _start(call: Callable[[str], None], why: str) -> None:
    threading.Thread(target=call, args=(why,), name="ending", daemon=True).start()
