# SPDX-License-Identifier: Apache-2.0
"""`sim_robot_node` in a process of its own, seen through DDS as a controller sees it."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros ros-build")
pytest.importorskip("dropgate_interfaces", reason="ros: the workspace is not built. Next: make ros-build")

from builtin_interfaces.msg import Duration
from dropgate_sim.commands import OSC_SCALE, STEP_NS, STEP_S
from dropgate_sim.sim_robot import ARM_JOINTS, JOINTS
from sim_robot_client import STREAMS, Client, RobotProcess, ns
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
SIZE = 32


@contextlib.contextmanager
def running(folder, **parameters):
    """A client whose robot has published and listens; the robot ends with the block, cleanly if nothing failed."""
    robot = RobotProcess(folder / "robot.log", image_size=SIZE, **parameters)
    try:
        with contextlib.closing(Client(robot)) as client:
            client.observed()
            client.meet()
            yield client
        assert robot.end() == 0, robot.log.read_text()
    finally:
        robot.kill()


@pytest.fixture(scope="module")
def lockstep(tmp_path_factory):
    """Patient: a busy machine must not make it step by itself."""
    with running(tmp_path_factory.mktemp("lockstep"), mode="lockstep", hold_after_s=120.0) as client:
        yield client


@pytest.fixture(scope="module")
def env():
    """The bare simulator, for comparison."""
    from compress.sim.envs import TaskEnv, open_suite

    with TaskEnv(open_suite("dropgate_tabletop"), 2, image_size=SIZE) as made:
        yield made


def command(client: Client, action, stamp_ns: int) -> None:
    """An OSC action as the controller would send it: the gripper first."""
    client.gripper(float(action[6] <= 0.0))
    client.twist(np.asarray(action[:6], dtype=np.float64) * np.array(OSC_SCALE) / STEP_S, stamp_ns)


def assert_same_observation(client: Client, env) -> None:
    raw = env.raw_observation
    assert np.array_equal(client.pixels("agentview"), raw["agentview_image"])
    assert np.array_equal(client.pixels("wrist"), raw["robot0_eye_in_hand_image"])
    joints, pose = client.newest["joints"], client.newest["tcp"]
    assert tuple(joints.name) == JOINTS
    assert list(joints.position) == [*raw["robot0_joint_pos"], *raw["robot0_gripper_qpos"]]
    assert list(joints.velocity) == [*raw["robot0_joint_vel"], *raw["robot0_gripper_qvel"]]
    assert pose.header.frame_id == "world"
    p, q = pose.pose.position, pose.pose.orientation
    assert [p.x, p.y, p.z] == list(raw["robot0_eef_pos"])
    assert [q.x, q.y, q.z, q.w] == list(raw["robot0_eef_quat"])


def test_the_expert_reaches_the_goal_over_the_topics_and_every_observation_is_that_of_the_bare_simulator(
    lockstep, env
) -> None:
    from compress.sim.expert import TaskExpert

    stamp = lockstep.stand(2, 7)
    lockstep.clock_ns.clear()
    env.reset(7, 0)
    expert = TaskExpert(env)
    while not env.success and env.steps < env.task.max_steps:
        assert_same_observation(lockstep, env)
        action = np.float32(expert.act())
        command(lockstep, action, stamp)
        env.step(action)
        after = lockstep.observed(stamp)
        assert after == stamp + STEP_NS
        stamp = after
    assert env.success
    lockstep.until(lambda: lockstep.scene.steps == env.steps, "the last scene status")
    assert lockstep.scene.success
    assert lockstep.scene.commands == env.steps
    lockstep.until(lambda: lockstep.clock_ns[-1] == stamp, "the last clock")
    assert lockstep.clock_ns == sorted(lockstep.clock_ns)
    assert set(lockstep.clock_ns) >= {stamp - k * STEP_NS for k in range(env.steps)}


def test_gripper_and_motion_of_one_instant_take_effect_in_the_same_step(lockstep, env) -> None:
    stamp = lockstep.stand(2, 3)
    env.reset(3, 0)
    rng = np.random.default_rng(0)
    for _ in range(40):
        action = np.float32([*rng.uniform(-0.3, 0.3, 6), rng.choice([-1.0, 1.0])])
        command(lockstep, action, stamp)
        env.step(action)
        stamp = lockstep.observed(stamp)
        assert_same_observation(lockstep, env)


def test_nothing_moves_before_the_first_command_and_late_joiners_are_served(lockstep) -> None:
    stamp = lockstep.stand(2, 0)
    lockstep.counts.clear()
    lockstep.until(lambda: all(lockstep.counts[name] >= 3 for name in STREAMS), "three repetitions")
    assert set(lockstep.stamps.values()) == {stamp}
    assert lockstep.scene.steps == 0
    lockstep.twist([0.1] * 6, stamp - STEP_NS)
    lockstep.spin(0.6)
    assert lockstep.scene.steps == 0, "a command for an earlier observation is no answer"


def test_time_goes_on_without_motion_when_the_commander_falls_silent(tmp_path) -> None:
    with running(tmp_path, hold_after_s=0.05) as client:
        began = client.observed()
        client.spin(0.3)
        assert client.scene.steps == 0, "patience begins with the first command"
        first = client.newest["tcp"].pose.position.z
        client.twist([0, 0, 0.5, 0, 0, 0], began)
        client.until(lambda: client.scene.steps >= 12, "12 steps")
        client.reach(["tcp"], began + 12 * STEP_NS)
        client.until(lambda: sum(stamp >= began + 11 * STEP_NS for stamp in client.heard["tcp"]) >= 2, "two at rest")
        heights = {
            (stamp - began) // STEP_NS: message.pose.position.z for stamp, message in client.heard["tcp"].items()
        }
        assert client.scene.commands == 1
    assert max(heights.values()) - first > 0.004, "the command held for its 0.1 s"
    one, two = sorted(heights)[-2:]
    assert one >= 11
    assert abs(heights[two] - heights[one]) < 5e-4


def test_commands_that_are_refused_move_nothing_and_are_reported(lockstep) -> None:
    stamp = lockstep.stand(2, 0)
    for values, frame, said in (([float("nan")] * 6, "world", "not finite"), ([0.1] * 6, "tool0", "frame 'tool0'")):
        lockstep.twist(values, stamp, frame)
        lockstep.until(lambda said=said: said in lockstep.scene.fault, f"{said!r} in the scene's status")
        assert (lockstep.scene.steps, lockstep.scene.commands) == (0, 0)
    lockstep.gripper(7.0)
    lockstep.until(lambda: "opening ratio" in lockstep.scene.fault, "the gripper's refusal")
    lockstep.stand(2, 0)
    assert lockstep.scene.fault == "", "a reset forgets it"


def test_a_scene_that_does_not_exist_is_refused_and_time_never_goes_back(lockstep) -> None:
    first = lockstep.stand(2, 1)
    answer = lockstep.reset(17, 0)
    assert not answer.ok
    assert "no task 17" in answer.text
    again = lockstep.stand(2, 1)
    assert again > first
    answer = lockstep.reset(2, 2)
    assert (answer.ok, answer.instruction, answer.max_steps) == (True, "put the red block in the right tray", 150)


def advance(client: Client, steps: int) -> None:
    """Zero motion for some steps, commanded by the clock alone: streams may be missing."""
    for _ in range(steps):
        before = client.scene.steps
        client.twist([0.0] * 6, ns(client.scene.header.stamp))
        client.until(lambda before=before: client.scene.steps > before, "the next step")


def repeated(client: Client, *names: str) -> None:
    """Wait until what is published now was heard three times: whatever was under way before it has come too."""
    client.until(lambda: all(client.counts[name] >= 3 for name in names), "three repetitions")


@pytest.fixture
def fault(lockstep):
    """Sets a fault in a fresh scene; gives the client and an instant from which on all was published with the fault."""
    lockstep.stand(2, 0)
    advance(lockstep, 2)

    def set_fault(name: str) -> tuple[Client, int]:
        assert lockstep.set("fault", name) == (True, "")
        advance(lockstep, 1)
        assert lockstep.scene.fault == name
        since = ns(lockstep.scene.header.stamp)
        advance(lockstep, 4)
        lockstep.counts.clear()
        return lockstep, since

    yield set_fault
    assert lockstep.set("fault", "none")[0]


def test_fault_camera_drop(fault) -> None:
    client, since = fault("camera_drop")
    client.reach(("joints", "tcp"), since + 4 * STEP_NS)
    repeated(client, "joints", "tcp")
    assert all(max(client.heard[camera]) < since for camera in ("agentview", "wrist"))


def test_fault_camera_freeze(fault, lockstep) -> None:
    client, since = fault("camera_freeze")
    client.observed(since + 3 * STEP_NS)
    before = {camera: client.pixels(camera).copy() for camera in ("agentview", "wrist")}
    stamps = client.stamps
    client.twist([0.5, 0.5, 0.5, 0, 0, 0], ns(client.scene.header.stamp))
    client.observed(max(stamps.values()))
    advance(client, 2)
    client.observed(max(stamps.values()) + STEP_NS)
    for camera in before:
        assert client.stamps[camera] > stamps[camera]
        assert np.array_equal(client.pixels(camera), before[camera])


def test_fault_stale_stamps(fault) -> None:
    client, since = fault("stale_stamps")
    now = ns(client.scene.header.stamp)
    assert now == since + 4 * STEP_NS
    repeated(client, *STREAMS)
    assert all(now - stamp >= 3 * STEP_NS for stamp in client.stamps.values())


def test_fault_joint_reorder(fault) -> None:
    client, since = fault("joint_reorder")
    client.reach(["joints"], since)
    joints = client.newest["joints"]
    assert sorted(joints.name) == sorted(JOINTS)
    assert tuple(joints.name) != JOINTS
    assert joints.position[list(joints.name).index("panda_finger_joint1")] == pytest.approx(0.04, abs=0.005)


def test_fault_joint_missing(fault) -> None:
    client, since = fault("joint_missing")
    client.reach(["joints"], since)
    assert tuple(client.newest["joints"].name) == JOINTS[:-1]


def test_fault_joint_stop(fault) -> None:
    client, since = fault("joint_stop")
    others = set(STREAMS) - {"joints"}
    client.reach(others, since + 4 * STEP_NS)
    repeated(client, *others)
    assert max(client.heard["joints"]) < since


def test_parameters_say_what_is_allowed(lockstep) -> None:
    taken, why = lockstep.set("fault", "gremlins")
    assert not taken
    assert "'camera_drop'" in why
    assert not lockstep.set("mode", "realtime")[0], "read-only"


def test_real_time_follows_the_system_clock_with_or_without_commands(tmp_path) -> None:
    with running(tmp_path, mode="realtime", rate=5.0) as client:
        stamp = client.observed()
        assert client.observed(stamp) > stamp, "it does not wait for commands"
        assert not client.clock_ns, "no simulated time"
        assert abs(time.time_ns() - client.observed()) < 120 * 10**9
        client.twist([0.0] * 6, time.time_ns() - 10**9)
        client.until(lambda: "s old" in client.scene.fault, "the refusal of an old command")

        def taken() -> bool:
            client.twist([0.0] * 6, time.time_ns())
            return client.scene.commands > 0

        client.until(taken, "a command that is fresh when it arrives")


def test_joint_trajectories_are_followed_over_the_topics(tmp_path) -> None:
    with running(tmp_path, command_interface="joint_trajectory", hold_after_s=0.05) as client:
        stamp = client.observed()
        start = np.array(client.newest["joints"].position[:7])
        goal = start + np.array([0.1, -0.05, 0.0, 0.05, 0.0, 0.1, -0.1])
        message = JointTrajectory(joint_names=list(ARM_JOINTS[::-1]))
        for after, place in ((0.0, start), (0.8, goal)):
            point = JointTrajectoryPoint(positions=place[::-1].tolist(), velocities=[0.0] * 7)
            point.time_from_start = Duration(sec=0, nanosec=round(after * 1e9))
            message.points.append(point)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        client.trajectory(message)
        for _ in range(22):  # the trajectory has its own end: nobody commands any more
            stamp = client.observed(stamp)
        joints = client.newest["joints"]
    assert np.abs(np.array(joints.position[:7]) - goal).max() < 0.004
    assert np.abs(joints.velocity[:7]).max() < 0.01


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"suite": "no_such_suite"}, "no suite 'no_such_suite'. Available: dropgate_tabletop"),
        ({"mode": "warp"}, "parameter mode is 'warp', expected 'lockstep' or 'realtime'"),
        ({"task": 9}, "has no task 9"),
        ({"image_size": 4}, "image_size"),
    ],
)
def test_a_robot_that_cannot_start_says_why_in_one_sentence(tmp_path, parameters, said) -> None:
    robot = RobotProcess(tmp_path / "robot.log", **parameters)
    try:
        assert robot.process.wait(timeout=240.0) == 1
    finally:
        robot.kill()
    text = robot.log.read_text()
    assert said in text
    assert "Traceback" not in text
