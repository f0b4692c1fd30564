# SPDX-License-Identifier: Apache-2.0
"""One tick of the closed loop, without ROS: look, ask, splice, filter, command. Nothing here waits or publishes.

Two clocks: `clock` is the robot's (simulation's) time, in which observations are stamped; `wall` is the machine's
monotonic time, in which processes live and die. Whatever goes wrong ends in a stop with one recorded first cause.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from runtime.clock import Clock
from runtime.contract.chunk import ActionChunk
from runtime.control.observation import ObservationBuffer, ObservationProblem, Snapshot
from runtime.control.scheduler import Pace, Scheduler
from runtime.control.state import MOVING, ON_TASK, Event, Machine, NotAllowed, State
from runtime.safety.filter import SafetyFilter
from runtime.safety.motion import AdmittedChunk, ChunkRejected, Measured, Situation
from runtime.safety.trajectory import SafeTrajectory
from runtime.telemetry import Incident, LatencyHistogram, StopCause

_EDGE_S = 1e-6
SAME_INSTANT_S = 1e-3


class PolicyFailure(Exception):
    """The policy gave no chunk; `cause` says whether it died, was too slow, or answered with an error."""

    def __init__(self, cause: StopCause, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class PolicyLink(Protocol):
    """A policy that answers later; one question at a time. Nothing here blocks."""

    @property
    def in_flight(self) -> bool:
        """A question is out."""

    def ask(self, snapshot: Snapshot, instruction: str) -> None:
        """Send the question. Raises PolicyFailure."""

    def answer(self) -> tuple[ActionChunk, float] | None:
        """The chunk and its inference time [s], or None if it is not there yet. Raises PolicyFailure."""


@dataclass(frozen=True)
class Settings:
    """How the loop runs; seconds.

    Attributes:
        pace: when to ask.
        ramp_in_s: time from rest to full speed after a start; 0 for none.
        late_speed: speed while an answer is overdue.
        permit_timeout_s: a permission older than this is none.
        require_permit: the guard must say so all the time.
        require_enable: an operator's enabling input must be held all the time.
        max_rejects: chunks rejected one after the other before it is a fault.
        max_pause_s: time that may be spent waiting for a fresh chunk before it is a fault.
        lockstep: a simulation's time stands still until a command comes, so every tick waits for the observation of its
            own instant and for the answer to it. Never for a robot.
        max_clock_step_s: a larger step of the clock during motion is a fault.
        max_duration_s: of a task without one of its own.
    """

    pace: Pace
    ramp_in_s: float = 1.0
    late_speed: float = 0.5
    permit_timeout_s: float = 0.2
    require_permit: bool = True
    require_enable: bool = False
    max_rejects: int = 3
    max_pause_s: float = 2.0
    lockstep: bool = False
    max_clock_step_s: float = 0.5
    max_duration_s: float = 120.0


@dataclass
class Task:
    """The task in hand and what became of it."""

    instruction: str
    max_duration_s: float
    speed_scale: float
    started_s: float
    moving_since_s: float | None = None
    waiting_since_s: float | None = None
    starved_since_s: float | None = None
    chunks: int = 0
    commands: int = 0
    rejected: int = 0
    rejected_in_a_row: int = 0
    skewed: str = ""
    cause: StopCause = StopCause.NONE
    text: str = ""


@dataclass(frozen=True)
class Tick:
    """What one tick came to.

    Attributes:
        state: afterwards.
        command: to publish now, or None.
        raw, admitted: a chunk that arrived in this tick, and what the filter made of it.
        ended: the task that is over and at rest since this tick.
    """

    state: State
    command: SafeTrajectory | None = None
    raw: ActionChunk | None = None
    admitted: AdmittedChunk | None = None
    ended: Task | None = None


@dataclass
class Latencies:
    """Seconds: of a tick, of an inference, from the observation to the command made from it."""

    tick: LatencyHistogram = field(default_factory=LatencyHistogram)
    inference: LatencyHistogram = field(default_factory=LatencyHistogram)
    observation_to_command: LatencyHistogram = field(default_factory=LatencyHistogram)


class Controller:
    """The loop. Call `tick` at a fixed rate; the other methods are for operators and drivers, between ticks."""

    def __init__(
        self, settings: Settings, filter_: SafetyFilter, buffer: ObservationBuffer, policy: PolicyLink, clock: Clock,
        wall: Clock,
    ) -> None:  # fmt: skip
        self.settings, self.buffer, self.latencies = settings, buffer, Latencies()
        self._filter, self._policy, self._clock, self._wall = filter_, policy, clock, wall
        self._scheduler = Scheduler(settings.pace)
        self.machine, self.incident = Machine(), Incident()
        self.task: Task | None = None
        self.machine.happen(Event.CONFIGURED)
        self._permit_s = self._enable_s = -math.inf
        self._observed: Snapshot | None = None
        self._tick_s: float | None = None
        self._command_s = -math.inf
        self._tempo = 1.0  # of the chunk's own time, as last commanded
        self._first_command_of: float | None = None

    @property
    def state(self) -> State:
        """Where the machine is."""
        return self.machine.state

    @property
    def queue_s(self) -> float:
        """Content left of the chunk in use [s]."""
        return self._scheduler.left_s

    @property
    def tempo(self) -> float:
        """Share of the policy's own speed that was last commanded; 0 outside a task."""
        return self._tempo if self.state in ON_TASK else 0.0

    @property
    def command_names(self) -> tuple[str, ...]:
        """Columns of the commands: axes or joints."""
        return self._filter.names

    @property
    def permitted(self) -> bool:
        """Guard and operator both say so, recently."""
        now, settings = self._wall.now(), self.settings
        guard = not settings.require_permit or now - self._permit_s <= settings.permit_timeout_s
        return guard and (not settings.require_enable or now - self._enable_s <= settings.permit_timeout_s)

    def permit(self, granted: bool) -> None:
        """The guard's word; withdrawing it counts at once."""
        self._permit_s = self._wall.now() if granted else -math.inf

    def enable(self, held: bool) -> None:
        """The enabling input; letting go counts at once."""
        self._enable_s = self._wall.now() if held else -math.inf

    def activate(self) -> None:
        """From now on the arm may be armed. Raises NotAllowed."""
        self.machine.happen(Event.ACTIVATED)

    def deactivate(self) -> None:
        """Not possible in motion: that is stopped first. Raises NotAllowed."""
        self.machine.happen(Event.DEACTIVATED)
        self._forget()

    def arm(self, wanted: bool) -> None:
        """Arm or disarm. Raises NotAllowed, also if there is no permission or no fresh observation."""
        if wanted:
            if self.machine.can(Event.ARMED):
                self._ready()
            self.machine.happen(Event.ARMED)
        else:
            self.machine.happen(Event.DISARMED)

    def start(self, instruction: str, max_duration_s: float = 0.0, speed_scale: float = 1.0) -> Task:
        """Begin a task. Raises NotAllowed: not armed, no permission, no observation, impossible numbers."""
        if not instruction.strip():
            raise NotAllowed("the instruction is empty")
        if not 0.0 < speed_scale <= 1.0 or not (math.isfinite(max_duration_s) and max_duration_s >= 0.0):
            raise NotAllowed(
                f"speed_scale is {speed_scale}, max_duration_s is {max_duration_s}; expected (0, 1] and at least 0"
            )
        if self.machine.can(Event.GOAL):
            self._ready()
        self.machine.happen(Event.GOAL)
        self._forget()
        now = self._clock.now()
        duration = max_duration_s or self.settings.max_duration_s
        self.task = Task(instruction, duration, speed_scale, now, waiting_since_s=self._wall.now())
        self.incident = Incident()
        return self.task

    def cancel(self) -> None:
        """End the task with a controlled stop; the arm stays armed. Nothing happens without a task."""
        self._end_task(StopCause.CANCELLED, "cancelled")

    def stop(self, text: str = "stop requested") -> None:
        """A latched stop, from any state in which anything could move."""
        self.fault(StopCause.STOP_REQUESTED, text)

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

    def reset_fault(self) -> None:
        """Back to idle, with nothing left to go on with. Raises NotAllowed, also while the cause is still there."""
        if self.machine.can(Event.RESET) and not self.permitted:
            raise NotAllowed("the permission of the guard or the enabling input is still missing")
        self.machine.happen(Event.RESET)
        self._forget()
        self.incident = Incident()

    def tick(self) -> Tick:
        """Do what is due now."""
        began = self._wall.now()
        try:
            return self._tick()
        except Exception as error:
            self.fault(StopCause.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
            return Tick(self.state)
        finally:
            self.latencies.tick.add(max(0.0, self._wall.now() - began))

    def _tick(self) -> Tick:
        now = self._clock.now()
        self._watch_the_clock(now)
        raw, admitted = self._hear(now)
        if self.state in ON_TASK:
            self._watch(now)
        if self.state in ON_TASK:
            command = self._follow(now)
        elif self.state in MOVING:
            command = self._brake(now)
        else:
            command = None
        ended = self._ended()
        return Tick(self.state, command, raw, admitted, ended)

    def _watch_the_clock(self, now: float) -> None:
        last, self._tick_s = self._tick_s, now
        if last is None or self.state not in MOVING:
            return
        if not -_EDGE_S <= now - last <= self.settings.max_clock_step_s:
            self.fault(StopCause.CLOCK_JUMP, f"the clock went from {last:.3f} s to {now:.3f} s between two ticks")

    def _watch(self, now: float) -> None:
        """Everything that must be true all the time while a task is on."""
        task = self.task
        assert task is not None
        if not self.permitted:
            guard = self._wall.now() - self._permit_s <= self.settings.permit_timeout_s
            lost = StopCause.ENABLE_LOST if guard or not self.settings.require_permit else StopCause.PERMIT_LOST
            self.fault(lost, "the permission to move has been withdrawn or has not been renewed")
            return
        try:
            self.buffer.check(now)
        except ObservationProblem as problem:
            self.fault(problem.cause, str(problem))
            return
        if now - task.started_s > task.max_duration_s:
            self._end_task(StopCause.FINISHED, f"the task's {task.max_duration_s:g} s are over")

    def _hear(self, now: float) -> tuple[ActionChunk | None, AdmittedChunk | None]:
        """Take an answer, if there is one; what was asked before a stop is thrown away."""
        try:
            answer = self._policy.answer()
        except PolicyFailure as failure:
            self._policy_failed(failure)
            return None, None
        if answer is None:
            return None, None
        chunk, seconds = answer
        self.latencies.inference.add(seconds)
        if self.state not in ON_TASK or self._observed is None or chunk.stamp_s != self._observed.stamp_s:
            return chunk, None
        return chunk, self._admit(chunk, now)

    def _policy_failed(self, failure: PolicyFailure) -> None:
        if self.state not in MOVING or self.task is None or failure.cause is not StopCause.POLICY_ERROR:
            self.fault(failure.cause, str(failure))
        else:
            self._rejected(failure.cause, str(failure))

    def _admit(self, chunk: ActionChunk, now: float) -> AdmittedChunk | None:
        assert self.task is not None
        self.task.chunks += 1
        try:
            admitted = self._filter.admit(chunk, self._situation(now))
            if not self._scheduler.splice(admitted, now):
                raise ChunkRejected(StopCause.CHUNK_LATE, "the whole chunk is over already")
        except ObservationProblem as problem:
            self.fault(problem.cause, str(problem))
            return None
        except ChunkRejected as rejection:
            self._rejected(rejection.cause, str(rejection))
            return None
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
        command = self._filter.command(*due, self._situation(now), self._speed(task, now))
        if command is None:
            self.fault(StopCause.CHUNK_REJECTED, self._filter.refused)
            return self._brake(now)
        self._tempo = command.scale * due[0].time_scale  # the filter may go slower than it was asked
        if self.state is State.RAMP_IN and now - task.moving_since_s >= self.settings.ramp_in_s:
            self.machine.happen(Event.RAMPED)
        return self._commanded(command, now)

    def _speed(self, task: Task, now: float) -> float:
        """Share of the intended tempo: the goal's, the ramp's, and less while an answer is overdue."""
        speed = task.speed_scale * (self.settings.late_speed if self.state is State.SLOWING else 1.0)
        if self.state is not State.RAMP_IN or self.settings.ramp_in_s <= 0.0:
            return speed
        since = 0.0 if task.moving_since_s is None else now - task.moving_since_s
        return speed * min(1.0, max(0.05, since / self.settings.ramp_in_s))

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
        if self._observed is not None and snapshot.stamp_s <= self._observed.stamp_s and task.rejected_in_a_row == 0:
            return
        try:
            self._policy.ask(snapshot, task.instruction)
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
        if command is None and moved and self.machine.can(Event.STARVED) and now > self._command_s + _EDGE_S:
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
        if self.machine.can(Event.AT_REST):
            self.machine.happen(Event.AT_REST)
            self._forget()
        return None

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

    def _ready(self) -> None:
        """Raises NotAllowed unless everything that motion needs is there."""
        if not self.permitted:
            raise NotAllowed("no permission: the guard's permit or the enabling input is missing or too old")
        try:
            self.buffer.snapshot(self._clock.now())
        except ObservationProblem as problem:
            raise NotAllowed(f"no usable observation: {problem}") from problem

    def _end_task(self, cause: StopCause, text: str) -> None:
        if self.task is None or not self.machine.can(Event.TASK_OVER):
            return
        self.task.cause, self.task.text = cause, text
        self.machine.happen(Event.TASK_OVER)
        self._scheduler.clear()

    def _ended(self) -> Task | None:
        """The task, once: when it is over and nothing moves any more."""
        if self.task is None or self.state in MOVING:
            return None
        ended, self.task = self.task, None
        return ended

    def _forget(self) -> None:
        """Nothing that was planned or asked before may move the arm afterwards."""
        self._scheduler.clear()
        self._filter.forget()
        self._observed = None
        self._tempo = 1.0
        self._first_command_of = None
