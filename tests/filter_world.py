# SPDX-License-Identifier: Apache-2.0
"""An arm behind a joint_trajectory_controller, and policies that go wrong in every way: what the filter is tried on.

`Controller500` plays trajectories as ros2_controllers' JTC does with `interpolate_from_desired_state: true`
(joint_trajectory_controller/src/trajectory.cpp): a new one starts from the desired state at its receipt, points that
are past are dropped, between points with positions, velocities and accelerations it fits a quintic. Nothing here uses
the filter's own interpolation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from arm_models import Arm

from runtime.contract.action import ActionDim, ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, DimRole, Frame, GripperSign, HoldRule, RotationConvention, Unit
from runtime.safety.filter import SafetyFilter
from runtime.safety.limits import Timing
from runtime.safety.motion import AdmittedChunk, ChunkRejected, Measured, Situation

STEP = 0.002  # 500 Hz


def joint_spec(arm: Arm, horizon: int = 50, dt_s: float = 0.05, kind: ActionKind = ActionKind.ABSOLUTE) -> ActionSpec:
    absolute = kind is ActionKind.ABSOLUTE
    ranges = zip(arm.limits.low, arm.limits.high, strict=True) if absolute else [(-0.2, 0.2)] * len(arm.home)
    dims = tuple(
        ActionDim(name, DimRole.JOINT, Unit.RADIAN, low, high)
        for name, (low, high) in zip(arm.limits.names, ranges, strict=True)
    )
    hold = HoldRule.REPEAT_LAST if absolute else HoldRule.ZERO_MOTION
    return ActionSpec(dims, kind, Frame.JOINT, RotationConvention.NONE, GripperSign.NONE, horizon, dt_s, hold)


@dataclass
class Controller500:
    """Knots in played time; starts at rest."""

    place: np.ndarray
    times: np.ndarray = field(default_factory=lambda: np.zeros(1))
    points: np.ndarray = field(init=False)  # (N, 3, D): position, velocity, acceleration

    def __post_init__(self) -> None:
        self.points = np.stack([self.place, 0 * self.place, 0 * self.place])[None]

    def take(self, at: float, times: np.ndarray, points: np.ndarray) -> None:
        """A message that arrives at `at`."""
        later = times > at
        before = np.stack(self.desired(np.array([at]))[:3])[:, 0]
        self.times = np.append(at, times[later])
        self.points = np.concatenate([before[None], points[later]])

    def desired(self, when: np.ndarray) -> list[np.ndarray]:
        """Position, velocity, acceleration, jerk (M, D)."""
        if len(self.times) == 1:
            rest = np.zeros((len(when), self.points.shape[2]))
            return [rest + self.points[0, 0], rest, rest, rest]
        k = np.clip(np.searchsorted(self.times, when, side="right") - 1, 0, len(self.times) - 2)
        span = (self.times[k + 1] - self.times[k])[:, None]
        u = np.clip((when[:, None] - self.times[k][:, None]) / span, 0, 1)
        (p0, v0, a0), (p1, v1, a1) = (np.moveaxis(self.points[i], 1, 0) for i in (k, k + 1))
        v0, v1, a0, a1 = v0 * span, v1 * span, a0 * span**2, a1 * span**2
        c3 = 10 * (p1 - p0) - 6 * v0 - 4 * v1 - 1.5 * a0 + 0.5 * a1
        c4 = -15 * (p1 - p0) + 8 * v0 + 7 * v1 + 1.5 * a0 - a1
        c5 = 6 * (p1 - p0) - 3 * (v0 + v1) + 0.5 * (a1 - a0)
        found = [
            p0 + u * v0 + u**2 * a0 / 2 + u**3 * c3 + u**4 * c4 + u**5 * c5,
            (v0 + u * a0 + 3 * u**2 * c3 + 4 * u**3 * c4 + 5 * u**4 * c5) / span,
            (a0 + 6 * u * c3 + 12 * u**2 * c4 + 20 * u**3 * c5) / span**2,
            (6 * c3 + 24 * u * c4 + 60 * u**2 * c5) / span**3,
        ]
        ended = when >= self.times[-1]
        if ended.any():
            found[0][ended] = self.points[-1, 0]
            for k in (1, 2, 3):
                found[k][ended] = 0.0
        return found


@dataclass
class Record:
    """What an episode came to."""

    arm: Arm
    samples: list[list[np.ndarray]] = field(default_factory=list)  # at 500 Hz: position, velocity, acceleration
    rest_after: float = 0.0
    counts: Counter = field(default_factory=Counter)

    def curve(self) -> list[np.ndarray]:
        """What the drives get, 500 positions a second, and their first, second and third differences over time."""
        found = [np.concatenate([tick[0] for tick in self.samples])]
        for _ in range(3):
            first = self.arm.home[None] if len(found) == 1 else 0.0 * found[-1][:1]
            found.append(np.diff(found[-1], axis=0, prepend=first) / STEP)
        return found

    def breaches(self) -> Counter:
        """Samples beyond each limit; `worst` are ratios to them."""
        limits, (p, v, a, j) = self.arm.limits, self.curve()
        found, self.worst = Counter(), {}
        found["position"] = int(np.any((p < np.array(limits.low) - 1e-6) | (p > np.array(limits.high) + 1e-6), 1).sum())
        for name, values, most, slack in (
            ("velocity", v, limits.velocity, 1e-5), ("acceleration", a, limits.acceleration, 1e-4),
            ("jerk", j, limits.jerk, 1e-3),
        ):  # fmt: skip
            share = np.abs(values) / np.array(most)
            self.worst[name] = float(share.max(initial=0.0))
            found[name] = int(np.any(share > 1 + slack, axis=1).sum())
        steps = np.abs(np.diff(p, axis=0)).max(axis=0) if len(p) > 1 else np.zeros(p.shape[1])
        found["continuity"] = int(np.sum(steps > np.array(limits.velocity) * STEP * (1 + 1e-3) + 1e-7))
        tool = limits.tool
        if tool is not None:
            seen = self.arm.kinematics.places(p, v)
            linear, angular = (np.linalg.norm(x, axis=1) for x in (seen.linear, seen.angular))
            self.worst["tool"] = float(max((linear / tool.linear_m_s).max(), (angular / tool.angular_rad_s).max()))
            found["tool speed"] = int(
                np.sum((linear > tool.linear_m_s * 1.0001) | (angular > tool.angular_rad_s * 1.0001))
            )
            low, high = np.array(tool.workspace_low) - 1e-6, np.array(tool.workspace_high) + 1e-6
            found["workspace"] = int(np.any((seen.tcp < low) | (seen.tcp > high), axis=1).sum())
            low, high = np.array(tool.elbow_low) - 1e-6, np.array(tool.elbow_high) + 1e-6
            found["elbow"] = int(np.any((seen.elbow < low) | (seen.elbow > high), axis=1).sum())
            if tool.approach:
                tilt = seen.axis @ np.array(tool.approach) < np.cos(tool.tilt_rad) - 1e-6
                found["tilt"] = int(tilt.sum())
            near = [self.arm.kinematics.too_near(q, tool.self_distance_m, tool.scene_distance_m) for q in p[::25]]
            found["distance"] = sum(bool(text) for text in near)
        found["still moving"] = int(np.any(v[-1] != 0.0))
        return Counter({name: count for name, count in found.items() if count})


class Cell:
    """One arm, one filter, one clock."""

    def __init__(self, arm: Arm, spec: ActionSpec, made=SafetyFilter, timing: Timing | None = None) -> None:
        self.arm, self.spec = arm, spec
        self.timing = timing or Timing(max_time_scale=20.0, max_chunk_age_s=1.0)
        self.filter = made(spec, arm.limits, self.timing, arm.kinematics)
        self.controller = Controller500(arm.home.copy())
        self.now, self.played, self.factor = 100.0, 0.0, 1.0
        self.chunk: AdmittedChunk | None = None
        self.progress, self.tempo = 0.0, 1.0
        self.record = Record(arm)
        self.period, self.arriving, self.pending = 0, None, []

    @property
    def place(self) -> np.ndarray:
        return self.controller.desired(np.array([self.played]))[0][0]

    def situation(self, noise: np.ndarray | float = 0.0) -> Situation:
        measured = Measured(self.now, dict(zip(self.arm.limits.names, self.place + noise, strict=True)))
        held = dict(zip(self.arm.limits.names, self.place, strict=True))  # the controller says where it holds
        return Situation(self.now, measured, measured, self.factor, held)

    def offer(self, chunk: ActionChunk, noise: np.ndarray | float = 0.0) -> str:
        """Why it is not used; empty if it is."""
        try:
            admitted = self.filter.admit(chunk, self.situation(noise))
        except ChunkRejected as rejection:
            self.record.counts[f"rejected: {rejection.cause.value}"] += 1
            return str(rejection)
        self.record.counts["admitted"] += 1
        self.record.counts["cut"] += bool(admitted.ended_by)
        self.record.counts["slowed"] += admitted.time_scale > 1.0
        progress = self.now - chunk.stamp_s
        if admitted.index_at(progress) is not None:
            self.chunk, self.progress = admitted, progress
        return ""

    def tick(self, speed: float = 1.0, brake: bool = False, transit: float = 0.0, noise: np.ndarray | float = 0.0):
        """Command what is due; it reaches the controller `transit` later [s]."""
        due = self.chunk is not None and self.chunk.index_at(self.progress) is not None
        situation = self.situation(noise)
        command = self.filter.command(self.chunk, self.progress, situation, speed) if due and not brake else None
        if command is None:
            command = self.filter.brake(situation)
            self.record.counts["brakes"] += command is not None
        else:
            self.tempo = command.scale * self.chunk.time_scale
            self.record.counts["commands"] += 1
        if command is not None:
            self.arriving = (self.played + transit * self.factor, command, self.played)
        else:
            self.arriving = None
        return command

    def advance(self, span: float, factor: float = 1.0) -> None:
        """Time passes at a speed factor; a message is read at the controller's next period after its arrival."""
        self.factor, end = factor, self.played + span * factor
        if self.arriving is not None:
            at, command, sent = self.arriving
            first = self.pending[-1][0] if self.pending else 0  # messages do not overtake each other
            self.pending.append((max(first, int(np.ceil(at / STEP - 1e-9))), command, sent))
            self.arriving = None
        while self.pending and self.pending[0][0] * STEP <= end:
            at, command, sent = self.pending.pop(0)
            self._sample(at)
            points = np.stack([command.positions, command.velocities, command.accelerations], axis=1)
            times = np.round(command.times_s * 1e9) * 1e-9  # as a message has them
            self.record.counts["a way of its own"] += sent + times[0] > at * STEP
            self.controller.take(at * STEP, sent + times, points)
        self._sample(int(np.floor(end / STEP + 1e-9)))
        self.played = end
        self.now += span
        self.progress += span * self.tempo

    def _sample(self, period: int) -> None:
        """What is put out in the periods up to and with this one."""
        if period > self.period:
            times = np.arange(self.period + 1, period + 1) * STEP
            self.record.samples.append(self.controller.desired(times)[:3])
            self.period = period

    def silence(self, seconds: float = 4.0) -> None:
        """Nothing more is sent."""
        first, count = self.period, len(self.record.samples)
        self.arriving = self.arriving if count else None
        self.advance(seconds)
        speeds = np.concatenate([tick[1] for tick in self.record.samples[count:]])
        moving = np.flatnonzero(np.any(speeds != 0.0, axis=1))
        self.record.rest_after = float(moving[-1] + 1) * STEP if moving.size else 0.0
        assert self.period > first


