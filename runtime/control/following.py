# SPDX-License-Identifier: Apache-2.0
"""Does the arm do what it is told? Compares what was measured with what was commanded a little earlier.

A controller that drops messages, was switched away, or whose robot stands in a protective stop looks exactly like one
that obeys, until somebody compares (`disable_commands` of a mock hardware is the test case).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from runtime.errors import ContractError
from runtime.safety.trajectory import SafeTrajectory

_LAGS = 9  # places in the window that are tried


@dataclass(frozen=True)
class FollowLimits:
    """How well the arm must follow.

    Attributes:
        error_rad: largest distance of a joint from where it was told to be, at the best lag.
        lag_s: the arm may be behind its commands by up to this [s].
        patience_s: for so long the distance may be larger [s].
    """

    error_rad: float = 0.1
    lag_s: float = 0.25
    patience_s: float = 0.2

    def __post_init__(self) -> None:
        for name in ("error_rad", "lag_s", "patience_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ContractError(f"following: {name} is {value}, expected a finite number above 0")


class Following:
    """Remembers joint commands for `lag_s`; twists have nothing to compare with and are ignored."""

    def __init__(self, limits: FollowLimits) -> None:
        self._limits = limits
        self._sent: deque[SafeTrajectory] = deque()
        self._lost_s: float | None = None

    def sent(self, command: SafeTrajectory) -> None:
        """`command` has been published."""
        if command.positions is None:
            return
        self._sent.append(command)
        while len(self._sent) > 1 and self._sent[1].start_s < command.start_s - self._limits.lag_s:
            self._sent.popleft()

    def objection(self, joints: Mapping[str, float], stamp_s: float) -> str:
        """Why the arm is not following, in words; empty if it is, or if nothing has been commanded.

        Args:
            joints: measured positions by name.
            stamp_s: when they were measured [s], on the clock of the commands.
        """
        if not self._sent:
            return ""
        names = self._sent[-1].names
        measured = np.array([joints.get(name, math.nan) for name in names])
        lags = np.linspace(0.0, self._limits.lag_s, _LAGS)
        errors = np.array([np.abs(measured - self._told(stamp_s - lag)) for lag in lags])
        worst = errors.max(axis=1)
        if np.nanmin(np.append(worst, math.inf)) <= self._limits.error_rad:
            self._lost_s = None
            return ""
        self._lost_s = stamp_s if self._lost_s is None else self._lost_s
        if stamp_s - self._lost_s <= self._limits.patience_s:
            return ""
        lag = int(np.nanargmin(worst)) if np.isfinite(worst).any() else 0
        joint = int(np.nanargmax(errors[lag])) if np.isfinite(errors[lag]).any() else 0
        return (
            f"{names[joint]} is {errors[lag][joint]:.3f} away from where it was told to be, at most "
            f"{self._limits.error_rad:g} within {self._limits.lag_s:g} s is allowed: are the commands applied?"
        )

    def forget(self) -> None:
        """The arm rests: nothing is expected of it."""
        self._sent.clear()
        self._lost_s = None

    def _told(self, time_s: float) -> np.ndarray:
        """Where the arm was told to be at `time_s`, by the command that held then."""
        held = next((c for c in reversed(self._sent) if c.start_s <= time_s), self._sent[0])
        return held.at(max(time_s, held.start_s))[0]
