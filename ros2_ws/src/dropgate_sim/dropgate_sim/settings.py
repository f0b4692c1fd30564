# SPDX-License-Identifier: Apache-2.0
"""The parameters of `sim_robot_node`: declared once, with ranges, fixed from the start; only `fault` may change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from dropgate_sim.faults import Fault
from dropgate_sim.sim_robot import Interface, Scene

LOCKSTEP, REALTIME = "lockstep", "realtime"
LARGEST = 2**31 - 1


class BadSetting(ValueError):
    """A parameter has an impossible value."""


@dataclass(frozen=True)
class Settings:
    """Values of the parameters of the same names; `scene` is where the robot stands at the start."""

    suite: str
    assets: Path | None
    image_size: int
    interface: Interface
    lockstep: bool
    hold_after_s: float
    rate_hz: float
    publish_compressed: bool
    keep_envs: int
    scene: Scene


def declare(node: Node) -> Settings:
    """Declares all parameters of the node and reads them. Raises BadSetting."""

    def fixed(name: str, default: Any, about: str, low: float | None = None, high: float | None = None) -> Any:
        descriptor = ParameterDescriptor(description=about, read_only=True)
        if isinstance(default, int) and not isinstance(default, bool):
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
        elif isinstance(default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        return node.declare_parameter(name, default, descriptor).value

    assets = fixed("assets", "", "LIBERO's assets folder; the embedded suite needs none")
    mode = fixed("mode", LOCKSTEP, f"{LOCKSTEP}: simulated time waits for commands; {REALTIME}: the wall clock's pace")
    interface = fixed("command_interface", Interface.TWIST.value, ", ".join(kind.value for kind in Interface))
    settings = Settings(
        suite=fixed("suite", "dropgate_tabletop", "simulated tasks"),
        assets=Path(assets) if assets else None,
        image_size=fixed("image_size", 128, "pixels, square", 16, 1024),
        interface=_one_of("command_interface", interface, Interface),
        lockstep=_mode(mode) == LOCKSTEP,
        hold_after_s=fixed("hold_after_s", 0.5, "lockstep: patience with a silent commander [s, wall]", 0.01, 600.0),
        rate_hz=fixed("rate", 20.0, "realtime: steps of 50 ms per second; below 20 is slow motion", 0.1, 20.0),
        publish_compressed=fixed("publish_compressed", False, "also .../image_raw/compressed, as PNG"),
        keep_envs=fixed("keep_envs", 4, "environments kept built, one per task", 1, 64),
        scene=Scene(
            fixed("task", 0, "index of the first scene's task", 0, LARGEST),
            fixed("state", 0, "stored initial state of the first scene; -1: a fresh layout", -1, LARGEST),
            fixed("seed", 0, "reset seed of the first scene", 0, LARGEST),
        ),
    )
    about = "injected fault: " + ", ".join(fault.value for fault in Fault)
    node.declare_parameter("fault", Fault.NONE.value, ParameterDescriptor(description=about))
    return settings


def fault_of(node: Node) -> Fault:
    """The fault that is set at the start. Raises BadSetting."""
    return _one_of("fault", node.get_parameter("fault").value, Fault)


def check_fault(changes: list[Parameter]) -> tuple[SetParametersResult, Fault | None]:
    """Answer to a change of parameters, and the new fault if it was one."""
    fault = None
    for change in changes:
        if change.name != "fault":
            continue
        try:
            fault = _one_of("fault", change.value, Fault)
        except BadSetting as error:
            return SetParametersResult(successful=False, reason=str(error)), None
    return SetParametersResult(successful=True), fault


def _mode(found: str) -> str:
    if found not in (LOCKSTEP, REALTIME):
        raise BadSetting(f"parameter mode is {found!r}, expected {LOCKSTEP!r} or {REALTIME!r}")
    return found


def _one_of(name: str, found: Any, kind: Any) -> Any:
    try:
        return kind(found)
    except ValueError as error:
        allowed = ", ".join(repr(value.value) for value in kind)
        raise BadSetting(f"parameter {name} is {found!r}, expected one of {allowed}") from error
