# SPDX-License-Identifier: Apache-2.0
"""Joint commands: a little committed motion along the chunk's path, then a stop, planned from the last command.

What is released plays by itself to rest, so a process that dies leaves an arm that stops. A chunk is looked at once,
when it arrives; each tick cuts the next piece out of the plan, puts a stop behind it and has it monitored. If nothing
new keeps the limits, the last command goes on: its stop was checked when it was released.

Two times: `now` is the clock's; the *played* time runs slower by the controller's speed scaling. Plans are in that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from runtime.contract.action import ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import DimRole, GripperSign
from runtime.safety.bridge import bridge
from runtime.safety.curve import NEAR_S, Curve, resting
from runtime.safety.joint_plan import Command, Plan, by_name, near, same
from runtime.safety.joint_rows import RowSource, row_source
from runtime.safety.kinematics import Kinematics
from runtime.safety.limits import JointLimits, Timing
from runtime.safety.monitor import Monitor, Played
from runtime.safety.motion import AdmittedChunk, ChunkRejected, Motion, Situation, gripper_ratio
from runtime.safety.places import ToolCheck
from runtime.safety.profiles import StopPlanner
from runtime.safety.reference import Reach, path_of, stretch
from runtime.safety.trajectory import Floats
from runtime.telemetry import StopCause

SLOWER = (1.0, 0.6, 0.3, 0.12)  # of the wanted speed, tried in turn
_FOLLOW, _JOIN = (0.95, 0.9, 0.85), (0.97, 0.94, 0.94)  # shares of speed, acceleration, jerk: along the path, onto it
_SAME_INSTANT_S = 2e-9  # times are rounded to whole nanoseconds
_SETTLED_RAD = 0.01  # a controller holds its last set-point, and the arm stands so near to it


class JointPath:
    """Actions of joints, or of a tool by inverse kinematics. Raises ContractError unless they are this robot's."""

    def __init__(self, spec: ActionSpec, limits: JointLimits, timing: Timing, arm: Kinematics | None = None) -> None:
        self._spec, self._limits, self._timing = spec, limits, timing
        self._rows: RowSource = row_source(spec, limits, arm)
        self._gripper = [i for i, dim in enumerate(spec.dims) if dim.role is DimRole.GRIPPER]
        whole = Reach(
            *(np.array(x) for x in (limits.low, limits.high, limits.velocity, limits.acceleration, limits.jerk))
        )
        self._reach, self._follow, self._join = whole, whole.scaled(*_FOLLOW), whole.scaled(*_JOIN)
        self._stops = StopPlanner(limits.acceleration, limits.jerk)
        self._tool = ToolCheck(arm, limits.tool) if arm is not None and limits.tool is not None else None
        self._monitor = Monitor(limits, arm)
        self._last: Command | None = None
        self._made: tuple[Motion, Command] | None = None
        self._held: Floats | None = None  # where the controller was left
        self._played_s, self._now_s = 0.0, -np.inf

    @property
    def names(self) -> tuple[str, ...]:
        """The joints, in the order of the limits."""
        return self._limits.names

    def admit(self, chunk: ActionChunk, situation: Situation) -> AdmittedChunk:
        """Joint positions per row, anchored to the observation of *this* chunk, slowed as a whole, cut at the edge."""
        if situation.observed is None:
            raise ChunkRejected(
                StopCause.OBSERVATION_MISSING, "the joints at the time of the observation are not known"
            )
        rows, ended_by = self._rows.positions(chunk, self._by_name(situation.observed.joints))
        outside = np.any((rows < self._reach.low) | (rows > self._reach.high), axis=1)
        if outside.any():
            row = int(np.argmax(outside))
            joint = int(np.argmax((rows[row] < self._reach.low) | (rows[row] > self._reach.high)))
            ended_by = (
                f"row {row} takes {self.names[joint]} to {rows[row, joint]:.4g}, allowed are "
                f"{self._reach.low[joint]:g} to {self._reach.high[joint]:g}"
            )
            rows = rows[:row]
        self._something_left(rows, ended_by, chunk.dt_s, situation.now_s - chunk.stamp_s)
        path = path_of(rows, chunk.dt_s)
        slower = stretch(path, self._follow)
        if self._tool is not None:
            for_tool, until, why = self._tool.along(path)
            slower = max(slower, for_tool)
            if why:
                rows, ended_by = rows[: int(until / chunk.dt_s + 1e-6)], why
                self._something_left(rows, ended_by, chunk.dt_s, situation.now_s - chunk.stamp_s)
        if slower > self._timing.max_time_scale:
            raise ChunkRejected(
                StopCause.CHUNK_REJECTED,
                f"the chunk would have to be slowed {slower:.1f} times to keep the limits, at most "
                f"{self._timing.max_time_scale:g} is allowed",
            )
        if slower > 1.0 or len(rows) < round(path.end_s / chunk.dt_s):
            path = path_of(rows, chunk.dt_s * slower)
        self._near(path, situation, chunk)
        gripper = self._openings(chunk, len(rows))
        return AdmittedChunk(chunk.stamp_s, chunk.dt_s * slower, rows, gripper, slower, path, ended_by)

    def toward(self, chunk: AdmittedChunk, progress_s: float, situation: Situation, speed: float) -> Motion | None:
        """The next piece of the chunk and a stop; slower if the stop must be shorter; else the last command goes on."""
        index = chunk.index_at(progress_s)
        if index is None:
            return None
        head = self._head(situation)
        gripper = None if chunk.gripper is None else float(chunk.gripper[index])
        for share in SLOWER:
            plan = self._plan(chunk, progress_s, head, speed * share)
            if plan is None:
                continue
            command = self._with_stop(head, plan)
            if command is not None:
                return self._motion(command, gripper, plan.rate * situation.speed_factor / chunk.time_scale)
        return self._go_on(situation, chunk)

    def braking(self, situation: Situation) -> Motion | None:
        """Stop from the commanded state, now; None if nothing moves (the tail is over, or nothing was commanded)."""
        last = self._last
        if last is None:
            return None
        played = self._time(situation)
        if played >= last.curve.end_s - NEAR_S:
            return None
        if last.plan is not None:
            command = self._with_stop(self._head(situation), None)
            if command is not None:
                return self._motion(command, None, 0.0)
        rest = last.curve.since(played, last.curve.end_s)
        return self._motion(self._command(rest, rest.start_s, 0.0, None), None, 0.0)

    def breach(self, motion: Motion, situation: Situation) -> str:
        """The monitor's objection, and whether the arm is where it has been commanded to be."""
        if self._made is None or self._made[0] is not motion:
            return "a trajectory that was not planned for this tick"
        command, before = self._made[1], self._last
        if motion.scale > 0.0:
            away = np.abs(command.curve.positions[0] - self._by_name(situation.measured.joints))
            if not away.max() <= self._limits.max_start_jump_rad:
                joint = int(away.argmax())
                return f"{self.names[joint]} is commanded {away[joint]:.3f} away from where it is measured"
        until = min(self._time(situation) + self._timing.splice_s, command.curve.end_s)
        over = before is None or (before.forgotten and self._played_s >= before.curve.end_s)
        return self._monitor.objection(command.played, None if over or before is None else before.played, until)

    def commanded(self, motion: Motion, now_s: float) -> None:
        """Remember the trajectory: the next one starts on it."""
        if self._made is None or self._made[0] is not motion:
            raise ValueError("commanded: this motion was not made by this path")
        self._last, self._made = self._made[1], None

    def forget(self) -> None:
        """Nothing is planned any more. What is still being played is not forgotten, and where it ends is held."""
        self._made = None
        if self._last is not None:
            self._held = self._last.curve.positions[-1]
            going_on = self._played_s < self._last.curve.end_s
            self._last = replace(self._last, plan=None, forgotten=True) if going_on else None

    def playing(self, situation: Situation) -> bool:
        """Until the end of its stop, in the controller's own time."""
        return self._last is not None and self._time(situation) < self._last.curve.end_s - NEAR_S

    def clock_stepped(self, by_s: float) -> None:
        """Set back: the played time goes on as if nothing had happened, and a stop is sent in the new time, because a
        command that was under way would be played too early. Set ahead: what was sent plays to its own stop."""
        self._now_s += min(0.0, by_s)

    def _time(self, situation: Situation) -> float:
        """The played time now; it never runs backwards."""
        if not 0.0 <= situation.speed_factor <= 1.0:
            raise ValueError(f"speed_factor is {situation.speed_factor}, expected a number from 0 to 1")
        if situation.now_s > self._now_s:
            if np.isfinite(self._now_s):
                self._played_s += (situation.now_s - self._now_s) * situation.speed_factor
            self._now_s = situation.now_s
        return self._played_s

    def _head(self, situation: Situation) -> Curve:
        """What is played until the splice: the last command, or rest."""
        now, span = self._time(situation), self._timing.splice_s + NEAR_S  # its end may be snapped to a knot before
        if self._last is None or (self._last.forgotten and now >= self._last.curve.end_s):
            return resting(self._rest(situation), now, span)
        curve = self._last.curve
        if now >= curve.end_s:
            return resting(curve.positions[-1], now, span)
        head = curve.since(now, min(now + span, curve.end_s))
        if now + span > curve.end_s + NEAR_S:
            head = head.joined(resting(curve.positions[-1], curve.end_s, now + span - curve.end_s))
        return head

    def _commanded_now(self, situation: Situation) -> Floats:
        now, last = self._time(situation), self._last
        if last is None or (last.forgotten and now >= last.curve.end_s):
            return self._rest(situation)
        return np.asarray(last.curve.at(now)[0][0])

    def _rest(self, situation: Situation) -> Floats:
        """Where the controller holds the arm: as it says, or where its last trajectory ended, or where the arm is."""
        measured = self._by_name(situation.measured.joints)
        held = self._held if situation.held is None else self._by_name(situation.held)
        return measured if held is None or np.abs(held - measured).max() > _SETTLED_RAD else held

    def _plan(self, chunk: AdmittedChunk, progress_s: float, head: Curve, rate: float) -> Plan | None:
        """The plan in hand, if the arm is on it at this rate; otherwise a way onto the chunk's path."""
        assert chunk.path is not None
        start, state = head.end_s, (head.positions[-1], head.velocities[-1], head.accelerations[-1])
        plan = None if self._last is None else self._last.plan
        if plan is not None and plan.chunk is chunk and plan.rate == rate and start < plan.curve.end_s - NEAR_S:
            expected = plan.progress_s + rate * (self._played_s - plan.since_s)
            if abs(expected - progress_s) < 1e-3 and same(state, plan.curve.at(start)):
                return plan
        at_splice = progress_s + rate * (start - self._played_s)
        way = bridge(state, chunk.path, at_splice, rate, self._join)
        if way is None:
            return None
        joined = at_splice + rate * way.end_s
        way = way.moved(start)
        if joined < chunk.path.end_s - NEAR_S:
            after = chunk.path.cut(joined, chunk.path.end_s)
            if abs(after.start_s - joined) > _SAME_INSTANT_S:
                return None  # beside a knot after all
            way = way.joined(after.slowed(rate, way.end_s, joined))
        return Plan(chunk, way, rate, self._played_s, progress_s)

    def _with_stop(self, head: Curve, plan: Plan | None) -> Command | None:
        """Head, committed part, stop; None if that leaves the range or the tool's limits."""
        whole = head
        if plan is not None:
            until = min(self._played_s + self._timing.commit_s, plan.curve.end_s)  # `Timing`: later than the head's end
            piece = plan.curve.cut(head.end_s, until)
            if abs(piece.start_s - head.end_s) > _SAME_INSTANT_S:
                return None
            whole = head.joined(piece)
        commit = whole.end_s
        stop = self._stops.stop(commit, (whole.positions[-1], whole.velocities[-1], whole.accelerations[-1]))
        if stop is None:
            return None
        whole = whole.joined(stop).at_rest()
        times = np.append(whole.times, (whole.times[:-1] + whole.times[1:]) / 2.0)
        places = whole.at(times)[0]
        if np.any(places < self._reach.low) or np.any(places > self._reach.high):
            return None
        if self._tool is not None and self._tool.objection(whole, head.end_s):
            return None
        return self._command(whole, commit, 0.0 if plan is None else plan.rate, plan)

    def _go_on(self, situation: Situation, chunk: AdmittedChunk) -> Motion | None:
        """What is left of the last command, unchanged; None at rest."""
        last = self._last
        played = self._time(situation)
        if last is None or played >= last.curve.end_s - NEAR_S:
            return None
        rest = last.curve.since(played, last.curve.end_s)
        at_commit, now = (float(np.abs(last.curve.at(t)[1] / self._reach.speed).max()) for t in (last.commit_s, played))
        share = 1.0 if played < last.commit_s else min(1.0, now / max(at_commit, 1e-9))
        scale = last.rate * share * situation.speed_factor / chunk.time_scale
        return self._motion(self._command(rest, last.commit_s, last.rate, last.plan), None, scale)

    def _command(self, curve: Curve, commit_s: float, rate: float, plan: Plan | None) -> Command:
        curve = curve.rounded(self._played_s)
        played = Played(curve.times, curve.positions, curve.velocities, curve.accelerations)
        return Command(curve, played, commit_s, rate, plan)

    def _motion(self, command: Command, gripper: float | None, scale: float) -> Motion:
        curve = command.curve
        times = curve.times - self._played_s
        motion = Motion(times, curve.velocities, curve.positions, gripper, scale, curve.accelerations)
        self._made = (motion, command)
        return motion

    def _near(self, path: Curve, situation: Situation, chunk: ActionChunk) -> None:
        """The path must begin within reach of where the arm was seen, and pass where it is and is commanded to be."""
        first, now = path.at(np.array([0.0, situation.now_s - chunk.stamp_s]))[0]
        allowed = self._limits.max_start_jump_rad + self._reach.speed * chunk.dt_s
        if situation.observed is not None:
            near(self.names, first, self._by_name(situation.observed.joints), allowed, "seen")
        near(self.names, now, self._by_name(situation.measured.joints), allowed, "measured")
        near(self.names, now, self._commanded_now(situation), allowed, "commanded")

    @staticmethod
    def _something_left(rows: Floats, ended_by: str, dt_s: float, age_s: float) -> None:
        if len(rows) * dt_s <= max(0.0, age_s):
            raise ChunkRejected(StopCause.CHUNK_REJECTED, ended_by or "the chunk is over already")

    def _openings(self, chunk: ActionChunk, count: int) -> Floats | None:
        if not self._gripper:
            return None
        opens = self._spec.gripper is GripperSign.NEGATIVE_OPENS
        return gripper_ratio(chunk.values[:count, self._gripper[0]], opens)

    def _by_name(self, joints: Mapping[str, float]) -> Floats:
        return by_name(self.names, joints)
