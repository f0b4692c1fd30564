# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy of every robot file: one publisher of commands, a guard that can only permit. Enforced by DDS, which
the wheels used here were built without: what a secured graph does has not been seen."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ROBOTS = sorted((ROOT / "launch/config").glob("*.yaml"))


def _module():
    place = ROOT / "ros2_ws/src/dropgate_controller/dropgate_controller/security.py"
    spec = importlib.util.spec_from_file_location("dropgate_security", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


security = _module()


def rights(root) -> dict[tuple[str, str, str], set[str]]:
    """(enclave's node, kind, right) -> names."""
    found = {}
    for profile in root.iter("profile"):
        for group in profile:
            ((right, allowed),) = group.attrib.items()
            assert allowed == "ALLOW"
            found[profile.get("node"), group.tag, right] = {entry.text for entry in group}
    return found


@pytest.mark.parametrize("robot", ROBOTS, ids=lambda path: path.stem)
def test_only_the_controller_may_command(robot: Path) -> None:
    station = yaml.safe_load(robot.read_text())
    given = station["dropgate_controller"]["ros__parameters"]
    granted = rights(security.policy(station))
    for topic in {given["command"]["topic"], given["gripper"]["topic"]} - {""}:
        may = {node for (node, kind, right), names in granted.items() if right == "publish" and topic in names}
        assert may == {"dropgate_controller"}, topic


@pytest.mark.parametrize("robot", ROBOTS, ids=lambda path: path.stem)
def test_the_guard_can_permit_and_nothing_else(robot: Path) -> None:
    granted = rights(security.policy(yaml.safe_load(robot.read_text())))
    everybody = {"/rosout", "/parameter_events", "/diagnostics"}
    assert granted["dropgate_guard", "topics", "publish"] - everybody == {"/dropgate_guard/permit"}
    assert ("dropgate_guard", "services", "request") not in granted
    permits = {
        node for (node, _, right), names in granted.items() if right == "publish" and "/dropgate_guard/permit" in names
    }
    assert permits == {"dropgate_guard"}


def test_whoever_listens_to_the_driver_may() -> None:
    granted = rights(security.policy(yaml.safe_load((ROOT / "launch/config/ur5e.yaml").read_text())))
    scaling, program = (
        "/speed_scaling_state_broadcaster/speed_scaling",
        "/io_and_status_controller/robot_program_running",
    )
    assert {scaling, program} <= granted["dropgate_guard", "topics", "subscribe"]
    assert scaling in granted["dropgate_controller", "topics", "subscribe"]


def test_an_operator_sends_nothing_to_the_robot() -> None:
    granted = rights(security.policy(yaml.safe_load(ROBOTS[0].read_text())))
    assert granted["dropgate_operator", "topics", "publish"] == {"/rosout", "/parameter_events"}
    assert "/dropgate_controller/stop" in granted["dropgate_operator", "services", "request"]


@pytest.mark.parametrize("content", [{}, [], {"dropgate_controller": {"ros__parameters": {"command": {}}}}])
def test_what_is_no_robot_file_is_refused(content) -> None:
    with pytest.raises(ValueError, match="parameter file"):
        security.policy(content)


def test_the_command_prints_a_policy(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["security_policy", str(ROBOTS[0])])
    security.main()
    assert '<enclave path="/dropgate/dropgate_controller">' in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["security_policy", "/nowhere.yaml"])
    with pytest.raises(SystemExit, match="nowhere"):
        security.main()
