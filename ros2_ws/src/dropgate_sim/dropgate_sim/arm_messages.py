# SPDX-License-Identifier: Apache-2.0
"""ROS messages <-> plain data of the simulated arm. No decisions here."""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from dropgate_sim.arm_streams import JointReport, Picture
from dropgate_sim.jtc import Trajectory
from dropgate_sim.jtc_spline import Floats, Point, Setpoint
from dropgate_sim.ros_time import nanoseconds, stamp


def trajectory_of(message: JointTrajectory, clock_offset_ns: int = 0) -> Trajectory:
    """What was asked, as it was asked: sizes and values are the controller's to judge."""
    points = tuple(
        Point(
            nanoseconds(point.time_from_start),
            np.array(point.positions, dtype=np.float64),
            np.array(point.velocities, dtype=np.float64) if point.velocities else None,
            np.array(point.accelerations, dtype=np.float64) if point.accelerations else None,
        )
        for point in message.points
    )
    sent_ns = nanoseconds(message.header.stamp)
    return Trajectory(tuple(message.joint_names), points, sent_ns - clock_offset_ns if sent_ns else 0)


def joint_state(report: JointReport, stamp_ns: int, still: Sequence[str] = ()) -> JointState:
    """Names, positions and velocities; joints that are `still` stand at 0."""
    return JointState(
        header=Header(stamp=stamp(stamp_ns)),
        name=[*report.names, *still],
        position=[*report.positions.tolist(), *(0.0 for _ in still)],
        velocity=[*report.velocities.tolist(), *(0.0 for _ in still)],
    )


def pose(position: Floats, quaternion: Floats, frame: str, stamp_ns: int) -> PoseStamped:
    """(3,) [m] and (x, y, z, w)."""
    message = PoseStamped(header=Header(stamp=stamp(stamp_ns), frame_id=frame))
    place, turn = message.pose.position, message.pose.orientation
    place.x, place.y, place.z = position.tolist()
    turn.x, turn.y, turn.z, turn.w = quaternion.tolist()
    return message


def picture(shot: Picture) -> Image:
    """rgb8."""
    height, width, _ = shot.pixels.shape
    return Image(
        header=Header(stamp=stamp(shot.stamp_ns)), height=height, width=width, encoding="rgb8", step=3 * width,
        data=array.array("B", shot.pixels.tobytes()),
    )  # fmt: skip


def state_message(
    names: Sequence[str], reference: Setpoint, positions: Floats, velocities: Floats, stamp_ns: int
) -> JointTrajectory:
    """Two points: where the controller wants the joints, and where they are."""
    return JointTrajectory(
        header=Header(stamp=stamp(stamp_ns)),
        joint_names=list(names),
        points=[
            JointTrajectoryPoint(
                positions=reference.positions.tolist(),
                velocities=reference.velocities.tolist(),
                accelerations=reference.accelerations.tolist(),
            ),
            JointTrajectoryPoint(positions=positions.tolist(), velocities=velocities.tolist()),
        ],
    )
