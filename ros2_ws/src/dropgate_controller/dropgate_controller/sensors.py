# SPDX-License-Identifier: Apache-2.0
"""Which topics a configured controller listens to, and how their messages become samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.lifecycle import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float64

from dropgate_controller import conversions
from dropgate_controller.assembly import Loaded
from runtime.control.controller import Controller
from runtime.control.observation import JOINTS, TCP

Do = Callable[[Callable[[Controller], Any]], Any]


def subscribe(node: Node, loaded: Loaded, hold: Do, reliable: QoSProfile) -> Iterator[Any]:
    """Make every subscription.

    Args:
        node: theirs; its `now_s` is when a sample came.
        loaded: what is configured.
        hold: acts on the controller between two ticks, never within one.
        reliable: for permissions.
    """
    station = loaded.station
    specs = {spec.key: spec for spec in loaded.artifact.manifest.policy.observation.images}

    def take(name: str, message: Any, convert: Callable[[], Any]) -> None:
        """Into the buffer; what cannot be read leaves its stream to grow old, and says why."""
        try:
            value = convert()
        except conversions.ConversionError as error:
            node.get_logger().warning(f"{name}: {error}", throttle_duration_sec=1.0)
            value = None
        stamp_s = conversions.seconds(message.header.stamp)
        hold(lambda controller: controller.buffer.put(name, stamp_s, value, node.now_s()))

    def hear(kind: Any, topic: str, callback: Callable[[Any], None], qos: QoSProfile) -> Any:
        return node.create_subscription(kind, topic, callback, qos)

    def seen(key: str, read: Callable[..., Any]) -> Callable[[Any], None]:
        return lambda message: take(key, message, lambda: read(message, specs[key]))

    for camera in station.cameras:
        if camera.transport == "compressed":
            kind, read = CompressedImage, conversions.image_from_compressed
        else:
            kind, read = Image, conversions.image_from
        yield hear(kind, camera.topic, seen(camera.key, read), qos_profile_sensor_data)
    yield hear(
        JointState, station.joints_topic, lambda m: take(JOINTS, m, lambda: conversions.joints_from(m)),
        qos_profile_sensor_data,
    )  # fmt: skip
    if station.tcp_topic:
        yield hear(
            PoseStamped, station.tcp_topic, lambda m: take(TCP, m, lambda: conversions.pose_from(m, station.tcp_frame)),
            qos_profile_sensor_data,
        )  # fmt: skip
    yield hear(Bool, station.permit_topic, lambda m: hold(lambda c: c.permission.permit(m.data)), reliable)
    if station.scaling_topic:
        yield hear(
            Float64, station.scaling_topic, lambda m: hold(lambda c: c.scaled(m.data / 100.0)), qos_profile_sensor_data
        )
    yield hear(Bool, station.enable_topic, lambda m: hold(lambda c: c.permission.enable(m.data)), reliable)
