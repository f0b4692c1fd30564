# SPDX-License-Identifier: Apache-2.0
"""A joint command that is ready too late is not sent: the arm plays the stop that it has, and says why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

for library in ("ruckig", "pinocchio"):
    pytest.importorskip(library, reason=f"control: {library} not installed. Next: pip install -e '.[control]'")

from arm_models import six  # noqa: E402
from control_world import TICK, World  # noqa: E402
from filter_world import STEP, Controller500, Record, joint_spec  # noqa: E402

from runtime.contract.chunk import ActionChunk  # noqa: E402
from runtime.control.controller import Controller  # noqa: E402
from runtime.control.observation import JOINTS, Joints  # noqa: E402
from runtime.control.policy_link import Answer  # noqa: E402
from runtime.control.scheduler import Pace  # noqa: E402
from runtime.control.state import State  # noqa: E402
from runtime.safety.filter import SafetyFilter  # noqa: E402
from runtime.safety.limits import Timing  # noqa: E402
from runtime.telemetry import StopCause  # noqa: E402

ARM = six()
JOINT_SPEC = joint_spec(ARM, horizon=16)
LATE_S = 0.045


class JointWorld(World):
    """The same world with six joints behind a trajectory controller. `lateness(k)` is how long tick k takes, and
    `converting(k)` its message [s]; what
    is sent arrives at that time, as on a real station."""

    def __init__(self, lateness=lambda k: 0.0, converting=lambda k: 0.0, **changes) -> None:
        super().__init__()
        self.converting = converting
        self.silent.add(JOINTS)
        pace = Pace(8, lead_s=0.2)
        settings = replace(self.controller.settings, pace=pace, follow_rad=0.3, **changes)
        self.jtc, self.record = Controller500(ARM.home.copy()), Record(ARM)
        self.lateness, self.count, self.took = lateness, 0, 0.0
        filter_ = SafetyFilter(JOINT_SPEC, ARM.limits, Timing(), ARM.kinematics)
        outer = self

        class SlowFilter:
            """The filter, on a machine that is busy."""

            def __getattr__(self, name):
                return getattr(filter_, name)

            def command(self, *given):
                outer.wall.advance(outer.took)
                return filter_.command(*given)

            def brake(self, *given):
                outer.wall.advance(outer.took)
                return filter_.brake(*given)

        self.filter = filter_
        self.controller = Controller(settings, SlowFilter(), self.buffer, self, self.clock, self.wall)
        self._due, self.wave, self.way, self.played = None, 0.0, [], self.clock.now()

    in_flight = property(lambda self: self._due is not None)

    def ask(self, snapshot, instruction, guidance=None) -> None:
        self._due = snapshot

    def answer(self):
        if self._due is None:
            return None
        snapshot, self._due = self._due, None
        rows = np.tile(self.jtc.desired(np.array([snapshot.stamp_s]))[0], (16, 1))
        rows[:, 0] += 0.6 * JOINT_SPEC.dt_s * (1 + np.arange(16))
        self.wave += 1
        rows[:, 1] += 0.02 * np.sin(self.wave + np.arange(16) / 3) - 0.02 * np.sin(self.wave - 1 / 3)
        chunk = ActionChunk.of(JOINT_SPEC.to_command(rows), JOINT_SPEC, snapshot.stamp_s)
        return Answer(chunk, 0.01)

    def see(self) -> None:
        now = self.clock.now()
        super().see()
        place = self.jtc.desired(np.array([now]))[0][0].tolist()
        joints = dict(zip(ARM.limits.names, place, strict=True)) | {"grip_left": 0.02, "grip_right": -0.02}
        self.buffer.put(JOINTS, now, Joints(joints), now)

    def step(self, ticks: int = 1):
        for _ in range(ticks):
            self.clock.advance(TICK)
            now, wall = self.clock.now(), self.wall.now() + TICK
            self.play(now)
            self.see()
            self.controller.permission.permit(True)
            self.count, self.took = self.count + 1, self.lateness(self.count + 1)
            self.wall._now_s = wall
            tick = self.controller.tick()
            self.wall.advance(self.converting(self.count))
            sent = tick.command is not None and self.controller.still_in_time()
            self.wall._now_s = wall
            self.ticks.append(replace(tick, command=tick.command if sent else None))
            if sent:
                c = tick.command
                points = np.stack([c.positions, c.velocities, c.accelerations], axis=1)
                self.way.append((now + self.took, c.start_s + c.times_s, points))
        return self.ticks[-1]

    def play(self, until: float) -> None:
        """500 cycles a second; a message is taken in the cycle in which it arrives."""
        while self.played + STEP <= until + 1e-9:
            if self.way and self.way[0][0] <= self.played + 1e-9:
                self.jtc.take(self.played, *self.way.pop(0)[1:])
            self.played += STEP
            self.record.samples.append(self.jtc.desired(np.array([self.played]))[:3])


def breached(world: JointWorld) -> set[str]:
    """Limits that were broken; a task may be going on."""
    return {name for name, count in world.record.breaches().items() if count} - {"still moving"}


def moving(**given) -> JointWorld:
    world = JointWorld(**given)
    world.ready()
    world.controller.start("go")
    world.step(60)
    assert world.controller.state is State.RUNNING, world.controller.incident.text
    return world


def test_a_command_that_is_ready_too_late_is_not_sent_and_the_arm_plays_its_stop():
    world = moving(lateness=lambda k: LATE_S if k == 75 else 0.0)
    world.step(15 - 1)
    assert world.ticks[-1].command is not None
    tick = world.step()
    assert tick.command is None
    assert tick.state is State.STOPPING
    assert world.controller.incident.cause is StopCause.COMMAND_LATE
    assert "0.045 s after its tick began, at most 0.014 s" in world.controller.incident.text
    stop = [world.step() for _ in range(60)]
    assert all(after.command is None for after in stop)
    assert world.controller.state is State.FAULT_LATCHED
    assert breached(world) == set(), world.record.worst
    first_latched = next(k for k, after in enumerate(stop) if after.state is State.FAULT_LATCHED)
    speeds = np.abs(np.diff([row[0][0] for row in world.record.samples], axis=0)).max(axis=1) / STEP
    assert speeds[-(60 - first_latched) * 10 :].max() < 1e-9, "latched before the arm was at rest"


def test_after_a_withheld_command_the_arm_goes_on_from_where_it_rests():
    world = moving(lateness=lambda k: LATE_S if k == 75 else 0.0)
    world.step(60)
    world.controller.reset_fault()
    world.controller.arm(True)
    world.controller.start("go on")
    world.step(60)
    assert world.controller.state is State.RUNNING, world.controller.incident.text
    assert breached(world) == set(), world.record.worst


def test_a_stop_whose_command_is_late_stops_with_the_one_before():
    world = moving(lateness=lambda k: LATE_S if k >= 63 else 0.0)
    world.controller.stop()
    world.step(80)
    assert world.controller.state is State.FAULT_LATCHED
    assert world.controller.incident.cause is StopCause.STOP_REQUESTED
    assert breached(world) == set(), world.record.worst


def test_the_same_lateness_jolts_if_late_commands_are_sent():
    world = moving(lateness=lambda k: LATE_S if k % 8 == 0 else 0.0, send_within_s=10.0)
    world.step(120)
    assert "jerk" in breached(world)


def test_a_little_late_is_in_time():
    world = moving(lateness=lambda k: 0.013)
    world.step(60)
    assert world.controller.state is State.RUNNING, world.controller.incident.text
    assert breached(world) == set(), world.record.worst


@pytest.mark.parametrize("late", ["lateness", "converting"])
def test_whatever_comes_between_tick_and_wire_no_limit_is_broken_and_the_next_task_begins_where_the_arm_rests(late):
    """Many tasks; in each, one tick or one message is late, at whatever instant."""
    world, causes = JointWorld(), []
    world.ready()
    draw = np.random.default_rng(0)
    for _ in range(6):
        at = world.count + int(draw.integers(2, 60))
        setattr(world, late, lambda k, at=at: 0.08 if k == at else 0.0)
        world.controller.start("go")
        world.step(62)
        world.controller.stop()
        world.step(int(draw.integers(40, 60)))
        causes.append(world.controller.incident.cause)
        assert world.controller.state is State.FAULT_LATCHED
        world.controller.reset_fault()
        world.controller.arm(True)
    assert StopCause.COMMAND_LATE in causes
    assert breached(world) == set(), world.record.worst


def test_a_stop_that_the_monitor_refuses_leaves_the_last_one_to_be_played_before_anybody_hears_of_rest(monkeypatch):
    world = moving()
    monkeypatch.setattr(world.filter, "_release", lambda motion, situation: None)
    world.controller.stop()
    states = []
    while (state := world.controller.state) is not State.FAULT_LATCHED:
        states.append(state)
        speed = np.abs(world.jtc.desired(np.array([world.clock.now()]))[1]).max()
        world.step()
        assert len(states) < 100
    assert len(states) > 5
    assert speed < 1e-3, "of the tick before"
    assert np.abs(world.jtc.desired(np.array([world.clock.now()]))[1]).max() == pytest.approx(0.0, abs=1e-9)
