# SPDX-License-Identifier: Apache-2.0
"""The controller's parameters as a `Station`: read at configure and fixed from then on. Declared in `declared`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from rclpy.lifecycle import Node
from rclpy.logging import get_logging_directory
from rclpy.parameter import Parameter

from dropgate_controller.declared import declare_cameras
from runtime.contract.action import ActionSpec
from runtime.contract.policy_spec import PolicySpec
from runtime.contract.regression import SIMULATED_NAMESPACE
from runtime.control.blend import Blend, Kind
from runtime.control.scheduler import Pace
from runtime.control.settings import Settings
from runtime.inference.worker_process import WorkerOptions
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

    def meaning(self, action: ActionSpec) -> ActionSpec:
        """What the policy's commands are to this arm. Only LIBERO's, which takes twists, follows deltas as the arm of
        the training did; every other goes exactly where it is told."""
        return action if self.simulated and self.kind is CommandKind.TWIST else action.as_motion()

    @property
    def world(self) -> World:
        """Where commands go, which decides what must be proven first."""
        if not self.enable_motion:
            return World.SHADOW
        return World.SIMULATED if self.simulated else World.REAL


def artifact_path(node: Node) -> Path:
    """The artifact directory. Raises ParameterError if it is not given."""
    given = value(node, "artifact")
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
    if streams and value(node, "driver.scaling_topic"):
        raise ParameterError(
            f"`driver.scaling_topic` is set, but nothing slows a {STREAM} controller's set-points: leave it empty"
        )
    _real_arms_are_guarded(node)
    joints = tuple(name for name in value(node, "joints.names") if name)
    threads = int(value(node, "worker.threads"))
    settings = Settings(
        Pace(int(value(node, "execute_rows")) or policy.action.horizon, value(node, "lead_s")),
        require_permit=value(node, "require_permit"),
        require_enable=value(node, "require_enable"),
        max_rejects=int(value(node, "max_rejects")),
        lockstep=value(node, "lockstep"),
        blend=_blend(node, policy),
        **{
            name: value(node, name)
            for name in (
                "ramp_in_s", "late_speed", "permit_timeout_s", "max_pause_s", "max_clock_step_s", "max_duration_s",
                "follow_rad", "follow_lag_s", "follow_patience_s", "send_within_s",
            )
        },
    )  # fmt: skip
    worker = WorkerOptions(
        python=value(node, "worker.python") or None,
        backend=value(node, "worker.backend"),
        provider=value(node, "worker.provider") or None,
        threads=threads or None,
        allow_held=not value(node, "enable_motion"),
        prove=value(node, "enable_motion") and not value(node, "simulated"),
        start_timeout_s=value(node, "worker.start_timeout_s"),
        request_timeout_s=value(node, "worker.request_timeout_s"),
    )
    timing = Timing(**{name: value(node, f"limits.{name}") for name in Timing.__dataclass_fields__})
    checked = kind is CommandKind.JOINT_TRAJECTORY and not value(node, "simulated")  # there walls may go faster
    if checked and not settings.send_within_s < timing.splice_s:
        raise ParameterError(
            f"`send_within_s` is {settings.send_within_s:g}, expected less than `limits.splice_s`, {timing.splice_s:g}"
        )
    fresh_s, tick_s = timing.commit_s - timing.splice_s, 1.0 / value(node, "tick_hz")
    if checked and not fresh_s > tick_s + 1e-6:
        raise ParameterError(
            f"`limits.commit_s` is {fresh_s:g} s more than `limits.splice_s`, expected more than a tick, {tick_s:g} s: "
            "the arm would creep from stop to stop"
        )
    return Station(
        robot=value(node, "robot"),
        artifact=artifact_path(node),
        enable_motion=value(node, "enable_motion"),
        simulated=value(node, "simulated"),
        trust_store=_path(node, "trust_store"),
        station_policy=_path(node, "station_policy"),
        evidence_dir=evidence_dir(node),
        kind=kind,
        command_topic=_out(node, "command.topic"),
        command_frame=value(node, "command.frame"),
        stream_hz=value(node, "command.stream_hz") if streams else 0.0,
        gripper_topic=_out(node, "gripper.topic") if value(node, "gripper.topic") else "",
        joints_topic=_topic(node, "joints.topic"),
        joint_names=joints,
        tcp_topic=value(node, "tcp.topic"),
        tcp_frame=value(node, "tcp.frame"),
        permit_topic=_topic(node, "permit_topic"),
        enable_topic=_topic(node, "enable_topic"),
        scaling_topic=value(node, "driver.scaling_topic"),
        cameras=tuple(_camera(node, key) for key in policy.observation.image_keys),
        state=tuple(name for name in value(node, "state") if name),
        tick_hz=value(node, "tick_hz"),
        settings=settings,
        limits=_limits(node, kind, joints),
        timing=timing,
        worker=worker,
    )


def _real_arms_are_guarded(node: Node) -> None:
    """What a simulation may do without, and no arm that people stand beside. Raises ParameterError."""
    if not value(node, "enable_motion") or value(node, "simulated"):
        return
    for name, needed, why in (
        ("require_permit", True, "nothing moves without the guard"),
        ("lockstep", False, "time does not wait for a command"),
    ):
        if value(node, name) is not needed:
            raise ParameterError(f"`{name}` is {value(node, name)}, but the arm is real: {why}; leave it out")


def record_dir(node: Node) -> Path | None:
    """Where recordings go, or None."""
    return _path(node, "record_dir")


def evidence_dir(node: Node) -> Path:
    """Where decisions are written down."""
    return _path(node, "evidence_dir") or Path(get_logging_directory())


def _limits(node: Node, kind: CommandKind, joints: tuple[str, ...]) -> CartesianLimits | JointLimits:
    def number(name: str) -> Any:
        return _optional(node, f"limits.{name}") if name in OPTIONAL else value(node, f"limits.{name}")

    return station_limits(kind.value, number, joints)


def _path(node: Node, name: str) -> Path | None:
    given = value(node, name)
    return Path(given).expanduser() if given else None


def _out(node: Node, name: str) -> str:
    """A topic that commands are sent on. A simulated arm's lies where no driver of a real one listens, also after
    remapping; so `simulated` cannot be set for a real arm by mistake."""
    topic = _topic(node, name)
    resolved = node.resolve_topic_name(topic)
    if value(node, "simulated") and not resolved.startswith(SIMULATED_NAMESPACE):
        raise ParameterError(
            f"`{name}` is {resolved}, which the driver of a real arm may hear, but `simulated` is true; expected a "
            f"topic below {SIMULATED_NAMESPACE}, or `simulated` false"
        )
    return topic


def _optional(node: Node, name: str) -> tuple[float, ...]:
    """A list that may be left out."""
    return tuple(node.get_parameter_or(name, Parameter(name, Parameter.Type.NOT_SET)).value or ())


def _blend(node: Node, policy: PolicySpec) -> Blend:
    """How chunks meet, as far as this policy's graph allows. Raises ParameterError, ContractError."""
    names = ("kind", "frozen_s", "fade_s", "decay")
    blend = Blend(**{name: value(node, f"blend.{name}") for name in names})
    committed_s = value(node, "limits.commit_s")
    if blend.kind in (Kind.OVERLAP, Kind.RTC) and blend.frozen_s < committed_s:
        raise ParameterError(
            f"`blend.frozen_s` is {blend.frozen_s}, but `limits.commit_s` says that {committed_s} s of motion cannot "
            "be changed any more; expected at least as much"
        )
    possible = blend.fitting(policy.graph.guided)
    if blend.kind is Kind.RTC:
        way = "guides the policy by the chunk in use"
        if possible is not blend:
            way = "is overlap, because the graph of this artifact takes no previous chunk (export.guided makes one)"
        node.get_logger().info(f"blend.kind rtc {way}")
    return possible


