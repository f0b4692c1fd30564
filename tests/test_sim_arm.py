# SPDX-License-Identifier: Apache-2.0
"""The simulated arms: kinematics against published tables, drives against a formula, vendor's stops, the record."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="sim: mujoco not installed. Next: make install (extra `sim`)")

from dropgate_sim.arm_driver import ArmDriver, SafetyMode, Scaling
from dropgate_sim.arm_models import PANDA, UR5E, Obstacle
from dropgate_sim.jtc import JointTrajectoryController, JtcSettings, Trajectory
from dropgate_sim.jtc_spline import Point
from dropgate_sim.motion_record import Allowed, MotionRecord, summary
from dropgate_sim.mujoco_arm import CYCLE_NS, STIFFNESS_RAD_S, MujocoArm

MS, S = 1_000_000, 1_000_000_000
START = 100 * S
# Universal Robots' table (a, d, alpha) and Franka's (a, d, alpha before the joint), typed again from their pages
UR_DH = [(0, 0.1625, 90), (-0.425, 0, 0), (-0.3922, 0, 0), (0, 0.1333, 90), (0, 0.0997, -90), (0, 0.0996, 0)]
PANDA_DH = [
    (0, 0.333, 0), (0, 0, -90), (0, 0.316, 90), (0.0825, 0, 90), (-0.0825, 0.384, -90), (0, 0, 90), (0.088, 0, 90),
]  # fmt: skip


def turn_z(angle):
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def turn_x(angle):
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1.0]])


def move(x, z):
    found = np.eye(4)
    found[0, 3], found[2, 3] = x, z
    return found


def oracle(model, q):
    pose = np.eye(4)
    if model is UR5E:
        for (a, d, alpha), angle in zip(UR_DH, q, strict=True):
            pose = pose @ turn_z(angle) @ move(a, d) @ turn_x(math.radians(alpha))
        return pose
    for (a, d, alpha), angle in zip(PANDA_DH, q, strict=True):
        pose = pose @ turn_x(math.radians(alpha)) @ move(a, 0) @ turn_z(angle) @ move(0, d)
    return pose @ move(0, 0.107)


@pytest.mark.parametrize("model", [UR5E, PANDA], ids=lambda model: model.name)
def test_flange_is_where_the_published_table_puts_it(model):
    rng = np.random.default_rng(3)
    for _ in range(5):
        low, high = ([getattr(link, end) for link in model.links] for end in ("low", "high"))
        q = rng.uniform(low, high)
        arm = MujocoArm(model, q)
        pose = oracle(model, q)
        assert np.allclose(arm.tcp_position, pose[:3, 3], atol=1e-9)
        x, y, z, w = arm.tcp_quaternion
        assert np.allclose([2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)], pose[:3, 2], atol=1e-9)


@pytest.mark.parametrize("model", [UR5E, PANDA], ids=lambda model: model.name)
def test_description_that_the_filter_reads_is_the_simulated_arm(model):
    kinematics = pytest.importorskip("runtime.safety.kinematics")
    pytest.importorskip("pinocchio", reason="control: pin not installed. Next: pip install -e '.[control]'")
    q = np.array(model.home) + 0.1
    arm = kinematics.Kinematics(model.urdf(), model.joints, kinematics.Frames("tcp", "base"))
    assert np.allclose(arm.places(q[None]).tcp[0], MujocoArm(model, q).tcp_position, atol=1e-9)


@pytest.mark.parametrize("model", [UR5E, PANDA], ids=lambda model: model.name)
def test_drives_follow_as_the_critically_damped_system_that_they_say_they_are(model):
    arm = MujocoArm(model)
    start, step = arm.positions, 1e-4  # small: the torques do not saturate
    found = []
    for _ in range(100):
        arm.step(start + step)
        found.append(arm.positions - start)
    t = (np.arange(100) + 1) * CYCLE_NS * 1e-9
    exact = step * (1 - np.exp(-STIFFNESS_RAD_S * t) * (1 + STIFFNESS_RAD_S * t))
    assert np.abs(np.array(found) - exact[:, None]).max() < 0.15 * step  # Euler at w dt = 0.3
    assert np.array(found).max() < step * (1 + 1e-6), "no overshoot"
    assert np.allclose(found[-1], step, atol=1e-7)


def test_arm_rests_against_gravity_and_stops_at_its_range():
    arm = MujocoArm(UR5E)
    for _ in range(500):
        arm.step(arm.target)
    assert np.abs(arm.positions - UR5E.home).max() < 1e-6
    far = np.array(UR5E.home)
    far[2] = math.pi + 0.5
    for k in range(1500):
        arm.step(np.array(UR5E.home) + (far - UR5E.home) * min(1.0, k / 1400))
    assert arm.positions[2] < math.pi + 0.1


def test_contact_saturates_the_drives_and_is_measured():
    arm = MujocoArm(UR5E)
    place = arm.tcp_position
    wall = Obstacle((place[0], place[1] - 0.30, place[2]), (0.3, 0.1, 0.4))
    arm = MujocoArm(UR5E, obstacles=[wall])
    most = 0.0
    for k in range(1500):
        arm.step(np.add(UR5E.home, [min(1.0, k / 1000) * 0.8, 0, 0, 0, 0, 0]))
        most = max(most, arm.contact_force_n)
    assert most > 20.0
    assert abs(arm.positions[0]) < 0.78, "the wall holds it"


def driver(model=UR5E, scaling=Scaling.ON_ROBOT, **settings) -> ArmDriver:
    jtc = JointTrajectoryController(model.joints, JtcSettings(**{"interpolate_from_desired_state": True, **settings}))
    return ArmDriver(MujocoArm(model), jtc, START, scaling)


def swing(cell, seconds=1.0, way=0.3, stamp_ns=0):
    """The first joint by `way` in `seconds`, from rest to rest."""
    goal = cell.arm.positions
    goal[0] += way
    return Trajectory(cell.arm.names, (Point(int(seconds * S), goal, np.zeros(len(goal))),), stamp_ns)


def test_a_message_is_applied_at_the_instant_of_its_arrival_even_when_the_cycles_come_late():
    prompt, stalled = driver(), driver()
    for cell in (prompt, stalled):
        trajectory = swing(cell)
        cell.at(START + 101 * MS, lambda cell=cell, trajectory=trajectory: cell.command(trajectory))
    for k in range(1, 501):
        prompt.advance(START + k * 2 * MS)
    assert stalled.advance(START + S) == 500
    assert np.array_equal(prompt.record.table()["position"], stalled.record.table()["position"])
    assert prompt.record.braking_after(START) is not None


@pytest.mark.parametrize("scaling", list(Scaling))
def test_speed_scaling_stretches_a_motion_and_keeps_its_path(scaling):
    ends = {}
    for factor in (1.0, 0.5):
        cell = driver(scaling=scaling)
        cell.set_factor(factor)
        cell.command(swing(cell))
        cell.advance(START + 3 * S)
        ends[factor] = cell.record.stopped_after(START)
        assert np.allclose(cell.arm.positions - UR5E.home, [0.3, 0, 0, 0, 0, 0], atol=1e-4)
    assert ends[0.5] == pytest.approx(2 * ends[1.0], abs=0.15)


@pytest.mark.parametrize(
    ("mode", "running", "within"),
    [
        (SafetyMode.PROTECTIVE_STOP, True, 0.15),
        (SafetyMode.NORMAL, False, 0.15),
        (SafetyMode.ROBOT_EMERGENCY_STOP, True, 0.01),
    ],
)
def test_vendors_stop_ends_motion_and_nothing_moves_on_release(mode, running, within):
    cell = driver()
    cell.command(swing(cell))
    cell.advance(START + 500 * MS)
    cell.set_mode(mode, running)
    assert not cell.active
    assert cell.scaling_factor == 0.0
    cell.command(swing(cell))
    assert cell.refused == 1
    cell.advance(START + S)
    assert cell.record.stopped_after(START + 500 * MS) <= within
    cell.set_mode(SafetyMode.NORMAL)
    cell.advance(START + 2 * S)
    assert cell.record.moved_since(START + 1010 * MS) < 1e-4
    cell.command(swing(cell))
    cell.advance(START + 3500 * MS)
    assert cell.record.moved_since(START + 2 * S) == pytest.approx(0.3, abs=1e-3)


def test_nan_target_is_not_taken_and_is_counted():
    cell = driver()
    points = (Point(100 * MS, np.full(6, np.nan), np.full(6, np.nan)),)
    cell.command(Trajectory(cell.arm.names, points))
    cell.advance(START + 200 * MS)
    assert cell.arm.nonfinite > 40
    assert cell.record.moved_since(START) < 1e-6


def test_record_finds_the_breach_and_the_instant_of_rest():
    record = MotionRecord(("a",), CYCLE_NS)
    times = START + CYCLE_NS * np.arange(1000)
    t = (times - START) * 1e-9
    speed = np.where(t < 1.0, np.sin(np.pi * t) ** 2, 0.0)
    place = np.cumsum(speed) * CYCLE_NS * 1e-9
    for row in zip(times.tolist(), place[:, None], speed[:, None], strict=True):
        record.add(*row)
    assert record.stopped_after(START) == pytest.approx(1.0, abs=0.02)
    assert record.braking_after(START) == pytest.approx(0.5, abs=0.01)
    found = record.breaches(Allowed([-1.0], [0.4], [0.9], [math.pi], [2 * math.pi**2 * 0.9]))
    assert found["velocity"].worst == pytest.approx(1 / 0.9, rel=1e-3)
    assert found["position"].worst == pytest.approx(1.1, abs=2e-3)
    assert found["acceleration"].cycles == 0
    assert found["acceleration"].worst == pytest.approx(1.0, rel=1e-2)
    assert found["jerk"].worst == pytest.approx(1 / 0.9, rel=2e-2)
    begun = record.breaches(Allowed([-1.0], [0.6], [1.0], None, [2 * math.pi**2]), since_ns=START + 250 * MS)
    assert begun["jerk"].worst < 1.02, "a table that begins in motion does not begin with a jolt"
    assert "velocity 1.11 (a," in summary(found, ("a",))
    assert record.breaches(Allowed([-1.0], [0.6], [1.0]))["velocity"].cycles == 0
