# SPDX-License-Identifier: Apache-2.0
"""The monitor's own curve against one that is solved for; each limit, to each side; how closely it looks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from arm_models import seven
from arm_spy import Spy

from runtime.safety.limits import JointLimits, ToolLimits
from runtime.safety.monitor import Monitor, Played

ARM = seven()
HUGE = (1e6, 1e6)
FREE = JointLimits(("a", "b"), (-1e6, -1e6), HUGE, HUGE, HUGE, HUGE, 0.2)


def knots(seed: int = 0, count: int = 5) -> Played:
    """Any knots, at rest at the end."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, count, 2))
    values[1:, -1] = 0.0
    return Played(3.0 + np.cumsum(rng.uniform(0.05, 0.4, count)), *values)


def solved(played: Played, k: int) -> list[np.poly1d]:
    """The quintic of piece k for each joint, from its six conditions."""
    h = played.times[k + 1] - played.times[k]
    conditions = np.array(
        [
            [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0], [0, 0, 0, 2, 0, 0], [h**5, h**4, h**3, h**2, h, 1],
            [5 * h**4, 4 * h**3, 3 * h**2, 2 * h, 1, 0], [20 * h**3, 12 * h**2, 6 * h, 2, 0, 0],
        ]
    )  # fmt: skip
    values = [played.positions, played.velocities, played.accelerations]
    wanted = [v[k] for v in values] + [v[k + 1] for v in values]
    return [np.poly1d(column) for column in np.linalg.solve(conditions, np.array(wanted)).T]


def test_samples_are_those_of_the_quintic_through_the_knots():
    played = knots()
    for k in range(4):
        times = np.linspace(played.times[k], played.times[k + 1] - 1e-9, 20)
        for joint, quintic in enumerate(solved(played, k)):
            for order, found in enumerate(played.sample(times)):
                curve = quintic.deriv(order) if order else quintic
                assert found[:, joint] == pytest.approx(curve(times - played.times[k]), rel=1e-6, abs=1e-6)


def test_before_the_first_knot_is_that_knot_and_from_the_last_on_there_is_rest():
    played = knots()
    place, speed, rate, _ = played.sample(np.array([0.0, played.times[-1], played.times[-1] + 5.0]))
    assert place[0] == pytest.approx(played.positions[0])
    assert speed[0] == pytest.approx(played.velocities[0])
    assert rate[0] == pytest.approx(played.accelerations[0])
    for found in played.sample(np.array([played.times[-1], played.times[-1] + 5.0]))[1:]:
        assert not found.any()
    assert place[1:] == pytest.approx(np.tile(played.positions[-1], (2, 1)))


def test_two_knots_are_one_quintic():
    zero = np.zeros((2, 1))
    place, speed, _, _ = Played(np.array([0.0, 2.0]), np.array([[0.0], [1.0]]), zero, zero).sample(np.array([0.0, 1.0]))
    assert place[:, 0] == pytest.approx([0.0, 0.5])
    assert speed[:, 0] == pytest.approx([0.0, 1.875 / 2.0])


def test_one_knot_is_a_place():
    played = Played(np.ones(1), np.array([[0.3, 0.4]]), np.ones((1, 2)), np.ones((1, 2)))
    place, *rest = played.sample(np.array([0.0, 1.0, 2.0]))
    assert place.tolist() == [[0.3, 0.4]] * 3
    assert not any(values.any() for values in rest)


def swing(size: float = 0.1, span: float = 1.0, joint: int = 0) -> Played:
    """One joint from 0 by `size` and at rest there, in two quintics."""
    times = np.array([0.0, span / 2, span])
    p, v, a = np.zeros((3, 3, 2))
    p[:, joint], v[1, joint] = (0.0, size / 2, size), 1.875 * size / span
    return Played(times, p, v, a)


def reached(played: Played) -> list[float]:
    return [float(np.abs(values).max()) for values in played.sample(np.arange(played.times[0], played.times[-1], 1e-4))]


