# SPDX-License-Identifier: Apache-2.0
"""Where an arm's shapes and its cell stand, against distances that are worked out here; who is compared with whom."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest

from runtime.errors import ContractError
from runtime.safety.cell import Capsule, Cell, Obstacle
from runtime.safety.kinematics import Frames, Kinematics
from runtime.safety.rotations import exponential
from runtime.safety.shapes import CellShapes

pytest.importorskip("pinocchio", reason="shapes need pinocchio. Next: make install-dev")

JOINTS = ("j1", "j2", "j3")
MOUNT, TURNED = np.array([0.1, -0.2, 1.0]), pi / 2  # the base frame in the root, turned about z
BOX = '<collision><geometry><box size="0.1 0.1 0.1"/></geometry></collision>'


def description(**collisions: str) -> str:
    """A root, three joints about z in a row, half a metre apart, at the height of the base frame; a tool, turned."""
    mass = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
    names = ("root", "l1", "l2", "l3", "mount", "tool")
    links = "".join(f'<link name="{name}">{mass}{collisions.get(name, "")}</link>' for name in names)
    chain = [("j1", "root", "l1", "0 0 1"), ("j2", "l1", "l2", "0.5 0 0"), ("j3", "l2", "l3", "0.5 0 0")]
    joints = "".join(
        f'<joint name="{name}" type="revolute"><parent link="{parent}"/><child link="{child}"/><origin xyz="{xyz}"/>'
        '<axis xyz="0 0 1"/><limit lower="-3" upper="3" effort="1" velocity="1"/></joint>'
        for name, parent, child, xyz in chain
    )
    fixed = [("mount", "root", "0.1 -0.2 1.0", f"0 0 {TURNED}"), ("tool", "l3", "0.2 0 0.1", f"0 {pi / 2} 0")]
    joints += "".join(
        f'<joint name="to_{child}" type="fixed"><parent link="{parent}"/><child link="{child}"/>'
        f'<origin xyz="{xyz}" rpy="{rpy}"/></joint>'
        for child, parent, xyz, rpy in fixed
    )
    return f'<robot name="row">{links}{joints}</robot>'


def arm(capsules=(), scene=(), may_touch=(), base="mount", **collisions: str) -> Kinematics:
    cell = Cell(tuple(capsules), tuple(scene), tuple(may_touch))
    return Kinematics(description(**collisions), JOINTS, Frames("tool", base), cell)


def gap(of: Kinematics, q=(0.0, 0.0, 0.0)) -> float:
    """The least distance [m], to a tenth of a micrometre."""
    low, high = 0.0, 8.0
    while high - low > 1e-7:
        middle = (low + high) / 2.0
        low, high = (low, middle) if of.too_near(np.array(q), middle, middle) else (middle, high)
    return high


def in_root(point) -> np.ndarray:
    return MOUNT + exponential(np.array([0.0, 0.0, TURNED])) @ np.array(point, float)


def from_segment(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    way = end - start
    share = np.clip((point - start) @ way / max(way @ way, 1e-30), 0.0, 1.0)
    return float(np.linalg.norm(point - start - share * way))


ALONG = Capsule("l1", (0.2, 0.0, 0.0), (0.4, 0.0, 0.0), 0.05)


@pytest.mark.parametrize("q1", [0.0, 0.7, -1.2])
def test_scene_stands_in_the_base_frame_and_does_not_move_with_the_arm(q1):
    ball = Obstacle("ball", "sphere", (0.1,), (0.5, 0.3, 0.2))
    turn = exponential(np.array([0.0, 0.0, q1]))
    start, end = (np.array([0.0, 0.0, 1.0]) + turn @ np.array([x, 0.0, 0.0]) for x in (0.2, 0.4))
    expected = from_segment(in_root(ball.xyz), start, end) - 0.15
    assert gap(arm([ALONG], [ball]), (q1, 0.0, 0.0)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("frame", ["l1", "l2", "tool"])
def test_capsule_lies_between_its_two_ends_in_its_frame(frame, seed):
    rng = np.random.default_rng(seed)
    start, end, ball = rng.uniform(-0.3, 0.3, 3), rng.uniform(-0.3, 0.3, 3), rng.uniform(1.0, 2.0, 3)
    if seed == 3:
        end = start  # a ball
    made = arm([Capsule(frame, tuple(start), tuple(end), 0.05)], [Obstacle("ball", "sphere", (0.1,), tuple(ball))])
    q = rng.uniform(-1.5, 1.5, 3)
    pose = {"l1": q[:1], "l2": q[:2], "tool": q}[frame]
    place, turn = np.array([0.0, 0.0, 1.0]), np.eye(3)
    for k, angle in enumerate(pose):
        place = place + turn @ np.array([0.5 * (k > 0), 0.0, 0.0])
        turn = turn @ exponential(np.array([0.0, 0.0, angle]))
    if frame == "tool":
        place, turn = place + turn @ np.array([0.2, 0.0, 0.1]), turn @ exponential(np.array([0.0, pi / 2, 0.0]))
    expected = from_segment(in_root(ball), place + turn @ start, place + turn @ end) - 0.15
    assert gap(made, q) == pytest.approx(expected, abs=1e-5)


POST = [Capsule("l3", (0.0, 0.0, 0.0), (0.0, 0.0, 0.001), 0.05)]  # at (1, 0, 1) in the root


@pytest.mark.parametrize(
    ("kind", "size", "xyz", "rpy", "expected"),
    [
        ("sphere", (0.2,), (2.0, 0.0, 1.0), (0, 0, 0), 1.0 - 0.25),
        ("box", (0.6, 0.2, 0.2), (2.0, 0.0, 1.0), (0, 0, 0), 1.0 - 0.35),
        ("box", (0.6, 0.2, 0.2), (2.0, 0.0, 1.0), (0, 0, pi / 2), 1.0 - 0.15),
        ("box", (0.2, 0.2, 0.6), (2.0, 0.0, 1.0), (0, pi / 2, 0), 1.0 - 0.35),
        ("box", (0.2, 0.2, 0.6), (1.0, 1.0, 1.0), (pi / 2, 0, 0), 1.0 - 0.35),
        ("capsule", (0.1, 0.8), (1.0, 0.0, 2.0), (0, 0, 0), 1.0 - 0.4 - 0.15 - 0.001),
        ("capsule", (0.1, 0.8), (2.0, 0.0, 1.0), (0, 0, 0), 1.0 - 0.15),
        ("capsule", (0.1, 0.8), (2.0, 0.0, 1.0), (0, pi / 2, 0), 1.0 - 0.4 - 0.15),
    ],
)
def test_each_kind_of_obstacle_has_its_size_place_and_turn(kind, size, xyz, rpy, expected):
    made = arm(POST, [Obstacle("thing", kind, size, tuple(map(float, xyz)), tuple(map(float, rpy)))], base="")
    assert gap(made) == pytest.approx(expected, abs=2e-5)


def test_cylinder_of_a_description_counts_as_the_capsule_around_it():
    cylinder = '<collision><geometry><cylinder length="0.4" radius="0.05"/></geometry></collision>'
    for place, expected in (((1.0, 0.0, 2.0), 1.0 - 0.2 - 0.05 - 0.1), ((1.0, 1.0, 1.0), 1.0 - 0.05 - 0.1)):
        made = arm(scene=[Obstacle("ball", "sphere", (0.1,), place)], base="", l3=cylinder)
        assert gap(made) == pytest.approx(expected, abs=1e-5)


def test_capsules_replace_the_shapes_of_the_description_and_those_are_not_carried_along():
    made = arm(POST, [Obstacle("ball", "sphere", (0.1,), (2.0, 0.0, 1.0))], base="", l1=BOX, l2=BOX, l3=BOX)
    assert made.pairs == 1
    assert made._shapes.ngeoms == 2


# ---- who is compared ------------------------------------------------------------------------------------------------


def compared(of: Kinematics) -> set[tuple[str, str]]:
    return {(first, second) for first, second, _ in of._pairs}


def ball_on(frame: str) -> Capsule:
    return Capsule(frame, (0.0, 0.0, 0.0), (0.0, 0.0, 0.1), 0.05)


def test_shapes_of_one_link_and_of_neighbours_are_not_compared_in_whatever_order_they_are_given():
    frames = ("root", "l1", "l2", "l3", "tool")
    for order in (frames, frames[::-1]):
        found = compared(arm([ball_on(frame) for frame in order]))
        assert {frozenset(pair) for pair in found} == {
            frozenset(pair) for pair in (("root", "l2"), ("root", "l3"), ("root", "tool"), ("l1", "l3"), ("l1", "tool"))
        }
    assert compared(arm(l1=BOX + BOX)) == set(), "two on one link"


def test_scene_is_compared_with_all_that_moves_and_not_with_what_stands():
    found = compared(arm([ball_on("root"), ball_on("l1"), ball_on("l2")], [Obstacle("t", "sphere", (0.1,), (2, 0, 0))]))
    assert found == {("root", "l2"), ("l1", "t"), ("l2", "t")}


@pytest.mark.parametrize("turned", [False, True])
def test_what_may_touch_is_not_compared_and_all_else_is(turned):
    pairs = [("l2", "t"), ("root", "l3")]
    made = arm(
        [ball_on(frame) for frame in ("root", "l1", "l2", "l3")], [Obstacle("t", "sphere", (0.1,), (2, 0, 0))],
        [pair[::-1] for pair in pairs] if turned else pairs,
    )  # fmt: skip
    assert compared(made) == {("root", "l2"), ("l1", "l3"), ("l1", "t"), ("l3", "t")}


def test_scene_and_the_arm_itself_have_their_own_distance():
    """l1 and l3 are 0.9 m apart, tip to tip; the ball and l3 0.35."""
    made = arm([ball_on("l1"), ball_on("l3")], [Obstacle("ball", "sphere", (0.1,), (1.5, 0.0, 1.05))], base="")
    q = np.zeros(3)
    assert made.too_near(q, 0.89, 0.34) == ""
    assert made.too_near(q, 0.91, 0.34) == "l1 and l3 are 900 mm apart"
    assert made.too_near(q, 0.89, 0.36) == "l3 and ball are 350 mm apart"


def test_pairs_that_a_description_brings_are_dropped():
    """Names and distances are found by the number of a pair."""
    made = arm(l1=BOX, l2=BOX, l3=BOX)
    made._shapes.addCollisionPair(made._pin.CollisionPair(0, 1))
    again = CellShapes(made._pin, made._coal, made._model, made._shapes, made._base).compare(Cell())
    assert len(again) == len(made._shapes.collisionPairs) == 1


def test_frame_of_a_capsule_that_does_not_exist_is_named():
    with pytest.raises(ContractError, match=r"cell: frame 'forearm' is not in the description, which has .*'l3'"):
        arm([ball_on("forearm")])
