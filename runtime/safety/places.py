# SPDX-License-Identifier: Apache-2.0
"""Where a planned motion would take tool and elbow: the planner's own look at the station's tool limits.

A little stricter than the limits (`_INSIDE_M`, `_SLOWER`), because it looks at fewer instants than the monitor does.
"""

from __future__ import annotations

import numpy as np

from runtime.errors import ContractError
from runtime.safety.curve import Curve
from runtime.safety.kinematics import Kinematics, Places
from runtime.safety.limits import ToolLimits
from runtime.safety.trajectory import Floats

STEP_S = 0.02  # between the instants that are looked at
DISTANCE_EVERY = 3  # of them, for distances
LOOK_RAD = 0.05  # of the fastest joint (metres if it slides), between looks at a whole chunk's distances
_INSIDE_M, _INSIDE_RAD, _APART_M = 0.001, 0.005, 0.003
_SLOWER = 0.96


class ToolCheck:
    """Tool limits of one arm. Raises ContractError: a box for an elbow of which nobody knows where it is."""

    def __init__(self, arm: Kinematics, tool: ToolLimits) -> None:
        self._arm, self._tool = arm, tool
        self._boxes = [("the tool", np.array(tool.workspace_low), np.array(tool.workspace_high))]
        if tool.elbow_low:
            if arm.places(np.zeros((1, len(arm.joints)))).elbow is None:
                raise ContractError(
                    "limits: elbow_low/high are given, but the kinematics know no elbow; name its link in "
                    "`kinematics.elbow`, or leave the box empty"
                )
            self._boxes.append(("the elbow", np.array(tool.elbow_low), np.array(tool.elbow_high)))
        approach = np.array(tool.approach, dtype=np.float64)
        self._approach = approach / np.linalg.norm(approach) if tool.approach else None

    def objection(self, curve: Curve, start_s: float) -> str:
        """What `curve` breaks from `start_s` to its end, in words; empty if nothing."""
        span = curve.end_s - start_s
        times = start_s + np.linspace(0.0, span, max(2, int(np.ceil(span / STEP_S)) + 1))
        place, speed, _ = curve.at(times)
        seen = self._arm.places(place, speed)
        share = self._speeds(seen)
        if not share <= _SLOWER:
            return f"the tool reaches {share:.2f} times its speed limit"
        outside = self._outside(seen)
        if outside.any():
            return self._named(seen, int(np.argmax(outside)))
        for q in (*place[::DISTANCE_EVERY], place[-1]):
            if near := self._near(q):
                return near
        return ""

    def along(self, path: Curve) -> tuple[float, float, str]:
        """The least slowing, at least 1, that keeps the tool's speeds; until when [s] the path keeps boxes, tilt and
        distances; and what ends it there, "" at its end."""
        times = np.linspace(path.start_s, path.end_s, 2 * len(path.times))
        place, speed, _ = path.at(times)
        seen = self._arm.places(place, speed)
        slower = max(1.0, self._speeds(seen) / (_SLOWER - 0.02))
        outside = self._outside(seen)
        end = int(np.argmax(outside)) if outside.any() else len(times)
        looked = 0
        for k in _looks(place[:end]):
            if near := self._near(place[k]):
                return slower, float(times[looked]), near
            looked = k
        if end == len(times):
            return slower, path.end_s, ""
        return slower, float(times[max(0, end - 1)]), self._named(seen, end)

    def _speeds(self, seen: Places) -> float:
        assert seen.linear is not None
        assert seen.angular is not None
        linear = float(np.sqrt((seen.linear**2).sum(axis=1).max())) / self._tool.linear_m_s
        return max(linear, float(np.sqrt((seen.angular**2).sum(axis=1).max())) / self._tool.angular_rad_s)

    def _outside(self, seen: Places) -> Floats:
        found = np.zeros(len(seen.tcp), dtype=bool)
        for (_, low, high), points in zip(self._boxes, (seen.tcp, seen.elbow), strict=False):
            assert points is not None
            found |= np.any((points < low + _INSIDE_M) | (points > high - _INSIDE_M), axis=1)
        if self._approach is not None:
            found |= seen.axis @ self._approach < np.cos(max(0.0, self._tool.tilt_rad - _INSIDE_RAD))
        return np.asarray(found)

    def _named(self, seen: Places, k: int) -> str:
        for (name, low, high), points in zip(self._boxes, (seen.tcp, seen.elbow), strict=False):
            assert points is not None
            if np.any((points[k] < low + _INSIDE_M) | (points[k] > high - _INSIDE_M)):
                place = np.round(points[k], 3).tolist()
                return f"{name} would be at {place}, its box is {low.tolist()} to {high.tolist()}"
        return f"the tool would be tilted by more than {self._tool.tilt_rad:g} rad"

    def _near(self, q: Floats) -> str:
        return self._arm.too_near(q, self._tool.self_distance_m + _APART_M, self._tool.scene_distance_m + _APART_M)


def _looks(place: Floats) -> list[int]:
    """The first of (N, D), the last, and between them one before a joint has moved `LOOK_RAD` since the one before."""
    moved = np.concatenate([[0.0], np.cumsum(np.abs(place[1:] - place[:-1]).max(axis=1))])
    steps = (moved / LOOK_RAD).astype(np.int64)
    return [*np.flatnonzero(np.append(True, steps[1:] != steps[:-1])).tolist(), len(place) - 1] if len(place) else []
