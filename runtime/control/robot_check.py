# SPDX-License-Identifier: Apache-2.0
"""Is a robot's parameter file complete, does it agree with itself and with the maker's data sheet?

Refused is what would be wrong on any cell; what only the cell can know (lines marked CELL) is listed apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.control.driver_words import ADAPTERS, PARAMETERS, ears
from runtime.control.robot_file import CONTROLLER, FACTS, GUARD, CellLine, RobotFile, read_robot_file

INTERFACES, TRANSPORTS = ("joint_trajectory", "forward_position", "twist"), ("raw", "compressed")
REDUCED_M_S = 0.25  # ISO 10218-1's reduced speed: a default here, no compliance
LONGEST_STOP_S = 1.0
JOINT_LISTS = ("joint_low", "joint_high", "joint_velocity", "joint_acceleration")
NUMBERS = (
    "limits.linear_m_s", "limits.angular_rad_s", "limits.linear_m_s2", "limits.angular_rad_s2",
    "limits.max_start_jump_m", "limits.max_start_jump_rad",
)  # fmt: skip
TEXTS = ("robot", "command.interface", "command.topic", "command.frame", "joints.topic", "tcp.topic", "tcp.frame")
FACT_TEXTS = ("vendor", "model", "driver.package", "driver.adapter", "driver.controller")
FACT_NUMBERS = ("reach_m", "payload_kg", "driver.rate_hz", "margin.position_rad", "margin.velocity_share")
# what is said about the arm -> where its source stands; either may be open (CELL), never without a source
SOURCES = {
    "sheet.joint_low": "source.joint_position", "sheet.joint_high": "source.joint_position",
    "sheet.joint_velocity": "source.joint_velocity", "sheet.joint_acceleration": "source.joint_acceleration",
    "sheet.joint_jerk": "source.joint_jerk", "sheet.tcp_speed": "source.tcp_speed", "driver.package": "source.driver",
}  # fmt: skip
LINKS = ("base", "tcp", "elbow")
OPERATORS = ("artifact", "enable_motion", "require_regression", "simulated", "trust_store", "station_policy")
_ROUNDING = 1e-3


@dataclass(frozen=True)
class RobotReport:
    """What was found.

    Attributes:
        refused: what is missing or contradicts itself, one sentence each.
        cell: lines that only the cell can fill.
        stop_s: commit + v / a + a / j of the slowest joint [s]; None without jerk limits or with wrong ones.
    """

    robot: str
    refused: tuple[str, ...]
    cell: tuple[CellLine, ...]
    stop_s: float | None

    @property
    def ready(self) -> bool:
        """Nothing is refused and nothing is open: the cell has been through every line."""
        return not self.refused and not self.cell


def check_robot(path: Path) -> RobotReport:
    """Checks one file. Raises ContractError if it cannot be read at all."""
    file = read_robot_file(path)
    refused = list(_missing(file))
    if not refused:
        for check in _CHECKS:
            refused += check(file)
    return RobotReport(file.name, tuple(refused), file.cell, None if refused else _stop_s(file))


def _missing(file: RobotFile) -> Iterator[str]:
    """Sections and values that must be there, with their kinds."""
    for section, given in ((CONTROLLER, file.controller), (GUARD, file.guard), (FACTS, file.facts)):
        if not given:
            yield f"section {section} is missing, expected {section}: ros__parameters: ..."
    wanted: tuple[tuple[str, Mapping[str, Any], tuple[str, ...], type], ...] = (
        (CONTROLLER, file.controller, TEXTS, str), (CONTROLLER, file.controller, NUMBERS, float),
        (FACTS, file.facts, FACT_TEXTS, str), (FACTS, file.facts, FACT_NUMBERS, float),
        (GUARD, file.guard, ("command.topic", "joints.topic"), str),
    )  # fmt: skip
    for owner, parameters, names, kind in wanted:
        for name in names if parameters else ():
            found = parameters.get(name)
            if kind is str and not (isinstance(found, str) and found):
                yield f"{owner}: {name} is {found!r}, expected text"
            if kind is float and not _positive(found):
                yield f"{owner}: {name} is {found!r}, expected a finite number above 0 with a decimal point"
    size = len(_list(file.controller.get("limits.joint_low")))
    for name in JOINT_LISTS:
        yield from _wrong_list(CONTROLLER, f"limits.{name}", file.controller, size)
    for name in ("joint_low", "joint_high", "joint_velocity"):
        yield from _wrong_list(FACTS, f"sheet.{name}", file.facts, size)
    for name in ("joint_acceleration", "joint_jerk"):
        if f"sheet.{name}" in file.facts:
            yield from _wrong_list(FACTS, f"sheet.{name}", file.facts, size)


def _wrong_list(owner: str, name: str, parameters: Any, size: int) -> Iterator[str]:
    found = _list(parameters.get(name))
    if not found or len(found) != size or not all(isinstance(v, float) and math.isfinite(v) for v in found):
        yield f"{owner}: {name} is {parameters.get(name)!r}, expected {size or 'as many'} numbers, one per arm joint"


def _sources(file: RobotFile) -> Iterator[str]:
    for name, source in SOURCES.items():
        if name in file.facts and not str(file.facts.get(source, "")).strip():
            yield f"{FACTS}: {name} has no source; expected {source}: which data sheet, or which file at which commit"
        open_ = name not in file.facts and any(f"CELL {name.split('.')[1]}" in line.text for line in file.cell)
        if name not in file.facts and not open_:
            yield f"{FACTS}: {name} is missing; give it with {source}, or write `# CELL {name.split('.')[1]}: why not`"


def _names(file: RobotFile) -> Iterator[str]:
    given = file.controller
    if given["robot"] != file.name:
        yield f"robot is {given['robot']!r}, but the file is called {file.name}.yaml"
    names, size = _list(given.get("joints.names")), len(given["limits.joint_low"])
    if len(names) < size or len(set(names)) != len(names):
        yield f"joints.names are {names}, expected at least {size} different names, the arm's first"
    wanted = [s.removeprefix("joint.") for s in _list(given.get("state")) if s.startswith("joint.")]
    for name in sorted(set(wanted) - set(names)):
        yield f"state reads joint.{name}, which is not among joints.names"
    axes = {f"tcp.{axis}" for axis in ("x", "y", "z", "rx", "ry", "rz")}
    for source in _list(given.get("state")):
        if not source.startswith("joint.") and source not in axes:
            yield f"state reads {source!r}, expected joint.<name> or one of {', '.join(sorted(axes))}"
    cameras = {name.split(".")[1] for name in given if name.startswith("cameras.")}
    if not cameras:
        yield "cameras: none, expected at least one key with topic and transport"
    for key in sorted(cameras):
        if not given.get(f"cameras.{key}.topic") or given.get(f"cameras.{key}.transport") not in TRANSPORTS:
            yield f"cameras.{key}: expected a topic and a transport of {', '.join(TRANSPORTS)}"
    for name in OPERATORS:
        if name in given:
            yield f"{name} is given; that is the operator's to say at the start, not the robot's"


def _wiring(file: RobotFile) -> Iterator[str]:
    given, guard, facts = file.controller, file.guard, file.facts
    if given["command.interface"] not in INTERFACES:
        yield f"command.interface is {given['command.interface']!r}, expected one of {', '.join(INTERFACES)}"
    if given["command.interface"] == "joint_trajectory":
        end = f"{facts['driver.controller']}/joint_trajectory"
        if not given["command.topic"].endswith(f"/{end}"):
            yield f"command.topic is {given['command.topic']}, but the driver's controller listens on .../{end}"
    elif given["command.interface"] == "forward_position":
        if not given["command.topic"].endswith("/commands"):
            yield f"command.topic is {given['command.topic']}, but set-points are heard on .../commands"
    elif given["command.frame"] != given["tcp.frame"]:
        yield f"command.frame is {given['command.frame']}, tcp.frame {given['tcp.frame']}, expected the same for twists"
    for name in ("command.topic", "joints.topic"):
        if guard[name] != given[name]:
            yield f"{GUARD} watches {name} {guard[name]}, {CONTROLLER} uses {given[name]}"
    for name in ("driver.program_topic", "driver.scaling_topic", "driver.safety_topic", "driver.mode_topic"):
        if facts.get(name, "") != guard.get(name, ""):
            yield f"the driver's {name} is {facts.get(name, '')!r}, but {GUARD} watches {guard.get(name, '')!r}"
    scaling = facts.get("driver.scaling_topic", "")
    if given.get("driver.scaling_topic", "") != scaling:
        yield f"the driver reports its speed scaling on {scaling!r}, but driver.scaling_topic does not say so"
    if given.get("require_permit", True) is not True or given.get("lockstep", False) is not False:
        yield "require_permit or lockstep is as in a simulation: a real arm moves by the guard's permit, in real time"
    if given.get("require_enable") is not True or guard.get("require_enable") is not True:
        yield "require_enable is not true in both sections: somebody must hold an enabling input while a real arm moves"
    yield from _adapter(guard, facts)


def _adapter(guard: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    """Who reads the driver's own messages."""
    adapter, vendors = facts["driver.adapter"], [name for name in ADAPTERS if name != "simulated"]
    if adapter not in vendors:
        yield f"driver.adapter is {adapter!r}, expected one of {', '.join(vendors)}"
        return
    topics = {name: str(guard.get(f"driver.{name}", "")) for name in PARAMETERS}
    if any(topics.values()) and guard.get("driver.adapter") != adapter:
        yield f"the driver's adapter is {adapter!r}, but {GUARD} has driver.adapter {guard.get('driver.adapter')!r}"
    try:
        ears(adapter, topics)
    except ValueError as error:
        yield f"{GUARD}: {error}"


