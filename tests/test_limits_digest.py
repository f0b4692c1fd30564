# SPDX-License-Identifier: Apache-2.0
"""The digest that a release names: the same limits, however they were written, and no others."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from runtime.errors import ContractError
from runtime.safety.limits import TOOL_DEFAULTS, CartesianLimits, JointLimits, Timing, limits_digest, station_limits

CARTESIAN: dict[str, Any] = {
    "linear_m_s": 1, "angular_rad_s": 2.0, "linear_m_s2": 3, "angular_rad_s2": 4.0, "max_start_jump_m": 0.1,
    "max_start_jump_rad": 0.2, "workspace_low": [-1, -1.0, 0], "workspace_high": [1, 1.0, 1],
}  # fmt: skip
JOINTS: dict[str, Any] = {
    "joint_low": [-1, -2], "joint_high": [1, 2], "joint_velocity": [1, 1], "joint_acceleration": [2, 2],
    "joint_jerk": [9, 9.0], "max_start_jump_rad": 0.2, **TOOL_DEFAULTS,
}  # fmt: skip
NAMES = ("a", "b", "finger")


def limits(interface: str, **changes: Any) -> CartesianLimits | JointLimits:
    return station_limits(interface, ({**CARTESIAN, **JOINTS} | changes).__getitem__, NAMES)


def test_a_number_is_the_same_limit_with_and_without_a_point() -> None:
    floats = {name: [float(v) for v in value] if isinstance(value, (list, tuple)) else float(value) for name, value in
              {**CARTESIAN, **JOINTS}.items()}  # fmt: skip
    for interface in ("twist", "joint_trajectory"):
        assert limits_digest(limits(interface)) == limits_digest(limits(interface, **floats))


@pytest.mark.parametrize("interface", ["twist", "joint_trajectory"])
def test_every_limit_counts(interface: str) -> None:
    known = limits(interface)
    digests = {limits_digest(known)}
    for field in fields(known):
        value = getattr(known, field.name)
        if field.name == "names":
            changed: Any = ("b", "a")
        elif field.name == "tool":
            changed = replace(value, linear_m_s=0.5)
        else:
            changed = tuple(0.9 * v - 0.01 for v in value) if isinstance(value, tuple) else 0.5 * value
        digests.add(limits_digest(replace(known, **{field.name: changed})))
    assert len(digests) == 1 + len(fields(known))


def test_the_timing_and_the_interface_count_too() -> None:
    known = limits("twist")
    changed = [replace(Timing(), **{field.name: 0.9 * getattr(Timing(), field.name)}) for field in fields(Timing)]
    digests = {limits_digest(known, timing) for timing in (Timing(), *changed)} | {
        limits_digest(limits("joint_trajectory"))
    }
    assert len(digests) == 2 + len(changed)
    assert limits_digest(known) == limits_digest(known, Timing())


def test_limits_that_are_missing_or_of_too_few_joints_are_named() -> None:
    with pytest.raises(KeyError, match="linear_m_s"):
        station_limits("twist", {}.__getitem__, NAMES)
    with pytest.raises(ContractError, match="joint_low has 2 numbers, the robot has 1 joints"):
        station_limits("joint_trajectory", {**CARTESIAN, **JOINTS}.__getitem__, ("a",))
