# SPDX-License-Identifier: Apache-2.0
"""The fault suite's quick part on a real cell over DDS: controller, guard and worker as processes, the MuJoCo arm here.

In slow motion, because two cores do the work of many here; `python -m dropgate_sim.faults_suite` runs all of it.
Accelerations are shown and not judged in slow motion on a busy machine: a tick that comes late is a late tick.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros]
pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros")
pytest.importorskip("dropgate_interfaces", reason="ros: the workspace is not built. Next: make install-ros ros-build")
pytest.importorskip("mujoco", reason="sim: mujoco not installed. Next: make install (extra `sim`)")
for library in ("ruckig", "pinocchio"):
    pytest.importorskip(library, reason=f"control: {library} not installed. Next: pip install -e '.[control]'")

from dropgate_sim.fault_cases import CASES  # noqa: E402
from dropgate_sim.fault_station import FaultStation  # noqa: E402
from dropgate_sim.fault_verdict import table  # noqa: E402
from dropgate_sim.faults_suite import main, run_suite  # noqa: E402

from runtime.telemetry import StopCause  # noqa: E402

ROBOT = Path(__file__).resolve().parent.parent / "launch" / "config" / "ur5e.yaml"
PACE, SLACK = 0.75, 2.0
LATER = {"driver_stopped"}  # causes that the controller does not know yet


class PatientStation(FaultStation):
    """Judges what a busy machine cannot spoil."""

    @property
    def bounds(self):
        return dataclasses.replace(super().bounds, judge=("position", "velocity"))


def test_quick_faults_end_in_a_stop_with_the_right_cause(tmp_path):
    cases = [case for case in CASES if case.quick]
    with PatientStation(ROBOT, tmp_path / "cell", PACE, patience_s=120.0) as cell:
        found = run_suite(cell, cases, print, SLACK, tries=3)
    assert len(found) == len(cases)
    assert all(finding.ok for finding in found), "\n" + table(found)


def test_every_case_has_a_name_of_its_own_and_causes_that_exist():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 30
    known = {cause.value for cause in StopCause} | LATER
    for case in CASES:
        if case.at_rest:  # the words of a refusal
            continue
        assert set(case.causes) <= known, case.name
        assert case.goes_on or case.causes or "controller" in case.name, "somebody must say why"
        assert (case.detect_s is not None) == (bool(case.causes) and not case.goes_on)


def test_unknown_fault_is_refused_with_the_list(capsys):
    assert main(["--only", "volcano"]) == 2
    assert "camera drop" in capsys.readouterr().err


def test_a_robot_file_that_is_not_there_or_has_no_mock_is_one_sentence(tmp_path, capsys):
    assert main(["--robot", "no_such_arm"]) == 2
    old = tmp_path / "ur5e.yaml"
    old.write_text(ROBOT.read_text().replace("      elbow: forearm_link\n", ""))
    assert main(["--robot", str(old), "--keep", str(tmp_path / "kept")]) == 2
    assert "'elbow' is missing. Next: python -m runtime check-robot" in capsys.readouterr().err
