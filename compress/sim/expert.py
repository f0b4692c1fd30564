# SPDX-License-Identifier: Apache-2.0
"""A scripted pick-and-place expert on privileged state: closed loop, 7-D OSC_POSE deltas, no learning.

It solves goals made of `On` and `In` (not drawers, knobs or pushing). Each phase ends on something that a camera or
the state also shows (position reached, fingers stopped), so that its demonstrations can be imitated without memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compress.sim.envs import TaskEnv
from compress.sim.geometry import Scene
from compress.sim.grasp import Grasp, choose_grasp, shortest_turn

OPEN, SHUT = -1.0, 1.0
POSITION_STEP, ROTATION_STEP = 0.05, 0.5  # [m], [rad] of target offset for an action of 1.0 (robosuite's OSC_POSE)
_POSITION_GAIN, _ROTATION_GAIN, _ROTATION_LIMIT = 1.6, 1.2, 0.6
_FINGERS_STILL = 0.0004  # [m] change of the finger distance in one step
_FINGERS_MOVED = 0.012  # [m] change of the finger distance that shows that a command has taken effect
_TRIES = 3
PHASES = ("over", "down", "shut", "lift", "carry", "lower", "drop", "leave", "reopen")
PICK_AND_PLACE = ("on", "in")


class UnsupportedGoal(ValueError):
    """The task's goal needs something else than picking and placing."""


@dataclass(frozen=True)
class Goal:
    """LIBERO's predicate: `held` must be `relation` (`on` or `in`) `target`."""

    relation: str
    held: str
    target: str


def goals_of(env: TaskEnv) -> tuple[Goal, ...]:
    """The goals of the task in LIBERO's order; raises UnsupportedGoal when one is not pick and place."""
    state = env.libero.env.parsed_problem["goal_state"]
    other = [goal for goal in state if goal[0].lower() not in PICK_AND_PLACE]
    if other:
        raise UnsupportedGoal(f"task {env.task.name!r} has the goals {other}; the expert only knows {PICK_AND_PLACE}")
    return tuple(Goal(relation.lower(), held, target) for relation, held, target in state)


class TaskExpert:
    """Runs one `Picker` per goal of the task.

    Args:
        env: a `TaskEnv` that has been reset.
        speed: 1.0 moves as fast as the controller allows; 0.8 is a fifth slower.
    """

    def __init__(self, env: TaskEnv, speed: float = 1.0) -> None:
        scene = Scene(env.libero.env)
        self._pickers = [Picker(scene, goal, speed) for goal in goals_of(env)]

    @property
    def phase(self) -> str:
        """What it is doing now, for logs."""
        return self._pickers[0].phase if self._pickers else "end"

    def act(self) -> np.ndarray | None:
        """The action (7,) for the state the simulator is in; None when nothing is left to do."""
        while self._pickers:
            action = self._pickers[0].act()
            if action is not None:
                return action
            self._pickers.pop(0)
        return None


