# SPDX-License-Identifier: Apache-2.0
"""`SafetyFilter`: the one way from a chunk to a command, and the only builder of `SafeTrajectory`.

Order (first breach wins): names, horizon and order of arrival, finite, age, plausible, position, speed and its
derivatives, places of tool and elbow, distances, start jump, gripper; then, at each tick, the command for now, and a
last look at the finished motion by code that did not plan it. Hard breaches reject the whole chunk; too fast slows the
whole chunk along its own path; of a chunk that leaves the allowed space the part before that is used. docs/filter.md
has the derivations.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from runtime.contract.action import ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.normalization import Normalization
from runtime.safety.joints import JointPath
from runtime.safety.kinematics import Kinematics
from runtime.safety.limits import CartesianLimits, JointLimits, Timing
from runtime.safety.motion import AdmittedChunk, ChunkRejected, CommandPath, Motion, Situation
from runtime.safety.plausibility import Plausibility
from runtime.safety.trajectory import _FILTER, CommandKind, SafeTrajectory
from runtime.safety.twist import TwistPath
from runtime.telemetry import StopCause


class SafetyFilter:
    """Checks chunks against the policy's own spec and the station's limits, and releases commands.

    Args:
        spec: of the artifact.
        limits: of the station; their type decides the command interface.
        timing: ages and stretching.
        arm: the arm's kinematics; needed for joint commands with tool limits or from tool actions.
        trained: action statistics of the artifact, for plausibility; without them the spec's ranges count.

    Attributes:
        refused: why the last command was not given.
        admitted, rejected: chunks so far, the second by cause.
        trips: how often the monitor stopped what the planner had made; not 0 is a fault of the planner.

    Raises:
        ContractError: actions that this interface cannot carry, or a library that a limit needs is missing.
    """

    def __init__(
        self, spec: ActionSpec, limits: CartesianLimits | JointLimits, timing: Timing | None = None,
        arm: Kinematics | None = None, trained: Normalization | None = None,
    ) -> None:  # fmt: skip
        self._spec, self._timing = spec, timing or Timing()
        self._plausible = Plausibility.of(spec, trained)
        self.refused, self.trips, self.admitted = "", 0, 0
        self.rejected: Counter[StopCause] = Counter()
        self._newest_s = -np.inf  # stamp of the newest chunk that was admitted
        self.kind = CommandKind.TWIST if isinstance(limits, CartesianLimits) else CommandKind.JOINT_TRAJECTORY
        self._path: CommandPath = (
            TwistPath(spec, limits, self._timing)
            if isinstance(limits, CartesianLimits)
            else JointPath(spec, limits, self._timing, arm)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the commands: axes or joints."""
        return self._path.names

    @property
    def spec(self) -> ActionSpec:
        """Of the chunks that it takes."""
        return self._spec

    @property
    def useful_age_s(self) -> float:
        """An observation older than this is not worth a question: half of what its chunk may be used for [s]."""
        return min(self._timing.max_chunk_age_s, self._spec.horizon * self._spec.dt_s) / 2.0

    def admit(self, chunk: ActionChunk, situation: Situation) -> AdmittedChunk:
        """Check a fresh chunk.

        Raises:
            ChunkRejected: with the cause to record; nothing of the chunk may be used.
        """
        try:
            self._same_policy(chunk)
            self._finite(chunk)
            self._fresh(chunk, situation)
            self._plausibly(chunk)
            found = self._path.admit(chunk, situation)
        except ChunkRejected as rejection:
            self.rejected[rejection.cause] += 1
            raise
        self.admitted, self._newest_s = self.admitted + 1, chunk.stamp_s
        return found

    def listen(self, chunk: ActionChunk) -> None:
        """What the policy itself said, where a mean of chunks is what is meant: a mean hides a number that is none.

        Raises:
            ChunkRejected: it may not be mixed with anything.
        """
        try:
            self._same_policy(chunk)
            self._finite(chunk)
            self._plausibly(chunk)
        except ChunkRejected as rejection:
            self.rejected[rejection.cause] += 1
            raise

    def command(
        self, chunk: AdmittedChunk, progress_s: float, situation: Situation, speed: float = 1.0
    ) -> SafeTrajectory | None:
        """The command `progress_s` into the chunk, at `speed` (0, 1] of its tempo.

        None if the only safe thing is to brake; `refused` then says why.
        """
        if not 0.0 < speed <= 1.0:
            raise ValueError(f"speed is {speed}, expected a number above 0 and at most 1")
        motion = self._path.toward(chunk, progress_s, situation, speed)
        if motion is None:
            self.refused = "nothing that follows the chunk from here keeps the limits"
            return None
        return self._release(motion, situation)

    def brake(self, situation: Situation) -> SafeTrajectory | None:
        """The next command of a stop; None once there is nothing left to stop."""
        motion = self._path.braking(situation)
        return None if motion is None else self._release(motion, situation)

    def forget(self) -> None:
        """The robot rests: whatever was commanded is over."""
        self._path.forget()
        self._newest_s = -np.inf

    def playing(self, situation: Situation) -> bool:
        """The last command is not over yet, if nothing else is sent."""
        return self._path.playing(situation)

    def clock_stepped(self, by_s: float) -> None:
        """The clock was set: what has been commanded was so much later (negative: earlier) in the new time [s]."""
        self._path.clock_stepped(by_s)
        self._newest_s += by_s

    def _release(self, motion: Motion, situation: Situation) -> SafeTrajectory | None:
        self.refused = self._path.breach(motion, situation)
        if self.refused:
            self.trips += motion.scale == 0.0 or "measured" not in self.refused
            return None
        safe = SafeTrajectory(
            self.kind, self._path.names, situation.now_s, motion.times_s, motion.velocities, motion.positions,
            motion.gripper, motion.scale, motion.accelerations, seal=_FILTER,
        )  # fmt: skip
        self._path.commanded(motion, situation.now_s)
        return safe

    def _same_policy(self, chunk: ActionChunk) -> None:
        if chunk.names != self._spec.names or chunk.horizon != self._spec.horizon or chunk.dt_s != self._spec.dt_s:
            raise ChunkRejected(
                StopCause.CHUNK_REJECTED,
                f"found {chunk.horizon} rows of {list(chunk.names)} every {chunk.dt_s} s, expected "
                f"{self._spec.horizon} of {list(self._spec.names)} every {self._spec.dt_s} s",
            )

    def _finite(self, chunk: ActionChunk) -> None:
        if not np.isfinite(chunk.values).all():
            raise ChunkRejected(StopCause.POLICY_ERROR, "the chunk holds values that are not finite")

    def _plausibly(self, chunk: ActionChunk) -> None:
        if unlikely := self._plausible.objection(self._spec.to_physical(chunk.values)):
            raise ChunkRejected(StopCause.CHUNK_REJECTED, unlikely)

    def _fresh(self, chunk: ActionChunk, situation: Situation) -> None:
        age = situation.now_s - chunk.stamp_s
        if chunk.stamp_s <= self._newest_s:
            raise ChunkRejected(
                StopCause.CHUNK_LATE,
                f"its observation ({chunk.stamp_s:.3f} s) is not newer than the one in use ({self._newest_s:.3f} s)",
            )
        if age < -1e-6:
            raise ChunkRejected(StopCause.CLOCK_JUMP, f"the chunk's observation is {-age:.3f} s in the future")
        if age > self._timing.max_chunk_age_s or age >= chunk.horizon * chunk.dt_s:
            raise ChunkRejected(
                StopCause.CHUNK_LATE,
                f"the chunk's observation is {age:.3f} s old, allowed are {self._timing.max_chunk_age_s:g} s and "
                f"{chunk.horizon * chunk.dt_s:g} s of content",
            )
