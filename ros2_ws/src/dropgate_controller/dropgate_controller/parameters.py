# SPDX-License-Identifier: Apache-2.0
"""All parameters of the controller, declared once, with ranges; read at configure and fixed from then on.

Names and defaults are those of `launch/config/<robot>.yaml`; limits have no defaults, because no number is right for
every robot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor, ParameterType
from rclpy.lifecycle import Node
from rclpy.logging import get_logging_directory
from rclpy.parameter import Parameter

from runtime.contract.policy_spec import PolicySpec
from runtime.contract.regression import SIMULATED_NAMESPACE
from runtime.control.scheduler import Pace
from runtime.control.settings import Settings
from runtime.inference.worker_process import WorkerOptions
from runtime.recording.setup import Arm
from runtime.safety.cell import Cell
from runtime.safety.kinematics import Frames
from runtime.safety.limits import OPTIONAL, CartesianLimits, JointLimits, Timing, station_limits
from runtime.safety.trajectory import CommandKind

STREAM = "forward_position"  # command.interface: the filter's joint motion, played by this node
TRANSPORTS = ("raw", "compressed")


class World(str, Enum):
    """What hears the commands: nobody, a simulated arm, or a real one."""

    SHADOW = "shadow"
    SIMULATED = "simulated"
    REAL = "real"


class ParameterError(ValueError):
    """A parameter that is missing or makes no sense; names it, its value and what is allowed."""


@dataclass(frozen=True)
class Camera:
    """Where a camera's images come from."""

    key: str
    topic: str
    transport: str


