# SPDX-License-Identifier: Apache-2.0
"""The simulation regression: what it asks, when it passes, what it leaves, and that nothing broken ever passes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dropgate_sim import regress as command
from dropgate_sim.panel import PanelError, make_panel
from dropgate_sim.processes import ProcessDied, Processes, Program
from dropgate_sim.regression_page import FILMS, film_name
from dropgate_sim.regression_report import MARGIN, Evidence, Verdict, evidence_json, judge, lines, write_evidence
from dropgate_sim.robot_file import NoRobotFile, find_robot_file
from dropgate_sim.ros_rows import RosLog, RosRow, RowsDamaged
from worker_factory import with_large_images

from compress.gate.plan import Pair
from compress.gate.rows import EpisodeRow
from runtime.contract.regression import check_regression
from runtime.errors import GateRefusedError

SIZE = 32
ROBOT = """
/**:
  ros__parameters:
    robot: ignored
dropgate_controller:
  ros__parameters:
    robot: toy
    simulated: true
    command.interface: twist
    limits: {linear_m_s: 1.0, angular_rad_s: 3.0, linear_m_s2: 9.0, angular_rad_s2: 30.0, max_start_jump_m: 0.1,
             max_start_jump_rad: 0.5, workspace_low: [-1.0, -1.0, 0.0], workspace_high: [1.0, 1.0, 1.0]}
"""


def ros_row(pair: Pair, success: bool, **changes) -> RosRow:
    fields = {
        "steps": 70, "commands": 70, "chunks": 9, "rejected": 0, "cause": "cancelled", "text": "", "error": "",
        "infer_s": 0.02, "age_s": 0.05, "wall_s": 4.0,
    }  # fmt: skip
    return RosRow(*pair, success=success, **{**fields, **changes})


def bare_row(pair: Pair, success: bool) -> EpisodeRow:
    names = ("dropgate_tabletop", pair.task, "a task", pair.state, pair.seed, "candidate", "candidate", pair.task)
    return EpisodeRow(*names, success=success, steps=65, queries=9, wall_s=1.0, infer_s=0.2)


# the scenes ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """A promoted artifact with LIBERO's conventions; its gate.json holds no plan."""
    return with_large_images(tmp_path_factory.mktemp("artifact"), SIZE)


@pytest.mark.sim
def test_the_scenes_are_the_first_of_the_gates_own_order(artifact) -> None:
    from compress.gate.plan import make_plan
    from compress.gate.sim_gate import suite_tasks
    from compress.gate.spec import GateSpec

    panel = make_panel(artifact, 40, None, None, None)
    assert panel.pairs == make_plan(GateSpec(), suite_tasks(GateSpec()), {}).order[:40]
    assert len({pair.task for pair in panel.pairs}) > 1
    assert panel.spec.image_size == SIZE
    assert make_panel(artifact, 40, 7, None, None).pairs != panel.pairs
    assert not panel.recorded
    for states in (0, 10_000):
        with pytest.raises(PanelError, match="scenes were asked for"):
            make_panel(artifact, states, None, None, None)


# the verdict ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def panel(artifact):
    from dropgate_sim.panel import Panel

    from compress.gate.plan import SuiteTask, make_plan
    from compress.gate.spec import GateSpec

    spec = GateSpec(image_size=SIZE)
    tasks = tuple(SuiteTask(i, f"task {i}", f"do {i}", 10, 150) for i in range(2))
    plan = make_plan(spec, tasks, {})
    return Panel(spec, plan, plan.order[:20], {}, None)


def both(panel, through: int, process: int):
    """Rows with so many successes each; those in process come first, those through ROS last: as unequal as can be."""
    last = len(panel.pairs) - through
    rows = {pair: ros_row(pair, place >= last) for place, pair in enumerate(panel.pairs)}
    bare = {pair: bare_row(pair, place < process) for place, pair in enumerate(panel.pairs)}
    return rows, bare


@pytest.mark.parametrize(
    ("through", "process", "verdict"),
    [
        (20, 20, "pass"),
        (18, 20, "pass"),
        (17, 20, "fail"),
        (20, 10, "pass"),
        (8, 10, "pass"),
        (7, 10, "fail"),
        (20, 9, "fail"),
        (0, 0, "fail"),
    ],
)
def test_it_passes_if_at_most_ten_points_are_lost_and_the_policy_itself_works(panel, through, process, verdict) -> None:
    found, reason = judge(panel, *both(panel, through, process), broken="")
    assert found.value == verdict
    assert f"{through} of 20 through ROS, {process} of 20 in process" in reason


def test_missing_rows_and_broken_runs_fail_whatever_the_others_say(panel) -> None:
    rows, bare = both(panel, 20, 20)
    assert judge(panel, rows, bare, "the guard died") == (Verdict.FAIL, "after 20 of 20 episodes: the guard died")
    for lacking in (rows, bare):
        kept = dict(lacking)
        del lacking[panel.pairs[3]]
        verdict, reason = judge(panel, rows, bare, "")
        assert verdict is Verdict.FAIL
        assert "only 19 of 20" in reason
        lacking.update(kept)


# the evidence --------------------------------------------------------------------------------------------------------


@pytest.fixture
def robot(tmp_path):
    (tmp_path / "toy.yaml").write_text(ROBOT)
    return find_robot_file(str(tmp_path / "toy.yaml"))


def evidence(artifact, robot, panel, folder, through: int = 19, broken: str = "") -> Evidence:
    rows, bare = both(panel, through, 20)
    verdict, reason = judge(panel, rows, bare, broken)
    latencies = {"controller_ms": {"tick p99 ms": "0.8"}, "tick_p99_s": 0.0008, "tick_max_s": 0.002}
    return Evidence(artifact, robot, panel, verdict, reason, broken, rows, bare, latencies, folder)


def test_the_robot_accepts_what_passed_for_these_bytes_and_this_robot_only(artifact, robot, panel) -> None:
    folder = artifact.root.with_name(artifact.root.name + ".regression")
    write_evidence(evidence(artifact, robot, panel, folder), 12.0)
    report = check_regression(artifact, "toy", robot.limits_sha256)
    assert (report["compared"]["candidate"]["successes"], report["compared"]["lost"]) == (19, 1)
    assert report["robot_file_sha256"] == robot.sha256
    assert report["margin"] == MARGIN
    with pytest.raises(GateRefusedError, match="robot 'toy'"):
        check_regression(artifact, "another", robot.limits_sha256)
    with pytest.raises(GateRefusedError, match="limits_sha256"):
        check_regression(artifact, "toy", "0" * 64)
    write_evidence(evidence(artifact, robot, panel, folder, through=2), 12.0)
    with pytest.raises(GateRefusedError, match="verdict 'fail'"):
        check_regression(artifact, "toy", robot.limits_sha256)
    write_evidence(evidence(artifact, robot, panel, folder, broken="the guard died"), 12.0)
    with pytest.raises(GateRefusedError, match="verdict 'fail'"):
        check_regression(artifact, "toy", robot.limits_sha256)


def test_the_page_is_one_file_with_failures_first(artifact, robot, panel, tmp_path) -> None:
    import numpy as np
    from PIL import Image

    made = evidence(artifact, robot, panel, tmp_path / "out")
    (tmp_path / "out" / FILMS).mkdir(parents=True)
    for row in (made.rows[panel.pairs[-1]], made.rows[panel.pairs[0]]):
        Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(tmp_path / "out" / FILMS / f"{film_name(row)}.png")
    write_evidence(made, 12.0)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "PASS" in page
    assert page.index("not reached in 70 steps; in process it was reached") < page.index("reached after 70 steps")
    assert page.count("data:image/png;base64,") == 2
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_numbers_for_programs_and_lines_for_people(artifact, robot, panel, tmp_path) -> None:
    made = evidence(artifact, robot, panel, tmp_path)
    data = evidence_json(made, 12.0)
    json.dumps(data, allow_nan=False)
    assert data["causes"] == {"cancelled": 20}
    assert sum(task["pairs"] for task in data["tasks"]) == 20
    assert data["latency"]["tick_p99_s"] == 0.0008
    text = "\n".join(lines(made))
    assert text.startswith("pass: ")
    assert "difference -5.0 points (Tango 95 %" in text


def test_a_broken_run_without_any_episode_still_leaves_its_reason(artifact, robot, panel, tmp_path) -> None:
    made = dataclasses.replace(evidence(artifact, robot, panel, tmp_path, broken="no robot"), rows={}, bare={})
    write_evidence(made, 0.0)
    report = json.loads((tmp_path / "regression.json").read_text())
    assert (report["verdict"], report["broken"], report["episodes"]) == ("fail", "no robot", 0)
    assert "FAIL" in (tmp_path / "report.html").read_text()
    assert lines(made)[0].startswith("fail: ")


# rows ----------------------------------------------------------------------------------------------------------------


def test_rows_survive_a_torn_last_line_and_nothing_else(tmp_path) -> None:
    path, first, second = tmp_path / "rows.jsonl", ros_row(Pair(0, 1, 0), True), ros_row(Pair(1, 2, 0), False)
    with RosLog(path) as log:
        log.append(first)
        log.append(second)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"task": 3')
    with RosLog(path) as log:
        assert log.rows == {first.pair: first, second.pair: second}
    assert path.read_bytes() == whole
    path.write_bytes(b'{"task": 3}\n' + whole)
    with pytest.raises(RowsDamaged, match=r"line 1.*--force"):
        RosLog(path)


# processes -----------------------------------------------------------------------------------------------------------


def program(tmp_path, name: str, code: str) -> Program:
    (tmp_path / f"{name}_program.py").write_text(code)
    return Program(name, f"{name}_program", ["--given"], {"PYTHONPATH": str(tmp_path), "TOLD": "yes"})


def wait_for(fact) -> None:
    limit = time.monotonic() + 120.0
    while not fact():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_process_that_dies_is_named_with_the_end_of_its_log(tmp_path) -> None:
    code = "import os, sys\nprint('about to fail', sys.argv[1], os.environ['TOLD'])\nraise SystemExit(3)\n"
    with Processes([program(tmp_path, "guard", code)], tmp_path / "logs") as robot:
        wait_for(lambda: "about to fail" in robot.tail("guard"))
        with pytest.raises(ProcessDied, match=r"guard ended \(exit 3\)[^$]*about to fail --given yes"):
            wait_for(lambda: robot.check())


def test_all_processes_end_with_the_regression_even_stubborn_ones(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dropgate_sim.processes.TERM_AFTER_S", 0.5)
    monkeypatch.setattr("dropgate_sim.processes.KILL_AFTER_S", 0.5)
    stubborn = (
        "import signal, time\nfor s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\ntime.sleep(600)\n"
    )
    polite = "print('here', flush=True)\nimport time\ntime.sleep(600)\n"
    with Processes([program(tmp_path, "a", stubborn), program(tmp_path, "b", polite)], tmp_path / "logs") as robot:
        pids = [robot.pid("a"), robot.pid("b")]
        wait_for(lambda: "deaf" in robot.tail("a") and "here" in robot.tail("b"))
        robot.check()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIG_DFL)


def test_no_process_outlives_a_regression_that_was_killed(tmp_path) -> None:
    parent = (
        "import os, sys, time\nfrom pathlib import Path\nfrom dropgate_sim.processes import Processes, Program\n"
        "robot = Processes([Program('idle', 'idle_program', [], {})], Path(sys.argv[1]))\n"
        "robot.__enter__()\n"
        "Path(sys.argv[1], 'pid').write_text(str(robot.pid('idle')))\ntime.sleep(600)\n"
    )
    (tmp_path / "idle_program.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(600)\n")
    logs = tmp_path / "logs"
    logs.mkdir()
    path = os.pathsep.join([str(tmp_path), *sys.path])
    child = subprocess.Popen([sys.executable, "-c", parent, str(logs)], env={**os.environ, "PYTHONPATH": path})
    try:
        log = logs / "idle.log"
        wait_for(lambda: (logs / "pid").exists() and log.exists() and "here" in log.read_text())
        pid = int((logs / "pid").read_text())
    finally:
        child.kill()
        child.wait()

    def gone() -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    wait_for(gone)


# robot files ---------------------------------------------------------------------------------------------------------


def test_a_robot_file_names_its_robot_and_interface(robot) -> None:
    assert (robot.robot, robot.interface) == ("toy", "twist")


def test_the_simulated_panda_is_found_by_name() -> None:
    found = find_robot_file("libero_panda")
    assert (found.robot, found.interface) == ("libero_panda", "twist")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: b", "robot of node"),
        (": [", "is not YAML"),
        ("", "is None"),
        (ROBOT.replace("simulated: true", ""), "simulated arms only"),
        (ROBOT.replace("linear_m_s: 1.0,", ""), r"limits\.linear_m_s"),
        (ROBOT.replace("linear_m_s: 1.0", "linear_m_s: -1.0"), "expected a finite number above 0"),
    ],
)
def test_a_robot_file_that_says_nothing_is_refused(tmp_path, text, why) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(NoRobotFile, match=why):
        find_robot_file(str(tmp_path / "bad.yaml"))


def test_an_unknown_robot_is_answered_with_those_there_are() -> None:
    with pytest.raises(NoRobotFile, match=r"available: .*libero_panda"):
        find_robot_file("no_such_robot")


# the command ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_run_is_an_error_and_no_pass(tmp_path, capsys) -> None:
    assert command.main([str(tmp_path / "nothing"), "--json"]) == command.ERROR
    out = capsys.readouterr()
    answer = json.loads(out.out)
    assert (answer["verdict"], answer["exit_code"]) == ("fail", 2)
    assert out.err.startswith("regress: ")
    assert "Traceback" not in out.err


def test_being_terminated_is_being_interrupted(monkeypatch, capsys) -> None:
    def terminated(options) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60.0)
        raise AssertionError("unreachable")

    monkeypatch.setattr(command, "_regress", terminated)
    before = signal.getsignal(signal.SIGTERM)
    assert command.main(["an_artifact"]) == command.INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) is before
    assert "the same command goes on" in capsys.readouterr().err


@pytest.fixture
def through_ros(artifact, tmp_path):
    pytest.importorskip("rclpy")
    return artifact, tmp_path / "evidence"


@pytest.mark.ros
@pytest.mark.sim
@pytest.mark.slow
def test_a_policy_that_cannot_do_it_goes_through_the_whole_robot_and_fails(through_ros, capsys) -> None:
    artifact, out = through_ros
    own = {name: value for name, value in os.environ.items() if name.startswith("ROS_")}
    arguments = [str(artifact.root), "--states", "2", "--out", str(out), "--quiet", "--json"]
    assert command.main(arguments) == 1, capsys.readouterr().err
    assert {name: value for name, value in os.environ.items() if name.startswith("ROS_")} == own, "its graph alone"
    answer = json.loads(capsys.readouterr().out)
    assert "solves less than 50 %" in answer["reason"]
    report = json.loads((out / "regression.json").read_text())
    assert report["artifact_id"] == artifact.manifest.artifact_id
    assert report["rmw"].startswith("rmw_")
    rows = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        # cancelled at the cap, or stopped because it wandered to where the small wrist picture shows one colour only
        assert row["cause"] in ("cancelled", "observation_frozen"), row
        assert bool(row["error"]) == (row["cause"] != "cancelled")
        assert 60 <= row["commands"] <= row["steps"]
        assert row["chunks"] >= row["commands"] // 8
    assert len(list((out / FILMS).glob("*_failed.png"))) == 2
    before = (out / "episodes.jsonl").read_bytes()
    assert command.main(arguments) == 1, "the same again runs nothing"
    assert (out / "episodes.jsonl").read_bytes() == before


@pytest.mark.ros
@pytest.mark.sim
@pytest.mark.slow
def test_a_robot_whose_controller_dies_is_an_error_with_its_log(through_ros, tmp_path, capsys, monkeypatch) -> None:
    from dropgate_sim import regression

    artifact, out = through_ros
    real = regression.programs

    def with_a_dying_controller(*given):
        *others, _ = real(*given)
        return (*others, program(tmp_path, "controller", "print('no licence today')\nraise SystemExit(9)\n"))

    monkeypatch.setattr(regression, "programs", with_a_dying_controller)
    assert command.main([str(artifact.root), "--states", "1", "--out", str(out), "--quiet"]) == 2
    said = capsys.readouterr().out
    assert "controller ended (exit 9)" in said
    assert "no licence today" in said
    report = json.loads((out / "regression.json").read_text())
    assert report["verdict"] == "fail"
    assert "exit 9" in report["broken"]