def _limits(file: RobotFile) -> Iterator[str]:
    """Against the data sheet, less margin."""
    given, facts = file.controller, file.facts
    margin, share = facts["margin.position_rad"], facts["margin.velocity_share"]
    if not 0.0 < share <= 1.0:
        yield f"margin.velocity_share is {share}, expected above 0 and at most 1"
    for k, name in enumerate(_list(given.get("joints.names"))[: len(given["limits.joint_low"])]):
        low, high = given["limits.joint_low"][k], given["limits.joint_high"][k]
        sheet_low, sheet_high = facts["sheet.joint_low"][k], facts["sheet.joint_high"][k]
        if not low < high:
            yield f"{name}: joint_low {low} is not below joint_high {high}"
        if low < sheet_low + margin - _ROUNDING or high > sheet_high - margin + _ROUNDING:
            sheet = f"the sheet's {sheet_low} to {sheet_high}"
            yield f"{name}: {low} to {high} rad leaves less than {margin} rad to {sheet}"
        for what, most in (("velocity", share), ("acceleration", 1.0), ("jerk", 1.0)):
            value, most_ever = (_list(p.get(f"{s}.joint_{what}")) for p, s in ((given, "limits"), (facts, "sheet")))
            if value and value[k] <= 0.0:
                yield f"{name}: joint_{what} is {value[k]}, expected above 0"
            elif value and most_ever and value[k] > most * most_ever[k] + _ROUNDING:
                yield f"{name}: joint_{what} {value[k]} is more than {most:g} of the sheet's {most_ever[k]}"
    speed = min(REDUCED_M_S, facts.get("sheet.tcp_speed", REDUCED_M_S))
    if given["limits.linear_m_s"] > speed:
        yield f"limits.linear_m_s is {given['limits.linear_m_s']}, expected at most {speed:g} m/s to begin with"


