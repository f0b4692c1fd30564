# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and lifecycle shutdown in the middle of a motion: the arm is braked first, then all is tidied up.

And what is refused leaves nothing: no process, no publisher, no decision about motion.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = [pytest.mark.ros]
rclpy = pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros")
pytest.importorskip("dropgate_interfaces", reason="ros: the workspace is not built. Next: make install-ros ros-build")

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from ros_station import (  # noqa: E402
    PARAMETERS,
    TOPIC,
    Station,
    patient_artifact,
    release,
    result_of,
    wait_for,
)
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from runtime.contract.conventions import Verdict  # noqa: E402
from runtime.control.state import State  # noqa: E402

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return patient_artifact(tmp_path_factory.mktemp("artifact"), Verdict.PROMOTE)


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def assert_ended_well(cell: Station, children: list[int]) -> None:
    process = cell.processes["controller"]
    assert process.wait(timeout=PATIENCE_S) == 0, cell.log()
    for word in ("Traceback", "RCLError", "before the arm rests"):
        assert word not in cell.log()
    assert children
    wait_for(lambda: all(map(gone, children)), "the children to be gone")


def assert_replays(folder: Path, cause: str) -> None:
    from runtime.recording.mcap_file import McapRecording
    from runtime.recording.replay import replay
    from runtime.recording.setup import Setup

    (path,) = folder.iterdir()
    assert path.suffix == ".mcap", "finished"
    found = McapRecording(path)
    events = list(found.events())
    assert found.whole
    assert [event["out"]["cause"] for event in events if event["call"] == "tick"][-1] == cause
    done = replay(Setup.from_json(found.setup), iter(events))
    assert done.same, done.difference


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_in_motion_brakes_gives_the_result_and_leaves_nothing_open(artifact, tmp_path, number):
    folder = tmp_path / "recordings"
    with Station(artifact, tmp_path, record_dir=str(folder)) as cell:
        cell.bring_up()
        asked = cell.run().get_result_async()
        process = cell.processes["controller"]
        children = children_of(process.pid)
        process.send_signal(number)
        result = result_of(asked, lambda: f"the result: {cell.log()}").result
        assert result.cause == "stop_requested"
        assert number.name in result.text
        assert_ended_well(cell, children)
        wait_for(lambda: not np.any(cell.arm.received[-1][1]), "the last command to be rest")
        cell.assert_still(0.3)
    assert_replays(folder, "stop_requested")


def test_a_lifecycle_shutdown_in_motion_brakes_first_and_gives_the_result(artifact, tmp_path):
    folder = tmp_path / "recordings"
    with Station(artifact, tmp_path, record_dir=str(folder)) as cell:
        cell.bring_up()
        asked = cell.run().get_result_async()
        children = children_of(cell.processes["controller"].pid)
        change(cell, Transition.TRANSITION_ACTIVE_SHUTDOWN, asked.done)
        result = result_of(asked, lambda: f"the result: {cell.log()}").result
        assert (result.cause, result.text) == ("deactivated", "shut down")
        wait_for(lambda: all(map(gone, children)), "the worker to be gone")
        wait_for(lambda: not any(folder.glob("*.part")), "the end of the recording")
        wait_for(lambda: not np.any(cell.arm.received[-1][1]), "the last command to be rest")
        wait_for(lambda: cell.operator.count_publishers(TOPIC) == 0, "no publisher of commands")
        cell.processes["controller"].send_signal(signal.SIGINT)
        assert_ended_well(cell, children)
    assert_replays(folder, "deactivated")


def change(cell: Station, transition: int, happens: Callable[[], bool]) -> None:
    """Ask for it, and again where a request is lost: without an answer."""
    client, asked_s = cell.operator._calls["change_state"], [-math.inf]

    def seen() -> bool:
        if client.service_is_ready() and time.monotonic() - asked_s[0] > 5.0:
            client.call_async(ChangeState.Request(transition=Transition(id=transition)))
            asked_s[0] = time.monotonic()
        return happens()

    wait_for(seen, lambda: f"transition {transition} to happen: {cell.log()}")


def test_told_to_end_while_the_worker_loads_it_does_not_wait_for_it(artifact, tmp_path):
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 300\n", encoding="ascii")
    slow.chmod(0o755)
    with Station(artifact, tmp_path, guard=False, **{"worker.python": str(slow)}) as cell:
        process = cell.processes["controller"]
        change(cell, Transition.TRANSITION_CONFIGURE, lambda: bool(children_of(process.pid)))
        children = children_of(process.pid)
        process.send_signal(signal.SIGTERM)
        assert_ended_well(cell, children)
        assert "told to end" in cell.log()


