# SPDX-License-Identifier: Apache-2.0
"""The monitor finds every breach that is planted in a good trajectory, and nothing in a good one."""

from dataclasses import replace

import numpy as np
import pytest
from arm_models import seven

from runtime.safety.curve import of_jerks
from runtime.safety.monitor import Monitor, Played
from runtime.safety.profiles import StopPlanner

ARM = seven()
LIMITS = ARM.limits
NOW = 5.0


def good(speed_of_j1: float = 0.2) -> Played:
    """Joint 1 speeds up and stops."""
    jerk = np.zeros((2, 7))
    jerk[:, 0] = (12.0, -12.0)
    zero = np.zeros(7)
    begin = of_jerks(NOW, (ARM.home, zero, zero), np.full(2, np.sqrt(speed_of_j1 / 12.0)), jerk)
    state = (begin.positions[-1], begin.velocities[-1], begin.accelerations[-1])
    whole = begin.joined(StopPlanner(LIMITS.acceleration, LIMITS.jerk).stop(begin.end_s, state))
    return Played(whole.times, whole.positions, whole.velocities, whole.accelerations)


def objection(new: Played, before: Played | None = None, limits=LIMITS, until: float = NOW) -> str:
    return Monitor(limits, ARM.kinematics).objection(new, before, until)


def test_a_good_trajectory_passes():
    assert objection(good()) == ""


def test_its_own_samples_are_those_of_a_polynomial_fit():
    played = good()
    times = np.linspace(NOW, played.times[-1] - 1e-6, 200)
    p, v, a, j = played.sample(times)
    step = 1e-5
    later = played.sample(times + step)
    inside = np.min(np.abs(times[:, None] - played.times), axis=1) > 2 * step
    for value, rate, next_value in ((p, v, later[0]), (v, a, later[1]), (a, j, later[2])):
        assert ((next_value - value) / step)[inside] == pytest.approx(rate[inside], abs=2e-4)


def spoiled(name: str) -> Played:
    played = good()
    t, p, v, a = (x.copy() for x in (played.times, played.positions, played.velocities, played.accelerations))
    if name == "nan":
        p[3, 2] = np.nan
    elif name == "times":
        t[2] = t[1]
    elif name == "not at rest":
        v[-1, 0] = 1e-12
    elif name == "range":
        p[:, 3] = LIMITS.high[3] + 0.01
    elif name == "step":
        p[4:, 1] += 0.01
    elif name == "velocity knot":
        v[3, 4] = 0.7
    elif name == "acceleration knot":
        a[3, 5] = 5.5
    return Played(t, p, v, a)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nan", "not finite"), ("times", "do not ascend"), ("not at rest", "not end at rest"),
        ("range", "j4 would leave its range"), ("step", "of j2 reaches"), ("velocity knot", "of j5 reaches"),
        ("acceleration knot", "of j6 reaches"),
    ],
)  # fmt: skip
def test_a_planted_breach_of_a_joint_is_named(name, said):
    assert said in objection(spoiled(name))


@pytest.mark.parametrize("name", ["velocity", "acceleration", "jerk"])
def test_a_limit_a_little_below_what_is_reached_is_a_breach(name):
    played = good()
    times = np.arange(NOW, played.times[-1], 0.002)
    reached = float(np.abs(played.sample(times)[{"velocity": 1, "acceleration": 2, "jerk": 3}[name]][:, 0]).max())
    for factor, breach in ((1.01, False), (0.99, True)):
        values = (factor * reached, *getattr(LIMITS, name)[1:])
        assert bool(objection(played, limits=replace(LIMITS, **{name: values}))) is breach


def tool(**changes):
    assert LIMITS.tool is not None
    return replace(LIMITS, tool=replace(LIMITS.tool, **changes))


def test_a_planted_breach_of_the_tools_limits_is_named():
    played = good()
    seen = ARM.kinematics.places(*played.sample(np.arange(NOW, played.times[-1], 0.002))[:2])
    fastest = float(np.linalg.norm(seen.linear, axis=1).max())
    turning = float(np.linalg.norm(seen.angular, axis=1).max())
    left = float(seen.tcp[:, 1].max())
    low, high = LIMITS.tool.workspace_low, LIMITS.tool.workspace_high
    cases = [
        (tool(linear_m_s=fastest * 0.99), "tool speed"),
        (tool(angular_rad_s=turning * 0.99), "turning speed"),
        (tool(workspace_high=(high[0], left - 1e-4, high[2])), "the tool would leave its box"),
        (tool(elbow_low=(-0.1, -0.5, 0.2)), "the elbow would leave its box"),
        (tool(approach=(0.0, 0.3, -1.0), tilt_rad=0.2), "tilt too far"),
        (tool(scene_distance_m=0.6), "mm apart"),
        (tool(self_distance_m=0.6), "mm apart"),
    ]
    for limits, said in cases:
        assert said in objection(played, limits=limits), said
    assert objection(played, limits=tool(linear_m_s=fastest * 1.01, angular_rad_s=turning * 1.01)) == ""
    assert low[1] < 0 < left


def test_a_trajectory_must_go_on_from_what_is_being_played():
    played = good()
    assert objection(played, played, until=played.times[-1]) == ""
    for shift, said in (((1e-5, 0, 0), "place"), ((0, 1e-4, 0), "speed"), ((0, 0, 1e-2), "acceleration")):
        other = Played(
            played.times, played.positions + shift[0], played.velocities + shift[1], played.accelerations + shift[2]
        )
        assert f"whose {said} does not continue" in objection(played, other)
    moving = Played(played.times, played.positions, played.velocities + 0.01, played.accelerations)
    assert "does not" in objection(moving, None)
