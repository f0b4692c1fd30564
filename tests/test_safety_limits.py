# SPDX-License-Identifier: Apache-2.0
"""Limits without sense are refused by name, at once; the ends of what has sense are accepted."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest

from runtime.errors import ContractError
from runtime.safety.limits import (
    TOOL_DEFAULTS,
    CartesianLimits,
    JointLimits,
    Timing,
    ToolLimits,
    limits_digest,
    station_limits,
)

BOX: dict[str, Any] = {"workspace_low": (-1.0, -1.0, 0.0), "workspace_high": (1.0, 1.0, 1.0)}
CARTESIAN = CartesianLimits(0.5, 4.0, 8.0, 80.0, **BOX, max_start_jump_m=0.05, max_start_jump_rad=0.3)
TOOL = ToolLimits(0.5, 2.0, **BOX)
JOINTS = JointLimits(("a", "b"), (-1.0, -2.0), (1.0, 2.0), (1.0, 1.0), (2.0, 2.0), (9.0, 9.0), 0.2)
NUMBERS = [
    (known, field.name)
    for known in (CARTESIAN, TOOL, JOINTS, Timing())
    for field in fields(known)
    if isinstance(getattr(known, field.name), float)
]


@pytest.mark.parametrize(("known", "name"), NUMBERS, ids=[f"{type(k).__name__}.{n}" for k, n in NUMBERS])
def test_every_number_is_finite_and_above_0(known: Any, name: str) -> None:
    for value in (0.0, -0.1, math.inf, math.nan):
        with pytest.raises(ContractError, match=f"limits: {name} is {value}"):
            replace(known, **{name: value})


@pytest.mark.parametrize("known", [CARTESIAN, TOOL], ids=["cartesian", "tool"])
@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"workspace_low": (-1.0, -1.0)}, "have 2 and 3 numbers, expected 3"),
        ({"workspace_high": (1.0, 1.0, 1.0, 1.0)}, "have 3 and 4 numbers, expected 3"),
        ({"workspace_low": (-1.0, 1.0, 0.0)}, r"\[1\] are 1.0, 1.0, expected finite, low < high"),
        ({"workspace_low": (-1.0, -1.0, -math.inf)}, r"\[2\] are -inf"),
        ({"workspace_high": (math.inf, 1.0, 1.0)}, r"\[0\] are -1.0, inf"),
        ({"workspace_high": (1.0, math.nan, 1.0)}, r"\[1\] are -1.0, nan"),
    ],
)
def test_box_is_three_finite_intervals(known: Any, spoiled: dict[str, Any], said: str) -> None:
    with pytest.raises(ContractError, match="limits: workspace_low/high.*" + said):
        replace(known, **spoiled)


def test_elbow_is_free_or_has_a_whole_box() -> None:
    low, high = BOX.values()
    assert replace(TOOL, elbow_low=low, elbow_high=high).elbow_high == high
    for half in ({"elbow_low": low}, {"elbow_high": high}, {"elbow_low": high, "elbow_high": low}):
        with pytest.raises(ContractError, match="limits: elbow_low/high"):
            replace(TOOL, **half)


def test_approach_is_a_direction_or_nothing() -> None:
    for good in ((), (0.0, 0.0, -2.0)):
        assert replace(TOOL, approach=good).approach == good
    for bad in ((0.0, 0.0, 0.0), (0.0, -1.0), (0.0, 0.0, math.inf), (0.0, 0.0, math.nan)):
        with pytest.raises(ContractError, match="limits: approach is"):
            replace(TOOL, approach=bad)


@pytest.mark.parametrize("names", [(), ("a", "a")])
def test_joints_have_names_of_their_own(names: tuple[str, ...]) -> None:
    with pytest.raises(ContractError, match="limits: joint names are"):
        replace(JOINTS, names=names)


@pytest.mark.parametrize("name", ["low", "high", "velocity", "acceleration", "jerk"])
def test_every_joint_has_every_limit(name: str) -> None:
    for size in (1, 3):
        with pytest.raises(ContractError, match=rf"limits: joint_(low/high|{name}) ha.*{size}.* numbers?, expected 2"):
            replace(JOINTS, **{name: (3.0,) * size})
    if name in ("low", "high"):
        return
    for position in (0, 1):
        values = [1.0, 1.0]
        values[position] = 0.0
        with pytest.raises(ContractError, match=f"limits: joint_{name} is 0.0"):
            replace(JOINTS, **{name: tuple(values)})


def test_joint_ranges_are_intervals() -> None:
    with pytest.raises(ContractError, match=r"limits: joint_low/high\[1\] are 2.0, 2.0"):
        replace(JOINTS, low=(-1.0, 2.0))


def test_ends_of_timing() -> None:
    assert Timing(max_time_scale=1.0).max_time_scale == 1.0
    assert Timing(splice_s=0.095, commit_s=0.1).splice_s == 0.095
    for splice_s in (0.0951, 0.11):
        with pytest.raises(
            ContractError, match=rf"splice_s is {splice_s}, expected at most commit_s, 0\.1, less 0\.005"
        ):
            Timing(splice_s=splice_s, commit_s=0.1)
    for value in (0.99, math.inf, math.nan):
        with pytest.raises(ContractError, match="max_time_scale is"):
            Timing(max_time_scale=value)


def given(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "joint_low": [-1, -2], "joint_high": [1, 2], "joint_velocity": [1, 1], "joint_acceleration": [2, 2],
        "joint_jerk": [9, 9], "max_start_jump_rad": 1, "linear_m_s": 1, "angular_rad_s": 2, **BOX, **TOOL_DEFAULTS,
    }  # fmt: skip
    return (values | changes).__getitem__


def test_arms_joints_are_the_first_of_the_robots_and_what_is_optional_may_be_empty() -> None:
    found = station_limits("joint_trajectory", given(approach=[], elbow_low=[], elbow_high=[]), ("a", "b", "finger"))
    assert isinstance(found, JointLimits)
    assert (found.names, found.low, found.max_start_jump_rad) == (("a", "b"), (-1.0, -2.0), 1.0)
    assert found.tool == ToolLimits(1.0, 2.0, **BOX)
    assert station_limits("joint_trajectory", given(), ("a", "b")).names == ("a", "b")  # type: ignore[union-attr]
    down = station_limits("joint_trajectory", given(approach=[0, 0, -1]), ("a", "b"))
    assert down.tool.approach == (0.0, 0.0, -1.0)  # type: ignore[union-attr]


def test_defaults_of_a_tool_are_those_that_it_has() -> None:
    assert set(TOOL_DEFAULTS) == {
        "elbow_low", "elbow_high", "approach", "tilt_rad", "self_distance_m", "scene_distance_m",
    }  # fmt: skip
    assert TOOL_DEFAULTS["tilt_rad"] >= math.pi, "any orientation"
    assert min(TOOL_DEFAULTS["self_distance_m"], TOOL_DEFAULTS["scene_distance_m"]) >= 0.01


def test_digest_of_an_arm_without_tool_is_another() -> None:
    assert limits_digest(JOINTS) != limits_digest(replace(JOINTS, tool=TOOL))
    assert limits_digest(replace(JOINTS, tool=TOOL)) != limits_digest(replace(JOINTS, tool=replace(TOOL, tilt_rad=1.0)))


def test_number_of_0_is_refused_and_not_taken_for_one_that_is_missing() -> None:
    with pytest.raises(ContractError, match=r"limits: tilt_rad is 0\.0"):
        station_limits("joint_trajectory", given(tilt_rad=0), ("a", "b"))


def test_digests_that_releases_were_signed_with_stay_what_they_are() -> None:
    assert limits_digest(CARTESIAN) == "1cc6ba789e82c706894ae04dfd50b47c0e8e92376dac7e36341f265d208ff3ae"
    assert (
        limits_digest(replace(JOINTS, tool=TOOL)) == "0cf26e3d64c758e03bff3fd9415652374bce30637481dfeb738be8092a3d491a"
    )
