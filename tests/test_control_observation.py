# SPDX-License-Identifier: Apache-2.0
"""Observations fail closed: every stream that is missing, old, apart in time, incomplete or frozen is named."""

import numpy as np
import pytest
from control_world import SOURCES, SPEC

from runtime.control.observation import JOINTS, TCP, Joints, ObservationBuffer, Pose
from runtime.control.state_map import ObservationProblem, StateMap
from runtime.errors import ContractError
from runtime.telemetry import StopCause

GRIP = {"grip_left": 0.02, "grip_right": -0.02}
SHAPE = SPEC.observation.images[0].shape


def buffer(joints=()) -> ObservationBuffer:
    return ObservationBuffer(SPEC.observation, StateMap(SOURCES, SPEC.observation), joints, needs_tcp=True)


def fill(into: ObservationBuffer, stamp: float, skip=(), shift=None, pixels: int | None = None, place=0.0) -> None:
    grey = int(stamp * 50) % 250 if pixels is None else pixels
    samples = {key: np.full(SHAPE, grey, np.uint8) for key in SPEC.observation.image_keys}
    samples |= {JOINTS: Joints(GRIP), TCP: Pose(np.array([place, 0.2, 0.3]), np.array([0.4, 0.5, 0.6]))}
    for name, value in samples.items():
        if name not in skip:
            at = stamp + (shift or {}).get(name, 0.0)
            into.put(name, at, value, now_s=max(stamp, at))


def problem(of: ObservationBuffer, now: float) -> ObservationProblem:
    with pytest.raises(ObservationProblem) as found:
        of.snapshot(now)
    return found.value


def test_a_full_set_gives_inputs_by_name_and_the_oldest_stamp():
    seen = buffer()
    fill(seen, 1.0, shift={"wrist": 0.01, JOINTS: 0.02})
    snapshot = seen.snapshot(1.03)
    assert snapshot.stamp_s == 1.0
    assert set(snapshot.inputs) == {"agentview", "wrist", "state"}
    assert snapshot.inputs["state"] == pytest.approx([0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.02, -0.02])


@pytest.mark.parametrize("name", ["agentview", "wrist", JOINTS, TCP])
def test_a_stream_that_never_came_is_missing_and_one_that_ended_is_stale(name):
    seen = buffer()
    fill(seen, 1.0, skip=(name,))
    assert problem(seen, 1.0).cause is StopCause.OBSERVATION_MISSING
    assert name in str(problem(seen, 1.0))
    seen = buffer()
    fill(seen, 1.0)
    fill(seen, 1.2, skip=(name,))
    assert problem(seen, 1.2).cause is StopCause.OBSERVATION_STALE
    assert name in str(problem(seen, 1.2))


def test_samples_too_far_apart_are_not_put_together():
    seen = buffer()
    fill(seen, 1.0, shift={"wrist": 0.07})
    assert problem(seen, 1.08).cause is StopCause.OBSERVATION_SKEWED


def test_a_fast_stream_is_taken_at_the_time_of_the_images():
    seen = buffer()
    fill(seen, 1.0)
    for k in range(1, 5):
        seen.put(TCP, 1.0 + k * 0.01, Pose(np.array([k, 0.0, 0.0]), np.zeros(3)), 1.05)
    assert seen.snapshot(1.05).measured.tcp_position[0] == 0.0
    assert seen.measured(1.05).tcp_position[0] == 4.0


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        (JOINTS, Joints({"grip_left": 0.02}), "grip_right"),
        (JOINTS, Joints({"grip_left": float("nan"), "grip_right": 0.0}), "not finite"),
        (TCP, Pose(np.array([np.nan, 0, 0]), np.zeros(3)), "not finite"),
        ("wrist", np.zeros((3, 3, 3), np.uint8), "expected uint8"),
        ("wrist", np.zeros(SHAPE, np.float32), "expected uint8"),
    ],
)
def test_unusable_samples_are_not_taken_and_the_reason_is_told(name, value, word):
    seen = buffer()
    fill(seen, 1.0)
    assert not seen.put(name, 1.05, value, 1.05)
    fill(seen, 1.2, skip=(name,))
    assert not seen.put(name, 1.2, value, 1.2)
    found = problem(seen, 1.2)
    assert found.cause is StopCause.OBSERVATION_INVALID
    assert word in str(found)


def test_stamps_from_the_future_or_the_past_are_not_taken():
    seen = buffer()
    fill(seen, 1.0)
    assert not seen.put(JOINTS, 5.0, Joints(GRIP), 1.0)
    assert not seen.put(JOINTS, 0.9, Joints(GRIP), 1.0)
    assert not seen.put(JOINTS, float("nan"), Joints(GRIP), 1.0)
    assert not seen.put("no such camera", 1.1, Joints(GRIP), 1.1)
    assert seen.ages(1.0)[JOINTS] == 0.0


def test_joints_in_another_order_or_with_others_among_them_are_the_same():
    seen = buffer(joints=("elbow",))
    fill(seen, 1.0, skip=(JOINTS,))
    mixed = {"grip_right": -0.02, "other": 9.0, "elbow": 1.0, "grip_left": 0.02}
    assert seen.put(JOINTS, 1.0, Joints(mixed), 1.0)
    assert seen.snapshot(1.0).inputs["state"][6:] == pytest.approx([0.02, -0.02])
    assert not seen.put(JOINTS, 1.01, Joints(GRIP), 1.01)  # the elbow is missing


def test_a_camera_that_repeats_itself_is_frozen_only_if_the_arm_moves():
    still, moving = buffer(), buffer()
    for k in range(8):
        fill(still, 1.0 + 0.05 * k, pixels=7, place=0.0)
        fill(moving, 1.0 + 0.05 * k, pixels=7, place=0.01 * k)
    still.check(1.35)
    with pytest.raises(ObservationProblem) as found:
        moving.check(1.35)
    assert found.value.cause is StopCause.OBSERVATION_FROZEN


def test_rates_and_ages_are_of_the_newest_samples():
    seen = buffer()
    assert seen.ages(1.0)["wrist"] == float("inf")
    for k in range(5):
        fill(seen, 1.0 + 0.05 * k)
    assert seen.rates()["wrist"] == pytest.approx(20.0)
    assert seen.ages(1.25)["wrist"] == pytest.approx(0.05)
    seen.clear()
    assert seen.rates()["wrist"] == 0.0


@pytest.mark.parametrize(
    "sources", [SOURCES[:-1], (*SOURCES[:-1], "tcp.q"), (*SOURCES[:-1], "grip"), (*SOURCES, "tcp.x")]
)
def test_a_state_that_is_not_the_policys_is_refused(sources):
    with pytest.raises(ContractError, match="state"):
        StateMap(sources, SPEC.observation)
