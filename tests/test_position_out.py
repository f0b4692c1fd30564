# SPDX-License-Identifier: Apache-2.0
"""Joint commands as a stream of set-points over DDS: the command's own curve, its stop included, and then silence."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
import pytest

pytestmark = [pytest.mark.ros]
rclpy = pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros")
pytest.importorskip("ruckig", reason="control: ruckig not installed. Next: make install-dev (extra `control`)")

from arm_models import seven  # noqa: E402
from dropgate_controller.outputs import NEWEST  # noqa: E402
from dropgate_controller.position_out import PositionOut  # noqa: E402
from filter_world import Cell, joint_spec  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from ros_station import wait_for  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402
from test_filter_properties import smooth  # noqa: E402

RATE_HZ = 250.0


def spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


@pytest.fixture
def heard():
    """(publisher, list of positions) of a controller that listens over DDS."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("forward_position_double", context=context)
    got: list[np.ndarray] = []
    node.create_subscription(
        Float64MultiArray,
        "~/commands",
        lambda m: got.append(np.array(m.data)),
        QoSProfile(depth=500),
    )
    publisher = node.create_publisher(Float64MultiArray, "~/commands", NEWEST)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=spin, args=(executor,), daemon=True)
    thread.start()
    wait_for(lambda: publisher.get_subscription_count() > 0, "the controller")
    yield publisher, got
    rclpy.shutdown(context=context)
    thread.join(timeout=5.0)


def test_one_command_is_played_to_its_end_at_the_rate_and_then_nothing_is_said(heard):
    publisher, got = heard
    cell = Cell(seven(), joint_spec(seven()))
    command = None
    for _ in range(30):  # in motion
        if cell.chunk is None or cell.progress > 0.4:
            assert cell.offer(smooth(cell)) == ""
        command = cell.tick()
        cell.advance(0.02)
    assert command is not None
    assert command.moves
    began = time.monotonic()
    clock = [command.start_s]
    sent, turns, here = [], [], threading.get_ident()

    def publish(message: Float64MultiArray) -> None:
        sent.append(message)
        publisher.publish(message)

    def steady_s() -> float:
        now = time.monotonic()
        if threading.get_ident() != here:
            turns.append(now)
        return now

    out = PositionOut(publish, RATE_HZ, lambda: clock[0], steady_s)
    try:
        asked = time.monotonic()
        out.take(command)
        taken = time.monotonic()
        clock[0] -= 3.0  # set back while it plays: what goes on is not the clock's
        wait_for(lambda: got and np.allclose(got[-1], command.positions[-1], atol=1e-12), "the end of the stop")
        wait_for(lambda: time.monotonic() - began > command.times_s[-1] + 0.3, "silence")
        wait_for(lambda: len([t for t in turns if t > taken + command.times_s[-1] + 0.1]) > 3, "turns in silence")
    finally:
        out.close()
    places = np.array(got)
    curve = np.array([command.at(command.start_s + t)[0] for t in np.linspace(0.0, command.times_s[-1], 4000)])
    away = np.abs(places[:, None] - curve[None]).max(axis=2).min(axis=1)
    assert away.max() < 1e-4  # every set-point is on the curve
    ends = command.times_s[-1] + 1.0 / RATE_HZ
    least, most = (len([t for t in turns if since <= t <= until]) for since, until in (
        (taken, asked + command.times_s[-1]), (asked, taken + ends),
    ))  # fmt: skip
    assert least <= len(sent) <= most + 1, "each turn of the play sends one, one turn at most says the end late"
    assert len(got) <= len(sent)


def test_after_close_nothing_is_sent_although_the_command_goes_on(heard):
    publisher, _ = heard
    sent = []

    def publish(message: Float64MultiArray) -> None:
        sent.append(message)
        publisher.publish(message)

    cell = Cell(seven(), joint_spec(seven()))
    assert cell.offer(smooth(cell)) == ""
    command = cell.tick()
    began = time.monotonic()
    out = PositionOut(publish, RATE_HZ, lambda: command.start_s, lambda: began + min(0.01, time.monotonic() - began))
    out.take(command)
    wait_for(lambda: len(sent) > 3, "set-points")
    out.close()
    count, closed = len(sent), time.monotonic()
    wait_for(lambda: time.monotonic() - closed > 0.3, "time to pass")
    assert len(sent) == count


def test_set_points_that_are_far_behind_are_a_reason_to_stop(heard):
    publisher, got = heard
    cell = Cell(seven(), joint_spec(seven()))
    assert cell.offer(smooth(cell)) == ""
    command, steady = cell.tick(), [5.0]
    out = PositionOut(publisher.publish, RATE_HZ, lambda: command.start_s, lambda: steady[0])
    try:
        out.take(command)
        wait_for(lambda: got, "the first set-point")
        assert out.problem == ""
        steady[0] += 0.2  # in which nothing was sent
        wait_for(lambda: out.problem, "the problem")
        assert "0.196 s behind, at most 0.05 s" in out.problem
    finally:
        out.close()
