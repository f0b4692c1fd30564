# SPDX-License-Identifier: Apache-2.0
"""Joint commands for a forward_position_controller: set-points at a steady rate, each command's own stop included.

That controller has no stop: it holds the last value. As long as this process lives, an arm that gets no new command
plays the stop that was in its last one; if the process dies, the arm is stopped by its drives, at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from std_msgs.msg import Float64MultiArray

from dropgate_controller.ticker import Ticker
from runtime.safety.stream import PositionStream
from runtime.safety.trajectory import SafeTrajectory

BEHIND_S = 0.05  # most that a stop may begin too late


class PositionOut:
    """Plays the newest command in a thread of its own.

    Args:
        publish: where set-points go.
        rate_hz: of them.
        now_s: ROS time [s], in which commands begin.
        steady_s: a clock that nobody sets [s]: what is being played goes on in it.
        is_end: see Ticker.
    """

    def __init__(
        self, publish: Callable[[Float64MultiArray], None], rate_hz: float, now_s: Callable[[], float],
        steady_s: Callable[[], float] = time.monotonic, is_end: Callable[[Exception], bool] = lambda error: False,
    ) -> None:  # fmt: skip
        self._publish, self._now_s, self._steady_s, self._ahead_s = publish, now_s, steady_s, 0.0
        self._stream, self._lock = PositionStream(rate_hz), threading.Lock()
        self._playing = False
        self._ticker = Ticker(self._turn, is_end)
        self._ticker.start()

    @property
    def playing(self) -> bool:
        """A command has not been played to its end."""
        return self._playing

    @property
    def problem(self) -> str:
        """Why nothing more may be commanded but a stop: it would begin too late. Empty while it would not."""
        behind_s = self._stream.behind_s
        if behind_s <= BEHIND_S:
            return ""
        return f"set-points are {behind_s:.3f} s behind, at most {BEHIND_S:g} s is allowed: the machine is too busy"

    def take(self, command: SafeTrajectory) -> None:
        """Play this one from now on. Raises ContractError for a twist."""
        with self._lock:
            ahead_s = self._now_s() - self._steady_s()
            self._stream.clock_stepped(ahead_s - self._ahead_s)
            self._stream.take(command)
            self._ahead_s, self._playing = ahead_s, True

    def close(self) -> None:
        """No more set-points after this returns."""
        self._ticker.stop()

    def _turn(self) -> float:
        with self._lock:
            steady = self._steady_s()
            place = self._stream.positions(steady + self._ahead_s, steady)
            self._playing = place is not None
        if place is not None:
            self._publish(Float64MultiArray(data=place.tolist()))
        return self._stream.period_s
