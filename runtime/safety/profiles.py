# SPDX-License-Identifier: Apache-2.0
"""Time-optimal, jerk-limited stops of all joints together. Wraps ruckig (velocity interface, synchronised in time).

Ruckig's joints change their jerk at different times, some of them microseconds apart, which no controller can play. So
its accelerations are taken on one common grid and joined by straight lines: jerk is constant between grid points and is
there the mean of ruckig's own, so it keeps its limit, and so does the acceleration. What the straight lines lose of the
speed change is given back by a triangle of acceleration; its jerk is what `SPARE` is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.errors import ContractError
from runtime.safety.curve import Curve, of_jerks
from runtime.safety.trajectory import Floats

INSTALL = 'pip install -e ".[control]" in the DropGate checkout'
SPARE = 0.95  # share of jerk and acceleration that ruckig may plan with
GRID_S, FEWEST = 0.02, 16  # of the common grid: longest piece, fewest pieces
SHORT_S = 0.032  # a shorter stop has too short pieces: it is made of two
_AT_REST = 1e-9  # rad/s, rad/s^2


class StopPlanner:
    """Stops within acceleration and jerk limits, each (D,). Raises ContractError if ruckig is missing."""

    def __init__(self, acceleration: Sequence[float], jerk: Sequence[float]) -> None:
        try:
            import ruckig
        except ImportError as error:
            raise ContractError(
                f"joint commands: ruckig is not installed ({error}); without it no command has a stop: {INSTALL}"
            ) from error
        count = len(acceleration)
        self._acceleration, self._jerk = np.asarray(acceleration), np.asarray(jerk)
        self._planner, self._result, self._done = ruckig.Ruckig(count), ruckig.Trajectory(count), ruckig.Result.Working
        ask = self._ask = ruckig.InputParameter(count)
        ask.control_interface = ruckig.ControlInterface.Velocity
        ask.synchronization = ruckig.Synchronization.Time
        ask.max_acceleration = (SPARE * self._acceleration).tolist()
        ask.max_jerk = (SPARE * self._jerk).tolist()
        ask.target_velocity = ask.target_acceleration = [0.0] * count

    def stop(self, start_s: float, state: tuple[Floats, Floats, Floats]) -> Curve | None:
        """To rest from positions, velocities and accelerations (D,); one knot if at rest, None if ruckig refuses."""
        place, velocity, acceleration = state
        if np.abs(velocity).max() < _AT_REST and np.abs(acceleration).max() < _AT_REST:
            zero = np.zeros((1, len(place)))
            return Curve(np.array([start_s]), place[None].copy(), zero, zero)
        ask: Any = self._ask
        ask.current_position, ask.current_velocity = place.tolist(), velocity.tolist()
        ask.current_acceleration = acceleration.tolist()
        if self._planner.calculate(ask, self._result) != self._done:
            return None
        total = float(self._result.duration)
        made = self._two_pieces if total < SHORT_S else self._on_grid
        return made(start_s, state, total).at_rest()

    def _on_grid(self, start_s: float, state: tuple[Floats, Floats, Floats], total: float) -> Curve:
        count = max(FEWEST, 2 * int(np.ceil(total / GRID_S / 2.0)))
        step = total / count
        rates = np.array([self._result.at_time(k * step)[2] for k in range(count + 1)])
        rates[0], rates[-1] = state[2], 0.0
        jerks = np.diff(rates, axis=0) / step
        missing = -(state[1] + (rates[:-1] + rates[1:]).sum(axis=0) * step / 2.0)
        lift = 4.0 * missing / total**2  # jerk of a triangle whose area is `missing`
        jerks[: count // 2] += lift
        jerks[count // 2 :] -= lift
        return of_jerks(start_s, state, np.full(count, step), jerks)

    def _two_pieces(self, start_s: float, state: tuple[Floats, Floats, Floats], total: float) -> Curve:
        """Two halves of constant jerk that end at rest, lengthened until the jerks are allowed."""
        _, velocity, acceleration = state
        half = max(total / 2.0, 0.002)
        while True:
            sum_ = -acceleration / half
            first = -(velocity + 2.0 * half * acceleration) / half**2 - sum_ / 2.0
            jerks = np.stack([first, sum_ - first])
            if np.all(np.abs(jerks) <= SPARE * self._jerk) or half > 1.0:
                return of_jerks(start_s, state, np.full(2, half), jerks)
            half *= 1.25
