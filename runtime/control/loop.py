# SPDX-License-Identifier: Apache-2.0
"""One tick of the closed loop, without ROS: look, ask, splice, filter, command. Nothing here waits or publishes.

Two clocks: `clock` is the robot's (simulation's) time, in which observations are stamped; `wall` is the machine's
monotonic time, in which processes live and die. Whatever goes wrong ends in a stop with one recorded first cause.
"""

from __future__ import annotations

import math

from runtime.clock import Clock
from runtime.contract.chunk import ActionChunk
from runtime.control.blend import Blender
from runtime.control.clock_watch import ClockWatch
from runtime.control.observation import ObservationBuffer, Snapshot
from runtime.control.permission import Permission
from runtime.control.policy_link import Answer, PolicyFailure, PolicyLink
from runtime.control.scheduler import Scheduler
from runtime.control.settings import Settings
from runtime.control.state import MOVING, ON_TASK, Event, Machine, State
from runtime.control.state_map import ObservationProblem
from runtime.control.task import Latencies, Task, Tick, speed_of
from runtime.safety.filter import SafetyFilter
from runtime.safety.motion import AdmittedChunk, ChunkRejected, Measured, Situation
from runtime.safety.trajectory import SafeTrajectory
from runtime.telemetry import Incident, StopCause

_EDGE_S = 1e-6
SAME_INSTANT_S = 1e-3


