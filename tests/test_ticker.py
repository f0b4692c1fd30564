# SPDX-License-Identifier: Apache-2.0
"""The thread of the ticks: it keeps on whatever else happens, and when it fails, so does the process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "ros2_ws" / "src" / "dropgate_controller"
FAILS = """
import threading
from dropgate_controller.ticker import Ticker

def work():
    raise ValueError("a tick that fails")

Ticker(work).start()
threading.Event().wait(60)
"""


def test_a_tick_that_raises_ends_the_process_and_says_why() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILS], env={**os.environ, "PYTHONPATH": str(PACKAGE)}, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 70
    assert "a tick that fails" in done.stderr


def test_no_turn_begins_after_stop(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(PACKAGE))
    from dropgate_controller.ticker import Ticker

    turns, enough = [], threading.Event()

    def work() -> float:
        turns.append(1)
        if len(turns) == 5:
            enough.set()
        return 0.0

    ticker = Ticker(work)
    ticker.start()
    assert enough.wait(30)
    ticker.stop()
    found = len(turns)
    assert not ticker._thread.is_alive()
    assert len(turns) == found >= 5