def wild_chunk(rng: np.random.Generator, cell: Cell) -> ActionChunk:
    """Anything that a policy, a network or a bug could hand over."""
    spec, here = cell.spec, cell.place
    count, dim = spec.horizon, len(here)
    t = (np.arange(count) + 1.0)[:, None] * spec.dt_s
    style = rng.choice(12, p=[0.22, 0.14, 0.1, 0.04, 0.04, 0.04, 0.1, 0.07, 0.1, 0.05, 0.05, 0.05])
    delay = float(rng.uniform(0.0, 1.0)) if rng.random() < 0.4 else float(rng.uniform(0.0, 0.15))
    names, dt_s = spec.names, spec.dt_s
    rows = here + rng.uniform(0, 0.3, dim) * np.sin(rng.uniform(0.2, 3.0, dim) * (t - delay))
    if style == 1:
        rows = here + (t - delay) * rng.uniform(-1.0, 1.0, dim) * np.array(cell.arm.limits.velocity)
    elif style == 2:
        rows = rows + rng.normal(0, 10.0 ** rng.uniform(-4, -1), rows.shape)
    elif style == 3:
        rows = rows * 10.0 ** rng.uniform(0, 30)
    elif style == 4:
        rows[rng.integers(count), rng.integers(dim)] = 0.0  # made NaN, infinite or denormal below
    elif style == 5:
        names = tuple(rng.permutation(names))
    elif style == 6:
        rows = here + rng.uniform(0, 0.1, dim) * np.where(np.arange(count)[:, None] % 2, 1, -1)
    elif style == 7:
        rows = np.tile(here + rng.uniform(-0.25, 0.25, dim), (count, 1))
    elif style == 8:
        rows = here + np.cumsum(
            rng.uniform(-1, 1, dim) * np.array(cell.arm.limits.velocity) * spec.dt_s * np.ones((count, 1)), 0
        )
        rows = rows + rng.normal(0, 1e-3, rows.shape)
    elif style == 9:
        dt_s = spec.dt_s * float(rng.uniform(0.1, 5.0))
    elif style == 10:
        delay = float(rng.choice([-5.0, -0.01, 2.0, 1e6]))
    elif style == 11:
        rows = np.cumsum(rng.normal(0, 0.02, rows.shape), axis=0) + here
    if spec.kind is ActionKind.DELTA:
        rows = np.diff(np.vstack([here, rows]), axis=0)
    chunk = ActionChunk(np.clip(rows, -1e30, 1e30).astype(np.float32), cell.now - delay, dt_s, names)
    if style == 4:
        spoiled = np.array(chunk.values)
        spoiled[rng.integers(count), rng.integers(dim)] = rng.choice([np.nan, np.inf, -np.inf, 1e-42])
        object.__setattr__(chunk, "values", spoiled)
    return chunk


def episode(rng: np.random.Generator, cell: Cell, ticks: int) -> Record:
    """`ticks` ticks of whatever can happen, then silence."""
    speed, factor = 1.0, 1.0
    for _ in range(ticks):
        noise = rng.normal(0, 1e-4, len(cell.arm.home))
        if cell.chunk is None or rng.random() < 0.12:
            cell.offer(wild_chunk(rng, cell), noise)
        if rng.random() < 0.1:
            speed = float(rng.uniform(0.05, 1.0))
        if rng.random() < 0.03:
            factor = float(rng.choice([1.0, 0.5, 0.1, 0.0]))
        cell.tick(speed, brake=bool(rng.random() < 0.05), transit=float(rng.uniform(0, 0.018)), noise=noise)
        kind = rng.random()
        span = 0.02 if kind < 0.8 else float(rng.uniform(0.018, 0.06)) if kind < 0.97 else float(rng.uniform(0.1, 1.2))
        cell.advance(span, factor)
        if rng.random() < 0.004 and cell.record.samples and not cell.record.samples[-1][1][-1].any():
            cell.filter.forget()
    cell.silence()
    cell.record.counts["trips"] += cell.filter.trips
    return cell.record
