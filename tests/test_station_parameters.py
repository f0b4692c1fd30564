# SPDX-License-Identifier: Apache-2.0
"""What the controller reads at configure besides numbers: the arm's description from the graph, and how chunks meet."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ros]
rclpy = pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros")
pytest.importorskip("pinocchio", reason="control: pinocchio not installed. Next: pip install -e '.[control]'")

from arm_models import six_joints  # noqa: E402
from artifact_factory import policy_spec  # noqa: E402
from dropgate_controller import declared, description, parameters  # noqa: E402
from rclpy.lifecycle import Node as LifecycleNode  # noqa: E402
from ros_station import wait_for  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from runtime.contract.graph import graph_for  # noqa: E402
from runtime.control.blend import Blend, Kind  # noqa: E402
from runtime.errors import ContractError  # noqa: E402
from runtime.safety.trajectory import CommandKind  # noqa: E402

ROBOT = Path(__file__).resolve().parent.parent / "launch" / "config" / "ur5e.yaml"
NAMES = {
    **{f"j{n}": name for n, name in enumerate(("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint"), 1)},
    **{f"j{n}": f"wrist_{n - 3}_joint" for n in (4, 5, 6)},
    "elbow": "forearm_link", "tool": "tool0",
}  # fmt: skip
MESH = '<collision><geometry><mesh filename="package://nowhere/link.stl"/></geometry></collision>'


@contextlib.contextmanager
def controller(context: rclpy.Context, **given: Any) -> Iterator[LifecycleNode]:
    """A node with the parameters of a shipped robot file and what is given besides (dots as double underscores)."""
    own = [f"{name.replace('__', '.')}:={value}" for name, value in given.items()]
    arguments = ["--ros-args", "--params-file", str(ROBOT), "-p", "artifact:=/somewhere"]
    arguments += [part for value in own for part in ("-p", value)]
    node = LifecycleNode("dropgate_controller", context=context, cli_args=arguments)
    declared.declare(node)
    try:
        yield node
    finally:
        node.destroy_node()


@contextlib.contextmanager
def published(context: rclpy.Context, *texts: str) -> Iterator[None]:
    """Every text latched on /robot_description by a node of its own."""
    nodes = [rclpy.create_node(f"state_publisher_{n}", context=context) for n in range(len(texts))]
    for node, text in zip(nodes, texts, strict=True):
        node.create_publisher(String, "/robot_description", description.LATCHED).publish(String(data=text))
    try:
        yield
    finally:
        for node in nodes:
            node.destroy_node()


def ur_like() -> str:
    """Our six joints under the names of Universal Robots' description."""
    text = six_joints()
    for ours, theirs in NAMES.items():
        text = text.replace(f'"{ours}"', f'"{theirs}"')
    return text


def read(node: LifecycleNode) -> Any:
    return description.arm(node, parameters.read(node, policy_spec()))


def test_the_shipped_files_links_are_found_in_what_the_state_publisher_latched(context) -> None:
    with published(context, ur_like()), controller(context, kinematics__description_wait_s=20.0) as node:
        arm = read(node)
        limits = parameters.read(node, policy_spec()).limits
    assert (arm.frames.base, arm.frames.tcp, arm.frames.elbow) == ("base", "tool0", "forearm_link")
    home = arm.kinematics(limits.names).pose([0.0, -1.4, 1.6, -1.77, -1.57, 0.0])[0]
    assert 0.2 < home[2] < 0.8


def refused(words: str) -> Any:
    """Expected of what is done within."""
    return pytest.raises(parameters.ParameterError, match=words)


def test_nobody_publishes_and_the_refusal_says_what_to_do(context) -> None:
    said = r"/robot_description within 0.2 s \(0 publishers.*Next: start"
    with controller(context, kinematics__description_wait_s=0.2) as node, refused(said):
        read(node)


def test_two_descriptions_are_one_too_many(context) -> None:
    with published(context, ur_like(), ur_like()), controller(context, kinematics__description_wait_s=20.0) as node:
        wait_for(lambda: node.count_publishers("/robot_description") == 2, "both")
        with refused("2 nodes publish"):
            read(node)


def test_what_is_no_urdf_is_refused_with_its_beginning(context) -> None:
    given, said = {"kinematics__description_wait_s": 20.0}, "'<mujoco/>', expected <robot"
    with published(context, "<mujoco/>"), controller(context, **given) as node, refused(said):
        read(node)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"kinematics__tcp": "''"}, "`kinematics.tcp` is empty"), ({"kinematics__description_topic": "''"}, "both empty")],
)
def test_what_is_not_given_is_named(context, given, words) -> None:
    with controller(context, **given) as node, pytest.raises(parameters.ParameterError, match=words):
        read(node)


