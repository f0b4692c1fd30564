# SPDX-License-Identifier: Apache-2.0
"""All parameters of the controller, declared once, with ranges; how they are read is in `parameters`.

Names and defaults are those of `launch/config/<robot>.yaml`; limits have no defaults, because no number is right for
every robot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor, ParameterType
from rclpy.node import Node
from rclpy.parameter import Parameter

from runtime.contract.regression import SIMULATED_NAMESPACE

# name -> (type or default, what it is[, low, high])
_PLAIN: dict[str, tuple[Any, str]] = {
    "robot": ("", "name of the robot, for people and reports"),
    "artifact": ("", "artifact directory"),
    "enable_motion": (False, "false = shadow mode: everything runs, no command is published"),
    "simulated": (False, f"the arm is simulated: commands may go below {SIMULATED_NAMESPACE} only"),
    "trust_store": ("", "directory with keys.json and revoked.json: whose signatures this station believes"),
    "station_policy": ("", "JSON file: what this station demands of an artifact before its arm moves"),
    "evidence_dir": ("", "where every decision about motion is written down; empty = the node's log directory"),
    "command.interface": ("", "twist, joint_trajectory, or forward_position (a stream of set-points)"),
    "command.topic": ("", "where commands go"),
    "command.frame": ("", "frame_id of twists"),
    "gripper.topic": ("", "std_msgs/Float64 opening ratio, 0 closed to 1 open; empty = no gripper"),
    "joints.topic": ("/joint_states", "sensor_msgs/JointState"),
    "joints.names": ([""], "joints that every report must hold, by name"),
    "tcp.topic": ("", "geometry_msgs/PoseStamped of the tool; empty = none"),
    "tcp.frame": ("", "frame_id that the pose must have"),
    "permit_topic": ("/dropgate_guard/permit", "std_msgs/Bool of the guard"),
    "enable_topic": ("/enable", "std_msgs/Bool of the enabling input"),
    "driver.scaling_topic": ("", "std_msgs/Float64, percent of the speed that the robot goes; empty = always all"),
    "state": ([""], "source of every entry of the policy's state: tcp.x|y|z|rx|ry|rz or joint.<name>"),
    "require_permit": (True, "the guard must permit motion all the time"),
    "require_enable": (False, "the enabling input must be held all the time"),
    "execute_rows": (0, "rows of a chunk that are executed before the next one is used; 0 = all"),
    "record_dir": ("", "folder that gets an MCAP file per configuration, for replays; empty = no recording"),
    "lockstep": (False, "only for a simulation whose time waits for commands"),
    "max_rejects": (3, "rejected chunks in a row that are a fault"),
    "kinematics.urdf": ("", "joint commands: file of the arm's description (URDF, xacro already run), or its text"),
    "kinematics.description_topic": (
        "/robot_description",
        "latched std_msgs/String; if kinematics.urdf is empty",
    ),
    "kinematics.base": ("", "joint commands: link in whose frame boxes and obstacles are; empty = the root"),
    "kinematics.tcp": ("", "joint commands: link of the tool centre point"),
    "kinematics.elbow": ("", "joint commands: link that stays in the elbow box; empty = the elbow is free"),
    "kinematics.cell": ("", "joint commands: cell file (obstacles, capsules, what may touch); empty = nothing around"),
    "blend.kind": ("replace", "how a new chunk meets the one in use: replace, overlap, ensemble or rtc"),
    "worker.python": ("", "interpreter of the environment that holds the engine; empty = this one"),
    "worker.backend": ("onnxruntime", "engine, with its options after a colon: see docs/engines.md"),
    "worker.provider": ("", "execution provider; empty = the artifact's first"),
    "worker.threads": (0, "threads of the engine; 0 = all but one"),
}
_NUMBERS: dict[str, tuple[float, float, float, str]] = {
    "tick_hz": (50.0, 5.0, 500.0, "ticks per second of wall time"),
    "send_within_s": (0.014, 0.001, 10.0, "a joint command is ready so soon, or not sent [s]; above 0.1 in simulation"),
    "command.stream_hz": (250.0, 125.0, 1000.0, "set-points a second, for forward_position"),
    "lead_s": (0.1, 0.0, 2.0, "how long before the end of a chunk the next one is asked for [s]"),
    "ramp_in_s": (1.0, 0.0, 10.0, "from rest to full speed [s]"),
    "late_speed": (0.5, 0.05, 1.0, "speed while an answer is overdue"),
    "permit_timeout_s": (0.2, 0.05, 10.0, "a permission older than this is none [s]; above 1 only in simulation"),
    "max_pause_s": (2.0, 0.1, 60.0, "waiting for a chunk, longer is a fault [s]"),
    "max_clock_step_s": (0.5, 0.05, 5.0, "larger steps of the clock are a fault [s]"),
    "max_duration_s": (120.0, 1.0, 3600.0, "of a task that names none [s]"),
    "follow_rad": (0.05, 0.001, 1.0, "distance of a joint from its command that may last [rad]"),
    "follow_lag_s": (0.15, 0.0, 0.5, "how far behind its commands an arm may run [s]"),
    "follow_patience_s": (0.1, 0.0, 1.0, "how long such a distance may last [s]"),
    "blend.frozen_s": (0.1, 0.0, 2.0, "overlap, rtc: what stays the old chunk's, at least limits.commit_s [s]"),
    "blend.fade_s": (0.2, 0.0, 5.0, "overlap, rtc: time over which the new chunk takes over [s]"),
    "blend.decay": (0.01, 0.0, 10.0, "ensemble: of the weights from the oldest chunk to the newest"),
    "kinematics.description_wait_s": (5.0, 0.1, 60.0, "how long configure waits for the description [s]"),
    "worker.start_timeout_s": (120.0, 1.0, 1800.0, "verify, load and warm up [s]"),
    "worker.request_timeout_s": (1.0, 0.05, 60.0, "of one inference; then the worker is killed [s]"),
    "limits.max_chunk_age_s": (0.5, 0.05, 2.0, "from observation to use [s]"),
    "limits.max_time_scale": (4.0, 1.0, 20.0, "a chunk that must be slowed more is rejected"),
    "limits.commit_s": (0.1, 0.05, 0.3, "motion that a joint command carries before its stop [s]"),
    "limits.splice_s": (0.02, 0.005, 0.1, "a joint command departs from the one before only after this [s]"),
    "limits.self_distance_m": (0.01, 0.001, 0.2, "joint commands: least distance between links [m]"),
    "limits.scene_distance_m": (0.02, 0.001, 0.5, "joint commands: least distance to the cell [m]"),
    "limits.tilt_rad": (3.15, 0.01, 3.15, "joint commands: largest angle between the tool's z axis and `approach`"),
    "limits.command_timeout_s": (0.1, 0.02, 0.5, "after which the receiver of twists stops by itself [s]"),
}
_CARTESIAN = ("linear_m_s", "angular_rad_s", "linear_m_s2", "angular_rad_s2", "max_start_jump_m", "max_start_jump_rad")
_LISTS = (
    "workspace_low", "workspace_high", "joint_low", "joint_high", "joint_velocity", "joint_acceleration", "joint_jerk",
    "elbow_low", "elbow_high", "approach",
)  # fmt: skip


def declare(node: Node) -> None:
    """Declare every parameter that does not depend on the artifact."""
    for name, (default, about) in _PLAIN.items():
        node.declare_parameter(name, default, ParameterDescriptor(description=about, read_only=True))
    for name, (default, low, high, about) in _NUMBERS.items():
        span = [FloatingPointRange(from_value=low, to_value=high)]
        node.declare_parameter(
            name, default, ParameterDescriptor(description=about, floating_point_range=span, read_only=True)
        )
    for name in _CARTESIAN:
        kind = ParameterDescriptor(type=ParameterType.PARAMETER_DOUBLE, description="station limit", read_only=True)
        node.declare_parameter(f"limits.{name}", Parameter.Type.DOUBLE, kind)
    for name in _LISTS:
        kind = ParameterDescriptor(
            type=ParameterType.PARAMETER_DOUBLE_ARRAY, description="station limit", read_only=True
        )
        node.declare_parameter(f"limits.{name}", Parameter.Type.DOUBLE_ARRAY, kind)


def declare_cameras(node: Node, keys: Sequence[str]) -> None:
    """Declare the parameters of the cameras that the artifact asks for."""
    for key in keys:
        for name, default, about in (("topic", "", "images"), ("transport", "raw", "raw or compressed")):
            if not node.has_parameter(f"cameras.{key}.{name}"):
                node.declare_parameter(
                    f"cameras.{key}.{name}", default, ParameterDescriptor(description=about, read_only=True)
                )
