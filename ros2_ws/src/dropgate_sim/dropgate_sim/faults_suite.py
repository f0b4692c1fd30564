# SPDX-License-Identifier: Apache-2.0
"""Every fault, one after the other, on a running cell over DDS: `python -m dropgate_sim.faults_suite --robot FILE`.

Prints a table and writes JSON. Exit 0: every fault as it has to be, 1: not, 2: usage. Nothing here is a statement about
a real arm's braking, a vendor's stop, or contact.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dropgate_sim.fault_cases import CASES, FaultCase
from dropgate_sim.fault_station import FaultStation
from dropgate_sim.fault_verdict import Finding, judge, table, to_json
from dropgate_sim.mock_file import NoMock
from dropgate_sim.operator_node import GaveUp
from dropgate_sim.robot_file import NoRobotFile, find_robot_file

BEFORE_S, AFTER_S = 0.3, 0.4  # of steady motion before a fault; of silence after the stop


def run_case(cell: FaultStation, case: FaultCase, slack: float = 1.0) -> Finding:
    """Motion, the fault, what came of it; then the fault is undone, and nothing may move until a new goal.

    `slack`: times the detection bounds, for a machine on which processes wait for each other.
    """
    cell.run()
    cell.pass_time(BEFORE_S)
    began_ns = cell.now_ns - int(BEFORE_S * 1e9)
    cell.operator.first_cause, cell.arm.latest_s = None, 0.0
    fault_ns = cell.now_ns
    bounds, detect_s = cell.bounds, None if case.detect_s is None else case.detect_s * slack
    if case.vendor:
        bounds = replace(bounds, judge=tuple(name for name in bounds.judge if name in ("position", "velocity")))
    case.make(cell)
    if case.goes_on:
        cell.pass_time(1.5)
    else:
        cell.pass_time((detect_s or 0.0) + bounds.stop_s + AFTER_S)
    said = cell.operator.first_cause
    cause, detected = (
        ("", None) if said is None else (said[0], max(0.0, (said[1] - cell.arm.clock_offset_ns - fault_ns) * 1e-9))
    )
    case.undo(cell)
    if case.goes_on:
        cell.pass_time(0.1)
    elif case.detect_s is not None:
        cell.pass_time(AFTER_S)  # the fault is gone, and still nothing may move
    finding = judge(
        case.name, cell.arm.driver.record, bounds, began_ns=began_ns, fault_ns=fault_ns, expected=case.causes,
        cause=cause, detected_s=detected, detect_bound_s=detect_s, must_stop=not case.goes_on, note=case.note,
        latest_s=cell.arm.latest_s,
    )  # fmt: skip
    if cell.operator.state != "fault_latched":
        cell.operator.stop()  # it goes on, as it should or not
        cell.pass_time(bounds.stop_s)
    return finding


def run_suite(
    cell: FaultStation, cases: Sequence[FaultCase], say: Callable[[str], None], slack: float = 1.0
) -> list[Finding]:
    """All cases on one cell. A case that cannot be carried out is a finding too; the cell then begins anew."""
    found: list[Finding] = []
    for case in cases:
        began = time.monotonic()
        try:
            finding = run_case(cell, case, slack)
        except GaveUp as error:
            finding = Finding(case.name, case.causes, "", None, None, None, None, 0.0, {}, (f"gave up: {error}",))
        found.append(finding)
        say(f"{case.name}: {'ok' if finding.ok else 'NOT ok'} ({time.monotonic() - began:.1f} s)")
        for problem in finding.problems:
            say(f"    {problem}")
        if any(problem.startswith("gave up") for problem in finding.problems):
            cell.restore()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite."""
    options = _options(arguments)
    cases = [
        case
        for case in CASES
        if (not options.quick or case.quick) and (not options.only or any(word in case.name for word in options.only))
    ]
    if not cases:
        print(f"faults_suite: no such fault; available: {', '.join(case.name for case in CASES)}", file=sys.stderr)
        return 2
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with tempfile.TemporaryDirectory(prefix="dropgate_faults_") as folder:
        try:
            robot = find_robot_file(options.robot, simulated=False)
            station = FaultStation(robot.path, Path(options.keep or folder), options.pace, options.patience)
        except (NoRobotFile, NoMock) as error:
            print(f"faults_suite: {error}", file=sys.stderr)
            return 2
        with station as cell:
            found = run_suite(cell, cases, lambda line: print(line, file=sys.stderr, flush=True))
    about = {
        "robot": robot.robot, "robot_file_sha256": robot.sha256, "pace": options.pace, "machine": platform.machine(),
        "kernel": platform.release(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
        "false_stops": station.false_stops,
    }  # fmt: skip
    print(table(found))
    for stop in station.false_stops:
        print(f"stopped without a fault: {stop}")
    if options.json:
        new = Path(options.json).with_suffix(".new")
        new.write_text(to_json(found, about), encoding="utf-8")
        new.replace(options.json)
    complete = len(found) == len(cases)
    return 0 if complete and all(finding.ok for finding in found) else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dropgate_sim.faults_suite", description=__doc__.split("\n")[0])
    parser.add_argument("--robot", default="ur5e", help="robot file, by name or path (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="the subset that CI runs")
    parser.add_argument("--only", nargs="*", default=[], help="faults whose name holds one of these words")
    parser.add_argument("--pace", type=float, default=1.0, help="below 1: slow motion, for a busy machine (from 0.1)")
    parser.add_argument("--patience", type=float, default=120.0, help="of every wait [s]")
    parser.add_argument("--json", help="file for the findings")
    parser.add_argument("--keep", help="folder for logs and parameters (default: thrown away)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
