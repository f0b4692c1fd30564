# SPDX-License-Identifier: Apache-2.0
"""A point-like arm, two cameras and a scripted policy around the ROS-free controller; time moves only when told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from artifact_factory import policy_spec

from runtime.clock import FakeClock
from runtime.contract.chunk import ActionChunk
from runtime.contract.guidance import Guidance
from runtime.control.controller import Controller
from runtime.control.observation import JOINTS, TCP, Joints, ObservationBuffer, Pose, Snapshot
from runtime.control.policy_link import Answer, PolicyFailure
from runtime.control.scheduler import Pace
from runtime.control.settings import Settings
from runtime.control.state_map import StateMap
from runtime.control.task import Tick
from runtime.safety.filter import SafetyFilter
from runtime.safety.limits import CartesianLimits

SPEC = policy_spec()
SOURCES = ("tcp.x", "tcp.y", "tcp.z", "tcp.rx", "tcp.ry", "tcp.rz", "joint.grip_left", "joint.grip_right")
LIMITS = CartesianLimits(
    linear_m_s=0.5, angular_rad_s=4.0, linear_m_s2=8.0, angular_rad_s2=80.0, workspace_low=(-1.0, -1.0, 0.0),
    workspace_high=(1.0, 1.0, 1.0), max_start_jump_m=0.05, max_start_jump_rad=0.3,
)  # fmt: skip
TICK, TIMEOUT = 0.02, 0.1


def values(x: float = 0.2) -> np.ndarray:
    """A chunk of (8, 7) that moves along x."""
    return np.tile(np.array([x, 0, 0, 0, 0, 0, 1.0], np.float32), (SPEC.action.horizon, 1))


class ScriptedPolicy:
    """Answers after `latency_s` with what `answers` gives: values (8, 7), or an exception to raise."""

    def __init__(self, clock: FakeClock, answers: Callable[[int], object], latency_s: float) -> None:
        self._clock, self._answers, self.latency_s = clock, answers, latency_s
        self._due: tuple[float, Snapshot] | None = None
        self.asked: list[tuple[float, str]] = []
        self.guided: list[Guidance | None] = []
        self.dead: PolicyFailure | None = None

    @property
    def in_flight(self) -> bool:
        return self._due is not None

    def ask(self, snapshot: Snapshot, instruction: str, guidance: Guidance | None = None) -> None:
        if self.dead is not None:
            raise self.dead
        self.asked.append((snapshot.stamp_s, instruction))
        self.guided.append(guidance)
        self._due = (self._clock.now() + self.latency_s, snapshot)

    def answer(self) -> Answer | None:
        if self.dead is not None and self._due is not None:
            self._due = None
            raise self.dead
        if self._due is None or self._clock.now() < self._due[0] - 1e-9:
            return None
        (_, snapshot), self._due = self._due, None
        found = self._answers(len(self.asked) - 1)
        if isinstance(found, Exception):
            raise found
        chunk = ActionChunk(found, snapshot.stamp_s, SPEC.action.dt_s, SPEC.action.names)
        return Answer(chunk, self.latency_s)


class World:
    """Advances by ticks; the arm follows the last twist until it times out, as a servo does."""

    def __init__(self, answers=lambda call: values(), latency_s: float = 0.03, permit: bool = True, **changes) -> None:
        self.clock, self.wall = FakeClock(100.0), FakeClock(5.0)
        settings = Settings(Pace(SPEC.action.horizon, lead_s=0.1), ramp_in_s=0.2, require_enable=False)
        self.policy = ScriptedPolicy(self.clock, answers, latency_s)
        self.buffer = ObservationBuffer(SPEC.observation, StateMap(SOURCES, SPEC.observation), needs_tcp=True)
        filter_ = SafetyFilter(SPEC.action, LIMITS)
        self.controller = Controller(
            replace(settings, **changes), filter_, self.buffer, self.policy, self.clock, self.wall
        )
        self.place, self.frame = np.array([0.0, 0.0, 0.5]), 0
        self.twist, self.twist_s = np.zeros(6), -np.inf
        self.permit, self.silent, self.frozen = permit, set(), set()
        self.ticks: list[Tick] = []

    def ready(self) -> World:
        """Active, armed, streams fresh."""
        self.see()
        self.controller.permission.permit(True)
        self.controller.activate()
        self.controller.arm(True)
        return self

    def see(self) -> None:
        """The drivers report, all with the stamp of now."""
        now = self.clock.now()
        self.frame += 1
        for key in SPEC.observation.image_keys:
            if key not in self.silent:
                shape = SPEC.observation.images[0].shape
                self.buffer.put(key, now, np.full(shape, 0 if key in self.frozen else self.frame % 250, np.uint8), now)
        if JOINTS not in self.silent:
            self.buffer.put(JOINTS, now, Joints({"grip_left": 0.02, "grip_right": -0.02}), now)
        if TCP not in self.silent:
            self.buffer.put(TCP, now, Pose(self.place.copy(), np.zeros(3)), now)

    def step(self, ticks: int = 1) -> Tick:
        """Tick by tick: the arm moves, the drivers report, the controller decides."""
        for _ in range(ticks):
            self.clock.advance(TICK)
            self.wall.advance(TICK)
            moving = self.clock.now() - self.twist_s <= TIMEOUT
            self.place = self.place + (self.twist[:3] if moving else 0.0) * TICK
            self.see()
            if self.permit:
                self.controller.permission.permit(True)
            tick = self.controller.tick()
            if tick.command is not None:
                self.twist, self.twist_s = tick.command.velocities[0], self.clock.now()
            self.ticks.append(tick)
        return self.ticks[-1]

    @property
    def speed(self) -> float:
        """What the arm is told right now, time-out included [m/s]."""
        return float(np.linalg.norm(self.twist[:3])) if self.clock.now() - self.twist_s <= TIMEOUT else 0.0

    def rest(self, ticks: int = 60) -> int:
        """Steps until the arm rests; how many ticks that took."""
        for k in range(ticks):
            if self.speed == 0.0:
                return k
            self.step()
        raise AssertionError("the arm never came to rest")