@pytest.mark.parametrize("joint", [0, 1])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(
    ("name", "order", "said"), [("velocity", 1, "speed"), ("acceleration", 2, "acceleration"), ("jerk", 3, "jerk")]
)
def test_each_limit_counts_for_each_joint_and_direction_to_a_thousandth(joint, sign, name, order, said):
    played = swing(sign * 0.1, joint=joint)
    most = reached(played)[order]
    for share, objected in ((1.003, False), (0.997, True)):
        values = [1e6, 1e6]
        values[joint] = share * most
        found = Monitor(replace(FREE, **{name: tuple(values)}), None).objection(played, None, 0.0)
        assert bool(found) is objected
        if objected:
            assert found.startswith(f"{said} of {FREE.names[joint]} reaches 1.00")


@pytest.mark.parametrize(("name", "order"), [("velocity", 1), ("acceleration", 2), ("jerk", 3)])
def test_what_reaches_a_limit_does_not_break_it(name, order):
    """As sampled at the very 500 Hz."""
    played = swing()
    top = float(np.abs(played.sample(np.append(np.arange(0.0, 1.0, 0.002), 1.0))[order]).max())
    for share, objected in ((1.0, False), (0.998, True)):
        limits = replace(FREE, **{name: (share * top, 1e6)})
        assert bool(Monitor(limits, None).objection(played, None, 0.0)) is objected


def test_exactly_a_limit_is_within_it_and_rounding_too():
    """A piece of constant speed: 0.25 rad/s."""
    times = np.array([0.0, 1.0, 2.0, 3.0])
    p = np.array([[0.0, 0], [0.125, 0], [0.375, 0], [0.5, 0]])
    v = np.array([[0.0, 0], [0.25, 0], [0.25, 0], [0.0, 0]])
    played = Played(times, p, v, np.zeros((4, 2)))
    fastest = reached(played)[1]
    for most, objected in ((fastest, False), (fastest * (1 - 5e-7), False), (fastest * (1 - 5e-6), True)):
        found = Monitor(replace(FREE, velocity=(most, 1.0)), None).objection(played, None, 0.0)
        assert bool(found) is objected


@pytest.mark.parametrize("joint", [0, 1])
def test_ranges_are_kept_exactly_to_both_sides(joint):
    for sign, name in ((1.0, "high"), (-1.0, "low")):
        played = swing(sign * 0.1, joint=joint)
        for spare, objected in ((0.0, False), (-1e-6, True)):
            ends = list(getattr(FREE, name))
            ends[joint] = sign * (0.1 + spare)
            found = Monitor(replace(FREE, **{name: tuple(ends)}), None).objection(played, None, 0.0)
            assert found == (f"{FREE.names[joint]} would leave its range" if objected else "")


@pytest.mark.parametrize("order", [1, 2])
def test_an_end_that_is_not_exact_rest_is_refused(order):
    played = swing()
    arrays = [played.positions, played.velocities.copy(), played.accelerations.copy()]
    arrays[order][-1, 1] = -1e-300
    assert "does not end at rest" in Monitor(FREE, None).objection(Played(played.times, *arrays), None, 0.0)


def test_a_single_knot_or_times_that_stand_are_no_trajectory():
    one = Played(np.zeros(1), np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((1, 2)))
    assert "times do not ascend" in Monitor(FREE, None).objection(one, None, 0.0)
    two = Played(np.zeros(2), *np.zeros((3, 2, 2)))
    assert "times do not ascend" in Monitor(FREE, None).objection(two, None, 0.0)
    short = Played(np.array([0.0, 0.1]), *np.zeros((3, 2, 2)))
    assert Monitor(FREE, None).objection(short, None, 0.0) == ""


