# SPDX-License-Identifier: Apache-2.0
"""A cell for the fault suite: the MuJoCo arm here, controller, guard and scripted worker as processes, over DDS."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
import yaml
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter

from dropgate_sim.fault_artifact import TASK, cameras_of, parameters, scripted_artifact
from dropgate_sim.fault_verdict import Bounds
from dropgate_sim.motion_record import Allowed
from dropgate_sim.operator_node import GaveUp, OperatorNode
from dropgate_sim.processes import RUN_MODULE
from dropgate_sim.scripted_policy import write_launcher
from dropgate_sim.sim_arm_node import SimArmNode

NODES = {"controller": "dropgate_controller.controller_node", "guard": "dropgate_controller.guard_node"}
MOVING_RAD_S, TRIES = 0.1, 3


class FaultStation:
    """`with FaultStation(...) as cell: cell.run()` moves the arm.

    Args:
        robot_file: launch/config/<robot>.yaml.
        folder: for artifact, parameters, script and logs; must be empty.
        pace: seconds of the arm's time per second of the machine's; below 1 on a busy machine.
        patience_s: of every wait, in wall time.
        change: last word on the parameters, per node.
        simulated_time: the arm tells the time, so that it can be set. Otherwise all have the machine's, as a real
            station has; in slow motion there is no choice.
    """

    def __init__(
        self, robot_file: Path, folder: Path, pace: float = 1.0, patience_s: float = 60.0,
        change: Callable[[dict[str, Any]], None] | None = None, simulated_time: bool = True,
    ) -> None:  # fmt: skip
        self.folder, self.pace, self._patience_s = folder, pace, patience_s
        folder.mkdir(parents=True, exist_ok=True)
        self._script = folder / "script"
        self.script("sweep")
        launcher = write_launcher(folder / "python", self._script)
        draft = parameters(robot_file, folder / "artifact", launcher, pace, simulated_time or pace != 1.0)
        arm = draft["sim_arm"]["ros__parameters"]
        scripted_artifact(folder, tuple(arm["joints"]), cameras_of(draft))
        if change is not None:
            change(draft)
        self._given, self._file = draft, folder / "parameters.yaml"
        self._file.write_text(yaml.safe_dump(draft, default_flow_style=None), encoding="utf-8")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.false_stops: list[str] = []  # causes of stops that nobody asked for

    @property
    def bounds(self) -> Bounds:
        """What the controller's parameters allow."""
        given = self._given["dropgate_controller"]["ros__parameters"]
        limits = given["limits"]
        allowed = Allowed(
            limits["joint_low"], limits["joint_high"], limits["joint_velocity"], limits["joint_acceleration"],
            limits.get("joint_jerk"),
        )  # fmt: skip
        splice_s = limits.get("splice_s", 0.02)
        return Bounds(allowed, limits.get("commit_s", 0.1), self.pace / given["tick_hz"], splice_s=splice_s)

    @property
    def now_ns(self) -> int:
        """The arm's time."""
        return self.arm.driver.now_ns

    def __enter__(self) -> FaultStation:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        given = self._given["sim_arm"]["ros__parameters"]
        self.arm = SimArmNode(self._context, [Parameter(name, value=value) for name, value in given.items()])
        home = " ".join(repr(float(place)) for place in self.arm.driver.arm.positions)
        (self.folder / "home").write_text(home, encoding="ascii")
        self.operator = OperatorNode(self._context, lambda: None, self._patience_s)
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self.operator)
        self._threads = [
            threading.Thread(target=_quietly, args=(self.arm.run,), daemon=True),
            threading.Thread(target=_quietly, args=(executor.spin,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        try:
            for name in NODES:
                self.launch(name)
            self.operator.bring_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        rclpy.shutdown(context=self._context)
        for thread in self._threads:
            thread.join(timeout=10)
        for node in (self.arm, self.operator):  # what is not destroyed is still heard of in the next station
            node.destroy_node()

    def launch(self, name: str) -> None:
        """Start (again) the controller or the guard."""
        node = [NODES[name], "--ros-args", "--params-file", str(self._file)]
        command = [sys.executable, "-c", RUN_MODULE, str(os.getpid()), *node]  # it ends with this process
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": paths}
            )

    def run(self) -> None:
        """Armed, with a task, and the arm moves. A stop without a fault is counted and tried again. Raises GaveUp."""
        for _ in range(TRIES):
            self.operator.arm()
            self.operator.start(TASK)
            self.operator.wait(lambda: self.speed() > MOVING_RAD_S or self.operator.first_cause, "motion")
            if self.operator.first_cause is None:
                return
            said = self.operator.status.text if self.operator.status else ""
            self.false_stops.append(f"{self.operator.first_cause[0]}: {said}")
        raise GaveUp(f"{TRIES} tasks stopped without a fault: {self.false_stops[-TRIES:]}")

    def restore(self) -> None:
        """Everything healthy again, with new processes: after a case that could not be carried out."""
        self.arm.inject("none")
        self.script("sweep")
        self.operator.holding = True
        for name, process in self.processes.items():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
            self.launch(name)
        self.operator.status = None
        self.operator.bring_up()

    def speed(self) -> float:
        """Of the fastest joint [rad/s]."""
        return float(abs(self.arm.driver.arm.velocities).max())

    def script(self, words: str) -> None:
        """What the policy does from its next answer on."""
        new = self._script.with_suffix(".new")
        new.write_text(words, encoding="ascii")
        new.replace(self._script)

    def recordings(self) -> list[Path]:
        """Files that are being written, if the controller was given `record_dir` below the folder. Raises GaveUp."""
        found = list(self.folder.glob("recordings/*.part"))
        if not found:
            raise GaveUp("nothing is being recorded")
        return found

    def worker(self) -> int:
        """Process id of the policy worker. Raises GaveUp."""
        parent = self.processes["controller"].pid
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
        pids = [int(line) for line in found.stdout.split()]
        if not pids:
            raise GaveUp("the controller has no worker")
        return pids[0]

    def pass_time(self, seconds: float) -> None:
        """Wait for seconds of the arm's time."""
        until = self.now_ns + int(seconds * 1e9)
        self.operator.wait(lambda: self.now_ns >= until, "time to pass", self._patience_s + 4 * seconds / self.pace)

    def log(self, name: str) -> str:
        """The end of what a process has written."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-1500:]


def _quietly(spin: Callable[[], None]) -> None:
    """Until the context ends, which may be in the middle of a wait."""
    try:
        spin()
    except (ExternalShutdownException, KeyboardInterrupt):
        return
    except Exception:
        time.sleep(0.2)
        if rclpy.ok():
            raise
