# SPDX-License-Identifier: Apache-2.0
"""One episode: reset to the scene, let a policy act open loop chunk by chunk, say whether the goal was reached.

An exception of the policy or of the simulator while it acts is a failure of that episode, the same for every arm. A
scene that cannot even be reset says nothing about a policy: that is SimulatorBroken, and holds the gate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from compress.gate.policies import PolicyLike, Privileged, UnusablePolicy
from runtime.contract.chunk import ActionChunk

if TYPE_CHECKING:
    from compress.sim.envs import TaskEnv
    from compress.sim.perturb.base import Perturbation

STEP_S = 0.05
STEP_NAMES = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
Watch = Callable[[Mapping[str, np.ndarray], int], None]


class SimulatorBroken(RuntimeError):
    """The simulator cannot start a scene: nothing was learned about any policy."""


@dataclass(frozen=True)
class Outcome:
    """What came of one episode; `actions` are the executed commands, each (7,)."""

    success: bool
    steps: int
    queries: int
    wall_s: float
    infer_s: float
    error: str
    actions: tuple[tuple[float, ...], ...]


@dataclass
class _Tally:
    success: bool = False
    steps: int = 0
    queries: int = 0
    infer_s: float = 0.0
    actions: list[tuple[float, ...]] = field(default_factory=list)

    def outcome(self, wall_s: float, cause: str) -> Outcome:
        """What came of it."""
        return Outcome(self.success, self.steps, self.queries, wall_s, self.infer_s, cause, tuple(self.actions))


def run_episode(
    env: TaskEnv,
    policy: PolicyLike,
    state: int,
    seed: int,
    instruction: str,
    max_steps: int,
    open_loop: int,
    past_success: bool = False,
    watch: Watch | None = None,
    change: Perturbation | None = None,
) -> Outcome:
    """Runs one episode.

    Args:
        env: an environment of the task.
        state, seed: stored initial state and reset seed of the scene.
        instruction: the sentence that the policy is given.
        max_steps, open_loop: control steps before the episode has failed; rows of each chunk that are executed.
        past_success: go on until the policy has nothing more to say (recordings).
        watch: sees each observation that the policy is given, and the last one, with the steps executed before it.
        change: a perturbation of the scene, the observations or the sentence.

    Raises:
        SimulatorBroken: the scene could not be reset.
        UnusablePolicy: nobody answers for the policy any more.
    """
    began = time.perf_counter()
    try:
        observation = env.reset(state, seed, change=change)
        told = instruction if change is None else change.sentence(instruction)
    except Exception as error:
        raise SimulatorBroken(
            f"task {env.task.name!r}, state {state}, seed {seed}: {type(error).__name__}: {error}"
        ) from error
    tally, cause = _Tally(), ""
    looks = getattr(policy, "needs_images", True) or watch is not None
    try:
        if isinstance(policy, Privileged):
            policy.attach(env)
        while tally.steps < max_steps and not (tally.success and not past_success):
            if watch is not None:
                watch(observation, tally.steps)
            asked = time.perf_counter()
            tally.queries += 1
            chunk = policy.infer(observation, told, tally.steps * STEP_S)
            tally.infer_s += time.perf_counter() - asked
            commands = chunk.values[: min(open_loop, max_steps - tally.steps)]
            if _execute(env, commands, looks, past_success, tally):
                observation = env.observe() if looks else {"state": env.state}
    except EndOfRecording:
        pass
    except UnusablePolicy:  # its server is gone: nothing was learned about it
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"[:400]
        tally.success = tally.success and past_success
    if watch is not None:
        _watch_the_end(env, watch, tally.steps)
    return tally.outcome(time.perf_counter() - began, cause)


class EndOfRecording(Exception):
    """A replay or script has nothing more to say: the episode ends as it stands, without an error."""


class Replay:
    """Blind: executes recorded commands whatever it is shown, a chunk at a time."""

    needs_images = False

    def __init__(self, actions: tuple[tuple[float, ...], ...], rows: int = 8) -> None:
        self._actions, self._rows, self._next = (
            np.asarray(actions, dtype=np.float32).reshape(-1, len(STEP_NAMES)),
            rows,
            0,
        )

    def infer(self, observation: Mapping[str, np.ndarray], instruction: str, stamp_s: float) -> ActionChunk:
        """The next recorded rows."""
        rows = self._actions[self._next : self._next + self._rows]
        self._next += len(rows)
        if not len(rows):
            raise EndOfRecording
        return ActionChunk(rows, stamp_s, STEP_S, STEP_NAMES)

    def close(self) -> None:
        """Nothing to free."""


class Script:
    """The scripted expert of `compress.sim.expert`, one command per query, on the simulator's own state."""

    needs_images = False

    def attach(self, env: TaskEnv) -> None:
        """A new episode begins in `env`."""
        from compress.sim.expert import TaskExpert

        self._expert = TaskExpert(env)

    def infer(self, observation: Mapping[str, np.ndarray], instruction: str, stamp_s: float) -> ActionChunk:
        """The next command."""
        command = self._expert.act()
        if command is None:
            raise EndOfRecording
        return ActionChunk(np.asarray(command, dtype=np.float32)[None], stamp_s, STEP_S, STEP_NAMES)

    def close(self) -> None:
        """Nothing to free."""


def _execute(env: TaskEnv, commands: np.ndarray, looks: bool, past_success: bool, tally: _Tally) -> bool:
    """Executes commands (n, 7), drawing only in the last step; False once the goal ended the episode."""
    for i, command in enumerate(commands):
        tally.actions.append(tuple(float(v) for v in command))
        done = env.step(command, want_images=looks and i == len(commands) - 1)
        tally.steps, tally.success = tally.steps + 1, tally.success or done
        if done and not past_success:
            return False
    return True


def _watch_the_end(env: TaskEnv, watch: Watch, steps: int) -> None:
    """The last picture may not have been drawn: hold still for one step that is, after everything has been counted."""
    try:
        env.step(np.zeros(len(STEP_NAMES)), want_images=True)
        watch(env.observe(), steps)
    except Exception:
        return
