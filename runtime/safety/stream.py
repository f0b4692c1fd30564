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


class PositionStream:
    """Samples commands at `rate_hz`. Raises ContractError for a rate below 125 Hz: the steps would be too large.

    A turn that comes late skips nothing, because the arm would jump: what is played falls behind by what was lost, and
    catches up at rest. An arm that is too far behind its commands is `FollowedLoop`'s to stop.
    """

    def __init__(self, rate_hz: float) -> None:
        if not rate_hz >= SLOWEST_HZ:
            raise ContractError(f"position stream: rate is {rate_hz} Hz, expected at least {SLOWEST_HZ:g}")
        self.period_s = 1.0 / rate_hz
        self._commands: deque[SafeTrajectory] = deque()  # the one that is played, and those that begin later
        self._behind_s, self._turn_s = 0.0, math.inf

    def take(self, command: SafeTrajectory) -> None:
        """Follow this one from its start on. Raises ContractError for a twist."""
        if command.kind is not CommandKind.JOINT_TRAJECTORY:
            raise ContractError("position stream: found a twist, expected a joint trajectory")
        if self._commands and command.start_s < self._commands[-1].start_s:  # in the time of a clock that was set back
            self._rest()
        self._commands.append(command)

    def positions(self, now_s: float, turn_s: float) -> Floats | None:
        """(D,) [rad] in the order of the command's names; None before the first command and once it is at rest.

        Args:
            now_s: in the time in which commands begin.
            turn_s: in a clock that nobody sets.
        """
        if not self._commands:
            return None
        lost = turn_s - self._turn_s - self.period_s
        if lost > self.period_s:
            self._behind_s += lost
        self._turn_s = turn_s
        played = now_s - self._behind_s
        while len(self._commands) > 1 and self._commands[1].start_s <= played:
            self._commands.popleft()
        command = self._commands[0]
        if len(self._commands) == 1 and played >= command.end_s:
            self._rest()  # said once: the controller holds it
        return command.at(played)[0]

    def _rest(self) -> None:
        self._commands.clear()
        self._behind_s, self._turn_s = 0.0, math.inf
