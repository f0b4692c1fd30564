# SPDX-License-Identifier: Apache-2.0
"""The controller as operators and drivers see it: activate, arm, start, cancel, stop, reset. The loop is in `loop`."""

from __future__ import annotations

import math

from runtime.control.punctual import PunctualLoop
from runtime.control.state import ON_TASK, Event, NotAllowed
from runtime.control.state_map import ObservationProblem
from runtime.control.task import Task
from runtime.telemetry import Incident, StopCause


class Controller(PunctualLoop):
    """Call `tick` at a fixed rate and the rest between ticks. What is not possible now raises NotAllowed, with why."""

    @property
    def queue_s(self) -> float:
        """Content left of the chunk in use [s]."""
        return self._scheduler.left_s

    @property
    def tempo(self) -> float:
        """Share of the policy's own speed that was last commanded; 0 outside a task."""
        return self._tempo if self.state in ON_TASK else 0.0

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

    def reset_fault(self) -> None:
        """Back to idle, with nothing left to go on with. Raises NotAllowed, also while the cause is still there."""
        if self.machine.can(Event.RESET) and not self.permission.granted:
            raise NotAllowed("the permission of the guard or the enabling input is still missing")
        self.machine.happen(Event.RESET)
        self._forget()
        self.incident = Incident()

    def _ready(self) -> None:
        """Raises NotAllowed unless everything that motion needs is there."""
        if not self.permission.granted:
            raise NotAllowed("no permission: the guard's permit or the enabling input is missing or too old")
        try:
            self.buffer.snapshot(self._clock.now())
        except ObservationProblem as problem:
            raise NotAllowed(f"no usable observation: {problem}") from problem
