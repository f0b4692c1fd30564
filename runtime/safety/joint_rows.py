# SPDX-License-Identifier: Apache-2.0
"""From a chunk's rows to joint positions: by name for joint actions, by inverse kinematics for actions of a tool.

Delta and velocity actions are added up from the observation of their own chunk, never from a newer pose.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from runtime.contract.action import ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, DimRole, Unit
from runtime.errors import ContractError
from runtime.safety.inverse import ToolRows
from runtime.safety.kinematics import Kinematics
from runtime.safety.limits import JointLimits
from runtime.safety.trajectory import Floats


class RowSource(Protocol):
    """One kind of action."""

    def positions(self, chunk: ActionChunk, seen: Floats) -> tuple[Floats, str]:
        """(rows (K <= H, D), why rows are missing at the end or ""). Raises ChunkRejected.

        Args:
            chunk: checked names, horizon, finiteness.
            seen: joint positions (D,) at the chunk's observation.
        """


def row_source(spec: ActionSpec, limits: JointLimits, arm: Kinematics | None) -> RowSource:
    """The one for this spec. Raises ContractError where spec, limits and kinematics do not belong together."""
    if limits.tool is not None and arm is None:
        raise ContractError(
            "limits: the tool's limits need the arm's kinematics: give its description (URDF) and the frames"
        )
    if arm is not None and arm.joints != limits.names:
        raise ContractError(f"kinematics: its joints are {list(arm.joints)}, the limits' {list(limits.names)}")
    if not any(dim.role in (DimRole.TRANSLATION, DimRole.ROTATION) for dim in spec.dims):
        return JointRows(spec, limits.names)
    if arm is None:
        raise ContractError("joint commands: actions of a tool need the arm's kinematics (its URDF and frames)")
    return ToolRows(spec, limits, arm)


class JointRows:
    """Absolute, delta or velocity actions of joints. Raises ContractError unless names and units are the robot's."""

    def __init__(self, spec: ActionSpec, names: tuple[str, ...]) -> None:
        joints = {dim.name: i for i, dim in enumerate(spec.dims) if dim.role is DimRole.JOINT}
        if set(joints) != set(names):
            raise ContractError(
                f"joint commands: the policy moves {sorted(joints)}, the robot's joints are {sorted(names)}; "
                "give the artifact's names in `joints.names`"
            )
        velocity = spec.kind is ActionKind.VELOCITY
        units = (Unit.RADIAN_PER_SECOND, Unit.METRE_PER_SECOND) if velocity else (Unit.RADIAN, Unit.METRE)
        wrong = [dim.name for dim in spec.dims if dim.role is DimRole.JOINT and dim.unit not in units]
        if wrong:
            raise ContractError(f"joint commands: {wrong} of {spec.kind.value} actions are not in {units[0].value}")
        self._spec, self._columns = spec, [joints[name] for name in names]

    def positions(self, chunk: ActionChunk, seen: Floats) -> tuple[Floats, str]:
        """See `RowSource`."""
        moves = self._spec.to_physical(chunk.values)[:, self._columns]
        if self._spec.kind is ActionKind.ABSOLUTE:
            return moves, ""
        step = chunk.dt_s if self._spec.kind is ActionKind.VELOCITY else 1.0
        return np.asarray(seen + np.cumsum(moves * step, axis=0)), ""
