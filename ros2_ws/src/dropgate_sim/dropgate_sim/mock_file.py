# SPDX-License-Identifier: Apache-2.0
"""A robot's parameter file with a simulated arm in the place of its driver: `python -m dropgate_sim.mock_file FILE`.

What the file says of joints, limits, topics and cameras stays; commands go below /dropgate_sim, where no real driver
listens, the description is the one that the mock latches there, with the links that the file names, and the node
`sim_arm` gets a section. Where the mock's links are not the
robot's (all but UR5e and FR3), the workspace, which belongs to other links, becomes a wide box, elbow and tilt are
free. Prints the path of the file that it wrote: launch files read that.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dropgate_sim.arm_models import PANDA, UR5E, ArmModel

SIMULATED = "/dropgate_sim"
DESCRIPTION = f"{SIMULATED}/robot_description"
PROGRAM, SPEED, SAFETY = (f"/sim_arm/{name}" for name in ("robot_program_running", "speed_scaling", "safety_mode"))
SAME_LINKS = ("UR5e", "FR3")  # robots whose links the mock has
PLACES = ("elbow_low", "elbow_high", "approach", "tilt_rad")  # limits that only the robot's own links can keep
HOME_MARGIN_RAD = 0.3


class NoMock(ValueError):
    """A robot file from which no mock can be made."""


def mock_sections(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The file's sections with the mock in place. Raises NoMock."""
    try:
        controller, guard, facts = (
            dict(content[f"dropgate_{section}"]["ros__parameters"]) for section in ("controller", "guard", "robot")
        )
        interface, topic = controller["command"]["interface"], controller["command"]["topic"]
        links = {name: controller["kinematics"][name] for name in ("base", "tcp", "elbow")}
        low = facts["sheet"]["joint_low"]
    except (KeyError, TypeError) as error:
        raise NoMock(f"{name}: {error} is missing. Next: python -m runtime check-robot {name} --template") from error
    if interface != "joint_trajectory":
        raise NoMock(f"{name}: command.interface is {interface!r}, the mock has a joint trajectory controller only")
    sheet = [facts["sheet"][f"joint_{what}"] for what in ("low", "high", "velocity")]
    names, base = controller["joints"]["names"][: len(low)], PANDA if len(low) == 7 else UR5E
    command, gripper = SIMULATED + topic, SIMULATED + controller["gripper"]["topic"]
    controller |= {
        "simulated": True,
        "driver": {"scaling_topic": SPEED},
        "command": {**controller["command"], "topic": command},
        "gripper": {**controller["gripper"], "topic": gripper},
        "kinematics": {**links, "description_topic": DESCRIPTION},
    }
    if facts["model"] not in SAME_LINKS:
        kept = {name: value for name, value in controller["limits"].items() if name not in PLACES}
        controller["limits"] = {**kept, "workspace_low": [-2.0] * 3, "workspace_high": [2.0] * 3}
    guard["command.topic"] = command
    guard |= {"driver.program_topic": PROGRAM, "driver.scaling_topic": SPEED, "driver.mode_topic": ""}
    guard |= {"driver.adapter": "simulated", "driver.safety_topic": SAFETY}
    arm = {
        "model": base.name,
        "command_topic": command,
        "joints_topic": controller["joints"]["topic"],
        "joints": names,
        "still_joints": controller["joints"]["names"][len(low) :] or [""],
        **dict(zip(("joint_low", "joint_high", "joint_velocity"), sheet, strict=True)),
        "tcp_topic": controller["tcp"]["topic"],
        "tcp_frame": controller["tcp"]["frame"],
        "cameras": [camera["topic"] for camera in controller["cameras"].values()],
        "scaling_topic": SPEED,
        "program_topic": PROGRAM,
        "description_topic": DESCRIPTION,
        **{f"{name}_link": link for name, link in links.items()},
        "hold_enable": True,
    }
    named = {"dropgate_controller": controller, "dropgate_guard": guard, "sim_arm": arm}
    return {node: {"ros__parameters": parameters} for node, parameters in named.items()}


def mock_model(
    base: ArmModel, names: Sequence[str], low: Sequence[float], high: Sequence[float], velocity: Sequence[float]
) -> ArmModel:
    """An arm with another's links and this robot's names, ranges and speeds: in joint space it is this robot."""
    links = tuple(
        replace(link, name=n, low=lo, high=hi, velocity=v)
        for link, n, lo, hi, v in zip(base.links, names, low, high, velocity, strict=True)
    )
    home = tuple(
        min(max(at, lo + HOME_MARGIN_RAD), hi - HOME_MARGIN_RAD)
        for at, lo, hi in zip(base.home, low, high, strict=True)
    )
    return replace(base, links=links, home=home)


def base_model(name: str) -> ArmModel:
    """By name. Raises NoMock."""
    models = {"ur5e": UR5E, "panda": PANDA}
    if name not in models:
        raise NoMock(f"model is {name!r}, available: {', '.join(models)}")
    return models[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the mock's file and prints its path; 1 with one sentence if there can be none."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 1:
        print("usage: python -m dropgate_sim.mock_file ROBOT_FILE", file=sys.stderr)
        return 2
    path = Path(given[0])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        text = yaml.safe_dump(mock_sections(content, str(path)), default_flow_style=None)
    except (NoMock, OSError, yaml.YAMLError) as error:
        print(f"mock_file: {error}", file=sys.stderr)
        return 1
    with tempfile.NamedTemporaryFile("w", prefix=f"{path.stem}_mock_", suffix=".yaml", delete=False) as out:
        out.write(text)
    print(out.name, end="")  # launch takes the output as it is
    return 0


if __name__ == "__main__":
    sys.exit(main())
