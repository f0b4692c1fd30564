# SPDX-License-Identifier: Apache-2.0
"""ROS messages <-> the runtime's plain data. By name, never by index; what does not fit is an error that says so."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from dropgate_interfaces.msg import ActionChunk as ActionChunkMsg
from geometry_msgs.msg import PoseStamped, TwistStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ColourOrder, Layout
from runtime.contract.spec import ImageSpec, orient
from runtime.control.observation import Joints, Pose
from runtime.safety.motion import AdmittedChunk
from runtime.safety.trajectory import SafeTrajectory

_CHANNELS = {"rgb8": ("RGB", 3), "bgr8": ("BGR", 3), "rgba8": ("RGB", 4), "bgra8": ("BGR", 4)}
_NS = 1_000_000_000


class ConversionError(ValueError):
    """A message that cannot be used; says what was found and what was expected."""


def seconds(stamp: Time) -> float:
    """ROS time [s]."""
    return stamp.sec + stamp.nanosec / _NS


def stamp_of(time_s: float, after_s: float = 0.0) -> Time:
    """Inverse of `seconds`, to the nanosecond that a float64 can tell; `after_s` is added in whole nanoseconds.

    Today's time in a float64 is told to 0.24 us: what is added there is lost, and what is added here is not.
    """
    whole = math.floor(time_s)
    nanoseconds = round((time_s - whole) * _NS) + round(after_s * _NS)
    return Time(sec=int(whole) + nanoseconds // _NS, nanosec=nanoseconds % _NS)


def image_from(message: Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """A raw image as the policy's spec wants it: colours, size, layout, orientation. Raises ConversionError."""
    if message.encoding not in _CHANNELS:
        raise ConversionError(f"image encoding is {message.encoding!r}, expected one of {sorted(_CHANNELS)}")
    order, channels = _CHANNELS[message.encoding]
    needed = message.step * message.height
    if message.step < message.width * channels or len(message.data) != needed or not needed:
        raise ConversionError(
            f"image has {len(message.data)} bytes for {message.height} rows of {message.step} bytes and "
            f"{message.width} pixels"
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    pixels = rows[:, : message.width * channels].reshape(message.height, message.width, channels)[:, :, :3]
    return _as_spec(pixels, order, spec)


def image_from_compressed(message: CompressedImage, spec: ImageSpec) -> NDArray[np.uint8]:
    """A JPEG or PNG image as the policy's spec wants it. Raises ConversionError."""
    import cv2

    pixels = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR) if len(message.data) else None
    if pixels is None:
        raise ConversionError(f"compressed image ({message.format!r}, {len(message.data)} bytes) cannot be decoded")
    return _as_spec(pixels, "BGR", spec)


def joints_from(message: JointState) -> Joints:
    """Positions by name. Raises ConversionError for lists that do not belong together."""
    if len(message.name) != len(message.position) or len(set(message.name)) != len(message.name):
        raise ConversionError(
            f"joint state has {len(message.name)} names and {len(message.position)} positions: {list(message.name)}"
        )
    return Joints(dict(zip(message.name, map(float, message.position), strict=True)))


def pose_from(message: PoseStamped, frame: str) -> Pose:
    """The tool's pose in `frame`. Raises ConversionError for another frame or no unit quaternion."""
    if message.header.frame_id != frame:
        raise ConversionError(f"the tool's pose is in frame {message.header.frame_id!r}, expected {frame!r}")
    p, q = message.pose.position, message.pose.orientation
    quaternion = np.array([q.x, q.y, q.z, q.w])
    if not abs(float(np.linalg.norm(quaternion)) - 1.0) < 1e-3:
        raise ConversionError(f"the tool's orientation {quaternion.tolist()} is not a unit quaternion")
    return Pose(np.array([p.x, p.y, p.z]), rotation_vector(quaternion))


def rotation_vector(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x, y, z, w) -> axis times angle (3,), angle in [0, 2 pi): the sign of the quaternion counts, as in robosuite.

    A gripper that points down turns by about pi, so q and -q give different vectors for one pose. Policies are trained
    on one of them: a driver must report the sign that the training data had.
    """
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = math.sqrt(1.0 - w * w)
    if np.isclose(sine, 0.0):
        return np.zeros(3)
    vector: NDArray[np.float64] = np.asarray(quaternion[:3]) * (2.0 * math.acos(w) / sine)
    return vector


def twist_from(command: SafeTrajectory, frame: str) -> TwistStamped:
    """What MoveIt Servo takes: m/s and rad/s in `frame`, valid from the header's stamp until its own time-out."""
    message = TwistStamped()
    message.header.stamp, message.header.frame_id = stamp_of(command.start_s), frame
    linear, angular = message.twist.linear, message.twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, command.velocities[0])
    return message


