# SPDX-License-Identifier: Apache-2.0
"""How far, how fast: the station's limits, in SI units. They belong to the robot's parameters, not to the artifact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from runtime.contract.manifest import digest
from runtime.errors import ContractError

OPTIONAL = ("elbow_low", "elbow_high", "approach")  # an elbow and an orientation may be free
LEAST_PIECE_S = 0.005  # of a command, between splice and stop; below a tick of it an arm hardly moves


@dataclass(frozen=True)
class CartesianLimits:
    """Limits of the tool centre point (TCP) in the command frame.

    Attributes:
        linear_m_s, angular_rad_s: speed of the TCP, Euclidean norms.
        linear_m_s2, angular_rad_s2: change of the commanded speed.
        workspace_low, workspace_high: (x, y, z) box [m] that the TCP stays in.
        max_start_jump_m, max_start_jump_rad: how far the TCP may be, when a chunk arrives, from where it was observed.
    """

    linear_m_s: float
    angular_rad_s: float
    linear_m_s2: float
    angular_rad_s2: float
    workspace_low: tuple[float, ...]
    workspace_high: tuple[float, ...]
    max_start_jump_m: float
    max_start_jump_rad: float

    def __post_init__(self) -> None:
        for name in ("linear_m_s", "angular_rad_s", "linear_m_s2", "angular_rad_s2"):
            _positive(name, getattr(self, name))
        for name in ("max_start_jump_m", "max_start_jump_rad"):
            _positive(name, getattr(self, name))
        _box("workspace", self.workspace_low, self.workspace_high, 3)


@dataclass(frozen=True)
class ToolLimits:
    """Limits of places on a joint-controlled arm, in the base frame; checked by forward kinematics.

    Attributes:
        linear_m_s, angular_rad_s: speed of the TCP, Euclidean norms.
        workspace_low, workspace_high: (x, y, z) box [m] that the TCP stays in.
        elbow_low, elbow_high: box of the elbow frame [m]; both empty = the elbow is free.
        approach: (x, y, z) direction that the tool's own z axis is held near; empty = any orientation.
        tilt_rad: largest angle between the two.
        self_distance_m, scene_distance_m: least distance between links, and to the static scene of the cell [m].
    """

    linear_m_s: float
    angular_rad_s: float
    workspace_low: tuple[float, ...]
    workspace_high: tuple[float, ...]
    elbow_low: tuple[float, ...] = ()
    elbow_high: tuple[float, ...] = ()
    approach: tuple[float, ...] = ()
    tilt_rad: float = 3.15  # any
    self_distance_m: float = 0.01
    scene_distance_m: float = 0.02

    def __post_init__(self) -> None:
        for name in ("linear_m_s", "angular_rad_s", "tilt_rad", "self_distance_m", "scene_distance_m"):
            _positive(name, getattr(self, name))
        _box("workspace", self.workspace_low, self.workspace_high, 3)
        if self.elbow_low or self.elbow_high:
            _box("elbow", self.elbow_low, self.elbow_high, 3)
        if self.approach and not (len(self.approach) == 3 and 0.0 < math.hypot(*self.approach) < math.inf):
            raise ContractError(f"limits: approach is {self.approach}, expected a direction (x, y, z), or nothing")


TOOL_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(ToolLimits) if f.default is not MISSING}


@dataclass(frozen=True)
class JointLimits:
    """Limits of each joint; every list is in the order of `names`.

    Attributes:
        low, high: positions [rad] (or [m] for a prismatic joint), margin already taken off.
        velocity, acceleration, jerk: magnitudes.
        max_start_jump_rad: how far a commanded joint may be from the measured one.
        tool: limits that need the arm's kinematics; None only where no arm is meant (a station always has them).
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]
    max_start_jump_rad: float
    tool: ToolLimits | None = None

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ContractError(f"limits: joint names are {list(self.names)}, expected different names, at least one")
        _box("joint", self.low, self.high, len(self.names))
        for name in ("velocity", "acceleration", "jerk"):
            values = getattr(self, name)
            if len(values) != len(self.names):
                raise ContractError(f"limits: joint_{name} has {len(values)} numbers, expected {len(self.names)}")
            for value in values:
                _positive(f"joint_{name}", value)
        _positive("max_start_jump_rad", self.max_start_jump_rad)


