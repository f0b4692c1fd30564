# SPDX-License-Identifier: Apache-2.0
"""Observations at their edges: how old is too old, which streams there are, when a camera counts as frozen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from artifact_factory import image_spec
from control_world import SOURCES, SPEC

from runtime.contract.conventions import Layout
from runtime.contract.spec import ObservationSpec
from runtime.control.observation import JOINTS, TCP, Joints, ObservationBuffer, Pose
from runtime.control.state_map import ObservationProblem, StateMap
from runtime.telemetry import StopCause

ALL_JOINTS = tuple(f"joint.q{n}" for n in range(8))
ONLY_TCP = ("tcp.x", "tcp.y", "tcp.z", "tcp.rx", "tcp.ry", "tcp.rz", "tcp.x", "tcp.y")
BOTH, PIXELS = SOURCES, SPEC.observation.images[0].shape


def spec(cameras: float = 0.2, robot: float = 0.2, skew: float = 0.2) -> ObservationSpec:
    """Greatest ages and skew [s]."""
    found = SPEC.observation
    images = tuple(replace(image, max_age_s=cameras) for image in found.images)
    return replace(found, images=images, state=replace(found.state, max_age_s=robot), max_skew_s=skew)


def buffer(sources=BOTH, of: ObservationSpec | None = None, **more) -> ObservationBuffer:
    of = of or spec()
    return ObservationBuffer(of, StateMap(sources, of), **more)


def pose(x: float = 0.0) -> Pose:
    return Pose(np.array([x, 0.2, 0.3]), np.zeros(3))


def report(x: float = 0.0) -> Joints:
    return Joints({"grip_left": 0.0, "grip_right": 0.0, **{f"q{n}": x * (n == 0) for n in range(8)}})


def see(into: ObservationBuffer, stamp: float, name: str, x: float = 0.0, grey: int = 0) -> None:
    value = {JOINTS: report(x), TCP: pose(x)}.get(name, np.full(PIXELS, grey, np.uint8))
    assert into.put(name, stamp, value, stamp)


def all_of(into: ObservationBuffer, stamp: float, **stamps: float) -> None:
    for name in into.names:
        see(into, stamps.get(name, stamp), name)


def problem(ask) -> ObservationProblem:
    with pytest.raises(ObservationProblem) as found:
        ask()
    return found.value


# ---- which streams --------------------------------------------------------------------------------------------------

CAMERAS = {"agentview", "wrist"}


@pytest.mark.parametrize(
    ("sources", "more", "robot"),
    [
        (ALL_JOINTS, {}, {JOINTS}), (ALL_JOINTS, {"needs_tcp": True}, {JOINTS, TCP}), (ONLY_TCP, {}, {TCP}),
        (ONLY_TCP, {"joints": ("elbow",)}, {JOINTS, TCP}), (BOTH, {}, {JOINTS, TCP}),
    ],
)  # fmt: skip
def test_streams_are_those_that_the_policy_or_the_filter_needs(sources, more, robot):
    seen = buffer(sources, **more)
    assert set(seen.names) == CAMERAS | robot


@pytest.mark.parametrize(("sources", "robot"), [(ALL_JOINTS, JOINTS), (ONLY_TCP, TCP)])
def test_robot_that_reports_one_kind_alone_is_measured_by_it(sources, robot):
    seen = buffer(sources)
    all_of(seen, 1.0, **{robot: 1.01})
    for measured in (seen.measured(1.02), seen.snapshot(1.02).measured):
        assert (measured.tcp_position is None) is (robot == JOINTS)
        assert bool(measured.joints) is (robot == JOINTS)
    assert seen.measured(1.02).stamp_s == 1.01
    assert seen.snapshot(1.02).measured.stamp_s == 1.0


def test_stamp_of_what_was_measured_is_the_older_one():
    for older, newer in ((JOINTS, TCP), (TCP, JOINTS)):
        seen = buffer()
        all_of(seen, 1.0, **{newer: 1.03, older: 1.02})
        measured = seen.measured(1.04)
        assert measured.stamp_s == 1.02
        assert measured.tcp_position is not None
        assert measured.joints


def test_pose_of_the_time_of_a_picture_is_still_there_a_quarter_second_later_at_500_hz():
    seen = buffer()
    for k in range(120):
        see(seen, 1.0 + 0.002 * k, TCP, x=float(k))
        see(seen, 1.0 + 0.002 * k, JOINTS)
    for name in CAMERAS:
        see(seen, 1.05, name)
    assert seen.snapshot(1.24).measured.tcp_position[0] == 25.0


def test_rate_needs_two_samples_and_is_that_of_two():
    seen = buffer()
    assert set(seen.rates().values()) == {0.0}
    all_of(seen, 1.0)
    assert set(seen.rates().values()) == {0.0}
    all_of(seen, 1.25)
    assert set(seen.rates().values()) == {4.0}


# ---- how old --------------------------------------------------------------------------------------------------------


def test_age_that_is_just_allowed_is_allowed_and_no_more():
    for sampled in (buffer(of=spec(0.2, 0.2)), buffer(of=spec(0.1, 0.2)), buffer(of=spec(0.2, 0.1))):
        limit = min(image.max_age_s for image in sampled._spec.images)
        limit = min(limit, sampled._spec.state.max_age_s)
        all_of(sampled, 0.3)
        assert sampled.snapshot(0.3 + limit).stamp_s == 0.3
        assert problem(lambda s=sampled, t=0.3 + limit: s.snapshot(t + 1e-4)).cause is StopCause.OBSERVATION_STALE


@pytest.mark.parametrize("robot", [JOINTS, TCP])
def test_robot_that_is_not_heard_of_or_not_any_more_is_not_measured(robot):
    seen = buffer()
    for name in CAMERAS | {JOINTS, TCP} - {robot}:
        see(seen, 1.0, name)
    assert problem(lambda: seen.measured(1.0)).cause is StopCause.OBSERVATION_MISSING
    see(seen, 1.0, robot)
    for name in {JOINTS, TCP} - {robot}:
        see(seen, 1.3, name)
    found = problem(lambda: seen.measured(1.3))
    assert found.cause is StopCause.OBSERVATION_STALE
    assert robot in str(found)


def test_sample_that_fits_the_pictures_but_is_too_old_itself_is_refused():
    """A pose may be 60 ms old, a picture 200 ms: the pose of a picture of 100 ms ago is too old."""
    seen = buffer(of=spec(cameras=0.2, robot=0.06))
    for k in range(11):
        see(seen, 1.0 + 0.01 * k, TCP)
        see(seen, 1.0 + 0.01 * k, JOINTS)
    for name in CAMERAS:
        see(seen, 1.0, name)
    seen.check(1.1)
    found = problem(lambda: seen.snapshot(1.1))
    assert found.cause is StopCause.OBSERVATION_STALE
    assert "0.100 s old, at most 0.06 s" in str(found)


def test_how_far_apart_they_are_is_told_for_each():
    seen = buffer(of=spec(skew=0.05))
    all_of(seen, 1.0, wrist=1.07)
    text = str(problem(lambda: seen.snapshot(1.08)))
    assert "0.070 s apart" in text
    assert "agentview -0.070" in text
    assert "wrist -0.000" in text


def test_stamp_is_newer_than_the_last_and_at_most_20_ms_ahead():
    seen = buffer()
    for stamp, taken in ((1.0, True), (1.0, False), (0.999, False), (1.021, False), (1.0195, True)):
        assert seen.put(TCP, stamp, pose(), 1.0) is taken


# ---- what is no sample ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None, np.zeros(6), Joints({}), Pose(np.zeros(3), np.array([np.nan, 0.0, 0.0])),
        Pose(np.zeros(3), np.array([0.0, 0.0, np.inf])), Pose(np.array([0.0, np.nan, 0.0]), np.zeros(3)),
    ],
)  # fmt: skip
def test_pose_is_six_finite_numbers(value):
    seen = buffer()
    assert not seen.put(TCP, 1.0, value, 1.0)


def test_picture_is_an_array_of_its_own_cameras_shape():
    of = replace(spec(), images=(image_spec("agentview"), image_spec("wrist", layout=Layout.CHW)))
    seen = buffer(of=of)
    shapes = {image.key: image.shape for image in of.images}
    assert shapes["agentview"] != shapes["wrist"]
    for name, other in (("agentview", "wrist"), ("wrist", "agentview")):
        assert not seen.put(name, 1.0, np.zeros(shapes[other], np.uint8), 1.0)
        assert seen.put(name, 1.0, np.zeros(shapes[name], np.uint8), 1.0)
        assert not seen.put(name, 1.1, [[0]], 1.1)
    assert "the image is list, expected uint8" in str(problem(lambda: seen.check(9.0)))


# ---- frozen ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "robot", "far"), [(ONLY_TCP, TCP, 0.01), (BOTH, TCP, 0.01), (ALL_JOINTS, JOINTS, 0.02)]
)
@pytest.mark.parametrize("same", [5, 6])
@pytest.mark.parametrize("share", [0.95, 1.05])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_camera_is_frozen_after_six_same_pictures_while_the_arm_moved_a_centimetre(
    sources, robot, far, same, share, before
):
    """Or a joint 0.02 rad, where no pose is listened to. Pictures that were other ones do not count."""
    seen, stamp = buffer(sources), 1.0
    for k in range(before):
        all_of(seen, stamp)
        see(seen, stamp + 0.001, "wrist", grey=100 + k)
        stamp += 0.02
    for k in range(same):
        for name in seen.names:
            x = far * share * k / (same - 1) if name == robot else 0.0
            see(seen, stamp, name, x=x, grey=7 if name == "wrist" else k)
        stamp += 0.02
    if same < 6 or share < 1.0:
        seen.check(stamp)
        return
    found = problem(lambda: seen.check(stamp))
    assert found.cause is StopCause.OBSERVATION_FROZEN
    assert "'wrist' has sent the same pixels 6 times" in str(found)


def test_camera_counts_from_the_first_picture_after_all_was_forgotten():
    seen = buffer()
    for k in range(9):
        all_of(seen, 1.0 + 0.02 * k)
    seen.clear()
    for k in range(5):
        for name in seen.names:
            see(seen, 2.0 + 0.02 * k, name, x=0.01 * k)
    seen.check(2.1)


def test_camera_that_was_there_before_the_arm_is_not_frozen_yet():
    seen = buffer()
    for k in range(8):
        for name in CAMERAS:
            see(seen, 1.0 + 0.02 * k, name)
    see(seen, 1.15, TCP)
    see(seen, 1.15, JOINTS)
    seen.check(1.15)