def _interface(node: Node) -> tuple[CommandKind, bool]:
    """What the filter makes, and whether it is played here, as a stream of set-points."""
    given = value(node, "command.interface")
    if given == STREAM:
        return CommandKind.JOINT_TRAJECTORY, True
    try:
        return CommandKind(given), False
    except ValueError:
        allowed = ", ".join([*(kind.value for kind in CommandKind), STREAM])
        raise ParameterError(f"`command.interface` is {given!r}, expected one of: {allowed}") from None


def _camera(node: Node, key: str) -> Camera:
    topic, transport = _topic(node, f"cameras.{key}.topic"), value(node, f"cameras.{key}.transport")
    if transport not in TRANSPORTS:
        raise ParameterError(f"`cameras.{key}.transport` is {transport!r}, expected one of: {', '.join(TRANSPORTS)}")
    return Camera(key, topic, transport)


def _topic(node: Node, name: str) -> str:
    topic: str = value(node, name)
    if not topic:
        raise ParameterError(f"`{name}` is empty, expected a topic; is the robot's parameter file loaded?")
    return topic


def value(node: Node, name: str) -> Any:
    """One parameter. Raises ParameterError: it has no value."""
    given = node.get_parameter_or(name, Parameter(name, Parameter.Type.NOT_SET)).value
    if given is None:
        raise ParameterError(f"`{name}` is not set; is the robot's parameter file loaded (--params-file)?")
    return given
