# SPDX-License-Identifier: Apache-2.0
"""Where to grip an object from above: across it when it fits between the fingers, at its rim when it is too wide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.sim.geometry import Scene

FINGER_OPENING = 0.080  # [m] Panda hand, fully open
FINGER_REACH = 0.045  # [m] how far an object may stand over the grip site before it meets the palm
FINGER_THICKNESS, FINGER_HALF_WIDTH = 0.022, 0.016
PALM_HALF = (0.11, 0.035)  # along and across the finger axis
FLOOR_MARGIN = 0.012  # lower, and the fingers push into the table
RIM_DEPTH = 0.018
_TURN_COST, _HIT_COST, _REACH_COST = 0.02, 0.05, 0.05


@dataclass(frozen=True)
class Grasp:
    """A top-down grasp: grip site position (3,) [m], world yaw of the finger axis [rad], `across` or `rim`."""

    point: np.ndarray
    yaw: float
    mode: str


def shortest_turn(yaw: float, now: float) -> float:
    """The smaller of the two turns that align the (symmetric) gripper, in [-pi/2, pi/2)."""
    return float((yaw - now + np.pi / 2) % np.pi - np.pi / 2)


def choose_grasp(scene: Scene, name: str, yaw_now: float) -> Grasp:
    """The cheapest grasp of `name`: small turn, small width, few neighbours in the fingers' way."""
    points = scene.points(name)
    clutter = scene.clutter(name, points.mean(0), 0.25)
    return _across(points, clutter, yaw_now) or _at_rim(scene, points, clutter, yaw_now)


def _across(points: np.ndarray, clutter: np.ndarray, yaw_now: float) -> Grasp | None:
    low, top = points[:, 2].min(), points[:, 2].max()
    height = top - low
    z = max(low + FLOOR_MARGIN, top - min(FINGER_REACH - FLOOR_MARGIN, 0.55 * height), top - FINGER_REACH)
    near = points[np.abs(points[:, 2] - z) < max(0.02, 0.35 * height)]
    near = near if len(near) >= 8 else points
    best: tuple[float, Grasp] | None = None
    for yaw in np.arange(0, np.pi, np.pi / 36):
        axis, side = _axes(yaw)
        along, beside = near[:, :2] @ axis, near[:, :2] @ side
        width = along.max() - along.min()
        if width > FINGER_OPENING - 0.004:
            continue
        centre = axis * (along.max() + along.min()) / 2 + side * (beside.max() + beside.min()) / 2
        turn = shortest_turn(yaw, yaw_now)
        cost = _TURN_COST * abs(turn) + width + _HIT_COST * _hits(clutter, centre, z, yaw)
        if best is None or cost < best[0]:
            best = (cost, Grasp(np.array([*centre, z]), yaw_now + turn, "across"))
    return None if best is None else best[1]


def _at_rim(scene: Scene, points: np.ndarray, clutter: np.ndarray, yaw_now: float) -> Grasp:
    """One finger inside, one outside."""
    low, top = points[:, 2].min(), points[:, 2].max()
    rim = points[points[:, 2] > top - 0.25 * (top - low)]
    centre = (points[:, :2].max(0) + points[:, :2].min(0)) / 2
    radius = np.linalg.norm(rim[:, :2] - centre, axis=1).mean()
    z, base = top - RIM_DEPTH, scene.robot_base()[:2]
    best: tuple[float, Grasp] | None = None
    for yaw in np.arange(0, 2 * np.pi, np.pi / 18):
        grip = centre + radius * np.array([np.cos(yaw), np.sin(yaw)])
        turn = shortest_turn(yaw, yaw_now)
        reach = float(np.linalg.norm(grip - base))
        cost = _TURN_COST * abs(turn) + _HIT_COST * _hits(clutter, grip, z, yaw) + _REACH_COST * reach
        if best is None or cost < best[0]:
            best = (cost, Grasp(np.array([*grip, z]), yaw_now + turn, "rim"))
    assert best is not None
    return best[1]


def _hits(clutter: np.ndarray, centre: np.ndarray, z: float, yaw: float) -> int:
    """How many clutter points an opened finger or the palm would meet on the way down."""
    axis, side = _axes(yaw)
    low = clutter[clutter[:, 2] > z - 0.012][:, :2] - centre
    along, across = np.abs(low @ axis), np.abs(low @ side)
    inner = FINGER_OPENING / 2
    fingers = (along > inner - 0.004) & (along < inner + FINGER_THICKNESS) & (across < FINGER_HALF_WIDTH)
    high = clutter[clutter[:, 2] > z + FINGER_REACH + 0.005][:, :2] - centre
    palm = (np.abs(high @ axis) < PALM_HALF[0]) & (np.abs(high @ side) < PALM_HALF[1])
    return int(fingers.sum()) + int(palm.sum())


def _axes(yaw: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