def _space(file: RobotFile) -> Iterator[str]:
    low, high = (_list(file.controller.get(f"limits.workspace_{end}")) for end in ("low", "high"))
    if len(low) != 3 or len(high) != 3 or not all(a < b for a, b in zip(low, high, strict=True)):
        yield f"limits.workspace_low/high are {low}, {high}, expected three numbers each, low below high"
        return
    reach = file.facts["reach_m"]
    nearest = math.hypot(*(max(a, min(0.0, b), -b) if a > 0 or b < 0 else 0.0 for a, b in zip(low, high, strict=True)))
    if nearest > reach:
        yield f"the workspace begins {nearest:.2f} m from the base, but the arm reaches {reach} m"


def _kinematics(file: RobotFile) -> Iterator[str]:
    """The links by which joint commands are kept in the box; what they are called is the maker's."""
    given, facts = file.controller, file.facts
    if given["command.interface"] == "twist":
        return
    links = [given.get(f"kinematics.{name}") for name in LINKS]
    for name, link in zip(LINKS, links, strict=True):
        if not (isinstance(link, str) and link):
            yield f"kinematics.{name} is {link!r}, expected a link of the maker's description: joint commands need it"
    if len(set(links)) != len(links):
        yield f"kinematics: {', '.join(LINKS)} are {links}, expected three different links"
    if links[0] != given["command.frame"]:
        yield f"kinematics.base is {links[0]!r}, command.frame {given['command.frame']!r}: whose box is the workspace?"
    topic = given.get("kinematics.description_topic", "/robot_description")
    if not given.get("kinematics.urdf") and not str(topic).startswith("/"):
        yield f"kinematics.description_topic is {topic!r}, expected a topic, or a file in kinematics.urdf"
    if not str(facts.get("source.kinematics", "")).strip():
        yield f"{FACTS}: kinematics has no source; expected source.kinematics: which description, at which commit"
    for names in (("elbow_low", "elbow_high"), ("approach", "tilt_rad")):
        there = [name for name in names if f"limits.{name}" in given]
        if len(there) == 1:
            yield f"limits.{names[0]} and limits.{names[1]}: found {there}, expected both or none"


def _stopping(file: RobotFile) -> Iterator[str]:
    longest = _stop_s(file)
    if longest is not None and longest > LONGEST_STOP_S:
        yield f"a stop takes {longest:.2f} s (commit + v/a + a/j), expected at most {LONGEST_STOP_S:g} s"


def _stop_s(file: RobotFile) -> float | None:
    given = file.controller
    jerks = _list(given.get("limits.joint_jerk"))
    if not jerks or len(jerks) != len(given["limits.joint_velocity"]):
        return None
    lists = zip(given["limits.joint_velocity"], given["limits.joint_acceleration"], jerks, strict=True)
    return float(given.get("limits.commit_s", 0.1)) + max(float(v / a + a / j) for v, a, j in lists)


_CHECKS: tuple[Callable[[RobotFile], Iterator[str]], ...] = (
    _sources, _names, _wiring, _kinematics, _limits, _space, _stopping,
)  # fmt: skip


def _list(found: Any) -> list[Any]:
    return list(found) if isinstance(found, Sequence) and not isinstance(found, str) else []


def _positive(found: Any) -> bool:
    return isinstance(found, float) and math.isfinite(found) and found > 0.0
