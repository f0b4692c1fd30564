# SPDX-License-Identifier: Apache-2.0
"""Every fault of the suite: how it is made, how it is undone, what has to come of it, and by when.

`detect_s` is the greatest time from the fault to the controller's word, made of the station's own numbers: what an
observation may be old, what a permission may, one chunk's life. It is the table's own claim, not what was seen.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trajectory_msgs.msg import JointTrajectory

from dropgate_sim.arm_streams import DELAY_S
from dropgate_sim.fault_artifact import DT_S, EXECUTE_ROWS, IMAGE_AGE_S, STATE_AGE_S
from dropgate_sim.fault_station import FaultStation

Act = Callable[[FaultStation], Any]
SLOW_S = 0.15  # status and heartbeats travel at 10 to 20 Hz, and pictures at 30
STRETCH = 4.0  # limits.max_time_scale: a chunk may be slowed so much, and lasts so much longer
CHUNK_S = EXECUTE_ROWS * DT_S * STRETCH  # what was admitted before may still be executed
FOLLOW_S = 0.05 / 0.1 + 0.15 + 0.1 + 0.5  # the distance that may last at MOVING_RAD_S, lag, patience; a turning point
PERMIT_S, PAUSE_S, ANSWER_S, LATE_S = 0.2, 0.6, 1.0, 0.7  # fault_artifact.parameters


ROOM_BYTES = 4096
STUTTERS, STUTTER_S = 16, 0.03
UNDER_WAY = "accelerations are shown, not judged: "
JOLTS = UNDER_WAY + "until the slowing is heard of, a message jolts, because the controller begins it by absolute time"
BACK = UNDER_WAY + "the command that is under way when the clock is set back is played by the new clock, too early"


@dataclass(frozen=True)
class FaultCase:
    """One fault.

    Attributes:
        causes: right answers to "why"; empty: nobody is left to say it, or nothing may stop.
        detect_s: see the module; None where nobody is left to say it.
        goes_on: the task must not stop, unless with one of `causes`.
        quick: part of the subset that CI runs.
        vendor: accelerations are shown, not judged: the robot's own safety brakes, harder than a program may, or `note`
            says what nobody can recall.
        station: what it is made on. plain; clock: the arm tells the time; recorded: all of it goes to a file.
        says: what the controller's diagnostics must say while it lasts: a key, and the beginning of its value.
        grows: what they must show growing, and by how much at least.
        at_rest: made before arming, which must be refused with one of `causes` in its reason; nothing moves.
    """

    name: str
    make: Act
    causes: tuple[str, ...] = ()
    detect_s: float | None = None
    undo: Act = field(default=lambda cell: None)
    goes_on: bool = False
    quick: bool = False
    vendor: bool = False
    note: str = ""
    station: str = "plain"
    says: tuple[str, str] | None = None
    grows: tuple[str, float] | None = None
    at_rest: bool = False


def _stream(fault: str) -> Act:
    return lambda cell: cell.arm.inject(fault)


def _healthy(cell: FaultStation) -> None:
    cell.arm.inject("none")
    cell.arm.tells_driver_state = True


def _script(words: str) -> Act:
    return lambda cell: cell.script(words)


def _late(cell: FaultStation) -> None:
    """Older than a chunk may be when it comes, and yet within the time in which the worker must answer."""
    cell.script(f"late {LATE_S / cell.pace}")


def _sweep(cell: FaultStation) -> None:
    cell.script("sweep")


def _signal(name: str, number: int) -> Act:
    return lambda cell: cell.processes[name].send_signal(number)


def _worker(number: int) -> Act:
    return lambda cell: os.kill(cell.worker(), number)


def _stutter(cell: FaultStation) -> None:
    """Not scheduled for longer than `send_within_s`, and shorter than `limits.splice_s`, again and again."""
    controller = cell.processes["controller"]
    for _ in range(STUTTERS):
        controller.send_signal(signal.SIGSTOP)
        time.sleep(STUTTER_S / cell.pace)
        controller.send_signal(signal.SIGCONT)
        time.sleep(STUTTER_S / cell.pace)


def _again(*names: str) -> Act:
    def undo(cell: FaultStation) -> None:
        for name in names:
            cell.processes[name].kill()
            cell.processes[name].wait()
            cell.launch(name)
        if "controller" in names:
            cell.operator.status = None
            cell.operator.bring_up()

    return undo


def _rogue(cell: FaultStation) -> None:
    topic = cell._given["sim_arm"]["ros__parameters"]["command_topic"]
    cell.rogue = cell.operator.create_publisher(JointTrajectory, topic, 1)


def _no_rogue(cell: FaultStation) -> None:
    cell.operator.destroy_publisher(cell.rogue)


def _let_go(cell: FaultStation) -> None:
    cell.operator.holding = False


def _hold(cell: FaultStation) -> None:
    cell.operator.holding = True


def _bounce(cell: FaultStation) -> None:
    """Released for less than its time-out and held again: released is released."""
    cell.operator.holding = False
    cell.pass_time(0.1)
    cell.operator.holding = True


def _unseen(fault: str) -> Act:
    def make(cell: FaultStation) -> None:
        cell.arm.tells_driver_state = False
        cell.arm.inject(fault)

    return make


def _hears(wanted: bool) -> Act:
    return lambda cell: cell.arm.hears_commands(wanted)


def _say_nothing(cell: FaultStation) -> None:
    cell.operator.holding = None


def _disk_full(cell: FaultStation) -> None:
    """No file of the controller grows beyond the recording's size now: to a writer that is a full disk."""
    pid, largest = cell.processes["controller"].pid, max(file.stat().st_size for file in cell.recordings())
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest + ROOM_BYTES, resource.RLIM_INFINITY))


