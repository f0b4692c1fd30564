# SPDX-License-Identifier: Apache-2.0
"""Where tool and elbow are: the fast way equals pinocchio's, descriptions that do not fit are refused."""

import numpy as np
import pytest
from arm_models import PANDA_JOINTS, TABLE, UR_JOINTS, seven, seven_joints, six, six_joints

from runtime.errors import ContractError
from runtime.safety.cell import Cell
from runtime.safety.kinematics import Frames, Kinematics

ARMS = pytest.mark.parametrize("arm", [six(), seven()], ids=["six", "seven"])


@ARMS
def test_many_at_once_are_what_pinocchio_says_one_by_one(arm):
    rng = np.random.default_rng(0)
    q, qd = rng.uniform(-2.5, 2.5, (40, len(arm.home))), rng.normal(size=(40, len(arm.home)))
    seen = arm.kinematics.places(q, qd)
    for k in range(40):
        place, turn = arm.kinematics.pose(q[k])
        velocity = arm.kinematics.jacobian(q[k]) @ qd[k]
        assert seen.tcp[k] == pytest.approx(place, abs=1e-12)
        assert seen.axis[k] == pytest.approx(turn[:, 2], abs=1e-12)
        assert seen.linear[k] == pytest.approx(velocity[:3], abs=1e-12)
        assert seen.angular[k] == pytest.approx(velocity[3:], abs=1e-12)


@ARMS
def test_velocities_are_the_differences_of_places(arm):
    rng = np.random.default_rng(1)
    q, qd = rng.uniform(-2, 2, (20, len(arm.home))), rng.normal(size=(20, len(arm.home)))
    step = 1e-6
    ahead, behind = arm.kinematics.places(q + qd * step), arm.kinematics.places(q - qd * step)
    assert arm.kinematics.places(q, qd).linear == pytest.approx((ahead.tcp - behind.tcp) / (2 * step), abs=1e-7)


def test_published_lengths_come_out():
    """UR5e stretched out lies at a2 + a3 from the shoulder; the Panda in its candle pose is as tall as its links."""
    tool = six().kinematics.places(np.zeros((1, 6))).tcp[0]
    assert abs(tool[0]) == pytest.approx(0.425 + 0.3922, abs=1e-9)
    assert abs(tool[1]) == pytest.approx(0.1333 + 0.0996, abs=1e-9)
    assert tool[2] == pytest.approx(0.1625 - 0.0997, abs=1e-9)
    panda = seven().kinematics.places(np.zeros((1, 7))).tcp[0]
    assert panda == pytest.approx([0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.2104], abs=1e-9)


def test_joints_are_found_by_name_in_any_order():
    mixed = Kinematics(seven_joints(), PANDA_JOINTS[::-1], Frames("tool", "base", "elbow"), TABLE)
    q = np.random.default_rng(2).uniform(-1, 1, (5, 7))
    assert mixed.places(q[:, ::-1]).tcp == pytest.approx(seven().kinematics.places(q).tcp, abs=1e-12)
    assert mixed.jacobian(q[0, ::-1])[:, ::-1] == pytest.approx(seven().kinematics.jacobian(q[0]), abs=1e-12)


def test_an_arm_folded_into_itself_or_the_table_is_noticed():
    arm = six()
    assert arm.kinematics.pairs > 10
    assert arm.kinematics.too_near(arm.home, 0.01, 0.02) == ""
    low = np.array([0.0, 0.35, 0.3, -1.57, -1.57, 0.0])
    assert "table" in arm.kinematics.too_near(low, 0.01, 0.02)
    folded = np.array([0.0, -1.57, 3.0, 0.0, -1.57, 0.0])
    assert "mm apart" in arm.kinematics.too_near(folded, 0.01, 0.02)


def test_capsules_of_the_cell_replace_what_a_description_lacks():
    cell = Cell.from_json(
        {
            "schema": "dropgate.cell/1",
            "capsules": [
                {"frame": "l1", "from": [0, 0, 0], "to": [0, 0, 0.2], "radius": 0.05},
                {"frame": "l6", "from": [0, 0, 0], "to": [0, 0, 0.1], "radius": 0.04},
            ],
        }
    )
    arm = Kinematics(six_joints(), UR_JOINTS, Frames("tool", "base"), cell)
    assert arm.pairs == 1
    assert arm.too_near(six().home, 0.01, 0.02) == ""
    assert arm.too_near(six().home, 2.0, 2.0).startswith("l1 and l6 are ")


def test_an_mjcf_description_is_read_too(tmp_path):
    path = tmp_path / "arm.xml"
    path.write_text(
        '<mujoco><worldbody><body name="a" pos="0 0 1"><joint name="x" type="hinge" axis="0 1 0"/>'
        '<geom type="sphere" size="0.1"/><body name="b" pos="0.5 0 0"><joint name="y" type="slide" axis="1 0 0"/>'
        '<geom type="sphere" size="0.1"/></body></body></worldbody></mujoco>'
    )
    arm = Kinematics(path, ("x", "y"), Frames("b"))
    assert arm.places(np.array([[np.pi / 2, 0.25]])).tcp[0] == pytest.approx([0.0, 0.0, 0.25], abs=1e-9)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Kinematics(six_joints(), ("j1", "shoulder"), Frames("tool")), r"joints \['shoulder'\] are not in"),
        (lambda: Kinematics(six_joints(), UR_JOINTS, Frames("flange")), "frame 'flange' is not in the description"),
        (lambda: Kinematics(six_joints(), UR_JOINTS, Frames("tool", "l3")), "moves with the arm"),
        (lambda: Kinematics("no/such.urdf", UR_JOINTS, Frames("tool")), "cannot be read"),
        (lambda: Kinematics("<robot", UR_JOINTS, Frames("tool")), "cannot be read"),
        (lambda: Cell.from_json({"schema": "dropgate.cell/1", "walls": []}), "expected"),
        (lambda: Cell.from_json({"schema": "dropgate.cell/2"}), "schema is"),
        (
            lambda: Kinematics(
                six_joints(), UR_JOINTS, Frames("tool"),
                Cell.from_json({"schema": "dropgate.cell/1", "may_touch": [["base", "wall"]]}),
            ),
            r"may_touch names \['wall'\]",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(make, said):
    with pytest.raises(ContractError, match=said):
        make()


def test_without_pinocchio_there_are_no_tool_limits(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pinocchio", None)
    with pytest.raises(ContractError, match=r'pip install -e "\.\[control\]"'):
        Kinematics(six_joints(), UR_JOINTS, Frames("tool"))
