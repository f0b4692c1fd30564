# SPDX-License-Identifier: Apache-2.0
"""Everything that a controller is made of, as JSON: what a replay needs besides the events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.contract.codec import decode, encode
from runtime.contract.normalization import Normalization
from runtime.contract.policy_spec import PolicySpec
from runtime.control.observation import ObservationBuffer
from runtime.control.settings import Settings
from runtime.control.state_map import StateMap
from runtime.errors import ContractError
from runtime.recording.values import array, to_array
from runtime.safety.cell import Cell
from runtime.safety.filter import SafetyFilter
from runtime.safety.kinematics import Frames, Kinematics
from runtime.safety.limits import CartesianLimits, JointLimits, Timing

SCHEMA = "dropgate.recording/1"
LIMITS = {"cartesian": CartesianLimits, "joint": JointLimits}


@dataclass(frozen=True)
class Arm:
    """Kinematics as data: the description's own text (or a path, for tests), and what stands around."""

    urdf: str
    frames: Frames
    cell: Cell

    def kinematics(self, joints: tuple[str, ...]) -> Kinematics:
        """For these joints. Raises ContractError."""
        return Kinematics(self.urdf, joints, self.frames, self.cell)


@dataclass(frozen=True)
class Setup:
    """One controller's parts.

    Attributes:
        policy: of the artifact.
        limits, timing, settings: of the station.
        state: source of every entry of the policy's state.
        joints: that every report must hold.
        needs_tcp: the filter needs the tool's pose.
        arm: of joint commands; None for twists.
        trained: the artifact's action statistics, as `normalization.safetensors` holds them; None without.
        about: artifact_id, policy_id, robot, versions: for people.
    """

    policy: PolicySpec
    limits: CartesianLimits | JointLimits
    timing: Timing
    settings: Settings
    state: tuple[str, ...]
    joints: tuple[str, ...]
    needs_tcp: bool
    about: Mapping[str, str]
    arm: Arm | None = None
    trained: Normalization | None = None

    def filter(self) -> SafetyFilter:
        """A new filter."""
        arm = self.arm.kinematics(self.limits.names) if self.arm and isinstance(self.limits, JointLimits) else None
        return SafetyFilter(self.policy.action, self.limits, self.timing, arm, self.trained)

    def buffer(self) -> ObservationBuffer:
        """A new, empty one."""
        return ObservationBuffer(self.policy.observation, self.state_map(), self.joints, self.needs_tcp)

    def state_map(self) -> StateMap:
        """Where the state's numbers come from."""
        return StateMap(self.state, self.policy.observation)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        kind = next(name for name, cls in LIMITS.items() if isinstance(self.limits, cls))
        return {
            "schema": SCHEMA, "policy": encode(self.policy), "limits": {"kind": kind, **encode(self.limits)},
            "timing": encode(self.timing), "settings": encode(self.settings), "state": list(self.state),
            "joints": list(self.joints), "needs_tcp": self.needs_tcp, "about": dict(self.about),
            "arm": None if self.arm is None else encode(self.arm), "trained": _statistics(self.trained),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Any) -> Setup:
        """Inverse of `to_json`. Raises ContractError."""
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise ContractError(f"recording: found schema {found!r}, expected {SCHEMA!r}")
        try:
            limits = dict(data["limits"])
            kind = LIMITS[limits.pop("kind")]
            return cls(
                decode(PolicySpec, data["policy"], "policy"), decode(kind, limits, "limits"),
                decode(Timing, data["timing"], "timing"), decode(Settings, data["settings"], "settings"),
                tuple(data["state"]), tuple(data["joints"]), bool(data["needs_tcp"]), dict(data["about"]),
                None if data["arm"] is None else decode(Arm, data["arm"], "arm"), _normalization(data["trained"]),
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise ContractError(f"recording: the setup is damaged ({type(error).__name__}: {error})") from error


def _statistics(trained: Normalization | None) -> dict[str, Any] | None:
    if trained is None:
        return None
    parts = {name: array(getattr(trained, name)) for name in ("first", "second", "mask")}
    return {"method": trained.method.value, **parts}


def _normalization(data: Any) -> Normalization | None:
    if data is None:
        return None
    return Normalization(data["method"], *(to_array(data[name]) for name in ("first", "second", "mask")))
