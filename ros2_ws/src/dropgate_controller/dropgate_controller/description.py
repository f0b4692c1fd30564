# SPDX-License-Identifier: Apache-2.0
"""The arm's geometry, found at configure: description (a file, or from the graph), the links that count, the cell.

On the graph it is what robot_state_publisher latches. What was read is kept as text, in the recording too.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from rclpy.lifecycle import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.wait_for_message import wait_for_message
from std_msgs.msg import String

from dropgate_controller.parameters import ParameterError, Station, value
from runtime.recording.setup import Arm
from runtime.safety.cell import Cell
from runtime.safety.kinematics import Frames
from runtime.safety.limits import JointLimits

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def arm(node: Node, station: Station) -> Arm | None:
    """The arm's description for joint commands; None for twists. Waits for it where it comes from the graph.

    Raises:
        ParameterError: there is no description, or the tool's link is not given.
        runtime.errors.ContractError: the cell file cannot be read.
        OSError: the description is a file that cannot be read.
    """
    if not isinstance(station.limits, JointLimits):
        return None
    tcp, path = value(node, "kinematics.tcp"), value(node, "kinematics.cell")
    if not tcp:
        raise ParameterError(
            "`kinematics.tcp` is empty: joint commands need the link of the arm's tool, or the limits of the tool "
            "cannot be checked. Next: name a link of the description, for example tool0"
        )
    frames = Frames(tcp, value(node, "kinematics.base"), value(node, "kinematics.elbow"))
    cell = Cell.load(Path(path).expanduser()) if path else Cell()
    text = _description(node)
    return Arm(_without_shapes(text) if cell.capsules else text, frames, cell)


def _description(node: Node) -> str:
    """URDF as text, or the path of an MJCF file."""
    given: str = value(node, "kinematics.urdf")
    if not given:
        return _from_graph(node, value(node, "kinematics.description_topic"))
    return given if "<" in given or given.endswith(".xml") else Path(given).expanduser().read_text(encoding="utf-8")


def _from_graph(node: Node, topic: str) -> str:
    wait_s = value(node, "kinematics.description_wait_s")
    if not topic:
        raise ParameterError(
            "`kinematics.urdf` and `kinematics.description_topic` are both empty: joint commands need the arm's "
            "description. Next: give the file of a URDF, or the topic of robot_state_publisher"
        )
    found, message = wait_for_message(String, node, topic, qos_profile=LATCHED, time_to_wait=wait_s)
    publishers = node.count_publishers(topic)
    if not found:
        raise ParameterError(
            f"`kinematics.urdf` is empty, and nothing came on {node.resolve_topic_name(topic)} within {wait_s:g} s "
            f"({publishers} publishers there). Next: start the driver with its robot_state_publisher before configure, "
            "name its topic in `kinematics.description_topic`, or give a file in `kinematics.urdf`"
        )
    if publishers > 1:
        raise ParameterError(
            f"{publishers} nodes publish a description on {topic}, expected one: which of them is this arm's? Next: "
            "end the others (one that was killed is forgotten after some 20 s), or give a file in `kinematics.urdf`"
        )
    if "<robot" not in message.data:
        raise ParameterError(f"{topic} holds no URDF, it begins with {message.data[:40]!r}, expected <robot ...>")
    return str(message.data)


def _without_shapes(text: str) -> str:
    """The cell's capsules stand for all shapes of the arm, so meshes that are not on this machine are not missed."""
    if "<robot" not in text:
        return text
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ParameterError(f"the arm's description is no XML: {error}") from error
    for link in root.iter("link"):
        for shape in (*link.findall("collision"), *link.findall("visual")):
            link.remove(shape)
    return ElementTree.tostring(root, encoding="unicode")
