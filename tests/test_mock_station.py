# SPDX-License-Identifier: Apache-2.0
"""A shipped robot file with a mock in its driver's place: the real controller node reads the mock's description, moves
it over DDS by joint commands, stops it, and does not let its tool out of the box.

In slow motion, because two cores do the work of many here. Places are judged by MuJoCo's own forward kinematics.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.ros]
pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros")
pytest.importorskip("dropgate_interfaces", reason="ros: the workspace is not built. Next: make install-ros ros-build")
pytest.importorskip("mujoco", reason="sim: mujoco not installed. Next: make install (extra `sim`)")
for library in ("ruckig", "pinocchio"):
    pytest.importorskip(library, reason=f"control: {library} not installed. Next: pip install -e '.[control]'")

from dropgate_sim.arm_models import UR5E  # noqa: E402
from dropgate_sim.fault_station import FaultStation  # noqa: E402
from dropgate_sim.mujoco_arm import MujocoArm  # noqa: E402
from dropgate_sim.scripted_policy import AMPLITUDE_RAD, SHAPE  # noqa: E402

ROBOT = Path(__file__).resolve().parent.parent / "launch" / "config" / "ur5e.yaml"
PACE, ROOM_M, SLACK_M = 0.5, 0.06, 0.002  # SLACK_M: what the drives add to what is commanded


def tool_places(rows: np.ndarray) -> np.ndarray:
    """(N, 3) of the flange [m], by MuJoCo."""
    return np.array([MujocoArm(UR5E, row).tcp_position for row in rows])


def narrow(sections: dict[str, Any]) -> None:
    """A wall ROOM_M beside the tool, in the way of the sweep."""
    home = MujocoArm(UR5E).tcp_position
    limits = sections["dropgate_controller"]["ros__parameters"]["limits"]
    assert np.all(home > limits["workspace_low"])
    assert np.all(home < limits["workspace_high"]), "the shipped box holds the mock's home"
    limits["workspace_low"] = [*limits["workspace_low"][:1], float(home[1] - ROOM_M), limits["workspace_low"][2]]
    limits["workspace_high"] = [*limits["workspace_high"][:1], float(home[1] + ROOM_M), limits["workspace_high"][2]]


@pytest.mark.parametrize(("robot", "tool"), [("ur5e", "tool0"), ("fr3", "fr3_hand_tcp")])
def test_the_mock_is_configured_from_its_own_description_moves_and_stops(tmp_path, robot, tool):
    with FaultStation(ROBOT.with_stem(robot), tmp_path / "cell", PACE, patience_s=120.0) as cell:
        given = cell._given["dropgate_controller"]["ros__parameters"]["kinematics"]
        assert "urdf" not in given
        assert given["tcp"] == tool
        cell.run()
        before = cell.now_ns
        cell.operator.stop()
        after = cell.now_ns
        cell.operator.wait(lambda: cell.arm.driver.record.stopped_after(after) is not None, "rest")
        assert cell.arm.driver.record.stopped_after(before) > 0.0, "it was in motion"
        assert cell.arm.driver.record.stopped_after(after) < 1.5
        cell.operator.wait(lambda: cell.operator.state in ("armed", "stopping", "idle", "fault_latched"), "a state")
        assert not cell.false_stops
        place = cell.arm.driver.arm.positions
        cell.pass_time(0.3)
        assert cell.arm.driver.arm.positions == pytest.approx(place, abs=1e-4), "at rest it stays"


def test_a_task_that_wants_out_of_the_box_is_braked_inside_it(tmp_path):
    with FaultStation(ROBOT, tmp_path / "cell", PACE, patience_s=120.0, change=narrow) as cell:
        home = cell.arm.driver.arm.tcp_position
        cell.run()
        cell.operator.wait(lambda: cell.operator.first_cause, "the box to end the task")
        cell.operator.wait(lambda: cell.speed() < 1e-3, "rest")
        cause = cell.operator.first_cause[0]
        table = cell.arm.driver.record.table()
    sideways = tool_places(table["position"][::20])[:, 1] - home[1]
    whole = tool_places(np.array(UR5E.home) + AMPLITUDE_RAD * np.outer((-1.0, 1.0), SHAPE[:6]))[:, 1] - home[1]
    assert np.abs(whole).min() > 2 * ROOM_M, "the sweep would go far beyond"
    assert cause == "chunk_rejected"
    assert np.abs(sideways).max() > 0.5 * ROOM_M, "it went there"
    assert np.abs(sideways).max() < ROOM_M + SLACK_M, "and not beyond"