def test_told_to_end_while_a_reset_starts_the_worker_again_it_does_not_wait_for_it(artifact, tmp_path):
    once, begun = tmp_path / "python", tmp_path / "begun"
    again = f"if [ -e {begun} ]; then exec sleep 300; fi"
    once.write_text(f'#!/bin/sh\n{again}\ntouch {begun}\nexec {sys.executable} "$@"\n', encoding="utf-8")
    once.chmod(0o755)
    with Station(artifact, tmp_path, guard=False, **{"worker.python": str(once)}) as cell:
        assert cell.operator.transition("configure"), cell.log()
        assert cell.operator.transition("activate")
        process = cell.processes["controller"]
        (dead,) = children_of(process.pid)
        os.kill(dead, signal.SIGKILL)
        wait_for(lambda: cell.operator.causes, lambda: f"the death of the worker: {cell.log()}")
        cell.operator._calls["reset_fault"].call_async(Trigger.Request())
        wait_for(lambda: set(children_of(process.pid)) - {dead}, "the next worker")
        children = children_of(process.pid)
        process.send_signal(signal.SIGTERM)
        assert_ended_well(cell, children)


def test_a_process_that_was_told_to_end_starts_no_worker(artifact):
    from dropgate_controller.assembly import start

    from runtime.contract.artifact import read_artifact
    from runtime.errors import BackendError
    from runtime.inference.worker_client import PolicyWorker

    with PolicyWorker(read_artifact(artifact)) as worker:
        with pytest.raises(BackendError, match="told to end"):
            start(worker, lambda: True)
        assert worker.pid is None


def test_told_to_end_while_the_worker_is_timed_it_does_not_wait_for_it(artifact):
    from dropgate_controller.assembly import _load
    from dropgate_controller.parameters import World

    from runtime.contract.artifact import read_artifact
    from runtime.errors import BackendError
    from runtime.inference.worker_client import PolicyWorker

    read, noted = read_artifact(artifact), []
    pace = SimpleNamespace(lead_s=0.0, rows=1)
    station = SimpleNamespace(enable_motion=True, world=World.REAL, settings=SimpleNamespace(pace=pace))
    with PolicyWorker(read) as worker:
        with pytest.raises(BackendError, match="not timed to the end"):
            _load(worker, read, station, SimpleNamespace(loaded=noted.append), lambda: worker.in_flight is not None)
        assert worker.ready, "it was the first question that was not waited for"
    assert ["not timed to the end" in str(error) for error in noted] == [True]


@pytest.mark.parametrize("rests", [False, True])
def test_a_farewell_out_of_patience_says_that_the_arm_still_moves(rests):
    from dropgate_controller.farewell import LOOKS, NOT_AT_REST, Farewell

    said, left, timers = [], [], []
    node = SimpleNamespace(
        rests=rests, over=False, steady=None, get_logger=lambda: SimpleNamespace(error=said.append),
        create_timer=lambda period_s, look, clock: timers.append(look), destroy_timer=lambda timer: True,
    )  # fmt: skip
    Farewell(node, lambda: left.append(list(said)))
    for _ in range(LOOKS):
        assert not left
        timers[0]()
    assert left == [[] if rests else [NOT_AT_REST]], "said before it leaves"


STUCK = """
import threading
from dropgate_controller.ending import Ending

ending = Ending()
ending.then(lambda why: print(why, flush=True))
threading.Event().wait()  # the main thread is deaf
"""


def test_a_second_signal_ends_at_once_also_where_the_main_thread_is_stuck():
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: told_by(process), "the handlers")
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "SIGINT\n"

        def again() -> bool:
            process.send_signal(signal.SIGTERM)
            return process.poll() is not None

        wait_for(again, "the end")
        assert process.returncode == 128 + signal.SIGTERM


def told_by(process: subprocess.Popen) -> bool:
    """Whether it catches SIGTERM by now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


GRAPH_GONE = """
import rclpy
from dropgate_controller.controller_node import ControllerNode

rclpy.init()
node = ControllerNode()
rclpy.shutdown()
node._ticker._thread.join()
node.destroy_node()
print("tidy")
"""


OVERTAKEN = """
import threading
import rclpy
from dropgate_controller.controller_node import ControllerNode

rclpy.init()
node = ControllerNode()
node._ticker.stop()
said, second = [], threading.Thread(target=lambda: (setattr(node, "_beat", 1000), node.publish_status()))

