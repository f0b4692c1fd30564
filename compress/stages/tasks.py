# SPDX-License-Identifier: Apache-2.0
"""`export.tasks` made plain: the closed list of instructions, and which demonstration frames belong to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compress.data.frames import FrameStore
from compress.recipe import Recipe
from compress.settings import SettingsError
from runtime.contract.spec import PromptSpec


def closed_prompt(recipe: Recipe, prompt: PromptSpec) -> PromptSpec:
    """The policy's prompt with the list of `export.tasks`; as it is where the recipe gives none.

    Raises:
        SettingsError: the gate would say what the list lacks.
        MissingAssets: the gate's suite cannot be opened here.
    """
    tasks = recipe.export.tasks
    if not tasks:
        return prompt
    from compress.sim.suites import open_suite

    asked = tuple(task.language for task in open_suite(recipe.gate.suite, recipe.gate.libero_assets).tasks)
    closed = replace(prompt, tasks=asked if tasks == "gate" else tuple(tasks))
    strange = [task for task in asked if not closed.admits(task)]
    if strange:
        raise SettingsError(
            f"`export.tasks` lacks {strange}, which the gate's suite {recipe.gate.suite} asks for: add them, or write "
            "`tasks: gate`"
        )
    return closed


def admitted_frames(data: FrameStore, prompt: PromptSpec) -> list[int] | None:
    """The frames of episodes whose instruction the prompt admits; None stands for all.

    Raises:
        SettingsError: there are none.
    """
    if all(map(prompt.admits, data.instructions)):
        return None
    starts = np.flatnonzero(np.diff(data.episode, prepend=-1))
    fit = [int(data.episode[start]) for start in starts if prompt.admits(data.sample(int(start), 1).instruction)]
    if not fit:
        raise SettingsError(
            f"`export.tasks` is {list(prompt.tasks or ())}, the demonstrations say {list(data.instructions)}: none of "
            "their frames can prove the export; demonstrations of these tasks are needed"
        )
    return [int(frame) for frame in np.flatnonzero(np.isin(data.episode, fit))]
