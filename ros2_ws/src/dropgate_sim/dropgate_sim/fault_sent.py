# SPDX-License-Identifier: Apache-2.0
"""Who was late? What the messages of a case ask for if each is taken at its own stamp, and how long each was under way.

The arm's record tells what came of filter, node, machine and network together. The same messages, played by a second
controller without any of the machine's delays, tell what the filter asked for: if that keeps the limits and the arm did
not, a message was late. Two clocks of one machine tell where: from its stamp (the tick's beginning) until it was handed
to DDS, and from there until DDS at the arm had it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dropgate_sim.jtc import JointTrajectoryController, JtcSettings, Trajectory, TrajectoryRefused
from dropgate_sim.jtc_spline import NS
from dropgate_sim.motion_record import MotionRecord
from dropgate_sim.mujoco_arm import CYCLE_NS


@dataclass(frozen=True)
class Received:
    """One message at the arm.

    Attributes:
        trajectory: with its stamp in the arm's time.
        handed_ns: to DDS by the node, in the arm's time; 0 where the middleware does not say.
        arrived_ns: at the arm.
    """

    trajectory: Trajectory
    handed_ns: int
    arrived_ns: int


@dataclass(frozen=True)
class Lateness:
    """Of the message that was longest under way [s]: until the node gave it to DDS, and from there to the arm."""

    made_s: float = 0.0
    way_s: float = 0.0

    @property
    def total_s(self) -> float:
        """From the stamp to the arm."""
        return self.made_s + self.way_s


def lateness(messages: Sequence[Received]) -> Lateness:
    """The worst of them."""
    found = Lateness()
    for each in messages:
        stamp_ns, handed_ns = each.trajectory.stamp_ns, each.handed_ns or each.arrived_ns
        this = Lateness((handed_ns - stamp_ns) * NS, (each.arrived_ns - handed_ns) * NS)
        found = max(found, this, key=lambda one: one.total_s)
    return found


def as_sent(names: Sequence[str], settings: JtcSettings, messages: Sequence[Received]) -> MotionRecord | None:
    """What the controller would have told the drives if every message had come at its own stamp; None without any."""
    waiting = sorted((each.trajectory for each in messages), key=lambda trajectory: trajectory.stamp_ns)
    if not waiting:
        return None
    controller, record = JointTrajectoryController(names, settings), MotionRecord(names, CYCLE_NS)
    first = waiting[0]
    order = [first.names.index(name) for name in names]
    controller.activate(first.points[0].positions[order])
    now_ns, end_ns = first.stamp_ns, max(each.stamp_ns + each.points[-1].time_ns for each in waiting)
    begins_ns = now_ns + 2 * CYCLE_NS  # it may begin in motion
    while now_ns < end_ns + 10 * CYCLE_NS:
        while waiting and waiting[0].stamp_ns <= now_ns:
            try:
                controller.accept(waiting.pop(0), now_ns)
            except TrajectoryRefused:
                continue
        point = controller.update(now_ns, controller.desired.positions)
        if now_ns >= begins_ns:
            record.add(now_ns, point.positions, point.velocities)
        now_ns += CYCLE_NS
    return record
