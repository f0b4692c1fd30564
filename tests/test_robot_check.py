# SPDX-License-Identifier: Apache-2.0
"""`check-robot`: every shipped robot file is sound but for what the cell must say; every contradiction is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runtime.__main__ import main
from runtime.control.robot_check import check_robot
from runtime.errors import ContractError

CONFIG = Path(__file__).resolve().parent.parent / "launch" / "config"
ARMS = sorted(path for path in CONFIG.glob("*.yaml") if path.stem != "libero_panda")


@pytest.mark.parametrize("path", ARMS, ids=lambda path: path.stem)
def test_shipped_robot_is_sound_and_waits_for_its_cell(path: Path) -> None:
    report = check_robot(path)
    assert report.refused == ()
    assert not report.ready, "nobody has been to that cell yet"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(lines[line.number - 1].strip() == line.text for line in report.cell)
    said = " ".join(line.text for line in report.cell)
    open_ = ("agentview", "wrist", "workspace_low", "workspace_high", "gripper", "source per number")
    for what in (*open_, "tcp: ", "cell: ", "elbow_low", "tilt_rad"):
        assert what in said
    assert main(["check-robot", str(path)]) == 1
    assert main(["check-robot", str(path), "--template"]) == 0


def changed(tmp_path: Path, old: str, new: str, count: int = 1) -> Path:
    """The KUKA's file with one thing changed, under the name that it says it has."""
    text = (CONFIG / "kuka_lbr.yaml").read_text(encoding="utf-8")
    assert re.search(old, text, re.MULTILINE), old
    path = tmp_path / "kuka_lbr.yaml"
    path.write_text(re.sub(old, new, text, count=count, flags=re.MULTILINE), encoding="utf-8")
    return path


CONTRADICTIONS = {
    "another name": (r"robot: kuka_lbr", "robot: kuka", "is called kuka_lbr.yaml"),
    "no margin": (r"joint_high: \[2\.86", "joint_high: [2.95", "lbr_A1: -2.86 to 2.95 rad leaves less than"),
    "upside down": (r"joint_low: \[-2\.86", "joint_low: [2.90", "joint_low 2.9 is not below"),
    "too fast": (r"joint_velocity: \[0\.37", "joint_velocity: [0.90", "joint_velocity 0.9 is more than 0.25 of"),
    "six of seven": (r"(joint_velocity: \[0\.37), 0\.37", r"\1", "expected 7 numbers"),
    "not a number": (r"joint_low: \[-2\.86", "joint_low: [.nan", "limits.joint_low"),
    "hasty tool": (r"linear_m_s: 0\.25 ", "linear_m_s: 0.5 ", "at most 0.25 m/s"),
    "endless stop": (r"joint_jerk: \[14\.0", "joint_jerk: [0.5", "a stop takes"),
    "wrong controller": (r"controller: joint_trajectory_controller", "controller: other", "listens on"),
    "guard elsewhere": (r"(?<=guard:\n  ros__parameters:\n    command.topic: )\S+", "/x", "dropgate_guard watches"),
    "nobody holds": (r"(?<=joint_states\n)    require_enable: true", "    require_enable: false", "enabling input"),
    "no source": (r"      joint_velocity: \"the same file\"\n", "", "joint_velocity has no source"),
    "jerk forgotten": (r"      # CELL joint_jerk: .*\n", "", "sheet.joint_jerk is missing"),
    "deaf guard": (r"      program_topic: \"\"", "      program_topic: /running", "watches ''"),
    "deaf controller": (r"      scaling_topic: \"\"", "      scaling_topic: /speed", "does not say so"),
    "deaf to safety": (r"      safety_topic: \"\"", "      safety_topic: /s", "driver's driver.safety_topic is '/s'"),
    "unknown adapter": (r"adapter: generic", "adapter: magic", "driver.adapter is 'magic'"),
    "unknown joint": (r"joint\.lbr_A7", "joint.lbr_A8", "joint.lbr_A8, which is not among"),
    "unknown state": (r"joint\.lbr_A7", "tcp.w", "state reads 'tcp.w'"),
    "no transport": (r"wrist: \{topic: /wrist/image_raw, transport: raw\}", "wrist: {topic: /w}", "cameras.wrist"),
    "out of reach": (r"workspace_low: \[0\.20", "workspace_low: [0.69", "workspace"),
    "flat": (r"workspace_high: \[0\.70", "workspace_high: [0.10", "low below high"),
    "operator's word": (r"robot: kuka_lbr\n", "robot: kuka_lbr\n    enable_motion: true\n", "the operator's to say"),
    "no guard": (r"robot: kuka_lbr\n", "robot: kuka_lbr\n    require_permit: false\n", "moves by the guard's permit"),
    "waiting time": (r"robot: kuka_lbr\n", "robot: kuka_lbr\n    lockstep: true\n", "in real time"),
    "no facts": (r"^dropgate_robot:", "other:", "section dropgate_robot is missing"),
    "set-points to nobody": (r"interface: joint_trajectory", "interface: forward_position", "heard on .../commands"),
    "nameless tool": (r"      tcp: lbr_link_ee.*\n", "", "kinematics.tcp is None"),
    "tool at the elbow": (r"tcp: lbr_link_ee", "tcp: lbr_link_4", "three different links"),
    "another base": (r"base: lbr_link_0", "base: world", "whose box is the workspace"),
    "no topic": (r"description_topic: \S+", 'description_topic: ""', "kinematics.description_topic is ''"),
    "links from nowhere": (r"      kinematics: [^\n]+\n(        lbr_fri.*\n)?", "", "expected source.kinematics"),
    "half an elbow": (r"      # CELL elbow_low.*", "      elbow_low: [0.0, 0.0, 0.0]", "found ['elbow_low']"),
    "no text": (r"      topic: /lbr/joint_traj.*\n", "", "command.topic is None"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradiction_is_named(tmp_path: Path, name: str) -> None:
    old, new, words = CONTRADICTIONS[name]
    path = changed(tmp_path, old, new)
    if name == "out of reach":
        path.write_text(path.read_text().replace("0.70, 0.50, 0.90", "1.70, 0.50, 0.90").replace("[0.69", "[0.95"))
    report = check_robot(path)
    assert any(words in reason for reason in report.refused), report.refused
    assert main(["check-robot", str(path), "--template"]) == 1


def test_file_without_open_lines_is_ready_and_its_stop_is_told(tmp_path, capsys) -> None:
    text = (CONFIG / "fr3.yaml").read_text(encoding="utf-8")
    path = tmp_path / "fr3.yaml"
    path.write_text(re.sub(r"\bCELL\b", "checked", text), encoding="utf-8")
    assert main(["check-robot", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cell"] == []
    assert report["refused"] == []
    assert report["ok"] is True
    kuka = check_robot(CONFIG / "kuka_lbr.yaml")
    assert kuka.stop_s == pytest.approx(0.1 + 0.58 / 1.4 + 0.1, abs=0.01)


@pytest.mark.parametrize(("content", "word"), [("- a\n- b\n", "list"), ("a: [1", "not YAML"), ("", "NoneType")])
def test_what_is_no_robot_file_is_said(tmp_path: Path, content: str, word: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(ContractError, match=word):
        check_robot(path)
