# SPDX-License-Identifier: Apache-2.0
"""The judge of the fault suite tells good from bad: ways to stop that others have shipped must fail, ours must pass.

Every reference commands the same simulated arm with its controller, without ROS and without waiting, and meets the
fault that it gets wrong.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="sim: mujoco not installed. Next: make install (extra `sim`)")

from dropgate_sim.arm_driver import ArmDriver
from dropgate_sim.arm_models import UR5E
from dropgate_sim.fault_page import page
from dropgate_sim.fault_sent import Received, as_sent, lateness
from dropgate_sim.fault_verdict import Bounds, judge, table, to_json
from dropgate_sim.jtc import JointTrajectoryController, JtcSettings, Trajectory
from dropgate_sim.jtc_spline import Point
from dropgate_sim.mujoco_arm import MujocoArm
from test_sim_arm_tail import BOUND_S, COMMIT_S, START, TICK_NS, S, allowed, stream

MS = 1_000_000
BOUNDS = Bounds(allowed(), COMMIT_S, TICK_NS * 1e-9)
STEP_NS = 50 * MS
FAULT_NS = START + S
NAMES = UR5E.joints


def cell() -> ArmDriver:
    jtc = JointTrajectoryController(NAMES, JtcSettings(interpolate_from_desired_state=True))
    return ArmDriver(MujocoArm(UR5E), jtc, START)


def row(k: int) -> np.ndarray:
    """What a sound policy wants at step k: a slow swing of the first joint."""
    wanted = np.array(UR5E.home)
    wanted[0] += 0.2 * (1 - np.cos(2 * np.pi * 0.4 * k * STEP_NS * 1e-9))
    return wanted


def play(arm: ArmDriver, decide, seconds: float = 3.0) -> ArmDriver:
    """`decide(k, measured)` gives names and goals for one step of 50 ms, sent as one point; None is silence."""
    for k in range(int(seconds * S / STEP_NS)):
        now = START + k * STEP_NS
        arm.advance(now)
        answer = decide(k, arm.arm.positions)
        if answer is not None:
            names, goal = answer
            arm.command(Trajectory(tuple(names), (Point(STEP_NS, np.asarray(goal), None),)))
    return arm


def at_fault(k: int) -> bool:
    return START + k * STEP_NS >= FAULT_NS


def zero_on_nan(k, measured):
    """NaN becomes 0: in joint space a move to the zero pose."""
    wanted = np.full(6, np.nan) if at_fault(k) else row(k)
    return NAMES, np.nan_to_num(wanted)


def by_index(k, measured):
    """The policy's order changes, the names stay."""
    wanted = row(k)
    return NAMES, wanted[::-1] if at_fault(k) else wanted


def repeat_last(k, measured):
    """No answer: the last *action* again and again, as a motion."""
    late = row(20) - row(19)
    return NAMES, row(k) if not at_fault(k) else measured + late


def off_by_one(k, measured):
    """Latency counted one chunk too little: the stream jumps back to where the observation was, again and again."""
    wanted = row(k) if not at_fault(k) else row(k - (k % 4 == 0) * 8)
    return NAMES, wanted


def clamp_only(k, measured):
    """Every joint's step is clamped by itself, with no regard to speed, acceleration or what was commanded."""
    wanted = row(k) if not at_fault(k) else row(k) + np.where(k % 2, 0.6, -0.6)
    return NAMES, np.clip(wanted, measured - 0.2, measured + 0.2)


BAD = {"zero on NaN": zero_on_nan, "joints by index": by_index, "last action again": repeat_last,
       "latency off by one": off_by_one, "clamp only": clamp_only}  # fmt: skip
SHOWS = {"zero on NaN": "velocity", "joints by index": "moved", "last action again": "moved",
         "latency off by one": "acceleration", "clamp only": "velocity"}  # fmt: skip


def finding(name: str, arm: ArmDriver, began_ns: int = FAULT_NS - 200 * MS):
    return judge(name, arm.record, BOUNDS, began_ns=began_ns, fault_ns=FAULT_NS)


@pytest.mark.parametrize("name", BAD)
def test_known_bad_reference_fails(name):
    arm = play(cell(), BAD[name])
    found = finding(name, arm)
    assert not found.ok
    assert any(SHOWS[name] in problem for problem in found.problems), found.problems


def test_ours_passes_the_same_judge():
    arm = stream(1.0, (0.5, 2.0))
    arm.advance(FAULT_NS + 2 * S)
    found = finding("controller killed", arm)
    assert found.ok, found.problems
    assert found.stopped_s <= found.stop_bound_s
    assert found.stop_bound_s == pytest.approx(BOUND_S)