def test_a_file_is_read_and_the_graph_is_not_asked(context, tmp_path) -> None:
    path = tmp_path / "arm.urdf"
    path.write_text(ur_like())
    with controller(context, kinematics__urdf=path, kinematics__description_wait_s=60.0) as node:
        assert read(node).urdf == ur_like()


def test_with_capsules_for_the_arm_its_meshes_need_not_be_here(context, tmp_path) -> None:
    urdf, cell = tmp_path / "arm.urdf", tmp_path / "cell.json"
    urdf.write_text(ur_like().replace("</link>", f"{MESH}</link>", 1))
    capsules = [{"frame": link, "from": [0, 0, 0], "to": [0, 0, 0.1], "radius": 0.05} for link in ("l2", "tool0")]
    cell.write_text(json.dumps({"schema": "dropgate.cell/1", "capsules": capsules}))
    with controller(context, kinematics__urdf=urdf) as node:
        names, arm = parameters.read(node, policy_spec()).limits.names, read(node)
    with pytest.raises(ContractError, match="could not be found"):
        arm.kinematics(names)
    with controller(context, kinematics__urdf=urdf, kinematics__cell=cell) as node:
        assert read(node).kinematics(names).pairs == 1


def test_only_liberos_arm_takes_deltas_as_they_are_meant(context) -> None:
    action = replace(policy_spec().action, follows=0.25)
    with controller(context) as node:
        station = parameters.read(node, policy_spec())
    simulated = replace(station, simulated=True, kind=CommandKind.TWIST)
    assert simulated.meaning(action) == action
    for other in (station, replace(station, simulated=True), replace(station, kind=CommandKind.TWIST)):
        assert other.meaning(action).scale[0] == action.scale[0] / 4


def test_a_command_carries_more_fresh_motion_than_a_tick_uses_up(context) -> None:
    slow = {"limits__commit_s": "0.1", "limits__splice_s": "0.08", "send_within_s": "0.05"}
    with controller(context, tick_hz="50.0", **slow) as node, refused("creep from stop to stop"):
        parameters.read(node, policy_spec())
    with controller(context, tick_hz="60.0", **slow) as node:
        parameters.read(node, policy_spec())


@pytest.mark.parametrize("given", [{"require_permit": "false"}, {"lockstep": "true"}])
def test_a_real_arm_has_a_guard_and_real_time(context, given) -> None:
    with controller(context, enable_motion="true", **given) as node, refused("but the arm is real"):
        parameters.read(node, policy_spec())
    with controller(context, **given) as node:
        parameters.read(node, policy_spec())  # in shadow mode nothing is sent


def test_how_chunks_meet_is_a_parameter(context) -> None:
    with controller(context) as node:
        assert parameters.read(node, policy_spec()).settings.blend.kind is Kind.REPLACE
    given = {"blend__kind": "overlap", "blend__frozen_s": 0.15, "blend__fade_s": 0.3, "blend__decay": 0.5}
    with controller(context, **given) as node:
        blend = parameters.read(node, policy_spec()).settings.blend
    assert (blend.kind, blend.frozen_s, blend.fade_s, blend.decay) == (Kind.OVERLAP, 0.15, 0.3, 0.5)


def test_rtc_guides_where_the_graph_can_be_guided_and_is_overlap_elsewhere(context) -> None:
    plain = policy_spec()
    able = replace(plain, graph=graph_for(plain.observation, plain.action, plain.prompt, guided=True))
    with controller(context, blend__kind="rtc", blend__frozen_s=0.15) as node:
        assert parameters.read(node, able).settings.blend == Blend(Kind.RTC, frozen_s=0.15)
    with controller(context, blend__kind="rtc", blend__frozen_s=0.15) as node:
        assert parameters.read(node, plain).settings.blend == Blend(Kind.OVERLAP, frozen_s=0.15)
    with controller(context, blend__kind="rtc", blend__frozen_s=0.05) as node, refused("cannot be changed any more"):
        parameters.read(node, able)


def test_a_blend_that_makes_no_sense_is_refused(context) -> None:
    with controller(context, blend__kind="mix") as node, pytest.raises(ContractError, match="'replace', 'overlap'"):
        parameters.read(node, policy_spec())
    given = {"blend__kind": "overlap", "blend__frozen_s": 0.05}
    with controller(context, **given) as node, refused("cannot be changed any more"):
        parameters.read(node, policy_spec())