@dataclass(frozen=True)
class Timing:
    """How old and how stretched a chunk may be.

    Attributes:
        max_chunk_age_s: from the observation to its use [s]; older answers are rejected.
        max_time_scale: a chunk that would have to be slowed by more than this is rejected, not slowed.
        commit_s: motion beyond now that a joint command carries before its stop [s].
        splice_s: a joint command departs from the one before only this long after now [s]; it must cover the way to the
            controller, which would otherwise join two different curves in the middle.
        command_timeout_s: after which the receiver of twists stops by itself [s] (MoveIt Servo: 0.1).
    """

    max_chunk_age_s: float = 0.5
    max_time_scale: float = 4.0
    commit_s: float = 0.1
    splice_s: float = 0.02
    command_timeout_s: float = 0.1

    def __post_init__(self) -> None:
        for name in ("max_chunk_age_s", "commit_s", "splice_s", "command_timeout_s"):
            _positive(name, getattr(self, name))
        if self.splice_s + LEAST_PIECE_S > self.commit_s:
            raise ContractError(
                f"limits: splice_s is {self.splice_s}, expected at most commit_s, {self.commit_s}, less "
                f"{LEAST_PIECE_S}: only what lies between follows the chunk"
            )
        if not (math.isfinite(self.max_time_scale) and self.max_time_scale >= 1.0):
            raise ContractError(f"limits: max_time_scale is {self.max_time_scale}, expected a number of at least 1")


def station_limits(
    interface: str, number: Callable[[str], Any], joint_names: Sequence[str]
) -> CartesianLimits | JointLimits:
    """The limits that belong to a command interface.

    Args:
        interface: `twist`, or `joint_trajectory`.
        number: gives the robot's parameter below `limits.` of this name, or raises; those of OPTIONAL may be empty.
        joint_names: the robot's joints, those of the arm first.

    Raises:
        ContractError: limits without sense. What `number` raises.
    """
    if interface == "twist":
        return CartesianLimits(**{name: _plain(number(name)) for name in CartesianLimits.__dataclass_fields__})
    lists = {name: _plain(number(f"joint_{name}")) for name in ("low", "high", "velocity", "acceleration", "jerk")}
    arm = tuple(joint_names)[: len(lists["low"])]
    if len(arm) != len(lists["low"]):
        raise ContractError(
            f"limits: joint_low has {len(lists['low'])} numbers, the robot has {len(joint_names)} joints"
        )
    tool = {name: number(name) for name in ToolLimits.__dataclass_fields__}
    given = {name: _plain(value) for name, value in tool.items() if name not in OPTIONAL or value}
    jump = _plain(number("max_start_jump_rad"))
    return JointLimits(arm, **lists, max_start_jump_rad=jump, tool=ToolLimits(**given))


def limits_digest(limits: CartesianLimits | JointLimits, timing: Timing | None = None) -> str:
    """SHA-256 of the canonical JSON of everything the filter limits by; a release names it.

    Equal numbers give equal digests, whether they were written 1 or 1.0. `timing` None is the default one.
    """
    kind = "cartesian" if isinstance(limits, CartesianLimits) else "joint"
    return digest({"kind": kind, "limits": _floats(asdict(limits)), "timing": _floats(asdict(timing or Timing()))})


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float)) else tuple(map(float, value))


def _floats(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as float, so that 1 and 1.0 are one; names and what is not set as they are."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _floats(value)
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value if value is None or isinstance(value, (str, bool)) else float(value)

    return {name: plain(value) for name, value in fields.items()}


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise ContractError(f"limits: {name} is {value}, expected a finite number above 0")


def _box(name: str, low: Sequence[float], high: Sequence[float], size: int) -> None:
    if len(low) != size or len(high) != size:
        raise ContractError(f"limits: {name}_low/high have {len(low)} and {len(high)} numbers, expected {size} each")
    for axis, (below, above) in enumerate(zip(low, high, strict=True)):
        if not (math.isfinite(below) and math.isfinite(above) and below < above):
            raise ContractError(f"limits: {name}_low/high[{axis}] are {below}, {above}, expected finite, low < high")
