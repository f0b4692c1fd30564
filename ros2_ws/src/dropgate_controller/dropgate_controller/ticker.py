# SPDX-License-Identifier: Apache-2.0
"""A thread that calls one function at a steady rate, whatever the executor is busy with."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

FAILED = 70  # EX_SOFTWARE of sysexits.h


class Ticker:
    """Calls `work` every `work()` seconds of wall time on an absolute schedule; a late turn is dropped, not caught up.

    An exception ends the whole process: a loop that has died must not leave a node that looks alive, and an arm whose
    commands end comes to rest by itself. Unless it only says that there is nobody left to talk to.

    Args:
        work: one turn; gives the seconds to the next one.
        is_end: whether an exception means that everything has ended around the loop, which then ends too.
    """

    def __init__(self, work: Callable[[], float], is_end: Callable[[Exception], bool] = lambda error: False) -> None:
        self._work, self._is_end = work, is_end
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tick", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """No more turns after this returns."""
        self._over.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            try:
                period_s = self._work()
            except Exception as error:
                if self._is_end(error):
                    return
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(FAILED)
            due = max(due + period_s, time.monotonic())
