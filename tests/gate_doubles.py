# SPDX-License-Identifier: Apache-2.0
"""Policies for the gate's tests, each named for the property that it proves. They act in the real simulator."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from compress.gate.episodes import STEP_NAMES, STEP_S, EndOfRecording, Script
from compress.gate.policies import PolicySource
from runtime.contract.chunk import ActionChunk


def source(kind: type, identity: str = "", **options) -> PolicySource:
    return PolicySource(
        identity or kind.__name__, factory=f"{__name__}:{kind.__name__}", options=options, image_size=32
    )


class ZeroMotion:
    """Never moves: the planted bad candidate."""

    needs_images = False

    def infer(self, observation, instruction, stamp_s) -> ActionChunk:
        return ActionChunk(np.zeros((8, 7), dtype=np.float32), stamp_s, STEP_S, STEP_NAMES)

    def close(self) -> None:
        pass


class Obedient(Script):
    """Knows the scene and does what the *sentence* says, not what the scene's goal is: a policy that listens."""

    def attach(self, env) -> None:
        self._env, self._told, self._done = env, None, False

    def infer(self, observation, instruction, stamp_s) -> ActionChunk:
        from compress.sim.expert import Goal, Picker
        from compress.sim.geometry import Scene

        if self._told != instruction:
            _, _, colour, _, _, _, side, _ = instruction.split()
            goal = Goal("in", f"{colour}_block", f"{side}_tray_contain_region")
            self._told, self._picker = instruction, Picker(Scene(self._env.libero.env), goal, 1.0)
        command = self._picker.act()
        if command is None:
            raise EndOfRecording
        return ActionChunk(np.asarray(command, dtype=np.float32)[None], stamp_s, STEP_S, STEP_NAMES)


class RaisesOnce(ZeroMotion):
    """Raises at its first question of every episode."""

    def infer(self, observation, instruction, stamp_s) -> ActionChunk:
        raise RuntimeError("planted exception")


class NotFinite(ZeroMotion):
    """Answers NaN, as an engine with a broken kernel would; the chunk's own check is bypassed."""

    def infer(self, observation, instruction, stamp_s) -> ActionChunk:
        chunk = super().infer(observation, instruction, stamp_s)
        object.__setattr__(chunk, "values", np.full((8, 7), np.nan, dtype=np.float32))
        return chunk


class KillsItsProcess(ZeroMotion):
    """SIGKILLs its own worker at the first question of an episode, while `budget` marker files are left to write."""

    def __init__(self, folder: str, budget: int) -> None:
        self._folder, self._budget = Path(folder), budget

    def infer(self, observation, instruction, stamp_s) -> ActionChunk:
        deaths = len(list(self._folder.iterdir()))
        if deaths < self._budget:
            (self._folder / str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().infer(observation, instruction, stamp_s)


class NeverAnswers(ZeroMotion):
    """Hangs."""

    def infer(self, observation, instruction, stamp_s) -> ActionChunk:
        signal.pause()
        raise AssertionError("unreachable")


class CannotLoad:
    """Fails while it is loaded."""

    def __init__(self) -> None:
        raise RuntimeError("weights are missing")