@pytest.mark.parametrize("name", ["times", "positions", "velocities", "accelerations"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_wherever_it_stands(name, value):
    arrays = {key: getattr(swing(), key).copy() for key in ("times", "positions", "velocities", "accelerations")}
    arrays[name][-1] = value
    assert "not finite" in Monitor(FREE, None).objection(Played(**arrays), None, 0.0)


# ---- going on from what is played -----------------------------------------------------------------------------------


def bent(played: Played, from_s: float) -> Played:
    """The same until `from_s`, another way after that."""
    times = np.sort(np.append(played.times, from_s))
    p, v, a, _ = played.sample(times)
    p[-1] += 0.02
    return Played(times, p, v, a)


def test_only_what_is_still_on_its_way_must_be_the_same():
    played = swing()
    monitor = Monitor(FREE, None)
    other = bent(played, 0.75)
    for until, same in ((0.0, True), (0.4, True), (0.74, True), (0.9, False), (1.0, False)):
        assert (monitor.objection(other, played, until) == "") is same, until
    assert monitor.objection(other, played, -5.0) == "", "before its begin there is nothing to compare"


def test_a_difference_in_the_middle_of_what_is_on_its_way_is_seen():
    """Equal at both ends, not between them."""
    played = swing()
    times = np.sort(np.append(played.times, 0.25))
    p, v, a, _ = played.sample(times)
    p[1] += 1e-3
    assert "does not continue" in Monitor(FREE, None).objection(Played(times, p, v, a), played, 1.0)


@pytest.mark.parametrize(("order", "name", "same"), [(0, "place", 1e-7), (1, "speed", 1e-6), (2, "acceleration", 1e-4)])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_how_near_the_same_is(order, name, same, sign):
    played = swing()
    for size, objected in ((0.8 * same, False), (1.2 * same, True)):
        arrays = [x.copy() for x in (played.positions, played.velocities, played.accelerations)]
        arrays[order][0, 1] += sign * size
        found = Monitor(FREE, None).objection(Played(played.times, *arrays), played, 0.0)
        assert found == (f"a trajectory whose {name} does not continue what was commanded before" if objected else "")


def test_an_arm_that_rests_is_left_from_rest():
    played = swing()
    assert Monitor(FREE, None).objection(played, None, 0.0) == ""
    for order, name in ((1, "speed"), (2, "acceleration")):
        arrays = [x.copy() for x in (played.positions, played.velocities, played.accelerations)]
        arrays[order][0, 1] = 0.01
        assert f"whose {name} does not" in Monitor(FREE, None).objection(Played(played.times, *arrays), None, 0.0)
    assert "whose place does not" in Monitor(FREE, None).objection(played, None, 0.5), "it moves before it may"


# ---- tool -----------------------------------------------------------------------------------------------------------

WIDE = ToolLimits(9.0, 9.0, (-9.0,) * 3, (9.0,) * 3, self_distance_m=1e-9, scene_distance_m=1e-9)


def turn(joint: int = 1, size: float = 0.2, span: float = 0.8) -> Played:
    times = np.array([0.0, span / 2, span])
    p, v, a = np.tile(ARM.home, (3, 1)), np.zeros((3, 7)), np.zeros((3, 7))
    p[1, joint] += size / 2
    p[2, joint] += size
    v[1, joint] = 1.875 * size / span
    return Played(times, p, v, a)


def objection(played: Played, arm=ARM.kinematics, **changes) -> str:
    wide = replace(
        ARM.limits, low=(-9.0,) * 7, high=(9.0,) * 7, velocity=(99.0,) * 7, acceleration=(999.0,) * 7,
        jerk=(9e9,) * 7, tool=replace(WIDE, **changes),
    )  # fmt: skip
    return Monitor(wide, arm).objection(played, None, 0.0)


def places(played: Played):
    times = np.append(np.arange(played.times[0], played.times[-1], 1e-4), played.times[-1])
    return ARM.kinematics.places(*played.sample(times)[:2])


@pytest.mark.parametrize(
    ("field", "name", "said"),
    [("linear_m_s", "linear", "tool speed"), ("angular_rad_s", "angular", "turning speed of the tool")],
)
def test_tools_speed_is_held_to_its_limit(field, name, said):
    played = turn()
    fastest = float(np.linalg.norm(getattr(places(played), name), axis=1).max())
    assert objection(played, **{field: fastest * 1.0005}) == ""
    assert objection(played, **{field: fastest * 0.9995}).startswith(f"{said} reaches {fastest:.3g}"[:-1])


@pytest.mark.parametrize(("frame", "box", "who"), [("tcp", "workspace", "the tool"), ("elbow", "elbow", "the elbow")])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", ["low", "high"])
def test_boxes_are_kept_exactly(frame, box, who, axis, side):
    played = turn(joint=1, size=-0.2 if side == "low" else 0.2)
    reach = getattr(places(played), frame)[:, axis]
    sign, outermost = (-1.0, reach.min()) if side == "low" else (1.0, reach.max())
    for spare, objected in ((1e-5, False), (-1e-5, True)):
        bounds = {"low": [-9.0] * 3, "high": [9.0] * 3}
        bounds[side][axis] = float(outermost) + sign * spare
        found = objection(played, **{f"{box}_low": tuple(bounds["low"]), f"{box}_high": tuple(bounds["high"])})
        assert found == (f"{who} would leave its box" if objected else "")


def test_tilt_is_kept_whatever_the_length_of_the_direction():
    played = turn(joint=5)
    approach = tuple(4.0 * places(played).axis[0])
    assert objection(played, approach=approach, tilt_rad=0.2001) == ""
    assert objection(played, approach=approach, tilt_rad=0.1999) == "the tool would tilt too far"


def test_a_tool_exactly_at_its_limits_is_within_them():
    there = ARM.kinematics.places(ARM.home[None])
    rest = Played(np.array([0.0, 0.1]), np.tile(ARM.home, (2, 1)), *np.zeros((2, 2, 7)))
    tcp, elbow = tuple(there.tcp[0]), tuple(there.elbow[0])
    approach = there.axis[0] + np.array([0.1, 0.2, 0.0])
    tilt = float(np.arccos(there.axis[0] @ approach / np.linalg.norm(approach)))
    assert objection(rest, workspace_high=tcp) == objection(rest, workspace_low=tcp) == ""
    assert objection(rest, elbow_low=elbow, elbow_high=(9.0,) * 3) == ""
    assert objection(rest, elbow_high=elbow, elbow_low=(-9.0,) * 3) == ""
    assert objection(rest, approach=tuple(approach), tilt_rad=tilt) == ""
    played = turn()
    moving = ARM.kinematics.places(*played.sample(np.append(np.arange(0.0, 0.8, 0.002), 0.8))[:2])
    linear, angular = (float(np.linalg.norm(x, axis=1).max()) for x in (moving.linear, moving.angular))
    assert objection(played, linear_m_s=linear, angular_rad_s=angular) == ""


def test_distances_are_looked_at_every_40_ms_and_where_it_ends():
    spy, played = Spy(ARM), turn(span=0.81)
    assert objection(played, spy, self_distance_m=0.01, scene_distance_m=0.02) == ""
    assert spy.distances == {(0.01, 0.02)}
    looked = np.array(spy.asked)[:, 1]
    wanted = played.sample(np.append(np.arange(0.04, 0.81, 0.04), 0.81))[0][:, 1]
    assert looked == pytest.approx(wanted)
    end = ARM.home[1] + 0.2
    assert objection(played, Spy(ARM, lambda q: q[1] > end - 1e-6)) == "a and b are 1 mm apart"


def test_without_an_arm_or_tool_limits_the_joints_alone_are_looked_at():
    played = turn()
    tight = replace(ARM.limits, velocity=(9.0,) * 7, acceleration=(99.0,) * 7, jerk=(9e9,) * 7)
    tight = replace(tight, tool=replace(WIDE, linear_m_s=1e-6))
    assert Monitor(tight, ARM.kinematics).objection(played, None, 0.0)
    assert Monitor(tight, None).objection(played, None, 0.0) == ""
    assert Monitor(replace(tight, tool=None), ARM.kinematics).objection(played, None, 0.0) == ""