@dataclass(frozen=True)
class Station:
    """Everything that the robot's parameter file says."""

    robot: str
    artifact: Path
    enable_motion: bool
    simulated: bool
    trust_store: Path | None
    station_policy: Path | None
    evidence_dir: Path
    kind: CommandKind
    command_topic: str
    command_frame: str
    stream_hz: float  # of set-points; 0 where commands are trajectories or twists
    gripper_topic: str
    joints_topic: str
    joint_names: tuple[str, ...]
    tcp_topic: str
    tcp_frame: str
    permit_topic: str
    enable_topic: str
    scaling_topic: str
    cameras: tuple[Camera, ...]
    state: tuple[str, ...]
    tick_hz: float
    settings: Settings
    limits: CartesianLimits | JointLimits
    timing: Timing
    worker: WorkerOptions

    @property
    def world(self) -> World:
        """Where commands go, which decides what must be proven first."""
        if not self.enable_motion:
            return World.SHADOW
        return World.SIMULATED if self.simulated else World.REAL


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
    "kinematics.base": ("", "joint commands: link in whose frame boxes and obstacles are; empty = the root"),
    "kinematics.tcp": ("", "joint commands: link of the tool centre point"),
    "kinematics.elbow": ("", "joint commands: link that stays in the elbow box; empty = the elbow is free"),
    "kinematics.cell": ("", "joint commands: cell file (obstacles, capsules, what may touch); empty = nothing around"),
    "worker.python": ("", "interpreter of the environment that holds the engine; empty = this one"),
    "worker.backend": ("onnxruntime", "engine, with its options after a colon: see docs/engines.md"),
    "worker.provider": ("", "execution provider; empty = the artifact's first"),
    "worker.threads": (0, "threads of the engine; 0 = all but one"),
}
_NUMBERS: dict[str, tuple[float, float, float, str]] = {
    "tick_hz": (50.0, 5.0, 500.0, "ticks per second of wall time"),
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
    "send_within_s": (0.014, 0.001, 10.0, "a joint command is ready so soon, or not sent [s]; above 0.1 in simulation"),
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
_JOINT_LISTS = ("low", "high", "velocity", "acceleration", "jerk")


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


def artifact_path(node: Node) -> Path:
    """The artifact directory. Raises ParameterError if it is not given."""
    given = _value(node, "artifact")
    if not given:
        raise ParameterError("`artifact` is empty, expected the folder of a sealed artifact: -p artifact:=FOLDER")
    return Path(given).expanduser()


def read(node: Node, policy: PolicySpec) -> Station:
    """The station for this policy.

    Raises:
        ParameterError: missing or impossible.
        runtime.errors.ContractError: limits without sense.
    """
    declare_cameras(node, policy.observation.image_keys)
    kind, streams = _interface(node)
    if streams and _value(node, "driver.scaling_topic"):
        raise ParameterError(
            f"`driver.scaling_topic` is set, but nothing slows a {STREAM} controller's set-points: leave it empty"
        )
    joints = tuple(name for name in _value(node, "joints.names") if name)
    threads = int(_value(node, "worker.threads"))
    settings = Settings(
        Pace(int(_value(node, "execute_rows")) or policy.action.horizon, _value(node, "lead_s")),
        require_permit=_value(node, "require_permit"),
        require_enable=_value(node, "require_enable"),
        max_rejects=int(_value(node, "max_rejects")),
        lockstep=_value(node, "lockstep"),
        **{
            name: _value(node, name)
            for name in (
                "ramp_in_s", "late_speed", "permit_timeout_s", "max_pause_s", "max_clock_step_s", "max_duration_s",
                "follow_rad", "follow_lag_s", "follow_patience_s", "send_within_s",
            )
        },
    )  # fmt: skip
    worker = WorkerOptions(
        python=_value(node, "worker.python") or None,
        backend=_value(node, "worker.backend"),
        provider=_value(node, "worker.provider") or None,
        threads=threads or None,
        allow_held=not _value(node, "enable_motion"),
        prove=_value(node, "enable_motion") and not _value(node, "simulated"),
        start_timeout_s=_value(node, "worker.start_timeout_s"),
        request_timeout_s=_value(node, "worker.request_timeout_s"),
    )
    timing = Timing(**{name: _value(node, f"limits.{name}") for name in Timing.__dataclass_fields__})
    checked = kind is CommandKind.JOINT_TRAJECTORY and not _value(node, "simulated")  # there walls may go faster
    if checked and not settings.send_within_s < timing.splice_s:
        raise ParameterError(
            f"`send_within_s` is {settings.send_within_s:g}, expected less than `limits.splice_s`, {timing.splice_s:g}"
        )
    return Station(
        robot=_value(node, "robot"),
        artifact=artifact_path(node),
        enable_motion=_value(node, "enable_motion"),
        simulated=_value(node, "simulated"),
        trust_store=_path(node, "trust_store"),
        station_policy=_path(node, "station_policy"),
        evidence_dir=evidence_dir(node),
        kind=kind,
        command_topic=_out(node, "command.topic"),
        command_frame=_value(node, "command.frame"),
        stream_hz=_value(node, "command.stream_hz") if streams else 0.0,
        gripper_topic=_out(node, "gripper.topic") if _value(node, "gripper.topic") else "",
        joints_topic=_topic(node, "joints.topic"),
        joint_names=joints,
        tcp_topic=_value(node, "tcp.topic"),
        tcp_frame=_value(node, "tcp.frame"),
        permit_topic=_topic(node, "permit_topic"),
        enable_topic=_topic(node, "enable_topic"),
        scaling_topic=_value(node, "driver.scaling_topic"),
        cameras=tuple(_camera(node, key) for key in policy.observation.image_keys),
        state=tuple(name for name in _value(node, "state") if name),
        tick_hz=_value(node, "tick_hz"),
        settings=settings,
        limits=_limits(node, kind, joints),
        timing=timing,
        worker=worker,
    )


def record_dir(node: Node) -> Path | None:
    """Where recordings go, or None."""
    return _path(node, "record_dir")


def evidence_dir(node: Node) -> Path:
    """Where decisions are written down."""
    return _path(node, "evidence_dir") or Path(get_logging_directory())


def _limits(node: Node, kind: CommandKind, joints: tuple[str, ...]) -> CartesianLimits | JointLimits:
    def number(name: str) -> Any:
        return _optional(node, f"limits.{name}") if name in OPTIONAL else _value(node, f"limits.{name}")

    return station_limits(kind.value, number, joints)


def _path(node: Node, name: str) -> Path | None:
    given = _value(node, name)
    return Path(given).expanduser() if given else None


def _out(node: Node, name: str) -> str:
    """A topic that commands are sent on. A simulated arm's lies where no driver of a real one listens, also after
    remapping; so `simulated` cannot be set for a real arm by mistake."""
    topic = _topic(node, name)
    resolved = node.resolve_topic_name(topic)
    if _value(node, "simulated") and not resolved.startswith(SIMULATED_NAMESPACE):
        raise ParameterError(
            f"`{name}` is {resolved}, which the driver of a real arm may hear, but `simulated` is true; expected a "
            f"topic below {SIMULATED_NAMESPACE}, or `simulated` false"
        )
    return topic


def arm(node: Node, station: Station) -> Arm | None:
    """The arm's description for joint commands; None for twists.

    Raises:
        ParameterError: the description or the tool's link is not given.
        runtime.errors.ContractError: the cell file cannot be read.
        OSError: the description is a file that cannot be read.
    """
    if not isinstance(station.limits, JointLimits):
        return None
    urdf, tcp, cell = (_value(node, f"kinematics.{name}") for name in ("urdf", "tcp", "cell"))
    if not urdf or not tcp:
        raise ParameterError(
            f"`kinematics.urdf` is {urdf[:40]!r}, `kinematics.tcp` is {tcp!r}: joint commands need the arm's "
            "description and the link of its tool, or the limits of the tool cannot be checked"
        )
    frames = Frames(tcp, _value(node, "kinematics.base"), _value(node, "kinematics.elbow"))
    text = urdf if "<" in urdf or urdf.endswith(".xml") else Path(urdf).expanduser().read_text()
    return Arm(text, frames, Cell.load(Path(cell).expanduser()) if cell else Cell())


def _optional(node: Node, name: str) -> tuple[float, ...]:
    """A list that may be left out."""
    return tuple(node.get_parameter_or(name, Parameter(name, Parameter.Type.NOT_SET)).value or ())


def _interface(node: Node) -> tuple[CommandKind, bool]:
    """What the filter makes, and whether it is played here, as a stream of set-points."""
    given = _value(node, "command.interface")
    if given == STREAM:
        return CommandKind.JOINT_TRAJECTORY, True
    try:
        return CommandKind(given), False
    except ValueError:
        allowed = ", ".join([*(kind.value for kind in CommandKind), STREAM])
        raise ParameterError(f"`command.interface` is {given!r}, expected one of: {allowed}") from None


def _camera(node: Node, key: str) -> Camera:
    topic, transport = _topic(node, f"cameras.{key}.topic"), _value(node, f"cameras.{key}.transport")
    if transport not in TRANSPORTS:
        raise ParameterError(f"`cameras.{key}.transport` is {transport!r}, expected one of: {', '.join(TRANSPORTS)}")
    return Camera(key, topic, transport)


def _topic(node: Node, name: str) -> str:
    value: str = _value(node, name)
    if not value:
        raise ParameterError(f"`{name}` is empty, expected a topic; is the robot's parameter file loaded?")
    return value


def _value(node: Node, name: str) -> Any:
    value = node.get_parameter_or(name, Parameter(name, Parameter.Type.NOT_SET)).value
    if value is None:
        raise ParameterError(f"`{name}` is not set; is the robot's parameter file loaded (--params-file)?")
    return value