def joint_trajectory_from(command: SafeTrajectory) -> JointTrajectory:
    """What joint_trajectory_controller takes: positions, velocities and accelerations, at rest at the end.

    The first point holds at the message's own stamp, which is now or just before. With it the controller plays our
    curve by absolute time from the first cycle on; without it, it would join its own last command to our second point,
    and give that command the time of the cycle before (read in ros2_controllers @94e74de, `update`), which doubles the
    speed for one cycle of every message.
    """
    if command.positions is None or command.accelerations is None:
        raise ConversionError("a twist cannot be sent as a joint trajectory")
    message = JointTrajectory(joint_names=list(command.names))
    first_s = float(command.times_s[0])
    message.header.stamp = stamp_of(command.start_s, first_s)
    rows = zip(command.times_s - first_s, command.positions, command.velocities, command.accelerations, strict=True)
    for time_s, position, velocity, acceleration in rows:
        point = JointTrajectoryPoint(
            positions=position.tolist(), velocities=velocity.tolist(), accelerations=acceleration.tolist()
        )
        whole = stamp_of(float(time_s))
        point.time_from_start.sec, point.time_from_start.nanosec = whole.sec, whole.nanosec
        message.points.append(point)
    return message


def raw_chunk(
    chunk: ActionChunk, scale: NDArray[np.float64], sequence: int, artifact: str, infer_s: float
) -> ActionChunkMsg:
    """What the policy answered, in physical units."""
    return _chunk(chunk.stamp_s, chunk.dt_s, chunk.names, chunk.values * scale, sequence, artifact, infer_s)


def safe_chunk(
    chunk: AdmittedChunk, names: Sequence[str], sequence: int, artifact: str, infer_s: float
) -> ActionChunkMsg:
    """What the filter admitted: twists or joint positions, in stretched time."""
    return _chunk(chunk.stamp_s, chunk.dt_s, names, chunk.rows, sequence, artifact, infer_s)


def _chunk(
    stamp_s: float, dt_s: float, names: Sequence[str], rows: NDArray[np.floating], sequence: int, artifact: str,
    infer_s: float,
) -> ActionChunkMsg:  # fmt: skip
    message = ActionChunkMsg(
        sequence=sequence, names=list(names), step_dt=float(dt_s), horizon=len(rows),
        data=np.asarray(rows, np.float64).ravel().tolist(), artifact_id=artifact, infer_s=float(infer_s),
    )  # fmt: skip
    message.header.stamp = stamp_of(stamp_s)
    message.valid_until = stamp_of(stamp_s + len(rows) * dt_s)
    return message


def _as_spec(pixels: NDArray[np.uint8], order: str, spec: ImageSpec) -> NDArray[np.uint8]:
    """Channel order, then size (centre crop to the aspect ratio, area interpolation), layout, orientation."""
    if order != spec.colour_order.value:
        pixels = pixels[:, :, ::-1]
    if spec.colour_order not in (ColourOrder.RGB, ColourOrder.BGR):
        raise ConversionError(f"colour order {spec.colour_order.value} is not known")
    if pixels.shape[:2] != (spec.height, spec.width):
        pixels = _resized(pixels, spec.height, spec.width)
    if spec.layout is Layout.CHW:
        pixels = np.moveaxis(pixels, 2, 0)
    return np.ascontiguousarray(orient(np.ascontiguousarray(pixels), spec))


def _resized(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    import cv2

    share = min(pixels.shape[0] / height, pixels.shape[1] / width)
    tall, wide = round(height * share), round(width * share)
    top, left = (pixels.shape[0] - tall) // 2, (pixels.shape[1] - wide) // 2
    cropped = np.ascontiguousarray(pixels[top : top + tall, left : left + wide])
    smaller = share >= 1.0
    found: NDArray[np.uint8] = cv2.resize(
        cropped, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    )
    return found