def test_judge_wants_the_right_cause_in_time_and_says_what_is_wrong():
    arm = stream(1.0, (0.5, 2.0))
    arm.advance(FAULT_NS + 2 * S)
    about = {"began_ns": FAULT_NS, "fault_ns": FAULT_NS, "expected": ("observation_stale",), "detect_bound_s": 0.3}
    right = judge("x", arm.record, BOUNDS, cause="observation_stale", detected_s=0.2, **about)
    assert right.ok
    for given, word in (
        ({"cause": "timeout", "detected_s": 0.2}, "cause is timeout"),
        ({"cause": "observation_stale", "detected_s": 0.4}, "noticed after 0.400 s"),
        ({"cause": "", "detected_s": None}, "noticed after -"),
        ({"cause": "", "detected_s": None, "must_stop": False}, "stood still"),
    ):
        about_this = {**about, "began_ns": FAULT_NS, "fault_ns": FAULT_NS + S} if "must_stop" in given else about
        wrong = judge("x", arm.record, BOUNDS, **{**about_this, **given})
        assert any(word in problem for problem in wrong.problems), wrong.problems
    text = table([right, wrong])
    assert "1 of 2 ok" in text
    assert "stood still" in text
    assert '"ok": false' in to_json([right, wrong], {"robot": "x"})


def late_stream(made_ms: float, way_ms: float):
    """A healthy stream; each message is handed over and arrives so much later."""
    kept: list = []
    total = made_ms + way_ms
    arm = stream(1.0, (total, total + 0.1), kept=kept)
    arm.advance(FAULT_NS + 2 * S)
    messages = [Received(sent, sent.stamp_ns + int(made_ms * MS), arrival) for sent, arrival in kept]
    sent = as_sent(NAMES, arm.controller.settings, messages)
    about = {"began_ns": START + 300 * MS, "fault_ns": FAULT_NS}
    return judge("late", arm.record, BOUNDS, sent=sent, late=lateness(messages), **about)


def test_messages_that_the_machine_brings_late_are_told_from_messages_that_are_wrong():
    found = late_stream(3.0, 1.0)
    assert found.result == "ok", found.problems
    assert found.worst_sent["jerk"] <= 1.0
    found = late_stream(3.0, 57.0)
    assert found.worst["jerk"] > 1.2 > found.worst_sent["jerk"], "the arm's number and the messages' own"
    assert found.result == "late"
    assert not found.ok
    assert "57 ms on its way to the arm, sent 3 ms after its stamp; 20 ms may pass" in found.spoiled
    assert "jerk reached" in table([found])
    assert "57 ms on its way" in table([found])


def test_a_node_that_sends_what_is_too_late_fails():
    found = late_stream(57.0, 1.0)
    assert found.result == "FAIL"
    assert found.spoiled == ""


@pytest.mark.parametrize("name", ["zero on NaN", "latency off by one", "clamp only"])
def test_lateness_is_no_excuse_for_messages_that_break_limits_themselves(name):
    messages = []
    for k in range(60):
        names, goal = BAD[name](k, np.array(UR5E.home))
        stamp = START + k * STEP_NS
        sent = Trajectory(tuple(names), (Point(STEP_NS, np.asarray(goal), None),), stamp)
        messages.append(Received(sent, stamp, stamp + 60 * MS))
    arm = play(cell(), BAD[name])
    sent = as_sent(NAMES, arm.controller.settings, messages)
    found = judge(name, arm.record, BOUNDS, began_ns=FAULT_NS - 200 * MS, fault_ns=FAULT_NS, sent=sent,
                  late=lateness(messages))  # fmt: skip
    assert found.result == "FAIL"
    assert any(problem.startswith("as sent, ") for problem in found.problems)


def test_a_withheld_command_instead_of_the_fault_is_not_judged_and_not_ok():
    arm = stream(1.0, (0.5, 2.0))
    arm.advance(FAULT_NS + 2 * S)
    about = {"began_ns": FAULT_NS, "fault_ns": FAULT_NS, "expected": ("observation_stale",), "detect_bound_s": 0.3}
    found = judge("x", arm.record, BOUNDS, cause="command_late", detected_s=0.0, **about)
    assert found.result == "late"
    wanted = judge(
        "x", arm.record, BOUNDS, cause="command_late", detected_s=0.0, **about | {"expected": ("command_late",)}
    )
    assert wanted.result == "ok"


def test_the_page_shows_every_fault_with_its_cause_and_escapes_what_it_is_told():
    arm = stream(1.0, (0.5, 2.0))
    arm.advance(FAULT_NS + 2 * S)
    found = judge("<b>x", arm.record, BOUNDS, began_ns=FAULT_NS, fault_ns=FAULT_NS, expected=("timeout",))
    text = page([found, late_stream(3.0, 57.0)], {"load": 1.0})
    assert "&lt;b&gt;x" in text
    assert "<b>x" not in text
    assert "class=FAIL" in text
    assert "class=late" in text
    assert "0 of 2 ok" in text


def test_an_arm_that_creeps_after_its_stop_is_found():
    arm = stream(1.0, (0.5, 2.0))
    arm.advance(FAULT_NS + int(BOUND_S * S) + 100 * MS)
    goal = np.add(arm.arm.positions, [0.01, 0, 0, 0, 0, 0])
    arm.command(Trajectory(NAMES, (Point(500 * MS, goal, np.zeros(6)),)))
    arm.advance(FAULT_NS + 3 * S)
    assert any("after it had to stand" in problem for problem in finding("creeps", arm).problems)
