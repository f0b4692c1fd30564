# SPDX-License-Identifier: Apache-2.0
"""The planner's own look at tool, elbow and distances: stricter than the limits, and at enough places."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from arm_models import PANDA_JOINTS, seven, seven_joints
from arm_spy import Spy
from filter_world import joint_spec

from runtime.errors import ContractError
from runtime.safety.curve import Curve, of_jerks
from runtime.safety.filter import SafetyFilter
from runtime.safety.kinematics import Frames, Kinematics
from runtime.safety.limits import ToolLimits
from runtime.safety.places import ToolCheck, _looks

ARM = seven()
FREE = ToolLimits(9.0, 9.0, (-9.0,) * 3, (9.0,) * 3, self_distance_m=1e-9, scene_distance_m=1e-9)
MOST_M, MOST_RAD, MOST_APART_M, SHARE = 0.001, 0.005, 0.003, 0.96  # how much stricter (docs/filter.md)


def turning(joint: int = 0, speed: float = 0.5, span_s: float = 0.6, start_s: float = 2.0) -> Curve:
    """One joint at constant speed, from home."""
    zero = np.zeros(7)
    return of_jerks(start_s, (ARM.home, speed * np.eye(7)[joint], zero), np.full(6, span_s / 6), np.zeros((6, 7)))


def check(**changes) -> ToolCheck:
    return ToolCheck(ARM.kinematics, replace(FREE, **changes))


def seen(curve: Curve):
    return ARM.kinematics.places(*curve.at(np.linspace(curve.start_s, curve.end_s, 500))[:2])


@pytest.mark.parametrize(("name", "field"), [("linear", "linear_m_s"), ("angular", "angular_rad_s")])
def test_tools_speed_is_held_to_a_share_of_its_limit(name, field):
    """One joint speeds up all along: its end is the fastest."""
    state = (ARM.home, 0.1 * np.eye(7)[0], 0.8 * np.eye(7)[0])
    curve = of_jerks(2.0, state, np.full(6, 0.1), np.zeros((6, 7)))
    fastest = float(np.linalg.norm(getattr(seen(curve), name), axis=1).max())
    for share, objected in ((SHARE - 0.005, False), (SHARE + 0.005, True)):
        tight = check(**{field: fastest / share})
        assert bool(tight.objection(curve, 2.0)) is objected
        if objected:
            assert tight.objection(curve, 2.0) == f"the tool reaches {share:.2f} times its speed limit"
    slower, until, why = check(**{field: fastest / 2.0}).along(curve)
    assert slower == pytest.approx(2.0 / (SHARE - 0.02))
    assert (until, why) == (curve.end_s, "")
    assert check().along(curve)[0] == 1.0


BOXES = [("tcp", "workspace", "the tool"), ("elbow", "elbow", "the elbow")]


@pytest.mark.parametrize(("frame", "box", "who"), BOXES)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", ["low", "high"])
def test_boxes_are_kept_with_a_millimetre_to_spare(frame, box, who, axis, side):
    curve = turning(joint=1, speed=-0.4 if side == "low" else 0.4)
    ends = getattr(seen(curve), frame)[[0, -1], axis]
    outermost = float(ends.min() if side == "low" else ends.max())
    sign = -1.0 if side == "low" else 1.0
    for spare, objected in ((MOST_M + 1e-4, False), (MOST_M - 1e-4, True)):
        bounds = {"low": [-9.0] * 3, "high": [9.0] * 3}
        bounds[side][axis] = outermost + sign * spare
        tight = check(**{f"{box}_low": tuple(bounds["low"]), f"{box}_high": tuple(bounds["high"])})
        found, along = tight.objection(curve, 2.0), tight.along(curve)
        assert bool(found) is bool(along[2]) is objected
        if objected:
            assert found.startswith(f"{who} would be at [")
            assert found.endswith(f"its box is {bounds['low']} to {bounds['high']}")
            assert along[2].startswith(f"{who} would be at [")


def test_tilt_is_held_with_a_little_to_spare_whatever_the_length_of_the_direction():
    curve = turning(joint=5, speed=0.5)
    approach = 3.0 * seen(curve).axis[0]
    for spare, objected in ((MOST_RAD + 5e-4, False), (MOST_RAD - 5e-4, True)):
        tight = check(approach=tuple(approach), tilt_rad=0.3 + spare)  # it turns by 0.3
        assert bool(tight.objection(curve, 2.0)) is objected
        assert bool(tight.along(curve)[2]) is objected
    assert "tilted by more than 0.302 rad" in check(approach=tuple(approach), tilt_rad=0.302).objection(curve, 2.0)
    assert check(approach=tuple(approach), tilt_rad=1e-3).objection(curve, 2.0)


def test_box_for_an_elbow_that_nobody_knows_is_refused_when_the_filter_is_made():
    """And not left out in silence."""
    blind = Kinematics(seven_joints(), PANDA_JOINTS, Frames("tool", "base"))
    limits = replace(ARM.limits, tool=replace(FREE, elbow_low=(-9.0,) * 3, elbow_high=(9.0,) * 3))
    with pytest.raises(ContractError, match=r"elbow_low/high are given, but .* `kinematics\.elbow`"):
        SafetyFilter(joint_spec(ARM), limits, arm=blind)
    SafetyFilter(joint_spec(ARM), replace(limits, tool=FREE), arm=blind)


def test_path_is_used_until_the_last_place_inside():
    curve = turning(joint=1, speed=0.4, span_s=1.2)
    tcp = seen(curve).tcp[:, 2]
    assert tcp[-1] < tcp[0]
    low = float(tcp[250])
    _, until, why = check(workspace_low=(-9.0, -9.0, low)).along(curve)
    assert "the tool would be at" in why
    left = curve.start_s + 1.2 * int(np.argmax(tcp < low + MOST_M)) / 499
    assert left - 1.2 / 13 <= until <= left, "one of the places that are looked at, two for each knot"
    assert check(workspace_low=(-9.0, -9.0, float(tcp[0]))).along(curve)[1] == curve.start_s


def test_motion_is_looked_at_from_where_it_is_asked_to_its_end():
    curve = turning(joint=1, speed=0.4)
    tcp = seen(curve).tcp[:, 2]
    assert tcp[-1] < tcp[0]
    assert check(workspace_high=(9.0, 9.0, float(tcp[200]))).objection(curve, 2.0)
    assert not check(workspace_high=(9.0, 9.0, float(tcp[200]))).objection(curve, 2.0 + 0.6 * 230 / 499)
    assert check(workspace_low=(-9.0, -9.0, float(tcp[-1]))).objection(curve, 2.59)


def test_distances_are_looked_at_every_60_ms_and_at_the_end_with_3_mm_to_spare():
    spy, curve = Spy(ARM), turning(span_s=0.65)
    ToolCheck(spy, replace(FREE, self_distance_m=0.01, scene_distance_m=0.02)).objection(curve, 2.0)
    ((itself, scene),) = spy.distances
    assert (itself, scene) == pytest.approx((0.01 + MOST_APART_M, 0.02 + MOST_APART_M))
    looked = np.array(spy.asked)
    assert looked[0] == pytest.approx(curve.positions[0])
    assert looked[-1] == pytest.approx(curve.positions[-1])
    assert np.diff(looked[:, 0]).max() <= 0.5 * 0.0601
    assert len(looked) <= 13


def test_speeds_and_boxes_are_looked_at_every_20_ms():
    times = []

    class Watched(Curve):
        def at(self, time_s):
            times.append(np.atleast_1d(time_s))
            return super().at(time_s)

    curve = turning(span_s=0.61)
    ToolCheck(Spy(ARM), FREE).objection(
        Watched(curve.times, curve.positions, curve.velocities, curve.accelerations), 2.0
    )
    (looked,) = times
    assert looked[[0, -1]] == pytest.approx([2.0, 2.61])
    assert np.diff(looked).max() <= 0.0200001
    assert len(looked) <= 32


def test_two_things_that_come_near_end_the_motion_and_the_path_before():
    spy, curve = Spy(ARM, lambda q: q[0] > ARM.home[0] + 0.2), turning()
    assert ToolCheck(spy, FREE).objection(curve, 2.0) == "a and b are 1 mm apart"
    slower, until, why = ToolCheck(spy, FREE).along(curve)
    assert (slower, why) == (1.0, "a and b are 1 mm apart")
    assert 0.1 <= 0.5 * (until - 2.0) <= 0.2, "the last look before it"
    last = Spy(ARM, lambda q: q[0] > ARM.home[0] + 0.2999)
    assert ToolCheck(last, FREE).objection(curve, 2.0), "its very end"
    assert ToolCheck(last, FREE).along(curve)[2]
    assert ToolCheck(Spy(ARM, lambda q: True), FREE).along(curve)[1] == 2.0


def test_what_lies_beyond_the_box_is_not_looked_at():
    spy, curve = Spy(ARM), turning(joint=1, speed=0.4)
    tcp = seen(curve).tcp[:, 2]
    ToolCheck(spy, replace(FREE, workspace_low=(-9.0, -9.0, float(tcp[250])))).along(curve)
    deepest = ARM.kinematics.places(np.array(spy.asked)).tcp[:, 2].min()
    assert deepest >= tcp[250] + MOST_M


def test_between_two_looks_no_joint_moves_far_unless_one_row_does():
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1e-2, 0.2):
        place = np.cumsum(rng.normal(size=(60, 7)) * scale, axis=0)
        looks = _looks(place)
        assert (looks[0], looks[-1]) == (0, 59)
        assert looks == sorted(looks)
        for first, second in itertools.pairwise(sorted(set(looks))):
            way = np.abs(np.diff(place[first : second + 1], axis=0)).max(axis=1)
            assert way.sum() < 0.05 + way[-1] or second - first <= 1
    assert _looks(np.zeros((0, 7))) == []
    assert set(_looks(np.zeros((5, 7)))) == {0, 4}
    assert len(_looks(np.linspace(0, 1, 1000)[:, None])) <= 22, "about every 0.05, and no oftener"
