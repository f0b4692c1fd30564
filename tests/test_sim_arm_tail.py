# SPDX-License-Identifier: Apache-2.0
"""The whole command path without ROS and without waiting: filter -> controller -> drives -> record, and then silence.

What a killed controller process leaves is the last command; the arm must come to rest within committed + v/a + a/j.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="sim: mujoco not installed. Next: make install (extra `sim`)")

from dropgate_sim.arm_driver import ArmDriver
from dropgate_sim.arm_models import UR5E
from dropgate_sim.jtc import JointTrajectoryController, JtcSettings, Trajectory
from dropgate_sim.jtc_spline import Point
from dropgate_sim.motion_record import Allowed
from dropgate_sim.mujoco_arm import STIFFNESS_RAD_S, MujocoArm

from runtime.contract.action import ActionDim, ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, DimRole, Frame, GripperSign, HoldRule, RotationConvention, Unit
from runtime.safety.filter import SafetyFilter
from runtime.safety.limits import JointLimits, Timing
from runtime.safety.motion import Measured, Situation

MS, S, TICK_NS, START = 1_000_000, 1_000_000_000, 20_000_000, 1000 * 1_000_000_000
HORIZON, DT_S, VELOCITY, ACCELERATION, JERK = 16, 0.05, 0.78, 1.4, 14.0
COMMIT_S = 0.1
# of the drives: they run 2 / w behind, and the tail of their own exponential is below 1e-3 rad/s after some 1 / w
SERVO_S = 8.0 / STIFFNESS_RAD_S


def limits() -> JointLimits:
    n = len(UR5E.links)
    given = {
        "names": UR5E.joints, "low": (-6.18,) * n, "high": (6.18,) * n, "velocity": (VELOCITY,) * n,
        "acceleration": (ACCELERATION,) * n, "jerk": (JERK,) * n, "max_start_jump_rad": 0.2,
    }  # fmt: skip
    return JointLimits(**{name: given[name] for name in given if name in JointLimits.__dataclass_fields__})


class Path:
    """A policy that knows where it wants to be at any time, and its filter."""

    def __init__(self, amplitude: float = 0.25, hertz: float = 0.4) -> None:
        dims = tuple(ActionDim(name, DimRole.JOINT, Unit.RADIAN, -6.3, 6.3, 1.0) for name in UR5E.joints)
        self.spec = ActionSpec(
            dims, ActionKind.ABSOLUTE, Frame.JOINT, RotationConvention.NONE, GripperSign.NONE, HORIZON, DT_S,
            HoldRule.REPEAT_LAST,
        )  # fmt: skip
        self.filter = SafetyFilter(self.spec, limits(), Timing(commit_s=COMMIT_S))
        self._amplitude, self._omega = amplitude, 2.0 * np.pi * hertz

    def where(self, t):
        turn = self._amplitude * (1.0 - np.cos(self._omega * t))
        return np.array(UR5E.home) + turn * np.array([1.0, 0.2, -0.3, 0.5, -0.5, 1.0])

    def chunk(self, t, stamp_s):
        rows = [self.where(t + (k + 1) * DT_S) for k in range(HORIZON)]
        return ActionChunk.of(np.array(rows), self.spec, stamp_s)


def message(command, begun: bool = True) -> Trajectory:
    """As conversions.joint_trajectory_from sends it; `begun` false leaves out what comes within 10 ms."""
    rows = zip(command.times_s, command.positions, command.velocities, command.accelerations, strict=True)
    points = [Point(round(t * 1e9), p, v, a) for t, p, v, a in rows if begun or t > 0.01]
    return Trajectory(tuple(command.names), tuple(points), round(command.start_s * 1e9))


def stream(seconds: float, delay_ms, seed: int = 0, begun: bool = True, kept: list | None = None, **jtc) -> ArmDriver:
    """Commands every 20 ms for `seconds`, then nobody. `delay_ms` is drawn per message: (low, high). `kept` gets each
    message with its arrival."""
    settings = JtcSettings(**{"interpolate_from_desired_state": True, **jtc})
    cell = ArmDriver(MujocoArm(UR5E), JointTrajectoryController(UR5E.joints, settings), START)
    path, rng = Path(), np.random.default_rng(seed)
    admitted, since, progress = None, 0.0, 0.0
    for k in range(int(seconds * S / TICK_NS)):
        now_ns = START + k * TICK_NS
        cell.advance(now_ns)
        now_s, t = now_ns * 1e-9, k * TICK_NS * 1e-9
        here = Measured(now_s, dict(zip(UR5E.joints, cell.arm.positions, strict=True)))
        if admitted is None or progress > 0.4:
            progress = 0.0
            admitted = path.filter.admit(path.chunk(since, now_s), Situation(now_s, here, here))
        command = path.filter.command(admitted, progress, Situation(now_s, here, here))
        assert command is not None, (t, path.filter.refused)
        progress += TICK_NS * 1e-9 * command.scale * admitted.time_scale
        since += TICK_NS * 1e-9 * command.scale
        arrival = now_ns + int(rng.uniform(*delay_ms) * MS)
        sent = message(command, begun)
        if kept is not None:
            kept.append((sent, arrival))
        cell.at(arrival, lambda sent=sent: cell.command(sent))
    return cell


def allowed() -> Allowed:
    n = len(UR5E.links)
    return Allowed((-6.18,) * n, (6.18,) * n, (VELOCITY,) * n, (ACCELERATION,) * n, (JERK,) * n)


BOUND_S = COMMIT_S + TICK_NS * 1e-9 + VELOCITY / ACCELERATION + ACCELERATION / JERK + SERVO_S


@pytest.mark.parametrize("seconds", np.linspace(0.3, 1.9, 6).round(3))
def test_killed_controller_leaves_an_arm_that_stops_within_the_bound(seconds):
    cell = stream(seconds, (0.5, 2.0))
    killed = START + int(seconds * S)
    cell.advance(killed + 3 * S)
    assert cell.refused == 0
    stopped = cell.record.stopped_after(killed)
    assert stopped is not None
    assert stopped <= BOUND_S
    last = cell.record.table(killed + int(BOUND_S * S))["position"]
    assert np.ptp(last, axis=0).max() < 1e-5, "and it stays"


def test_controller_that_repeats_its_last_command_never_stops_within_the_bound():
    """Known-bad: the last action for ever. The same measurement must tell the two apart."""
    cell = stream(1.0, (0.5, 2.0))
    killed = START + S
    cell.advance(killed)
    speed = cell.arm.velocities
    for k in range(60):
        goal = cell.arm.positions + speed * 0.1
        points = (Point(100 * MS, goal, np.zeros(6)),)
        cell.at(killed + k * TICK_NS, lambda p=points: cell.command(Trajectory(UR5E.joints, p)))
        cell.advance(killed + (k + 1) * TICK_NS)
    assert (cell.record.stopped_after(killed) or 99.0) > BOUND_S


@pytest.mark.parametrize("delay_ms", [(0.0, 0.0), (0.5, 2.0)])
def test_a_stream_stays_within_the_limits_on_the_arm(delay_ms):
    cell = stream(1.6, delay_ms)
    found = cell.record.breaches(allowed())
    assert found["position"].cycles == found["velocity"].cycles == found["acceleration"].cycles == 0, found
    assert found["jerk"].cycles == 0, found
    assert found["acceleration"].worst > 0.3, "the arm is really asked to do something"


def test_without_the_point_that_has_just_begun_every_message_is_a_jolt():
    """Known-bad: the controller then joins its last command to the second point, a cycle early."""
    found = stream(1.6, (0.5, 2.0), begun=False).record.breaches(allowed())["acceleration"]
    assert found.worst > 2.5
    assert found.cycles > 50