class ControlLoop:
    """Everything that happens in a tick. `runtime.control.controller.Controller` adds what operators ask for."""

    def __init__(
        self, settings: Settings, filter_: SafetyFilter, buffer: ObservationBuffer, policy: PolicyLink, clock: Clock,
        wall: Clock,
    ) -> None:  # fmt: skip
        self.settings, self.buffer, self.latencies = settings, buffer, Latencies()
        self.permission = Permission(settings, wall)
        self._filter, self._policy, self._clock, self._wall = filter_, policy, clock, wall
        self._scheduler = Scheduler(settings.pace)
        self._blender = Blender(filter_.spec, settings.blend)
        self.machine, self.incident = Machine(), Incident()
        self.task: Task | None = None
        self.machine.happen(Event.CONFIGURED)
        self._observed: Snapshot | None = None
        self._clocks = ClockWatch(settings.max_clock_step_s)
        self._first_command_of: float | None = None
        self._command_s, self._tempo = -math.inf, 1.0  # the tempo of the chunk's own time, as last commanded

    @property
    def state(self) -> State:
        """Where the machine is."""
        return self.machine.state

    def fault(self, cause: StopCause, text: str) -> None:
        """Stop and latch. The first cause is kept, later ones are appended."""
        if self.state in (State.UNCONFIGURED, State.INACTIVE):
            return
        self.incident.record(cause, text, self._wall.now())
        if self.task is not None and self.task.cause is StopCause.NONE:
            self.task.cause, self.task.text = cause, text
        if self.machine.can(Event.FAULT):
            self.machine.happen(Event.FAULT)
            self._scheduler.clear()

    def tick(self) -> Tick:
        """Do what is due now."""
        began = self._wall.now()
        try:
            return self._tick(began)
        except Exception as error:
            self.fault(StopCause.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
            return Tick(self.state)
        finally:
            self.latencies.tick.add(max(0.0, self._wall.now() - began))

    def _tick(self, wall_s: float) -> Tick:
        now = self._clock.now()
        self._watch_the_clock(now, wall_s)
        answer, admitted = self._hear(now)
        if self.state in ON_TASK:
            self._watch(now)
        command = None
        if self.state in MOVING:
            command = self._follow(now) if self.state in ON_TASK else self._brake(now)
        return Tick(self.state, command, answer, admitted, self._ended())

    def _watch_the_clock(self, now: float, wall_s: float) -> None:
        """A clock that is set is a fault in motion; the stop goes on in the new time, from where the arm really is."""
        step = self._clocks.look(now, wall_s)
        if step is None:
            return
        if self.state in MOVING:
            self.fault(StopCause.CLOCK_JUMP, step.text)
        self._command_s += step.by_s
        self._filter.clock_stepped(step.by_s)
        if step.by_s < 0.0:
            self.buffer.clear()  # what was stamped in the old time would look fresh until then

    def _watch(self, now: float) -> None:
        """Everything that must be true all the time while a task is on."""
        task = self.task
        assert task is not None
        if not self.permission.granted:
            self.fault(self.permission.lost, "the permission to move has been withdrawn or has not been renewed")
            return
        try:
            self.buffer.check(now)
        except ObservationProblem as problem:
            self.fault(problem.cause, str(problem))
            return
        if now - task.started_s > task.max_duration_s:
            self._end_task(StopCause.FINISHED, f"the task's {task.max_duration_s:g} s are over")

    def _hear(self, now: float) -> tuple[Answer | None, AdmittedChunk | None]:
        """Take an answer, if there is one; what was asked before a stop is thrown away."""
        try:
            answer = self._policy.answer()
        except PolicyFailure as failure:
            self._policy_failed(failure)
            return None, None
        if answer is None:
            return None, None
        self.latencies.inference.add(answer.infer_s)
        if self.state not in ON_TASK or self._observed is None or answer.chunk.stamp_s != self._observed.stamp_s:
            return answer, None
        return answer, self._admit(answer.chunk, now)

    def _policy_failed(self, failure: PolicyFailure) -> None:
        if self.state not in MOVING or self.task is None or failure.cause is not StopCause.POLICY_ERROR:
            self.fault(failure.cause, str(failure))
        else:
            self._rejected(failure.cause, str(failure))

    def _admit(self, chunk: ActionChunk, now: float) -> AdmittedChunk | None:
        assert self.task is not None
        self.task.chunks += 1
        try:
            met = self._blender.meet(chunk, now, self._scheduler.behind_s)
            if met is not chunk:
                self._filter.listen(chunk)
            admitted = self._filter.admit(met, self._situation(now))
            if not self._scheduler.splice(admitted, now):
                raise ChunkRejected(StopCause.CHUNK_LATE, "the whole chunk is over already")
        except ObservationProblem as problem:
            self.fault(problem.cause, str(problem))
            return None
        except ChunkRejected as rejection:
            self._rejected(rejection.cause, str(rejection))
            return None
        self._blender.keep(chunk, met, admitted.time_scale, len(admitted.rows))
        self.task.rejected_in_a_row, self.task.waiting_since_s = 0, None
        self._first_command_of = chunk.stamp_s
        if self.state is State.HOLDING:
            self.task.moving_since_s = None
            self.machine.happen(Event.FRESH)
        elif self.state is State.SLOWING:
            self.machine.happen(Event.ON_TIME)
        return admitted

    def _rejected(self, cause: StopCause, text: str) -> None:
        task = self.task
        assert task is not None
        task.rejected += 1
        task.rejected_in_a_row += 1
        if task.rejected_in_a_row >= self.settings.max_rejects:
            self.fault(cause, f"{task.rejected_in_a_row} chunks in a row were rejected; the last one: {text}")

    def _follow(self, now: float) -> SafeTrajectory | None:
        """Ask if it is time, and command the row that is due."""
        task = self.task
        assert task is not None
        self._scheduler.advance(now, self._tempo)
        if self.settings.lockstep and max(self.buffer.ages(now).values()) > SAME_INSTANT_S:
            return None
        self._ask(task, now)
        if self.state not in ON_TASK or now <= self._command_s + _EDGE_S:
            return None
        due = self._scheduler.due()
        if due is None:
            return self._starve(task, now)
        task.starved_since_s = None
        if task.moving_since_s is None:
            task.moving_since_s = now
        command = self._filter.command(*due, self._situation(now), speed_of(task, self.state, self.settings, now))
        if command is None:
            self.fault(StopCause.CHUNK_REJECTED, self._filter.refused)
            return self._brake(now)
        self._tempo = command.scale * due[0].time_scale  # the filter may go slower than it was asked
        if self.state is State.RAMP_IN and now - task.moving_since_s >= self.settings.ramp_in_s:
            self.machine.happen(Event.RAMPED)
        return self._commanded(command, now)

    def _ask(self, task: Task, now: float) -> None:
        """Send the newest observation to the policy if the chunk is about to end; say so if the answer is overdue."""
        if self._policy.in_flight:
            if self.state is State.RUNNING and 0.0 < self._scheduler.left_s < self.settings.pace.lead_s / 2.0:
                self.machine.happen(Event.LATE)
            return
        if not self._scheduler.wants_next():
            return
        try:
            snapshot = self.buffer.snapshot(now)
            task.skewed = ""
        except ObservationProblem as problem:
            if problem.cause is StopCause.OBSERVATION_SKEWED:
                task.skewed = str(problem)  # a stream that stops is skewed before it is stale: wait which one it is
            else:
                self.fault(problem.cause, str(problem))
            return
        known = self._observed is not None and snapshot.stamp_s <= self._observed.stamp_s
        if (known and not task.rejected_in_a_row) or now - snapshot.stamp_s > self._filter.useful_age_s:
            return
        try:
            guidance = self._blender.guidance(snapshot.stamp_s, now, self._scheduler.behind_s)
            self._policy.ask(snapshot, task.instruction, guidance)
            self._observed = snapshot
        except PolicyFailure as failure:
            self._policy_failed(failure)

    def _starve(self, task: Task, now: float) -> SafeTrajectory | None:
        """No row is due: brake, hold, and give up after a while."""
        if task.waiting_since_s is None:
            task.waiting_since_s = self._wall.now()
        if self._wall.now() - task.waiting_since_s > self.settings.max_pause_s:
            late = (StopCause.CHUNK_LATE, f"no usable chunk for {self.settings.max_pause_s:g} s")
            self.fault(*((StopCause.OBSERVATION_SKEWED, task.skewed) if task.skewed else late))
        task.starved_since_s = now if task.starved_since_s is None else task.starved_since_s
        if self.settings.lockstep and now <= task.starved_since_s + _EDGE_S:
            return None  # the answer is on its way, and nothing moves meanwhile
        moved = task.moving_since_s is not None
        command = self._brake(now)
        if command is None and moved and self.machine.can(Event.STARVED):
            self.machine.happen(Event.STARVED)
        return command

    def _brake(self, now: float) -> SafeTrajectory | None:
        """The next command of a stop. When nothing is left to stop, the machine is told."""
        if now <= self._command_s + _EDGE_S:
            return None
        try:
            command = self._filter.brake(self._situation(now))
        except (ObservationProblem, ChunkRejected):
            command = None  # without a measurement nothing is sent: the receiver's time-out or the tail stops the arm
        if command is not None:
            return self._commanded(command, now)
        if not self._filter.playing(Situation(now, Measured(now))):  # a stop that was refused leaves the one before
            self._rests()
        return None

    def _rests(self) -> None:
        """Nothing is played any more; whoever waits for that is told."""
        if self.machine.can(Event.AT_REST):
            self.machine.happen(Event.AT_REST)
            self._forget()

    def _commanded(self, command: SafeTrajectory, now: float) -> SafeTrajectory:
        self._command_s = now
        if self.task is not None:
            self.task.commands += 1
        if self._first_command_of is not None:
            self.latencies.observation_to_command.add(max(0.0, now - self._first_command_of))
            self._first_command_of = None
        return command

    def _situation(self, now: float) -> Situation:
        try:
            measured = self.buffer.measured(now)
        except ObservationProblem:
            if self.state in ON_TASK:
                raise
            measured = Measured(now)  # braking needs no pose
        return Situation(now, measured, None if self._observed is None else self._observed.measured)

    def _end_task(self, cause: StopCause, text: str) -> None:
        if self.task is None or not self.machine.can(Event.TASK_OVER):
            return
        self.task.cause, self.task.text = cause, text
        self.machine.happen(Event.TASK_OVER)
        self._scheduler.clear()

    def _ended(self) -> Task | None:
        """The task, once: when it is over and nothing moves any more."""
        if self.state in MOVING:
            return None
        ended, self.task = self.task, None
        return ended

    def _forget(self) -> None:
        """Nothing that was planned or asked before may move the arm afterwards."""
        for part in (self._scheduler.clear, self._blender.clear, self._filter.forget):
            part()
        self._observed, self._tempo, self._first_command_of = None, 1.0, None
