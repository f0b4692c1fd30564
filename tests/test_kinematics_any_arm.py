# SPDX-License-Identifier: Apache-2.0
"""An arm of all kinds of joints, seen from a base frame that stands askew: against products of transforms made here."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import ContractError
from runtime.safety.kinematics import Frames, Kinematics
from runtime.safety.rotations import exponential

pytest.importorskip("pinocchio", reason="kinematics need pinocchio. Next: make install-dev")

AXES = {"a": (1, 0, 0), "b": (0.6, 0, 0.8), "c": (0, 1, 0), "d": (1 / 3, 2 / 3, 2 / 3), "e": (0, 0, 1)}
SLIDES = ("b", "e")
JOINTS = tuple(AXES)
PARENTS = {"a": "root", "b": "la", "c": "lb", "d": "lc", "e": "ld", "mount": "root", "elbow": "lb", "tool": "le"}
WAYS = dict(zip(PARENTS, np.random.default_rng(5).uniform(-0.8, 0.8, (len(PARENTS), 6)), strict=True))  # xyz, rpy
MORE = '<joint name="side" type="{kind}"><parent link="root"/><child link="aside"/>{rest}</joint><link name="aside"/>'
LIMIT = '<limit lower="-3" upper="3" effort="1" velocity="1"/>'


def description(more: str = "") -> str:
    mass = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
    links = [f'<link name="{name}">{mass}</link>' for name in ("root", *(f"l{n}" for n in JOINTS))]
    links += [f'<link name="{name}"/>' for name in ("mount", "elbow", "tool")]
    joints = []
    for name, parent in PARENTS.items():
        kind = "fixed" if name not in AXES else "prismatic" if name in SLIDES else "revolute"
        child = name if kind == "fixed" else f"l{name}"
        axis = "" if kind == "fixed" else f'<axis xyz="{" ".join(map(str, AXES[name]))}"/>{LIMIT}'
        xyz, rpy = (" ".join(map(str, part)) for part in (WAYS[name][:3], WAYS[name][3:]))
        joints.append(
            f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
            f'<origin xyz="{xyz}" rpy="{rpy}"/>{axis}</joint>'
        )
    return f'<robot name="any">{"".join(links)}{"".join(joints)}{more}</robot>'


def moved(turn: np.ndarray, place) -> np.ndarray:
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = turn, place
    return found


def way(name: str) -> np.ndarray:
    x, y, z = (exponential(np.eye(3)[k] * WAYS[name][3 + k]) for k in range(3))
    return moved(z @ y @ x, WAYS[name][:3])


def frame(name: str, q: dict[str, float]) -> np.ndarray:
    """(4, 4) in the root."""
    if name == "root":
        return np.eye(4)
    name = name.removeprefix("l") if name not in PARENTS else name
    found = frame(PARENTS[name], q) @ way(name)
    if name in AXES:
        along = q[name] * np.array(AXES[name])
        found = found @ (moved(np.eye(3), along) if name in SLIDES else moved(exponential(along), np.zeros(3)))
    return found


def seen_from(base: str, name: str, q: dict[str, float]) -> np.ndarray:
    return np.linalg.inv(frame(base or "root", q)) @ frame(name, q)


def arm(base: str = "mount", elbow: str = "elbow", joints=JOINTS, tool: str = "tool", more: str = "") -> Kinematics:
    return Kinematics(description(more), joints, Frames(tool, base, elbow))


@pytest.mark.parametrize("base", ["", "root", "mount"])
@pytest.mark.parametrize("elbow", ["elbow", "la", "root", "mount", "tool"])
def test_tool_and_elbow_are_where_the_transforms_multiply_to(base, elbow):
    made, rng = arm(base, elbow), np.random.default_rng(1)
    q = rng.uniform(-1.0, 1.0, (20, len(JOINTS)))
    found = made.places(q)
    for k, row in enumerate(q):
        named = dict(zip(JOINTS, row, strict=True))
        tool = seen_from(base, "tool", named)
        assert found.tcp[k] == pytest.approx(tool[:3, 3], abs=1e-12)
        assert found.axis[k] == pytest.approx(tool[:3, 2], abs=1e-12)
        assert found.elbow[k] == pytest.approx(seen_from(base, elbow, named)[:3, 3], abs=1e-12)
        place, turn = made.pose(row)
        assert place == pytest.approx(tool[:3, 3], abs=1e-12)
        assert turn == pytest.approx(tool[:3, :3], abs=1e-12)
    assert (found.linear, found.angular) == (None, None)


def test_velocities_are_in_the_base_frame_and_joints_that_slide_turn_nothing():
    made, rng, step = arm(), np.random.default_rng(2), 1e-6
    q, qd = rng.uniform(-1.0, 1.0, (20, len(JOINTS))), rng.normal(size=(20, len(JOINTS)))
    qd[:10] *= [name in SLIDES for name in JOINTS]
    found = made.places(q, qd)
    for k in range(20):
        ahead, behind = (
            seen_from("mount", "tool", dict(zip(JOINTS, q[k] + sign * step * qd[k], strict=True))) for sign in (1, -1)
        )
        spin = (ahead[:3, :3] - behind[:3, :3]) / (2 * step) @ ((ahead[:3, :3] + behind[:3, :3]) / 2).T
        assert found.linear[k] == pytest.approx((ahead - behind)[:3, 3] / (2 * step), abs=1e-8)
        assert found.angular[k] == pytest.approx([spin[2, 1], spin[0, 2], spin[1, 0]], abs=1e-8)
        assert made.jacobian(q[k]) @ qd[k] == pytest.approx(np.append(found.linear[k], found.angular[k]), abs=1e-10)
    assert np.abs(found.angular[:10]).max() == 0.0


def test_joints_that_are_not_named_stay_where_the_description_is_neutral():
    made, q = arm(joints=("d", "a")), np.array([[0.3, -0.4], [0.1, 0.2]])
    for k, (d, a) in enumerate(q):
        tool = seen_from("mount", "tool", {"a": a, "b": 0.0, "c": 0.0, "d": d, "e": 0.0})
        assert made.places(q).tcp[k] == pytest.approx(tool[:3, 3], abs=1e-12)


def test_description_is_a_text_or_the_path_of_a_file(tmp_path):
    path = tmp_path / "any.urdf"
    path.write_text(description())
    q = np.full((1, len(JOINTS)), 0.2)
    for source in (path, str(path)):
        made = Kinematics(source, JOINTS, Frames("tool", "mount"))
        assert made.places(q).tcp == pytest.approx(arm().places(q).tcp)
        assert made.places(q).elbow is None


def test_frame_is_the_link_of_that_name_although_a_joint_elsewhere_has_it_too():
    text = (
        description().replace('<joint name="tool"', '<joint name="x"').replace('<joint name="b"', '<joint name="tool"')
    )
    made = Kinematics(text, ("a", "tool", "c", "d", "e"), Frames("tool", "mount"))
    q = np.full((1, len(JOINTS)), 0.2)
    assert made.places(q).tcp == pytest.approx(arm().places(q).tcp)


def test_joint_that_turns_without_end_is_refused():
    """Its configuration is two numbers; the limits have one."""
    more = MORE.format(kind="continuous", rest='<axis xyz="0 0 1"/>')
    with pytest.raises(ContractError, match=r"joints \['side'\] are continuous or free"):
        arm(joints=(*JOINTS, "side"), more=more)
    assert arm(more=more).joints == JOINTS


def test_elbow_that_is_not_on_the_way_to_the_tool_is_refused():
    more = MORE.format(kind="revolute", rest=f'<axis xyz="0 0 1"/>{LIMIT}')
    with pytest.raises(ContractError, match="frame 'aside' is not on the way from the base to the tool"):
        arm(elbow="aside", joints=(*JOINTS, "side"), more=more)
    with pytest.raises(ContractError, match="frame 'tool' is not on the way"):
        arm(elbow="tool", tool="aside", joints=(*JOINTS, "side"), more=more)
