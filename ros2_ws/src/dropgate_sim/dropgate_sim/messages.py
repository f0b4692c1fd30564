# SPDX-License-Identifier: Apache-2.0
"""ROS messages <-> plain data of the simulated robot. No decisions here."""

from __future__ import annotations

import array
import io

import numpy as np
from dropgate_interfaces.msg import SceneStatus
from geometry_msgs.msg import PoseStamped, TwistStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from dropgate_sim.faults import Reading
from dropgate_sim.ros_time import SECOND_NS, clock, nanoseconds, stamp
from dropgate_sim.sim_robot import FRAME, RobotState, Scene

__all__ = [
    "clock", "compressed_image", "image", "joint_state", "nanoseconds", "scene_status", "stamp", "tool_pose",
    "trajectory_of", "twist_of",
]  # fmt: skip
PNG = "rgb8; png compressed bgr8"  # image_transport's way to say: decodes to bgr8, was rgb8


def joint_state(reading: Reading) -> JointState | None:
    """Names, positions and velocities; None if the driver is silent."""
    if reading.joints is None:
        return None
    names, positions, velocities = reading.joints
    return JointState(
        header=Header(stamp=stamp(reading.stamp_ns)),
        name=list(names),
        position=positions.tolist(),
        velocity=velocities.tolist(),
    )


def tool_pose(reading: Reading) -> PoseStamped:
    """Pose of the tool centre point in FRAME."""
    message = PoseStamped(header=Header(stamp=stamp(reading.stamp_ns), frame_id=FRAME))
    place, turn = message.pose.position, message.pose.orientation
    place.x, place.y, place.z = reading.tcp[0].tolist()
    turn.x, turn.y, turn.z, turn.w = reading.tcp[1].tolist()
    return message


def image(camera: str, pixels: NDArray[np.uint8], time_ns: int) -> Image:
    """rgb8."""
    height, width, _ = pixels.shape
    return Image(
        header=_camera(camera, time_ns),
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
        data=array.array("B", pixels.tobytes()),
    )


def compressed_image(camera: str, pixels: NDArray[np.uint8], time_ns: int) -> CompressedImage:
    """PNG: nothing is lost."""
    from PIL import Image as Picture

    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return CompressedImage(header=_camera(camera, time_ns), format=PNG, data=array.array("B", buffer.getvalue()))


def scene_status(scene: Scene, state: RobotState, time_ns: int, fault: str) -> SceneStatus:
    """How the episode stands."""
    return SceneStatus(
        header=Header(stamp=stamp(time_ns)),
        task=scene.task,
        state=scene.state,
        seed=scene.seed,
        steps=state.steps,
        commands=state.commands,
        success=state.success,
        fault=fault,
    )


def twist_of(message: TwistStamped) -> list[float]:
    """(6,) [m/s, rad/s]."""
    linear, angular = message.twist.linear, message.twist.angular
    return [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]


def trajectory_of(message: JointTrajectory) -> tuple[list[str], list[float], list[list[float]], list[list[float]]]:
    """Joint names; of each point the time after the start [s], positions and velocities."""
    points = message.points
    return (
        list(message.joint_names),
        [nanoseconds(point.time_from_start) / SECOND_NS for point in points],
        [list(point.positions) for point in points],
        [list(point.velocities) for point in points],
    )


def _camera(camera: str, time_ns: int) -> Header:
    return Header(stamp=stamp(time_ns), frame_id=f"{camera}_optical_frame")
