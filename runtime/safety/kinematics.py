# SPDX-License-Identifier: Apache-2.0
"""The arm's geometry: where its tool and elbow are, how fast, how near to itself and to the cell. Wraps pinocchio.

Built from a URDF (a file, or the text of `robot_description`) or an MJCF file. Everything is in the base frame. Many
configurations at once go through numpy with the constants of pinocchio's model (a tick has no time for a loop of single
calls); single ones, Jacobians and distances through pinocchio and coal. A test compares both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import ContractError
from runtime.safety.cell import Cell
from runtime.safety.shapes import CellShapes, frame_of
from runtime.safety.trajectory import Floats

INSTALL = 'pip install -e ".[control]" in the DropGate checkout'


@dataclass(frozen=True)
class Frames:
    """Names of frames (links) of the description; an empty base is its root, an empty elbow is none."""

    tcp: str
    base: str = ""
    elbow: str = ""


@dataclass(frozen=True, eq=False)
class Places:
    """Forward kinematics of N configurations, base frame.

    Attributes:
        tcp: (N, 3) [m].
        axis: (N, 3) the tool's own z axis.
        elbow: (N, 3) [m], or None.
        linear, angular: (N, 3) velocity of the TCP [m/s, rad/s]; None where no joint velocities were given.
    """

    tcp: Floats
    axis: Floats
    elbow: Floats | None
    linear: Floats | None = None
    angular: Floats | None = None


@dataclass(frozen=True, eq=False)
class _Link:
    """One controlled joint of the chain, which turns by A (1 + sin K + (1 - cos) K^2).

    Attributes:
        ways: (11, 3): columns of A, A K and A K^2, then the offset from the joint before, then the axis A z.
        column: of the configuration.
        prismatic: it shifts along the axis instead.
    """

    ways: Floats
    column: int
    prismatic: bool


class Kinematics:
    """One arm. Joints that are not named (fingers) stay in the description's neutral pose.

    Args:
        source: path of a URDF or MJCF file, or the text of a URDF.
        joints: controlled joints, in the order of every configuration.
        frames: where the tool and the elbow are.
        cell: the static scene, capsules, pairs that may touch.

    Raises:
        ContractError: pinocchio is missing, the description cannot be read, a name does not exist in it.
    """

    def __init__(self, source: str | Path, joints: Sequence[str], frames: Frames, cell: Cell | None = None) -> None:
        self._pin, self._coal = _libraries()
        model, shapes = self._read(source)
        self._lock_the_rest(model, shapes, joints)
        self.joints, self._frames = tuple(joints), frames
        self._columns = [int(self._model.joints[self._model.getJointId(name)].idx_q) for name in joints]
        self._data = self._model.createData()
        self._tcp = self._frame(frames.tcp)
        self._elbow = self._frame(frames.elbow) if frames.elbow else None
        self._base = self._fixed_base(frames.base)
        self._chain, self._ends = self._chains()
        shapes = CellShapes(self._pin, self._coal, self._model, self._shapes, self._base)
        self._pairs = shapes.compare(cell or Cell())
        self._near = self._shapes.createData()

    def places(self, q: Floats, qd: Floats | None = None) -> Places:
        """Tool and elbow of configurations (N, D), with velocities if `qd` (N, D) is given."""
        count = len(q)  # the last axis of everything below: long rows are what numpy is fast on
        sines, rest = np.sin(q).T, 1.0 - np.cos(q).T
        columns = np.repeat(self._base[:, :3, None], count, axis=2)  # (3, 3, N): columns[c] of the rotations base^T
        place = np.repeat((-self._base[:, :3].T @ self._base[:, 3])[:, None], count, axis=1)
        axes, joints = np.empty((2, len(self._chain), 3, count))
        found: dict[int, tuple[Floats, Floats]] = {}
        for k in range(len(self._chain) + 1):
            for after, turn, shift, which in self._ends:
                if after == k:
                    found[which] = (place + _mixed(shift, columns), _mixed(turn[:, 2], columns))
            if k == len(self._chain):
                break
            link = self._chain[k]
            ways = (link.ways @ columns.reshape(3, -1)).reshape(11, 3, count)
            place = joints[k] = place + ways[9]
            axes[k] = ways[10]
            if link.prismatic:
                place, columns = place + ways[10] * q[:, link.column], ways[:3]
            else:
                columns = ways[:3] + sines[link.column] * ways[3:6] + rest[link.column] * ways[6:9]
        tcp, facing = found[0]
        linear, angular = (None, None) if qd is None else self._velocities(axes, tcp - joints, qd.T)
        return Places(tcp.T, facing.T, found[1][0].T if 1 in found else None, linear, angular)

    def _velocities(self, axes: Floats, arms: Floats, qd: Floats) -> tuple[Floats, Floats]:
        """(N, 3) twice, from axes and ways to the tool (joints, 3, N) and joint velocities (D, N)."""
        rates = axes * qd[[link.column for link in self._chain], None]
        slides = np.array([link.prismatic for link in self._chain], dtype=bool)
        linear = rates[slides].sum(axis=0)
        rates[slides] = 0.0
        spin, arm = rates.transpose(1, 0, 2), arms.transpose(1, 0, 2)
        for k, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):  # the cross product, summed over the joints
            linear[k] += (spin[i] * arm[j] - spin[j] * arm[i]).sum(axis=0)
        return linear.T, rates.sum(axis=0).T

    def pose(self, q: Floats) -> tuple[Floats, Floats]:
        """(position (3,) [m], rotation matrix (3, 3)) of the TCP at one configuration (D,)."""
        self._pin.framesForwardKinematics(self._model, self._data, self._own(q))
        rotation, place = self._data.oMf[self._tcp].rotation, self._data.oMf[self._tcp].translation
        turn, shift = self._base[:, :3], self._base[:, 3]
        return np.asarray(turn.T @ (place - shift)), np.asarray(turn.T @ rotation)

    def jacobian(self, q: Floats) -> Floats:
        """(6, D): velocity of the TCP [m/s, rad/s] in the base frame's axes per joint velocity, at one (D,)."""
        whole = self._pin.computeFrameJacobian(
            self._model, self._data, self._own(q), self._tcp, self._pin.ReferenceFrame.LOCAL_WORLD_ALIGNED
        )
        turn = self._base[:, :3].T
        return np.vstack([turn @ whole[:3, self._columns], turn @ whole[3:, self._columns]])

    def too_near(self, q: Floats, itself: float, scene: float) -> str:
        """Which two things are nearer than allowed [m] at one configuration (D,); empty if none."""
        if not self._pairs:
            return ""
        nearest = self._pin.computeDistances(self._model, self._data, self._shapes, self._near, self._own(q))
        results = self._near.distanceResults
        if results[nearest].min_distance >= max(itself, scene):
            return ""
        for k, (first, second, still) in enumerate(self._pairs):
            distance = results[k].min_distance
            if not distance >= (scene if still else itself):
                return f"{first} and {second} are {distance * 1000:.0f} mm apart"
        return ""

    @property
    def pairs(self) -> int:
        """Pairs of shapes that are compared; 0 means that nothing is known about collisions."""
        return len(self._pairs)

    def _read(self, source: str | Path) -> tuple[Any, Any]:
        text = source if isinstance(source, str) and "<" in source else ""
        path = "" if text else str(source)
        try:
            text = text or Path(path).read_text(encoding="utf-8")
            kind = self._pin.GeometryType.COLLISION
            if "<mujoco" in text:
                model = self._pin.buildModelFromMJCF(path)
                return model, self._pin.buildGeomFromMJCF(model, path, kind)
            model = self._pin.buildModelFromXML(text)
            return model, self._pin.buildGeomFromUrdfString(model, text, kind, package_dirs=[str(Path(path).parent)])
        except (OSError, ValueError, RuntimeError) as error:
            raise ContractError(f"kinematics: the description {path or 'text'} cannot be read: {error}") from error

    def _lock_the_rest(self, model: Any, shapes: Any, joints: Sequence[str]) -> None:
        known = list(model.names)[1:]
        missing = [name for name in joints if name not in known]
        if missing:
            raise ContractError(f"kinematics: joints {missing} are not in the description, which has {known}")
        others = [model.getJointId(name) for name in known if name not in joints]
        self._model, self._shapes = self._pin.buildReducedModel(model, shapes, others, self._pin.neutral(model))
        wide = [name for name in joints if self._model.joints[self._model.getJointId(name)].nq != 1]
        if wide:
            raise ContractError(f"kinematics: joints {wide} are continuous or free, expected one number per joint")

    def _frame(self, name: str) -> int:
        return frame_of(self._pin, self._model, name, "kinematics")

    def _fixed_base(self, name: str) -> Floats:
        """(3, 4): rotation and place of the base frame in the description's root."""
        if not name:
            return np.eye(3, 4)
        frame = self._model.frames[self._frame(name)]
        if frame.parentJoint != 0:
            raise ContractError(f"kinematics: the base frame {name!r} moves with the arm")
        return np.column_stack([frame.placement.rotation, frame.placement.translation])

    def _chains(self) -> tuple[list[_Link], list[tuple[int, Floats, Floats, int]]]:
        """The joints up to the tool; and after how many of them which fixed way leads to tool (0) and elbow (1)."""
        model, way = self._model, []
        joint = int(model.frames[self._tcp].parentJoint)
        while joint != 0:
            way.append(joint)
            joint = int(model.parents[joint])
        way.reverse()
        links = [self._link(joint) for joint in way]
        ends = []
        for which, frame_id in enumerate((self._tcp, self._elbow)):
            if frame_id is None:
                continue
            frame = model.frames[frame_id]
            parent = int(frame.parentJoint)
            if parent not in (0, *way):
                raise ContractError(f"kinematics: frame {frame.name!r} is not on the way from the base to the tool")
            after = 0 if parent == 0 else way.index(parent) + 1
            ends.append((after, np.array(frame.placement.rotation), np.array(frame.placement.translation), which))
        return links, ends

    def _link(self, joint: int) -> _Link:
        kind, placement = self._model.joints[joint].shortname(), self._model.jointPlacements[joint]
        subspace = np.asarray(self._model.joints[joint].createData().S).reshape(-1)  # one column: (linear, angular)
        prismatic = bool(np.any(subspace[:3]))
        axis = subspace[:3] if prismatic else subspace[3:]
        if not np.isclose(np.linalg.norm(axis), 1.0):
            raise ContractError(f"kinematics: joint {self._model.names[joint]!r} is a {kind}, which is not supported")
        x, y, z = axis
        skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        turn = np.array(placement.rotation)
        ways = np.column_stack([turn, turn @ skew, turn @ skew @ skew, placement.translation, turn @ axis])
        return _Link(np.ascontiguousarray(ways.T), self.joints.index(self._model.names[joint]), prismatic)

    def _own(self, q: Floats) -> Floats:
        own = np.zeros(self._model.nq)
        own[self._columns] = q
        return own


def _mixed(weights: Floats, columns: Floats) -> Floats:
    """Rotations (columns, (3, 3, N)) times one vector: (3, N)."""
    return np.asarray(weights[0] * columns[0] + weights[1] * columns[1] + weights[2] * columns[2])


def _libraries() -> tuple[Any, Any]:
    try:
        import coal
        import pinocchio
    except ImportError as error:
        raise ContractError(
            f"kinematics: pinocchio is not installed ({error}); the limits of the tool, the elbow and distances need "
            f"it: {INSTALL}"
        ) from error
    return pinocchio, coal
