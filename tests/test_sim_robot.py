# SPDX-License-Identifier: Apache-2.0
"""The simulated arm without ROS: what commands mean, how faults look, when it steps, and that nothing is lost on the
way."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from dropgate_sim.commands import OSC_SCALE, STEP_NS, STEP_S, CommandRefused, GripperInput, TrajectoryInput, TwistInput
from dropgate_sim.faults import SLOWNESS, Drivers, Fault
from dropgate_sim.pace import REPEAT_S, Lockstep, RealTime, Turn
from dropgate_sim.sim_robot import ARM_JOINTS, CAMERAS, JOINTS, Interface, NoScene, RobotState, Scene, SimRobot
from hypothesis import given
from hypothesis import strategies as st

from compress.sim.suites import UnknownTask
from runtime.clock import FakeClock

NOW = 5_000_000_000
COMMAND = st.lists(st.floats(-1.0, 1.0, width=32), min_size=6, max_size=6)


def twist_of(command) -> np.ndarray:
    """As the controller does: OSC commands -> m/s and rad/s."""
    return np.asarray(command, dtype=np.float64) * np.array(OSC_SCALE) / STEP_S


# commands ------------------------------------------------------------------------------------------------------------


@given(COMMAND)
def test_a_policys_command_survives_the_way_through_metres_per_second_bit_for_bit(command) -> None:
    arm = TwistInput("world")
    arm.accept(twist_of(np.float32(command)), "world", NOW, NOW)
    assert arm.action(NOW).tolist() == np.float32(command).astype(np.float64).tolist()


def test_a_twist_holds_for_a_tenth_of_a_second_and_no_longer() -> None:
    arm = TwistInput("world")
    arm.accept(twist_of([0.5] * 6), "world", NOW, NOW)
    assert [bool(arm.action(NOW + k * STEP_NS).any()) for k in range(4)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("twist", "frame", "stamp", "why"),
    [
        ([0, 0, float("nan"), 0, 0, 0], "world", NOW, "not finite"),
        ([0, 0, 0, 0, 0, float("inf")], "world", NOW, "not finite"),
        ([0] * 6, "tool0", NOW, "frame 'tool0', expected 'world'"),
        ([0] * 6, "", NOW, "frame ''"),
        ([0] * 6, "world", NOW - 100_000_000, r"0\.100 s old"),
        ([0] * 6, "world", NOW + 100_000_000, r"0\.100 s ahead"),
        ([0] * 6, "world", 0, r"5\.000 s old.*use_sim_time"),
    ],
)
def test_a_bad_twist_is_refused_and_the_one_before_goes_on(twist, frame, stamp, why) -> None:
    arm = TwistInput("world")
    arm.accept(twist_of([1.0] * 6), "world", NOW, NOW)
    with pytest.raises(CommandRefused, match=why):
        arm.accept(twist, frame, stamp, NOW)
    assert arm.action(NOW).tolist() == [1.0] * 6


def test_twists_that_overtake_each_other_are_not_mixed_up() -> None:
    arm = TwistInput("world")
    arm.accept(twist_of([1.0] * 6), "world", NOW, NOW)
    with pytest.raises(CommandRefused, match="older than the one before it"):
        arm.accept(twist_of([-1.0] * 6), "world", NOW - 1, NOW)


@pytest.mark.parametrize(("ratio", "action"), [(1.0, -1.0), (0.5, -1.0), (0.49, 1.0), (0.0, 1.0)])
def test_the_gripper_knows_open_and_closed(ratio, action) -> None:
    gripper = GripperInput()
    gripper.accept(ratio)
    assert gripper.action == action


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), -0.1, 1.1])
def test_a_gripper_command_that_is_no_ratio_changes_nothing(ratio) -> None:
    gripper = GripperInput()
    gripper.accept(0.0)
    with pytest.raises(CommandRefused, match="gripper command"):
        gripper.accept(ratio)
    assert gripper.action == 1.0


def two_joints() -> TrajectoryInput:
    arm = TrajectoryInput(["a", "b"])
    arm.rest(np.array([0.0, 10.0]), NOW)
    return arm


def test_a_trajectory_goes_through_its_points_and_stays_at_the_last() -> None:
    arm = two_joints()
    arm.accept(["b", "a"], [0.5, 1.0], [[11.0, 1.0], [12.0, 2.0]], [[2.0, 2.0], [0.0, 0.0]], NOW, NOW)
    for after, place in ((0.0, [0.0, 10.0]), (0.5, [1.0, 11.0]), (1.0, [2.0, 12.0]), (9.0, [2.0, 12.0])):
        assert arm.sample(NOW + round(after * 1e9))[0] == pytest.approx(place), "joints by name, never by place"
    assert arm.sample(NOW + 500_000_000)[1] == pytest.approx([2.0, 2.0])
    assert not arm.sample(NOW + 1_000_000_000)[1].any()
    before, after = (arm.sample(NOW + 250_000_000 + k * 1000) for k in (-1, 1))
    assert (after[0] - before[0]) / 2e-6 == pytest.approx(arm.sample(NOW + 250_000_000)[1], rel=1e-4)


def test_a_new_trajectory_begins_at_the_present_set_point() -> None:
    arm = two_joints()
    arm.accept(["a", "b"], [1.0], [[1.0, 10.0]], [[0.0, 0.0]], NOW, NOW)
    here, speed = arm.sample(NOW + 400_000_000)
    arm.accept(["a", "b"], [0.2], [[0.0, 10.0]], [[0.0, 0.0]], NOW + 400_000_000, NOW + 400_000_000)
    assert arm.sample(NOW + 400_000_000)[0] == pytest.approx(here)
    assert arm.sample(NOW + 400_000_000)[1] == pytest.approx(speed)


@pytest.mark.parametrize(
    ("names", "times", "places", "speeds", "why"),
    [
        (["a"], [1.0], [[1.0]], [[0.0]], r"names the joints \['a'\]"),
        (["a", "c"], [1.0], [[1.0, 1.0]], [[0.0, 0.0]], "names the joints"),
        (["a", "b"], [], [], [], "no points"),
        (["a", "b"], [1.0, 1.0], [[1.0, 1.0]] * 2, [[0.0, 0.0]] * 2, "expected rising seconds"),
        (["a", "b"], [1.0], [[1.0, float("nan")]], [[0.0, 0.0]], "positions is not finite"),
        (["a", "b"], [1.0], [[1.0, 1.0]], [[]], "velocities has shape"),
        (["a", "b"], [1.0, 2.0], [[1.0, 1.0], [1.0]], [[0.0, 0.0]] * 2, "positions is not numbers"),
    ],
)
def test_a_bad_trajectory_is_refused(names, times, places, speeds, why) -> None:
    arm = two_joints()
    with pytest.raises(CommandRefused, match=why):
        arm.accept(names, times, places, speeds, NOW, NOW)
    assert arm.sample(NOW + 10**9)[0].tolist() == [0.0, 10.0]


# faults --------------------------------------------------------------------------------------------------------------


def a_state(shade: int = 0) -> RobotState:
    images = {key: np.full((2, 2, 3), shade, dtype=np.uint8) for key in CAMERAS}
    return RobotState(np.arange(9.0), np.arange(9.0) + 10, np.zeros(3), np.array([0, 0, 0, 1.0]), images, 0, 0, False)


def with_fault(fault: Fault, shades: tuple[int, ...] = (1, 2)):
    """The readings before and after the fault begins."""
    drivers = Drivers()
    before = drivers.read(a_state(shades[0]), NOW)
    drivers.set(fault)
    return before, drivers.read(a_state(shades[1]), NOW + STEP_NS)


def test_without_a_fault_everything_is_said() -> None:
    _, reading = with_fault(Fault.NONE)
    assert reading.stamp_ns == NOW + STEP_NS
    assert reading.joints[0] == JOINTS
    assert set(reading.images) == set(CAMERAS)
    assert all((image == 2).all() for image in reading.images.values())


def test_a_dropped_camera_is_silent_and_the_rest_is_not() -> None:
    _, reading = with_fault(Fault.CAMERA_DROP)
    assert not reading.images
    assert reading.joints is not None


def test_a_frozen_camera_shows_the_last_picture_with_fresh_stamps() -> None:
    before, reading = with_fault(Fault.CAMERA_FREEZE)
    assert reading.stamp_ns == NOW + STEP_NS
    assert all((reading.images[key] == before.images[key]).all() for key in CAMERAS)


def test_a_camera_that_is_frozen_from_the_start_shows_its_first_picture() -> None:
    drivers = Drivers()
    drivers.set(Fault.CAMERA_FREEZE)
    shades = [int(drivers.read(a_state(shade), NOW).images["wrist"][0, 0, 0]) for shade in (3, 4)]
    assert shades == [3, 3]


def test_stale_stamps_rise_and_fall_behind() -> None:
    drivers = Drivers()
    drivers.read(a_state(), NOW)
    drivers.set(Fault.STALE_STAMPS)
    stamps = [drivers.read(a_state(), NOW + k * STEP_NS).stamp_ns for k in range(1, 6)]
    assert stamps == [NOW + k * STEP_NS // SLOWNESS for k in range(1, 6)]


def test_reordered_joints_keep_their_names() -> None:
    _, reading = with_fault(Fault.JOINT_REORDER)
    names, positions, velocities = reading.joints
    assert names != JOINTS
    expected = {name: (float(i), float(i) + 10) for i, name in enumerate(JOINTS)}
    assert {n: (p, v) for n, p, v in zip(names, positions, velocities, strict=True)} == expected


def test_a_missing_joint_and_silent_joints() -> None:
    assert with_fault(Fault.JOINT_MISSING)[1].joints[0] == JOINTS[:-1]
    assert with_fault(Fault.JOINT_STOP)[1].joints is None


def test_a_fault_ends_when_it_is_cleared() -> None:
    drivers = Drivers()
    for fault in Fault:
        drivers.set(fault)
        drivers.read(a_state(1), NOW)
    drivers.set(Fault.NONE)
    reading = drivers.read(a_state(7), NOW)
    assert (reading.stamp_ns, reading.joints[0]) == (NOW, JOINTS)
    assert (reading.images["agentview"] == 7).all()


# pace ----------------------------------------------------------------------------------------------------------------


def test_lockstep_repeats_the_first_observation_until_somebody_commands() -> None:
    clock = FakeClock()
    pace = Lockstep(clock, hold_after_s=0.5)
    assert pace.turn() is Turn.WAIT, "no scene, no turn"
    pace.began(NOW)
    seen = []
    for _ in range(100):
        seen.append(pace.turn())
        clock.advance(pace.wait_s())
    assert Turn.STEP not in seen
    assert clock.now() == pytest.approx(REPEAT_S * seen.count(Turn.REPEAT), abs=2 * REPEAT_S)


def test_lockstep_repeats_later_observations_too_as_a_sign_of_life() -> None:
    clock = FakeClock()
    pace = Lockstep(clock, hold_after_s=3.5 * REPEAT_S)
    pace.began(NOW)
    pace.commanded(NOW)
    pace.stepped(NOW + STEP_NS)
    turns = []
    while Turn.STEP not in turns:
        clock.advance(pace.wait_s())
        turns.append(pace.turn())
    assert turns == [Turn.REPEAT, Turn.REPEAT, Turn.REPEAT, Turn.STEP]


def test_lockstep_steps_for_a_command_that_answers_this_observation() -> None:
    pace = Lockstep(FakeClock(), hold_after_s=0.5)
    pace.began(NOW)
    pace.commanded(NOW - STEP_NS)
    assert pace.turn() is Turn.WAIT, "a command for an earlier observation is no answer"
    pace.commanded(NOW)
    assert pace.turn() is Turn.STEP
    pace.stepped(NOW + STEP_NS)
    assert pace.turn() is Turn.WAIT
    pace.commanded(NOW)
    assert pace.turn() is Turn.WAIT
    pace.commanded(NOW + STEP_NS + 1)
    assert pace.turn() is Turn.STEP


def test_lockstep_goes_on_without_a_commander_that_fell_silent() -> None:
    clock = FakeClock()
    pace = Lockstep(clock, hold_after_s=0.5)
    pace.began(NOW)
    pace.commanded(NOW)
    pace.stepped(NOW + STEP_NS)
    clock.advance(0.49)
    assert pace.turn() is not Turn.STEP
    clock.advance(0.02)
    assert pace.turn() is Turn.STEP
    pace.began(NOW + 10**9)
    clock.advance(10.0)
    assert pace.turn() is Turn.REPEAT, "a new scene waits for its own first command"


def test_real_time_keeps_absolute_deadlines_and_leaves_out_what_it_missed() -> None:
    clock = FakeClock()
    pace = RealTime(clock, 0.05)
    pace.began(NOW)
    steps = []
    while clock.now() < 1.0:
        clock.advance(pace.wait_s())
        assert pace.turn() is Turn.STEP
        steps.append(clock.now())
        clock.advance(0.12 if len(steps) == 5 else 0.01)
        pace.stepped(NOW)
    assert all(abs(step / 0.05 - round(step / 0.05)) < 1e-6 for step in steps), "late work moves no later deadline"
    assert pace.missed == 2
    assert len(steps) == 18


# simulator -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite():
    from compress.sim.suites import open_suite

    return open_suite("dropgate_tabletop")


@pytest.fixture(scope="module")
def robot(suite):
    made = SimRobot(suite, 32)
    yield made
    made.close()


@pytest.fixture(scope="module")
def env(suite):
    from compress.sim.envs import TaskEnv

    with TaskEnv(suite, 1, image_size=32) as made:
        yield made


def sim_state(env) -> np.ndarray:
    return np.asarray(env.libero.get_sim_state())


@pytest.mark.sim
@pytest.mark.slow
def test_the_expert_reaches_the_goal_through_commands_and_every_state_is_that_of_the_bare_simulator(robot, env) -> None:
    from compress.sim.expert import TaskExpert

    state, now = robot.reset(Scene(1, 3, 0), NOW), NOW
    seen = env.reset(3, 0)
    assert (robot.instruction, robot.max_steps) == (env.task.language, env.task.max_steps)
    expert = TaskExpert(env)
    while not env.success and env.steps < env.task.max_steps:
        raw = env.raw_observation
        assert np.array_equal(state.images["agentview"], raw["agentview_image"])
        assert np.array_equal(state.images["agentview"][::-1, ::-1], seen["agentview"])
        assert np.array_equal(state.images["wrist"][::-1, ::-1], seen["wrist"])
        assert np.array_equal(state.tcp_position, raw["robot0_eef_pos"])
        assert np.array_equal(state.tcp_quaternion, raw["robot0_eef_quat"])
        assert np.array_equal(state.positions[7:].astype(np.float32), seen["state"][6:])
        command = np.float32(expert.act())
        robot.apply_gripper(float(command[6] <= 0.0))
        robot.apply_twist(twist_of(command[:6]), "world", now, now)
        state, now = robot.step(now), now + STEP_NS
        env.step(command)
        seen = env.observe()
        assert np.array_equal(sim_state(robot._env), sim_state(env)), f"step {env.steps}"
    assert env.success
    assert state.success
    assert state.steps == state.commands == env.steps


@pytest.mark.sim
@pytest.mark.slow
def test_a_silent_commander_stops_the_arm_but_not_the_fingers(robot) -> None:
    start, now = robot.reset(Scene(1, 0, 0), NOW), NOW
    robot.apply_gripper(0.0)
    robot.apply_twist(twist_of([0, 0, 0.6, 0, 0, 0]), "world", now, now)
    heights, fingers = [start.tcp_position[2]], [start.positions[7]]
    for _ in range(14):
        state, now = robot.step(now, draw=False), now + STEP_NS
        heights.append(state.tcp_position[2])
        fingers.append(state.positions[7])
    assert heights[2] - heights[0] > 0.004, "it moved while the twist held"
    assert abs(heights[-1] - heights[-2]) < 2e-4, "and it is at rest now"
    assert fingers[-1] < 0.25 * fingers[0], "the gripper goes on with the last command"
    assert not state.images
    assert (state.commands, state.steps) == (1, 14)


@pytest.mark.sim
@pytest.mark.slow
def test_resets_are_alike_and_forget_what_was_commanded(robot) -> None:
    first = robot.reset(Scene(1, 5, 0), NOW)
    robot.apply_gripper(0.0)
    robot.apply_twist(twist_of([1, 1, 0, 0, 0, 0]), "world", NOW, NOW)
    robot.step(NOW)
    again = robot.reset(Scene(1, 5, 0), NOW)
    assert np.array_equal(again.positions, first.positions)
    assert all(np.array_equal(again.images[key], first.images[key]) for key in CAMERAS)
    assert (again.steps, again.commands, again.success) == (0, 0, False)
    after = robot.step(NOW, draw=False)
    assert np.allclose(after.tcp_position, first.tcp_position, atol=2e-3)
    assert after.positions[7] > 0.9 * first.positions[7], "open again"


@pytest.mark.sim
@pytest.mark.slow
def test_a_robot_goes_on_after_the_simulators_own_time_limit(robot) -> None:
    robot.reset(Scene(1, 0, 0), NOW)
    env = robot._env.libero.env
    env.timestep = env.horizon - 1
    robot.step(NOW, draw=False)
    assert robot.step(NOW, draw=False).steps == 2


@pytest.mark.sim
@pytest.mark.slow
def test_an_unknown_scene_leaves_the_robot_where_it_is(robot) -> None:
    robot.reset(Scene(1, 0, 0), NOW)
    for scene in (Scene(9, 0, 0), Scene(0, 999, 0)):
        with pytest.raises(UnknownTask):
            robot.reset(scene, NOW)
    assert robot.scene == Scene(1, 0, 0)
    assert robot.step(NOW, draw=False).steps == 1


@pytest.mark.sim
@pytest.mark.slow
def test_a_reset_that_fails_leaves_no_scene(robot, monkeypatch) -> None:
    robot.reset(Scene(1, 0, 0), NOW)
    monkeypatch.setattr(robot, "built", lambda task: SimpleNamespace(reset=lambda state, seed: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        robot.reset(Scene(1, 1, 0), NOW)
    with pytest.raises(NoScene, match="call ~/reset"):
        robot.step(NOW)
    with pytest.raises(NoScene):
        robot.apply_twist([0.0] * 6, "world", NOW, NOW)


@pytest.mark.sim
@pytest.mark.slow
def test_a_joint_trajectory_is_tracked_and_a_twist_is_not_taken(suite) -> None:
    robot, now = SimRobot(suite, 32, Interface.JOINT_TRAJECTORY), NOW
    state = robot.reset(Scene(0, 0, 0), now)
    start, swing, length = state.positions[:7], 0.3 * np.array([1, -0.5, 0.5, 0.5, 1, 1, -1]), 1.0
    order = [3, 1, 2, 0, 6, 5, 4]
    times = np.arange(0.0, length + 1e-9, 0.1)

    def place(t: float) -> np.ndarray:
        return start + swing * (1 - np.cos(np.pi * t / length)) / 2

    def speed(t: float) -> np.ndarray:
        return swing * np.pi / length * np.sin(np.pi * t / length) / 2

    with pytest.raises(CommandRefused, match="takes joint_trajectory"):
        robot.apply_twist([0.0] * 6, "world", now, now)
    robot.apply_joint_trajectory(
        [ARM_JOINTS[i] for i in order], times, [place(t)[order] for t in times], [speed(t)[order] for t in times],
        now, now,
    )  # fmt: skip
    worst = 0.0
    for k in range(1, 31):
        state, now = robot.step(now, draw=False), now + STEP_NS
        worst = max(worst, float(np.abs(state.positions[:7] - place(min(k * STEP_S, length))).max()))
    robot.close()
    assert worst < 0.02, "rad behind the set point, at up to 0.5 rad/s"
    assert np.abs(state.positions[:7] - place(length)).max() < 0.003
    assert np.abs(state.velocities[:7]).max() < 0.01, "the trajectory is its own stop"