class Picker:
    """A phase machine for one goal: over, down, shut, lift, carry, lower, drop, leave; reopen after a slip."""

    def __init__(self, scene: Scene, goal: Goal, speed: float) -> None:
        self.scene, self.goal, self.speed = scene, goal, speed
        self.phase, self._clock, self._tries = "plan", 0, 0
        self._last_gap = self._open_gap = self._held_gap = 0.0
        self._grasp: Grasp = Grasp(np.zeros(3), 0.0, "none")
        self._rest = self._safe = self._clear = 0.0
        self._start = np.zeros(3)
        self._phases: dict[str, Callable[[], np.ndarray]] = {name: getattr(self, f"_{name}") for name in PHASES}

    def act(self) -> np.ndarray | None:
        """The next action (7,), or None at the end."""
        self._clock += 1
        if self.phase == "plan":
            self._plan()
        if self.phase == "end":
            return None
        action = self._phases[self.phase]()
        self._last_gap = self._finger_gap()
        return action

    # phases, in order

    def _plan(self) -> None:
        held, scene = self.goal.held, self.scene
        self._grasp = choose_grasp(scene, held, self._finger_yaw())
        around = np.concatenate([scene.points(held), scene.clutter(held, self._grasp.point, 0.12)])
        self._safe = max(around[:, 2].max() + 0.06, self._grasp.point[2] + 0.10)
        self._rest = float(scene.origin(held)[2])
        self._go("over")

    def _over(self) -> np.ndarray:
        above = np.array([*self._grasp.point[:2], self._safe])
        action, error, spin = self._steer(above, OPEN, self.speed)
        if (error < 0.012 and spin < 0.06) or self._clock > 120:
            self._go("down")
        return action

    def _down(self) -> np.ndarray:
        action, error, _ = self._steer(self._grasp.point, OPEN, 0.6 * self.speed)
        if error < 0.006 or self._clock > 60:
            self._go("shut")
        return action

    def _shut(self) -> np.ndarray:
        action, *_ = self._steer(self._grasp.point, SHUT)
        gap = self._finger_gap()
        if self._clock == 1:
            self._open_gap = gap
        stopped = gap < self._open_gap - _FINGERS_MOVED and abs(gap - self._last_gap) < _FINGERS_STILL
        if stopped or self._clock > 12:
            self._go("lift")
        return action

    def _lift(self) -> np.ndarray:
        held, scene = self.goal.held, self.scene
        here, low = self._here(), self._lowest()
        if self._clock == 1:
            self._start, self._clear = here.copy(), self._clearance(here)
        up = np.array([*self._start[:2], here[2] + max(0.0, self._clear + 0.02 - low) + 0.01])
        up[2] = max(up[2], self._start[2] + 0.08)
        action, *_ = self._steer(up, SHUT, self.speed)
        lifted, risen = scene.origin(held)[2] - self._rest, here[2] - self._start[2]
        slipped = risen > 0.05 and lifted < 0.02
        if slipped or (low > self._clear and risen > 0.06) or self._clock > 60:
            self._go("carry") if lifted >= 0.02 else self._retry()
        return action

    def _carry(self) -> np.ndarray:
        here, offset = self._here(), self._offset()
        if self.scene.origin(self.goal.held)[2] - self._rest < 0.015 and self._clock > 5:
            self._retry()
        over = self.scene.target_point(self.goal.target)[:2] + offset[:2]
        height = here[2] + (self._clear + 0.01 - self._lowest())
        action, *_ = self._steer(np.array([*over, height]), SHUT, self.speed)
        if self.phase == "carry" and (np.linalg.norm(over - here[:2]) < 0.012 or self._clock > 120):
            self._go("lower")
        return action

    def _lower(self) -> np.ndarray:
        gap = self._lowest() - self._target_floor()
        over = self.scene.target_point(self.goal.target)[:2] + self._offset()[:2]
        action, *_ = self._steer(np.array([*over, self._here()[2] - gap + 0.004]), SHUT, 0.45 * self.speed)
        if gap < 0.008 or self._clock > 50:
            self._go("drop")
        return action

    def _drop(self) -> np.ndarray:
        action, *_ = self._steer(self._here(), OPEN)
        if self._clock == 1:
            self._held_gap = self._finger_gap()
        if self._finger_gap() > self._held_gap + _FINGERS_MOVED or self._clock > 10:
            self._go("leave")
        return action

    def _leave(self) -> np.ndarray:
        action, *_ = self._steer(self._here() + np.array([0.0, 0.0, 0.06]), OPEN)
        if self._clock > 25:
            self._go("end")
        return action

    def _reopen(self) -> np.ndarray:
        action, *_ = self._steer(self._here() + np.array([0.0, 0.0, 0.05]), OPEN)
        if self._clock > 8:
            self._go("plan")
        return action

    # control

    def _steer(self, point: np.ndarray, grip: float, top_speed: float = 1.0) -> tuple[np.ndarray, float, float]:
        """Action towards `point` with the tool pointing down; also the distance [m] and yaw error [rad]."""
        here, rotation = self.scene.hand()
        move = (point - here) / POSITION_STEP * _POSITION_GAIN
        peak = np.abs(move).max()
        if peak > top_speed:
            move *= top_speed / peak
        tilt = np.cross(rotation[:, 2], [0.0, 0.0, -1.0])  # rotation deltas act in the world frame
        spin = shortest_turn(self._grasp.yaw, self._finger_yaw())
        turn = np.array([tilt[0], tilt[1], spin]) / ROTATION_STEP * _ROTATION_GAIN
        turn = np.clip(turn, -_ROTATION_LIMIT, _ROTATION_LIMIT)
        action = np.clip(np.array([*move, *turn, grip]), -1.0, 1.0)
        return action, float(np.linalg.norm(point - here)), abs(spin)

    def _go(self, phase: str) -> None:
        self.phase, self._clock = phase, 0

    def _retry(self) -> None:
        self._tries += 1
        self._go("reopen" if self._tries < _TRIES else "end")

    # what the phases look at

    def _here(self) -> np.ndarray:
        return self.scene.hand()[0]

    def _offset(self) -> np.ndarray:
        return np.asarray(self._here() - self.scene.origin(self.goal.held))

    def _lowest(self) -> float:
        return float(self.scene.points(self.goal.held)[:, 2].min())

    def _finger_yaw(self) -> float:
        tips = self.scene.finger_tips()
        return float(np.arctan2(tips[0][1] - tips[1][1], tips[0][0] - tips[1][0]))

    def _finger_gap(self) -> float:
        tips = self.scene.finger_tips()
        return float(np.linalg.norm(tips[0] - tips[1]))

    def _clearance(self, here: np.ndarray) -> float:
        """Height the object's lowest point must reach before it travels: over the target and its neighbours."""
        target = self.goal.target
        around = self.scene.points(target) if self.scene.is_body(target) else self.scene.owner_points(target)
        near = self.scene.clutter(self.goal.held, here, 0.14)
        return float(max(around[:, 2].max() + 0.03, near[:, 2].max() + 0.015 if len(near) else -1.0))

    def _target_floor(self) -> float:
        """Height at which the object is let go."""
        target = self.scene.target_point(self.goal.target)
        if self.goal.relation == "in":  # inside a container: well above its floor is enough
            half_height = float(self.scene.base.object_sites_dict[self.goal.target].size[2])
            return float(target[2]) - min(0.03, half_height - 0.002)
        if not self.scene.is_body(self.goal.target):
            return float(target[2])
        points = self.scene.points(self.goal.target)
        near = points[np.linalg.norm(points[:, :2] - target[:2], axis=1) < 0.05]
        return float((near if len(near) else points)[:, 2].max())