def _disk_free(cell: FaultStation) -> None:
    endless = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(cell.processes["controller"].pid, resource.RLIMIT_FSIZE, endless)


def _touch(cell: FaultStation) -> None:
    """One byte more, and less again: the bytes are right, and yet somebody had the file in hand."""
    file = cell.folder / "artifact" / "policy.onnx"
    file.chmod(0o644)
    size = file.stat().st_size
    with file.open("ab") as out:
        out.write(b"x")
    os.truncate(file, size)


def _slider(share: float) -> Act:
    return lambda cell: cell.arm.driver.set_factor(share)


def _clock(step_s: float) -> Act:
    def step(cell: FaultStation) -> None:
        cell.arm.clock_offset_ns += int(step_s * 1e9)

    return step


CASES: tuple[FaultCase, ...] = (
    FaultCase("camera drop", _stream("camera_drop"), ("observation_stale", "observation_skewed"),
              IMAGE_AGE_S + SLOW_S, _healthy),
    FaultCase("camera freeze", _stream("camera_freeze"), ("observation_frozen",), 0.4 + SLOW_S, _healthy, quick=True),
    FaultCase("camera delay", _stream("camera_delay"), ("observation_stale", "observation_invalid"),
              DELAY_S + IMAGE_AGE_S + SLOW_S, _healthy),
    FaultCase("camera swap", _stream("camera_swap"), goes_on=True, undo=_healthy,
              note="nothing in the runtime can see it; the scripted policy looks at no picture"),
    FaultCase("joint states stop", _stream("joints_stop"), ("observation_stale",), STATE_AGE_S + SLOW_S, _healthy),
    FaultCase("joint states jump", _stream("joints_jump"), ("chunk_rejected", "not_following"), STATE_AGE_S + SLOW_S,
              _healthy, quick=True),
    FaultCase("joint states reordered", _stream("joints_reorder"), goes_on=True, undo=_healthy),
    FaultCase("joint missing", _stream("joints_missing"), ("observation_invalid",), STATE_AGE_S + SLOW_S, _healthy),
    FaultCase("joint not a number", _stream("joints_nan"), ("observation_invalid",), STATE_AGE_S + SLOW_S, _healthy),
    FaultCase("worker stalls", _script("silence"), ("worker_timeout",), CHUNK_S + ANSWER_S + SLOW_S, _sweep),
    FaultCase("worker SIGSTOP", _worker(signal.SIGSTOP), ("worker_timeout",), CHUNK_S + ANSWER_S + SLOW_S),
    FaultCase("worker SIGKILL", _worker(signal.SIGKILL), ("worker_died",), SLOW_S, quick=True),
    FaultCase("worker garbage", _script("garbage"), ("worker_died", "policy_error"), CHUNK_S + SLOW_S, _sweep),
    FaultCase("policy fails", _script("raise"), ("policy_error",), CHUNK_S + PAUSE_S + ANSWER_S, _sweep),
    FaultCase("NaN chunk", _script("nan"), ("worker_died", "policy_error"), CHUNK_S + SLOW_S, _sweep, quick=True),
    FaultCase("chunk far away", _script("far"), ("chunk_rejected",), CHUNK_S + PAUSE_S + ANSWER_S, _sweep),
    FaultCase("chunk outside", _script("outside"), ("chunk_rejected",), CHUNK_S + PAUSE_S + ANSWER_S, _sweep),
    FaultCase("chunk oscillates", _script("oscillate"), ("chunk_rejected",), CHUNK_S + PAUSE_S + ANSWER_S, _sweep),
    FaultCase("chunk late", _late, ("chunk_late",),
              CHUNK_S + PAUSE_S + 2 * ANSWER_S, _sweep),
    FaultCase("chunk of another time", _script("stale"), ("chunk_late", "worker_died", "policy_error"),
              CHUNK_S + PAUSE_S + ANSWER_S, _sweep),
    FaultCase("controller SIGSTOP", _signal("controller", signal.SIGSTOP), undo=_again("controller")),
    FaultCase("controller SIGKILL", _signal("controller", signal.SIGKILL), undo=_again("controller"), quick=True),
    FaultCase("controller SIGINT", _signal("controller", signal.SIGINT), ("stop_requested",), SLOW_S,
              _again("controller"), note="the process ends, and brakes before"),
    FaultCase("controller SIGTERM", _signal("controller", signal.SIGTERM), ("stop_requested",), SLOW_S,
              _again("controller"), note="as SIGINT"),
    FaultCase("controller stutters", _stutter, ("command_late",), goes_on=True,
              note="goes on, or stops with that cause: but whatever is too late is not sent"),
    FaultCase("guard SIGKILL", _signal("guard", signal.SIGKILL), ("permit_lost",), PERMIT_S + SLOW_S, _again("guard"),
              quick=True),
    FaultCase("guard SIGSTOP", _signal("guard", signal.SIGSTOP), ("permit_lost",), PERMIT_S + SLOW_S, _again("guard")),
    FaultCase("commands do not arrive", _hears(False), ("not_following",), FOLLOW_S + SLOW_S, _hears(True),
              note="the arm is off the command topic: it plays the last stop that it was given"),
    FaultCase("second publisher", _rogue, ("command_conflict", "permit_lost"), 1.0, _no_rogue,
              note="discovery by DDS takes its time"),
    FaultCase("enable let go", _let_go, ("enable_lost", "permit_lost"), SLOW_S, _hold),
    FaultCase("enable falls silent", _say_nothing, ("enable_lost", "permit_lost"), PERMIT_S + SLOW_S, _hold),
    FaultCase("enable bounces", _bounce, ("enable_lost", "permit_lost"), 0.1 + SLOW_S, _hold),
    FaultCase("clock steps ahead", _clock(3.0), ("clock_jump", "observation_stale"), SLOW_S, _clock(0.0),
              station="clock"),
    FaultCase("clock steps back", _clock(-3.0), ("clock_jump", "observation_stale", "observation_invalid"), SLOW_S,
              _clock(3.0), vendor=True, station="clock", note=BACK),
    FaultCase("protective stop", _stream("protective_stop"), ("permit_lost", "not_following"), 0.1 + SLOW_S, _healthy,
              quick=True, vendor=True),
    FaultCase("program stop", _stream("program_stop"), ("permit_lost", "not_following"), 0.1 + SLOW_S, _healthy,
              vendor=True),
    FaultCase("protective stop unseen", _unseen("protective_stop"), ("not_following",), FOLLOW_S + SLOW_S, _healthy,
              vendor=True, note="the driver does not tell: only the distance between command and arm does"),
    FaultCase("speed slider at half", _slider(0.5), ("permit_lost",), 0.1 + SLOW_S, _slider(1.0), vendor=True,
              note=JOLTS),
    FaultCase("disk full", _disk_full, undo=_disk_free, goes_on=True, station="recorded",
              says=("recording", "ended: "), note="the recording ends and says so; the robot goes on"),
    FaultCase("worker leaks", _script("leak"), undo=_sweep, goes_on=True, grows=("worker memory MiB", 16.0),
              note="nothing stops for it; the growth is in the diagnostics"),
    FaultCase("artifact changed on disk", _touch, ("policy.onnx",), undo=lambda cell: cell.restore(), at_rest=True,
              note="between configure and arm; configured again, the changed artifact is refused"),
    FaultCase("stop called", lambda cell: cell.operator.stop(), ("stop_requested",), SLOW_S),
)  # fmt: skip