class Slow:
    def publish(self, message):
        if not second.ident:
            second.start()
            second.join(0.3)  # it would overtake
        said.append(message.heartbeat)

node._status = Slow()
node._beat = 999
node.publish_status()
second.join()
print(said)
"""


def test_no_older_status_follows_a_newer_one():
    done = subprocess.run([sys.executable, "-c", OVERTAKEN], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[999, 1000]\n", done.stderr


def test_ticks_end_with_the_graph_and_the_rest_is_tidied_up():
    done = subprocess.run([sys.executable, "-c", GRAPH_GONE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "tidy\n"), done.stderr
    assert "Traceback" not in done.stderr


def test_a_topic_that_is_no_name_refuses_configure_with_the_reason_and_leaves_nothing(artifact, tmp_path):
    folder = tmp_path / "recordings"
    given = {"cameras.wrist.topic": "/wrist image", "record_dir": str(folder)}
    with Station(artifact, tmp_path, guard=False, **given) as cell:
        for _ in range(2):  # nothing of the first try is in the way of the second
            cell.operator.status.text = ""
            assert not cell.operator.transition("configure")
            wait_for(lambda: "'/wrist image'" in cell.operator.status.text, lambda: str(cell.operator.status))
            assert cell.state() == "unconfigured"
            assert cell.log().count("configure refused: InvalidTopicNameException") > 0
            assert "Traceback" not in cell.log()
            assert not children_of(cell.processes["controller"].pid)
            wait_for(lambda: cell.operator.count_publishers(TOPIC) == 0, "no publisher of commands")
            assert not list(folder.glob("*.part"))


FAILS_ONCE = """
from dropgate_controller import controller_node

real, failed = controller_node.subscribe, []

def subscribe(*given):
    made = real(*given)
    yield next(made)
    if not failed:
        failed.append(True)
        raise RuntimeError("the graph is out of order")
    yield from made

controller_node.subscribe = subscribe
controller_node.main()
"""


class OddStation(Station):
    """Its controller is another program."""

    program = ""

    def launch(self, name: str) -> None:
        if name != "controller":
            super().launch(name)
            return
        command = [sys.executable, "-c", self.program, "--ros-args", "--params-file", str(self._file)]
        with (self._tmp / "controller.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)


class FirstConfigureFails(OddStation):
    """After it has begun to subscribe."""

    program = FAILS_ONCE


def test_what_nobody_foresaw_refuses_configure_too_and_the_next_one_moves_the_arm(artifact, tmp_path):
    with FirstConfigureFails(artifact, tmp_path) as cell:
        assert not cell.operator.transition("configure")
        wait_for(lambda: "the graph is out of order" in cell.operator.status.text, lambda: str(cell.operator.status))
        assert "in _connect" in cell.log(), "where"
        assert not children_of(cell.processes["controller"].pid)
        wait_for(lambda: not heard_by(cell) & {"/wrist/image_raw", "/agentview/image_raw"}, lambda: str(heard_by(cell)))
        cell.bring_up()
        cell.run()


def heard_by(cell: Station) -> set[str]:
    """What the controller listens to."""
    return {name for name, _ in cell.operator.get_subscriber_names_and_types_by_node("dropgate_controller", "/")}


def test_an_arming_that_is_not_possible_now_is_not_decided_about(artifact, tmp_path):
    with Station(artifact, tmp_path, guard=False) as cell:

        def refusal() -> str:
            answer = cell.operator.call("arm", SetBool.Request(data=True))
            assert not answer.success
            return answer.message

        assert cell.operator.transition("configure"), cell.log()
        assert "armed is not possible while inactive" in refusal()
        assert cell.operator.transition("activate")
        assert "no permission" in refusal()
        assert [line["when"] for line in cell.decisions()] == ["configure"]
        cell.launch("guard")
        cell.rearm()
        decided = cell.decisions()
        assert (decided[-1]["when"], decided[-1]["motion"]) == ("arm", True)
        assert "armed is not possible while armed" in refusal()
        assert cell.decisions() == decided


def test_joint_commands_end_at_rest_when_the_process_is_terminated(tmp_path):
    for library, extra in {"mujoco": "sim", "ruckig": "control", "pinocchio": "control"}.items():
        pytest.importorskip(library, reason=f"{library} not installed. Next: pip install -e '.[{extra}]'")
    from dropgate_sim.fault_station import FaultStation

    folder = tmp_path / "recordings"

    def recorded(sections: dict) -> None:
        sections["dropgate_controller"]["ros__parameters"]["record_dir"] = str(folder)

    robot = Path(__file__).resolve().parent.parent / "launch" / "config" / "ur5e.yaml"
    with FaultStation(robot, tmp_path / "cell", pace=0.5, patience_s=120.0, change=recorded) as cell:
        cell.run()
        process, children = cell.processes["controller"], children_of(cell.processes["controller"].pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0, cell.log("controller")
        assert "Traceback" not in cell.log("controller")
        assert children
        wait_for(lambda: all(map(gone, children)), "the children to be gone")
        wait_for(lambda: cell.speed() < 1e-3, "rest")
        place = cell.arm.driver.arm.positions
        cell.pass_time(0.3)
        assert cell.arm.driver.arm.positions == pytest.approx(place, abs=1e-4), "at rest it stays"
        assert not cell.false_stops
    assert_replays(folder, "stop_requested")


def test_a_node_does_not_rest_before_the_stop_in_its_stream_of_set_points_has_been_played():
    pytest.importorskip("ruckig", reason="control: ruckig not installed. Next: pip install -e '.[control]'")
    from arm_models import seven
    from dropgate_controller.controller_node import ControllerNode
    from dropgate_controller.position_out import PositionOut
    from filter_world import Cell, joint_spec
    from test_filter_properties import smooth

    cell, got = Cell(seven(), joint_spec(seven())), []
    assert cell.offer(smooth(cell)) == ""
    command = cell.tick()
    stream = PositionOut(got.append, 250.0, lambda: command.start_s)
    controller = SimpleNamespace(state=State.FAULT_LATCHED)  # says that it rests as soon as the last command was given
    node = SimpleNamespace(loaded=SimpleNamespace(controller=controller), _outputs=stream)
    try:
        assert ControllerNode.rests.fget(node)
        stream.take(command)
        assert not ControllerNode.rests.fget(node)
        wait_for(lambda: ControllerNode.rests.fget(node), "the end of the stop")
    finally:
        stream.close()
    assert got[-1].data == pytest.approx(command.positions[-1].tolist(), abs=1e-12)


STOP_RAISES = """
from dropgate_controller import controller_node, operator_services

