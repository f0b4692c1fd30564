# SPDX-License-Identifier: Apache-2.0
"""A robot's parameter file as data: its sections, and the lines that only the cell can fill (marked CELL)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import ContractError

CONTROLLER, GUARD, FACTS = "dropgate_controller", "dropgate_guard", "dropgate_robot"
_CELL = re.compile(r"#.*\bCELL\b")
_HEAD = re.compile(r"^#")  # remarks at the very left speak about the file, not about a line of it


@dataclass(frozen=True)
class CellLine:
    """One line that is still to be filled."""

    number: int
    text: str


@dataclass(frozen=True)
class RobotFile:
    """Parameters of the three sections with dotted names; a section that is missing is empty."""

    name: str
    controller: Mapping[str, Any]
    guard: Mapping[str, Any]
    facts: Mapping[str, Any]
    cell: tuple[CellLine, ...]


def read_robot_file(path: Path) -> RobotFile:
    """Reads `launch/config/<robot>.yaml`. Raises ContractError if it is no such file."""
    try:
        import yaml
    except ImportError as error:
        raise ContractError("reading a robot file needs PyYAML (every ROS has it). Next: pip install pyyaml") from error
    text = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ContractError(f"{path}: is not YAML ({error})") from error
    if not isinstance(content, dict):
        raise ContractError(f"{path}: found {type(content).__name__}, expected sections {CONTROLLER}, {GUARD}, {FACTS}")
    lines = [
        CellLine(number, line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if _CELL.search(line) and not _HEAD.match(line)
    ]
    controller, guard, facts = (_parameters(content.get(section)) for section in (CONTROLLER, GUARD, FACTS))
    return RobotFile(path.stem, controller, guard, facts, tuple(lines))


def _parameters(section: Any) -> dict[str, Any]:
    parameters = section.get("ros__parameters") if isinstance(section, dict) else None
    return _dotted(parameters) if isinstance(parameters, dict) else {}


def _dotted(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
