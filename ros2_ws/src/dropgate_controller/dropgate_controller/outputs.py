# SPDX-License-Identifier: Apache-2.0
"""What a configured controller puts on the graph: commands, chunks, diagnostics. In shadow mode there is no command."""

from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from dropgate_interfaces.msg import ActionChunk as ActionChunkMsg
from geometry_msgs.msg import TwistStamped
from rclpy.lifecycle import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from dropgate_controller import conversions, reports
from dropgate_controller.assembly import Loaded
from dropgate_controller.position_out import PositionOut
from runtime.control.task import Tick
from runtime.safety.trajectory import CommandKind, SafeTrajectory
from runtime.telemetry import StopCause

NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


class Outputs:
    """The publishers of one configuration."""

    def __init__(self, node: Node, loaded: Loaded) -> None:
        station = loaded.station
        self._node, self._loaded, self._sequence = node, loaded, 0
        self._made: list[Publisher] = []
        kind = TwistStamped if station.kind is CommandKind.TWIST else JointTrajectory
        kind = Float64MultiArray if station.stream_hz else kind
        self._commands = self._publisher(kind, station.command_topic) if station.enable_motion else None
        gripper = station.enable_motion and station.gripper_topic
        self._gripper = self._publisher(Float64, station.gripper_topic) if gripper else None
        self._raw = self._publisher(ActionChunkMsg, "~/chunk_raw")
        self._safe = self._publisher(ActionChunkMsg, "~/chunk_safe")
        self._diagnostics = self._publisher(DiagnosticArray, "/diagnostics")
        self._stream: PositionOut | None = None
        if self._commands is not None and station.stream_hz > 0.0:
            is_end = node.is_end
            self._stream = PositionOut(self._commands.publish, station.stream_hz, node.now_s, is_end=is_end)

    @property
    def moves(self) -> bool:
        """Commands reach the robot: this is not shadow mode."""
        return self._commands is not None

    @property
    def playing(self) -> bool:
        """A stop that was commanded is still being played from here."""
        return self._stream is not None and self._stream.playing

    def send(self, command: SafeTrajectory) -> None:
        """Gripper first: who waits for the arm's command finds both. A joint command is looked at last: what has become
        too late meanwhile is not sent, nor its gripper's."""
        if self._commands is None:
            return
        twists = command.kind is CommandKind.TWIST
        message = None if self._stream is not None or twists else conversions.joint_trajectory_from(command)
        if not twists and not self._loaded.controller.still_in_time():
            return
        if self._gripper is not None and command.gripper is not None:
            self._gripper.publish(Float64(data=command.gripper))
        if self._stream is not None:
            if late := self._stream.problem:
                self._loaded.controller.fault(StopCause.COMMAND_LATE, late)
            self._stream.take(command)
        elif twists:
            self._commands.publish(conversions.twist_from(command, self._loaded.station.command_frame))
        else:
            self._commands.publish(message)

    def show(self, tick: Tick) -> None:
        """A chunk as the policy gave it, and as the filter let it pass."""
        if tick.answer is None:
            return
        self._sequence += 1
        manifest = self._loaded.artifact.manifest
        about = (self._sequence, manifest.artifact_id, tick.answer.infer_s)
        self._raw.publish(conversions.raw_chunk(tick.answer.chunk, self._loaded.filter.spec.scale, *about))
        if tick.admitted is not None:
            self._safe.publish(conversions.safe_chunk(tick.admitted, self._loaded.filter.names, *about))

    def diagnose(self, stamp: Time) -> None:
        """State, cause and latencies."""
        self._diagnostics.publish(reports.diagnostics(self._loaded, stamp))

    def rivals(self) -> str:
        """Who else commands the arm, in words; empty if nobody."""
        topic = self._loaded.station.command_topic
        others = self._node.count_publishers(topic) - self.moves
        return f"{others} other node(s) publish on {topic}" if others > 0 else ""

    def unheard(self) -> str:
        """Why a command would reach nobody, in words; empty if somebody listens, or in shadow mode."""
        if self._commands is None or self._commands.get_subscription_count() > 0:
            return ""
        return f"nobody listens on {self._commands.topic}: start the robot's driver"

    def close(self) -> None:
        """Off the graph."""
        if self._stream is not None:
            self._stream.close()
        for publisher in self._made:
            self._node.destroy_publisher(publisher)

    def _publisher(self, kind: type[Any], topic: str) -> Publisher:
        made = self._node.create_publisher(kind, topic, NEWEST)
        self._made.append(made)
        return made
