# SPDX-License-Identifier: Apache-2.0
"""Every fault, one after the other, on a running cell over DDS: `python -m dropgate_sim.faults_suite --robot FILE`.

Prints a table and writes JSON. Exit 0: every fault as it has to be, 1: not, 2: usage, 3: nothing
failed, but the machine was too slow to judge some (`late`). Nothing here is a statement about
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
from dropgate_sim.fault_page import page
from dropgate_sim.fault_sent import as_sent, lateness
from dropgate_sim.fault_station import FaultStation
from dropgate_sim.fault_verdict import STAYS_RAD, Finding, judge, table, to_json
from dropgate_sim.mock_file import NoMock
from dropgate_sim.operator_node import GaveUp
from dropgate_sim.robot_file import NoRobotFile, find_robot_file

SAYS_S, ARMING_S = 4.0, 2.0  # until diagnostics have come; until arming is answered
BEFORE_S, AFTER_S = 0.3, 0.4  # of steady motion before a fault; of silence after the stop


def run_case(cell: FaultStation, case: FaultCase, slack: float = 1.0) -> Finding:
    """Motion, the fault, what came of it; then the fault is undone, and nothing may move until a new goal.

    `slack`: times the detection bounds, for a machine on which processes wait for each other.
    """
    cell.run()
    cell.pass_time(BEFORE_S)
    began_ns = cell.now_ns - int(BEFORE_S * 1e9)
    cell.operator.first_cause = None
    before = cell.operator.diagnostics.get(case.grows[0], "") if case.grows else ""
    fault_ns = cell.now_ns
    bounds, detect_s = cell.bounds, None if case.detect_s is None else case.detect_s * slack
    if case.vendor:
        bounds = replace(bounds, judge=tuple(name for name in bounds.judge if name in ("position", "velocity")))
    case.make(cell)
    missing = ""
    if case.goes_on:
        cell.pass_time(1.5)
        missing = _unsaid(cell, case, before)
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
    if cell.operator.state != "fault_latched":
        cell.operator.stop()  # it goes on, as it should or not
        cell.pass_time(bounds.stop_s)
    messages = [each for each in list(cell.arm.received) if each.trajectory.stamp_ns >= began_ns]
    names, settings = cell.arm.driver.arm.names, cell.arm.driver.controller.settings
    told = case.station != "clock" and not case.vendor  # else stamps are of two times, or of slowed ones
    finding = judge(
        case.name, cell.arm.driver.record, bounds, began_ns=began_ns, fault_ns=fault_ns, expected=case.causes,
        cause=cause, detected_s=detected, detect_bound_s=detect_s, must_stop=not case.goes_on, note=case.note,
        sent=as_sent(names, settings, messages) if told else None, late=lateness(messages) if told else None,
    )  # fmt: skip
    return replace(finding, problems=(*finding.problems, *filter(None, (missing,))))


def _unsaid(cell: FaultStation, case: FaultCase, before: str) -> str:
    """What the diagnostics, which come once a second, should say and do not."""
    facts: dict[str, str] = {}

    def shown() -> bool:
        facts.update(cell.operator.diagnostics)
        if case.grows is not None:
            return _number(facts.get(case.grows[0])) - _number(before) >= case.grows[1]
        return case.says is None or facts.get(case.says[0], "").startswith(case.says[1])

    try:
        cell.operator.wait(shown, "the diagnostics", SAYS_S / cell.pace)
    except GaveUp:
        key, expected = case.says or (case.grows or ("", ""))
        return f"diagnostics say {key}: {facts.get(key)} (before: {before or '-'}), expected {expected}"
    return ""


def _number(text: str | None) -> float:
    return float(text or "nan")


def run_refusal(cell: FaultStation, case: FaultCase) -> Finding:
    """A fault before arming: it must be refused, for the right reason, and nothing may move."""
    if cell.operator.state != "idle":
        cell.operator.arm()
        cell.operator.disarm()
    began_ns, began = cell.now_ns, time.monotonic()
    case.make(cell)
    why = cell.operator.refuses_arming()
    took = (time.monotonic() - began) * cell.pace
    cell.pass_time(AFTER_S)
    problems = [] if any(word in why for word in case.causes) else [f"arming: {why or 'granted'}, expected a refusal"]
    moved = cell.arm.driver.record.moved_since(began_ns)
    problems += [f"moved {moved:.4f} rad"] if moved > STAYS_RAD else []
    case.undo(cell)
    return Finding(case.name, case.causes, "arming refused" if why else "", took, ARMING_S, 0.0, None, round(moved, 6),
                   {}, tuple(problems), case.note)  # fmt: skip


def run_suite(
    cell: FaultStation, cases: Sequence[FaultCase], say: Callable[[str], None], slack: float = 1.0, tries: int = 1
) -> list[Finding]:
    """All cases on one cell. A case that cannot be carried out is a finding too; the cell then begins anew.

    `tries`: a case that the machine spoiled, or that could not be made, is made so often at most; each time is told.
    """
    found: list[Finding] = []
    for case in cases:
        earlier: list[str] = []
        for k in range(tries):
            began = time.monotonic()
            try:
                finding = run_refusal(cell, case) if case.at_rest else run_case(cell, case, slack)
            except GaveUp as error:
                finding = Finding(case.name, case.causes, "", None, None, None, None, 0.0, {}, (f"gave up: {error}",))
            finding = replace(finding, tries=k + 1, earlier=tuple(earlier))
            say(f"{case.name}: {finding.result} ({time.monotonic() - began:.1f} s, load {os.getloadavg()[0]:.1f})")
            for line in (*finding.problems, *filter(None, (finding.spoiled,))):
                say(f"    {line}")
            gave_up = any(problem.startswith("gave up") for problem in finding.problems)
            if gave_up:
                cell.restore()
            if finding.result != "late" and not gave_up:
                break
            reason = "; ".join((*finding.problems, *filter(None, (finding.spoiled,))))
            earlier.append(f"try {k + 1}, {finding.result}: {reason}")
        found.append(finding)
    return found


def run_all(robot: Path, cases: Sequence[FaultCase], options: argparse.Namespace) -> tuple[list[Finding], list[str]]:
    """On a station of its own for each kind: findings in the order of the cases, and stops that nobody asked for."""
    found: list[Finding] = []
    false_stops: list[str] = []
    for kind in dict.fromkeys(case.station for case in cases):
        with tempfile.TemporaryDirectory(prefix="dropgate_faults_") as folder:
            place = Path(options.keep or folder) / kind
            record = str(place / "recordings") if kind == "recorded" else ""
            station = FaultStation(
                robot, place, options.pace, options.patience, simulated_time=kind == "clock",
                change=lambda draft, to=record: draft["dropgate_controller"]["ros__parameters"].update(record_dir=to),
            )  # fmt: skip
            own = [case for case in cases if case.station == kind]
            with station as cell:
                found += run_suite(
                    cell, own, lambda line: print(line, file=sys.stderr, flush=True), tries=options.tries
                )
            false_stops += station.false_stops
    order = [case.name for case in cases]
    return sorted(found, key=lambda finding: order.index(finding.fault)), false_stops


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
    load = os.getloadavg()
    try:
        robot = find_robot_file(options.robot, simulated=False)
        found, false_stops = run_all(robot.path, cases, options)
    except (NoRobotFile, NoMock) as error:
        print(f"faults_suite: {error}", file=sys.stderr)
        return 2
    about = {
        "robot": robot.robot, "robot_file_sha256": robot.sha256, "pace": options.pace, "machine": platform.machine(),
        "kernel": platform.release(), "cores": os.cpu_count(), "nice": os.nice(0), "load_before": load[0],
        "load_after": os.getloadavg()[0], "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "false_stops": false_stops,
    }  # fmt: skip
    print(table(found))
    for stop in false_stops:
        print(f"stopped without a fault: {stop}")
    for path, text in ((options.json, to_json(found, about)), (options.html, page(found, about))):
        if path:
            new = Path(path).with_suffix(".new")
            new.write_text(text, encoding="utf-8")
            new.replace(path)
    if len(found) != len(cases) or any(finding.result == "FAIL" for finding in found):
        return 1
    return 0 if all(finding.ok for finding in found) else 3


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dropgate_sim.faults_suite", description=__doc__.split("\n")[0])
    parser.add_argument("--robot", default="ur5e", help="robot file, by name or path (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="the subset that CI runs")
    parser.add_argument("--only", nargs="*", default=[], help="faults whose name holds one of these words")
    parser.add_argument("--pace", type=float, default=1.0, help="below 1: slow motion, for a busy machine (from 0.1)")
    parser.add_argument("--patience", type=float, default=120.0, help="of every wait [s]")
    parser.add_argument(
        "--tries", type=int, default=3, help="of a case that the machine spoiled (default: %(default)s)"
    )
    parser.add_argument("--html", help="page for people")
    parser.add_argument("--json", help="file for the findings")
    parser.add_argument("--keep", help="folder for logs and parameters (default: thrown away)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
