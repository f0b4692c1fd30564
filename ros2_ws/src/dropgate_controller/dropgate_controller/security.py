# SPDX-License-Identifier: Apache-2.0
"""`security_policy ROBOT.yaml`: who may do what on the graph, as an SROS2 policy for this robot's topics.

    ros2 run dropgate_controller security_policy launch/config/ur5e.yaml > policy.xml
    ros2 security create_keystore keys && ros2 security generate_artifacts -k keys -p policy.xml

Three enclaves: only the controller may publish commands; the guard may only speak its permit; an operator may ask for
things and send nothing to the robot. The driver's own enclave belongs to the driver. See DDS-Security 1.1 and
design.ros2.org, "ROS 2 Access Control Policies".
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CONTROLLER, GUARD, OPERATOR = "dropgate_controller", "dropgate_guard", "dropgate_operator"
_PARAMETERS = ("describe_parameters", "get_parameter_types", "get_parameters", "list_parameters", "set_parameters",
               "set_parameters_atomically")  # fmt: skip
_LIFECYCLE = ("change_state", "get_state", "get_available_states", "get_available_transitions", "get_transition_graph")
_ASKED = ("arm", "stop", "reset_fault")
_EVERYBODY = ("/rosout", "/parameter_events")


def policy(station: Mapping[str, Any]) -> ET.Element:
    """The policy of a robot file's content. Raises ValueError: not one, or it names no command topic."""
    try:
        given = station[CONTROLLER]["ros__parameters"]
        command, joints = given["command"]["topic"], given["joints"]["topic"]
        cameras = [camera["topic"] for camera in given["cameras"].values()]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"this is not a robot's parameter file: {error} is missing below {CONTROLLER}.ros__parameters"
        ) from error
    guard = station.get(GUARD, {}).get("ros__parameters", {})
    permit = given.get("permit_topic", f"/{GUARD}/permit")
    enable = given.get("enable_topic", "/enable")
    status, task = f"/{CONTROLLER}/status", f"/{CONTROLLER}/run_task"
    services = [f"/{CONTROLLER}/{name}" for name in (*_ASKED, *_LIFECYCLE)]
    optional = [given.get(part, {}).get("topic", "") for part in ("tcp", "gripper")]
    own = [status, f"/{CONTROLLER}/chunk_raw", f"/{CONTROLLER}/chunk_safe", f"/{CONTROLLER}/transition_event"]
    root = ET.Element("policy", version="0.2.0")
    enclaves = ET.SubElement(root, "enclaves")
    _enclave(
        enclaves, CONTROLLER,
        publish=[command, optional[1], *own, "/diagnostics"],
        subscribe=[joints, optional[0], *cameras, permit, enable, *_driver(given), _description(given), "/clock"],
        reply=[*services, *_own_parameters(CONTROLLER)], execute=[task],
    )  # fmt: skip
    _enclave(
        enclaves, GUARD,
        publish=[permit, "/diagnostics"], subscribe=[status, joints, enable, *_driver(guard)],
        reply=_own_parameters(GUARD),
    )  # fmt: skip
    _enclave(
        enclaves, OPERATOR,
        subscribe=[*own, permit, "/diagnostics"], request=services, call=[task],
    )  # fmt: skip
    return root


def _driver(section: Mapping[str, Any]) -> list[str]:
    """Topics on which the driver says how it is, whether the file nests them or writes them with dots."""
    nested = section.get("driver", {})
    names = ("program_topic", "scaling_topic", "safety_topic", "mode_topic")
    return [nested.get(name) or section.get(f"driver.{name}", "") for name in names]


def _description(section: Mapping[str, Any]) -> str:
    """Where the arm's description is latched; nowhere for commands that need none."""
    if section["command"].get("interface") == "twist":
        return ""
    return str(section.get("kinematics", {}).get("description_topic", "/robot_description"))


def _own_parameters(node: str) -> list[str]:
    return [f"/{node}/{name}" for name in _PARAMETERS]


def _enclave(
    enclaves: ET.Element, node: str, *, publish: Iterable[str] = (), subscribe: Iterable[str] = (),
    reply: Iterable[str] = (), request: Iterable[str] = (), execute: Iterable[str] = (), call: Iterable[str] = (),
) -> None:  # fmt: skip
    enclave = ET.SubElement(enclaves, "enclave", path=f"/dropgate/{node}")
    profile = ET.SubElement(ET.SubElement(enclave, "profiles"), "profile", ns="/", node=node)
    for kind, right, names in (
        ("topic", "publish", [*publish, *_EVERYBODY]), ("topic", "subscribe", [*subscribe, *_EVERYBODY]),
        ("service", "reply", reply), ("service", "request", request),
        ("action", "execute", execute), ("action", "call", call),
    ):  # fmt: skip
        listed = sorted({name for name in names if name})
        if listed:
            group = ET.SubElement(profile, f"{kind}s", {right: "ALLOW"})
            for name in listed:
                ET.SubElement(group, kind).text = name


def main() -> None:
    """Console script."""
    import yaml

    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    try:
        made = policy(yaml.safe_load(Path(sys.argv[1]).read_text()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        sys.exit(f"security_policy: {sys.argv[1]}: {error}")
    ET.indent(made)
    print(ET.tostring(made, encoding="unicode"))


if __name__ == "__main__":
    main()