def broken(*given):
    raise RuntimeError("a callback is broken")

operator_services.OperatorServices._stop = broken
controller_node.main()
"""


class StopRaises(OddStation):
    """The worst of all callbacks."""

    program = STOP_RAISES


def test_a_callback_that_raises_ends_the_process_but_brakes_the_arm_first(artifact, tmp_path):
    folder = tmp_path / "recordings"
    with StopRaises(artifact, tmp_path, record_dir=str(folder)) as cell:
        cell.bring_up()
        cell.run()
        process = cell.processes["controller"]
        children = children_of(process.pid)
        cell.operator._calls["stop"].call_async(Trigger.Request())
        assert process.wait(timeout=PATIENCE_S) == 1
        assert "a callback is broken" in cell.log()
        assert children
        wait_for(lambda: all(map(gone, children)), "the worker to be gone")
        wait_for(lambda: not np.any(cell.arm.received[-1][1]), "the last command to be rest")
    assert_replays(folder, "stop_requested")


ENDING_RAISES = """
from dropgate_controller import controller_node

real = controller_node.ControllerNode._hold

def broken(self, action):
    if self.told.is_set():
        raise RuntimeError("a callback is broken")
    real(self, action)

controller_node.ControllerNode._hold = broken
controller_node.main()
"""


class EndingRaises(OddStation):
    """What it senses while it ends, it cannot take."""

    program = ENDING_RAISES


def test_a_callback_that_raises_after_the_signal_does_not_cut_the_braking_short(artifact, tmp_path, monkeypatch):
    monkeypatch.setitem(PARAMETERS, "limits.linear_m_s2", 0.5)  # it brakes for longer than a callback is in coming
    slow = tmp_path / "artifact"
    shutil.copytree(artifact, slow)
    release(slow)
    folder = tmp_path / "recordings"
    with EndingRaises(slow, tmp_path, record_dir=str(folder)) as cell:
        cell.bring_up()
        cell.run()
        wait_for(lambda: cell.arm.speed > 0.2, "speed")
        process = cell.processes["controller"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 1
        assert "a callback is broken" in cell.log()
        assert "before the arm rests" not in cell.log()
        wait_for(lambda: not np.any(cell.arm.received[-1][1]), "the last command to be rest")
    assert_replays(folder, "stop_requested")
