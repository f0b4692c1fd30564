# SPDX-License-Identifier: Apache-2.0
"""A verb in several processes: `torchrun --nproc-per-node 4 -m compress recover RECIPE` (or `probe`).

The first process does what a single one does: it locks the run folder, does every stage that is missing, and writes
receipts. Where it comes to a stage that processes share, it calls the others, which only compute. They see the same
files, so the run folder lies where all of them can read it. An error in one ends all: its own message comes first, and
torchrun ends the rest; finished stages and the last training checkpoint are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compress.scale.world import World, WorldError, joined, launched
from compress.verbs.answer import OK

if TYPE_CHECKING:
    from compress.pipeline import Outcome, Stage
    from compress.progress import Progress
    from compress.recipe import Recipe
    from compress.run_dir import Result
    from compress.stages.context import Context

SHARED = ("probe", "recover")
LOST = ("gloo", "nccl", "connection", "socket", "broken pipe")


def run(recipe: Recipe, until: str | None, force: Sequence[str], progress: Progress) -> Outcome:
    """`pipeline.run_recipe`, in every process that torchrun started; in one process if it started none.

    Raises:
        WorldError: a verb that is for one process, or another process of this run failed.
        SystemExit: 0, in all processes but the first, when the first is done.
    """
    from compress.pipeline import run_recipe

    if not launched():
        return run_recipe(recipe, until, force, progress)
    if until not in SHARED:
        raise WorldError(
            f"torchrun started several processes, and only {' and '.join(SHARED)} are for several: start "
            f"`compress {until or 'run'}` without torchrun"
        )
    outcome: Outcome | None = None
    with joined() as world:
        try:
            if world.first:
                outcome = _lead(recipe, until, force, progress, world)
            else:
                _follow(recipe, world)
        except WorldError:
            raise
        except KeyboardInterrupt as signal:
            if not signal.args:  # Ctrl-C
                raise
            if not world.first:
                raise SystemExit(signal.args[0]) from signal
            raise WorldError(
                "torchrun ended the processes of this run: one of them failed (its own message stands above, and "
                "torchrun names it below as Root Cause), or the run was stopped. What is finished is kept; start the "
                "same command again"
            ) from signal
        except Exception as error:
            if _lost(error):
                raise WorldError(
                    f"process {world.rank} of {world.size} lost the others: one of them ended or stopped answering "
                    "(its own message stands above, if it had time for one). What is finished is kept; start the same "
                    "command again"
                ) from error
            if world.first:
                raise
            raise WorldError(f"process {world.rank} of {world.size}: {type(error).__name__}: {error}") from error
    if outcome is None:
        raise SystemExit(OK)
    return outcome


def _lead(recipe: Recipe, until: str, force: Sequence[str], progress: Progress, world: World) -> Outcome:
    from compress.pipeline import STAGES, run_recipe

    busy = False

    def called(stage: Stage) -> Callable[[Context], Result]:
        def work(ctx: Context) -> Result:
            nonlocal busy
            world.said_by_first(stage.name)
            busy = True
            found = stage.run(ctx)
            busy = False
            return found

        return work

    stages = [replace(stage, run=called(stage)) if stage.name in SHARED else stage for stage in STAGES]
    try:
        return run_recipe(recipe, until, force, progress, stages)
    finally:
        if not busy:  # otherwise the others are in the middle of something, and torchrun ends them
            world.said_by_first(None)


def _follow(recipe: Recipe, world: World) -> None:
    from compress.pipeline import STAGES
    from compress.progress import Silent
    from compress.run_dir import RunDir
    from compress.stages.context import Context

    by_name = {stage.name: stage for stage in STAGES}
    while (name := world.said_by_first(None)) is not None:
        by_name[name].run(Context(recipe, RunDir(recipe.folder), name, Silent()))


def _lost(error: Exception) -> bool:
    """Whether torch.distributed says that a peer is gone; it has no class of its own for that on CPUs."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"DistBackendError", "DistNetworkError"}:
        return True
    return type(error) is RuntimeError and any(word in str(error).lower() for word in LOST)
