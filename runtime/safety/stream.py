# SPDX-License-Identifier: Apache-2.0
"""Set-points for a forward_position_controller: the newest command, sampled, its stop included.

For setups without a joint_trajectory_controller. That controller has no time-out and no stop: it holds the last value,
so whoever sends these must be watched. Positions only; holding a velocity is not tolerable.
"""

from __future__ import annotations

from runtime.errors import ContractError
from runtime.safety.trajectory import CommandKind, Floats, SafeTrajectory

SLOWEST_HZ = 125.0


class PositionStream:
    """Samples commands at `rate_hz`. Raises ContractError for a rate below 125 Hz: the steps would be too large."""

    def __init__(self, rate_hz: float) -> None:
        if not rate_hz >= SLOWEST_HZ:
            raise ContractError(f"position stream: rate is {rate_hz} Hz, expected at least {SLOWEST_HZ:g}")
        self.period_s = 1.0 / rate_hz
        self._command: SafeTrajectory | None = None

    def take(self, command: SafeTrajectory) -> None:
        """Follow this one from now on. Raises ContractError for a twist."""
        if command.kind is not CommandKind.JOINT_TRAJECTORY:
            raise ContractError("position stream: found a twist, expected a joint trajectory")
        self._command = command

    def positions(self, now_s: float) -> Floats | None:
        """(D,) [rad] in the order of the command's names; None before the first command and once it is at rest."""
        if self._command is None:
            return None
        if now_s > self._command.end_s + self.period_s:
            self._command = None
            return None
        return self._command.at(now_s)[0]
