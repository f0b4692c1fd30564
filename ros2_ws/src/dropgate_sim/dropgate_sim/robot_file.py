# SPDX-License-Identifier: Apache-2.0
"""The robot's parameter file: where it is, which robot it names, how it is commanded, its digest."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import ContractError
from runtime.safety.limits import TOOL_DEFAULTS, Timing, limits_digest, station_limits

CONTROLLER, LIMITS = "dropgate_controller", "limits."
SHARE = "dropgate_bringup"


class NoRobotFile(ValueError):
    """No parameter file of that name, or none that names its robot."""


@dataclass(frozen=True)
class RobotFile:
    """Absolute path, the robot's own name, its command interface, SHA-256 of the bytes.

    `limits_sha256` is the digest of the limits that a controller with this file runs with: what a release names.
    """

    path: Path
    robot: str
    interface: str
    sha256: str
    limits_sha256: str


def find_robot_file(name: str, simulated: bool = True) -> RobotFile:
    """By path, or by name among the files of the package `dropgate_bringup`.

    Raises NoRobotFile, also for a file of a real arm unless `simulated` is false: its arm is then replaced by a mock.
    """
    folders = _folders()
    candidates = [Path(name), *(folder / f"{name}.yaml" for folder in folders)]
    path = next((path.resolve() for path in candidates if path.is_file()), None)
    if path is None:
        there = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
        raise NoRobotFile(f"no robot file {name!r}; available: {', '.join(there) or 'none'}, or a path to one")
    data = path.read_bytes()
    parameters = _parameters(path, data)
    robot, interface = (_text(path, parameters, key) for key in ("robot", "command.interface"))
    if simulated and parameters.get("simulated") is not True:
        raise NoRobotFile(f"{path}: does not say `simulated: true`; the regression moves simulated arms only")
    return RobotFile(path, robot, interface, hashlib.sha256(data).hexdigest(), _limits(path, interface, parameters))


def _limits(path: Path, interface: str, parameters: Mapping[str, Any]) -> str:
    given = {name.removeprefix(LIMITS): value for name, value in parameters.items() if name.startswith(LIMITS)}
    try:
        limits = station_limits(interface, (TOOL_DEFAULTS | given).__getitem__, parameters.get("joints.names", ()))
        timing = Timing(**{name: float(given[name]) for name in Timing.__dataclass_fields__ if name in given})
    except KeyError as error:
        raise NoRobotFile(f"{path}: {LIMITS}{error.args[0]} of node {CONTROLLER} is not there") from None
    except (TypeError, ValueError, ContractError) as error:
        raise NoRobotFile(f"{path}: {error}") from error
    return limits_digest(limits, timing)


def _parameters(path: Path, data: bytes) -> Mapping[str, Any]:
    """The controller's, from its own section or from one for all nodes, with dotted names."""
    import yaml

    try:
        content = yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise NoRobotFile(f"{path}: is not YAML ({error})") from error
    found: dict[str, Any] = {}
    for node in ("/**", CONTROLLER, f"/{CONTROLLER}"):
        section = content.get(node) if isinstance(content, dict) else None
        if isinstance(section, dict) and isinstance(section.get("ros__parameters"), dict):
            found |= _dotted(section["ros__parameters"])
    return found


def _dotted(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _text(path: Path, parameters: Mapping[str, Any], name: str) -> str:
    found = parameters.get(name)
    if not isinstance(found, str) or not found:
        raise NoRobotFile(f"{path}: {name} of node {CONTROLLER} is {found!r}, expected text")
    return found


def _folders() -> list[Path]:
    """Where `dropgate_bringup` keeps its files: by ROS's index, in this Python environment, in the source tree."""
    found = [Path(sys.prefix) / "share" / SHARE / "config"]
    found += [parent / "launch" / "config" for parent in Path(__file__).resolve().parents]
    with contextlib.suppress(ImportError, LookupError, OSError):  # no ROS, no such package, no AMENT_PREFIX_PATH
        from ament_index_python.packages import get_package_share_directory

        found.insert(0, Path(get_package_share_directory(SHARE)) / "config")
    return [folder for folder in found if folder.is_dir()]
