# SPDX-License-Identifier: Apache-2.0
"""What an arm really did, cycle by cycle, and by how much it broke what was allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dropgate_sim.jtc_spline import Floats

STILL_RAD_S = 1e-3  # slower counts as standing: servo noise of this model is below 1e-6
QUANTITIES = ("position", "velocity", "acceleration", "jerk")


@dataclass(frozen=True)
class Allowed:
    """Limits (n,) of every joint; a quantity that is None is not judged."""

    low: Sequence[float]
    high: Sequence[float]
    velocity: Sequence[float]
    acceleration: Sequence[float] | None = None
    jerk: Sequence[float] | None = None


@dataclass(frozen=True)
class Breach:
    """One quantity over a stretch of time.

    Attributes:
        cycles: in which some joint was beyond its limit.
        worst: greatest value over its limit, 1 = exactly at it; for positions, 1 + the excess [rad].
        joint: index of the joint that was worst.
        time_ns: when.
    """

    quantity: str
    cycles: int
    worst: float
    joint: int
    time_ns: int


class MotionRecord:
    """Samples of one arm at a fixed period. Jerk is the difference of accelerations, acceleration that of velocities.

    Args:
        names: joints.
        period_ns: between samples.
        keep: samples kept; older ones are forgotten (500 Hz: 300 000 are ten minutes).
    """

    def __init__(self, names: Sequence[str], period_ns: int, keep: int = 300_000) -> None:
        self.names, self.period_ns, self._keep = tuple(names), period_ns, keep
        self._rows: list[tuple[int, Floats, Floats]] = []

    def add(self, time_ns: int, positions: Floats, velocities: Floats) -> None:
        """One sample, (n,) each [rad, rad/s]."""
        self._rows.append((time_ns, positions, velocities))
        if len(self._rows) > self._keep + 10_000:
            del self._rows[:10_000]

    def __len__(self) -> int:
        return len(self._rows)

    def table(self, since_ns: int = 0) -> dict[str, Any]:
        """`time_ns` (N,), and (N, n) of every quantity from `since_ns` on."""
        rows = [row for row in self._rows if row[0] >= since_ns]
        n, dt = len(self.names), self.period_ns * 1e-9
        positions = np.array([row[1] for row in rows]).reshape(-1, n)
        velocities = np.array([row[2] for row in rows]).reshape(-1, n)
        rates = np.diff(velocities, axis=0, prepend=velocities[:1]) / dt
        if len(rates) > 1:
            rates[:1] = rates[1:2]  # the table may begin in motion: before its first row nothing is known
        jerks = np.diff(rates, axis=0, prepend=rates[:1]) / dt
        return {
            "time_ns": np.array([row[0] for row in rows], dtype=np.int64),
            "position": positions,
            "velocity": velocities,
            "acceleration": rates,
            "jerk": jerks,
        }

    def breaches(self, allowed: Allowed, since_ns: int = 0, slack: float = 1.02) -> dict[str, Breach]:
        """Per judged quantity; `slack` is how far beyond the limit counts (servo and rounding)."""
        table = self.table(since_ns)
        found: dict[str, Breach] = {}
        low, high = np.asarray(allowed.low), np.asarray(allowed.high)
        beyond = 1.0 + np.maximum(low - table["position"], table["position"] - high)
        for quantity in QUANTITIES:
            most = None if quantity == "position" else getattr(allowed, quantity)
            if quantity == "position":
                share, limit = beyond, 1.001
            elif most is not None:
                share, limit = np.abs(table[quantity]) / np.asarray(most), slack
            else:
                continue
            if not len(share):
                found[quantity] = Breach(quantity, 0, 0.0, 0, since_ns)
                continue
            row, joint = (int(i) for i in np.unravel_index(int(np.nanargmax(share)), share.shape))
            cycles = int((share > limit).any(axis=1).sum())
            found[quantity] = Breach(quantity, cycles, float(share[row, joint]), joint, int(table["time_ns"][row]))
        return found

    def moving(self, since_ns: int = 0) -> bool:
        """Some joint moved in the last sample."""
        return bool(self._rows) and bool(np.abs(self._rows[-1][2]).max() > STILL_RAD_S)

    def stopped_after(self, since_ns: int) -> float | None:
        """Seconds from `since_ns` to the last sample in motion; None while it moves, 0 if it did not."""
        table = self.table(since_ns)
        fast = np.abs(table["velocity"]).max(axis=1) > STILL_RAD_S if len(table["time_ns"]) else np.zeros(0, bool)
        if not fast.any():
            return 0.0
        last = int(np.flatnonzero(fast)[-1])
        if last == len(fast) - 1:
            return None
        return float(table["time_ns"][last + 1] - since_ns) * 1e-9

    def braking_after(self, since_ns: int) -> float | None:
        """Seconds from `since_ns` until the arm's speed began to fall for good; None if it never did."""
        table = self.table(since_ns)
        speed = np.linalg.norm(table["velocity"], axis=1)
        if not len(speed):
            return None
        rising = np.flatnonzero(np.diff(speed) > 1e-5)
        k = 0 if not len(rising) else int(rising[-1]) + 1
        return None if k >= len(speed) - 1 else float(table["time_ns"][k] - since_ns) * 1e-9

    def moved_since(self, since_ns: int) -> float:
        """Greatest way of any joint between `since_ns` and now [rad]."""
        positions = self.table(since_ns)["position"]
        return float(np.ptp(positions, axis=0).max()) if len(positions) else 0.0


def summary(breaches: Mapping[str, Breach], names: Sequence[str]) -> str:
    """One line for people."""
    parts = [f"{b.quantity} {b.worst:.2f} ({names[b.joint]}, {b.cycles} cycles)" for b in breaches.values() if b.cycles]
    return "; ".join(parts) or "none"
