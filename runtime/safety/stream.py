# SPDX-License-Identifier: Apache-2.0
"""Set-points for a forward_position_controller: the newest command, sampled, its stop included.

For setups without a joint_trajectory_controller. That controller has no time-out and no stop: it holds the last value,
so whoever sends these must be watched. Positions only; holding a velocity is not tolerable.
"""

from __future__ import annotations

import math
from collections import deque

from runtime.errors import ContractError
from runtime.safety.trajectory import CommandKind, Floats, SafeTrajectory

SLOWEST_HZ = 125.0
FASTER = (
    0.05  # of its own time: within the limits, of which a plan leaves free 5, 10 and 15 % (`runtime.safety.joints`)
)


class PositionStream:
    """Samples commands at `rate_hz`. Raises ContractError for a rate below 125 Hz: the steps would be too large.

    A turn that comes late skips nothing, because the arm would jump: what is played falls behind by what was lost, and
    is played a little faster until it has caught up. Whoever sends commands must look at `behind_s`: a stop begins so
    much later.
    """

    def __init__(self, rate_hz: float) -> None:
        if not rate_hz >= SLOWEST_HZ:
            raise ContractError(f"position stream: rate is {rate_hz} Hz, expected at least {SLOWEST_HZ:g}")
        self.period_s, self.behind_s = 1.0 / rate_hz, 0.0
        self._commands: deque[tuple[float, SafeTrajectory]] = deque()  # when they begin; the first one is played
        self._turn_s = math.inf

    def take(self, command: SafeTrajectory) -> None:
        """Follow this one from its start on. Raises ContractError for a twist."""
        if command.kind is not CommandKind.JOINT_TRAJECTORY:
            raise ContractError("position stream: found a twist, expected a joint trajectory")
        self._commands.append((command.start_s, command))

    def clock_stepped(self, by_s: float) -> None:
        """The clock in which commands begin was set: what is played goes on as if nothing had happened."""
        self._commands = deque((start_s + by_s, command) for start_s, command in self._commands)

    def positions(self, now_s: float, turn_s: float) -> Floats | None:
        """(D,) [rad] in the order of the command's names; None before the first command and once it is at rest.

        Args:
            now_s: in the time in which commands begin.
            turn_s: in a clock that nobody sets.
        """
        if not self._commands:
            return None
        passed = turn_s - self._turn_s
        if passed > 2.0 * self.period_s:
            self.behind_s += passed - self.period_s
        elif passed > 0.0:
            self.behind_s = max(0.0, self.behind_s - FASTER * passed)
        self._turn_s = turn_s
        played = now_s - self.behind_s
        while len(self._commands) > 1 and self._commands[1][0] <= played:
            self._commands.popleft()
        start_s, command = self._commands[0]
        time_s = command.start_s + played - start_s
        if len(self._commands) == 1 and time_s >= command.end_s:  # said once: the controller holds it
            self._commands.clear()
            self.behind_s, self._turn_s = 0.0, math.inf
        return command.at(time_s)[0]
