# SPDX-License-Identifier: Apache-2.0
"""The simulation regression before hardware: does the policy do through ROS what it did in process, on the same scenes?

Everything that the robot will run takes part (controller, guard, filter, messages, clocks); only the arm is simulated.
It passes if the success rate through ROS is at most MARGIN below the rate in process. Whatever is missing, broken or
proves nothing is a fail, never a pass.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.atomic import write_json
from compress.gate.episodes import SimulatorBroken
from compress.gate.plan import Pair
from compress.gate.policies import UnusablePolicy
from compress.gate.rows import EpisodeRow
from compress.gate.spec import GateSpecError
from compress.progress import Progress
from compress.sim.renderer import NoRenderer
from dropgate_sim.commander import Commander, NotReady
from dropgate_sim.panel import Panel, PanelError, in_process, make_panel
from dropgate_sim.processes import ProcessDied, Processes, Program
from dropgate_sim.regression_page import FILMS, film_name
from dropgate_sim.regression_report import PAGE, Evidence, Verdict, judge, write_evidence
from dropgate_sim.robot_file import NoRobotFile, RobotFile, find_robot_file
from dropgate_sim.ros_rows import RosLog, RosRow, RowsDamaged
from runtime.contract.artifact import Artifact, read_artifact
from runtime.contract.regression import REPORT, regression_folder
from runtime.errors import DropGateRuntimeError

ROWS, PLAN, LOCK, LOGS = "episodes.jsonl", "plan.json", ".lock", "logs"
OURS = (REPORT, PAGE, ROWS, PLAN, "in_process.jsonl", LOGS, FILMS)
HOLD_AFTER_S = 20.0  # patience of the simulated robot with a controller on a busy machine
SUCCESSES_SHOWN = 2
DOMAINS = range(215, 233)  # free on Linux, and nobody chooses them by hand
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS")}
BROKEN = (
    DropGateRuntimeError, PanelError, NoRobotFile, NotReady, ProcessDied, RowsDamaged, SimulatorBroken, UnusablePolicy,
    GateSpecError, NoRenderer, ImportError, OSError,
)  # fmt: skip


class OtherRun(ValueError):
    """The folder holds, or is in use by, another regression."""


@dataclass(frozen=True)
class Wish:
    """What was asked for.

    Attributes:
        artifact: its directory.
        states: number of scenes.
        seed, suite: instead of those of the artifact's gate.
        robot: name or path of the robot's parameter file.
        assets: LIBERO's, for its own suites.
        folder: for the evidence; None is `<artifact>.regression`, the only place where a controller looks.
        force: start over.
    """

    artifact: Path
    states: int = 40
    seed: int | None = None
    suite: str | None = None
    robot: str = "libero_panda"
    assets: Path | None = None
    folder: Path | None = None
    force: bool = False


def regress(wish: Wish, progress: Progress) -> Evidence:
    """Run what is missing, judge, write the evidence.

    A run that was interrupted is continued by calling it again; finished episodes are not repeated.

    Raises:
        OtherRun: the folder belongs to another artifact, robot or panel.
        What BROKEN lists, if not even an artifact and a robot are there; afterwards that is a verdict: fail.
    """
    artifact = read_artifact(wish.artifact)
    robot = find_robot_file(wish.robot)
    panel = make_panel(artifact, wish.states, wish.seed, wish.suite, wish.assets)
    folder = (wish.folder or regression_folder(artifact.root)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if wish.force:
            _clear(folder)
        _register(folder, artifact, robot, panel)
        return _run(artifact, robot, panel, folder, progress)


def _run(artifact: Artifact, robot: RobotFile, panel: Panel, folder: Path, progress: Progress) -> Evidence:
    began, latencies, broken = time.monotonic(), {}, ""
    bare: dict[Pair, EpisodeRow] = {}
    with RosLog(folder / ROWS) as log:
        try:
            with progress.bar("in process", len(panel.pairs)) as bar:
                bare = in_process(panel, artifact, folder, lambda done, total: bar.update(done, total))
            left = [pair for pair in panel.pairs if pair not in log.rows]
            if left:
                latencies = _through_ros(artifact, robot, panel, left, log, folder, progress)
        except BROKEN as error:
            broken = f"{type(error).__name__}: {error}"
        rows = {pair: log.rows[pair] for pair in panel.pairs if pair in log.rows}
    verdict, reason = judge(panel, rows, bare, broken)
    evidence = Evidence(artifact, robot, panel, verdict, reason, broken, rows, bare, latencies, folder)
    write_evidence(evidence, time.monotonic() - began)
    return evidence


def _through_ros(
    artifact: Artifact, robot: RobotFile, panel: Panel, left: list[Pair], log: RosLog, folder: Path, progress: Progress
) -> dict[str, Any]:
    domain = str(random.SystemRandom().choice(DOMAINS))
    with _in_graph(domain, folder / LOGS):
        return _episodes(artifact, robot, panel, left, log, folder, progress, domain)


@contextmanager
def _in_graph(domain: str, logs: Path) -> Iterator[None]:
    """This process, and those that it starts, in a ROS graph of their own."""
    own = {"ROS_DOMAIN_ID": domain, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_LOG_DIR": str(logs)}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _episodes(
    artifact: Artifact,
    robot: RobotFile,
    panel: Panel,
    left: list[Pair],
    log: RosLog,
    folder: Path,
    progress: Progress,
    domain: str,
) -> dict[str, Any]:
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(domain), signal_handler_options=SignalHandlerOptions.NO)
    robot_processes = Processes(programs(artifact, robot, panel, folder / LOGS), folder / LOGS)
    commander = Commander(context, robot_processes.check)
    try:
        if not commander.alone():
            raise NotReady(f"other nodes are in ROS domain {domain} already. Next: the same command once more")
        progress.say(f"starting robot, guard and controller in ROS domain {domain}; logs in {folder / LOGS}")
        with robot_processes:
            commander.bring_up()
            with progress.bar("through ROS", len(panel.pairs)) as bar:
                for pair in left:
                    row = _episode(commander, panel, pair, folder)
                    log.append(row)
                    won = sum(row.success for row in log.rows.values())
                    bar.update(len(log.rows), len(panel.pairs), f"{won} reached the goal")
            return {
                "controller_ms": commander.latencies,
                "tick_p99_s": commander.status.tick_p99_s,
                "tick_max_s": commander.status.tick_max_s,
            }
    finally:
        commander.close()
        rclpy.shutdown(context=context)


def _episode(commander: Commander, panel: Panel, pair: Pair, folder: Path) -> RosRow:
    scene = commander.set_scene(pair)
    row = commander.run_task(pair, scene.instruction, panel.plan.task(pair.task).max_steps)
    shown = len(list((folder / FILMS).glob("*_reached.png")))
    if not row.success or shown < SUCCESSES_SHOWN:
        commander.film.save(folder / FILMS / f"{film_name(row)}.png")
    return row


def programs(artifact: Artifact, robot: RobotFile, panel: Panel, folder: Path) -> tuple[Program, ...]:
    """The processes of a robot: the simulated arm, the guard, the controller. Motion needs no release here, because a
    release rests on this; the robot's file says `simulated`, so commands go where no real arm listens."""

    def parameters(**values: object) -> list[str]:
        return [part for name, value in values.items() for part in ("-p", f"{name}:={_yaml(value)}")]

    size = panel.spec.image_size
    arm = {"suite": panel.spec.suite, "image_size": size, "mode": "lockstep", "hold_after_s": HOLD_AFTER_S}
    first = panel.pairs[0]
    arm |= {"task": first.task, "state": first.state, "seed": first.seed, "command_interface": robot.interface}
    if panel.assets is not None:
        arm["assets"] = str(panel.assets)
    from_file = ["--ros-args", "--params-file", str(robot.path)]
    controller = {"artifact": str(artifact.root), "enable_motion": True, "evidence_dir": str(folder)}
    return (
        Program("sim_robot", "dropgate_sim.sim_robot_node", ["--ros-args", *parameters(**arm)], ONE_THREAD),
        Program("guard", "dropgate_controller.guard_node", from_file, {}),
        Program(
            "controller", "dropgate_controller.controller_node",
            [*from_file, *parameters(**controller, use_sim_time=True)], {},
        ),
    )  # fmt: skip


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def _register(folder: Path, artifact: Artifact, robot: RobotFile, panel: Panel) -> None:
    """Write down what this run is about before its first episode, or check that the folder is about the same."""
    wanted = {
        "artifact_id": artifact.manifest.artifact_id,
        "policy_id": artifact.manifest.policy_id,
        "robot": robot.robot,
        "robot_file_sha256": robot.sha256,
        "panel": panel.to_json(),
    }
    path = folder / PLAN
    if not path.exists():
        write_json(path, wanted)
        return
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = {}
    differ = [name for name, value in wanted.items() if found.get(name) != value]
    if differ:
        raise OtherRun(
            f"{path} is of another regression: {', '.join(differ)} differ. Next: --force starts over, or give --out"
        )


def _clear(folder: Path) -> None:
    for name in OURS:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / LOCK, "wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OtherRun(f"{folder} is in use by another regression. Next: wait for it") from error
        yield


def summary(evidence: Evidence) -> Mapping[str, Any]:
    """For programs: what regression.json says, without the tables."""
    return {
        "verdict": evidence.verdict.value,
        "reason": evidence.reason,
        "exit_code": exit_code(evidence),
        "report": str(evidence.folder / REPORT),
    }


def exit_code(evidence: Evidence) -> int:
    """0 pass, 1 fail, 2 something was broken."""
    if evidence.broken:
        return 2
    return 0 if evidence.verdict is Verdict.PASS else 1
