# SPDX-License-Identifier: Apache-2.0
"""The whole run as one visible list, and the loop that does what is not done yet."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress import digests
from compress.data import fingerprint
from compress.disk import naming_full_disk, require_space
from compress.progress import Progress, Silent
from compress.receipt import Receipt
from compress.recipe import Recipe, require_paths
from compress.run_dir import Result, RunDir, StageKey
from compress.run_lock import locked
from compress.stages import data, drop, export, gate, plan, probe, recover, report, seal, trim
from compress.stages.context import Context, nothing, source_model


class PipelineError(ValueError):
    """The run cannot be started like this."""


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: also its folder.
        needs: what it reads of earlier stages: `stage` for its result, `stage/file` for the very bytes of a file.
        settings: the part of the recipe that decides its result; anything else may change without repeating it.
        run: does it.
        files: inputs from outside the run folder, by name.
        space: bytes it is going to write, about.
    """

    name: str
    needs: tuple[str, ...]
    settings: Callable[[Recipe], dict[str, Any]]
    run: Callable[[Context], Result]
    files: Callable[[Recipe], Mapping[str, Path]] = nothing
    space: int = 5_000_000


EVIDENCE = ("trim/trim.json", "probe/probe.json", "plan", "recover/recovery.json", "export/bench.json", "gate")
STAGES = (
    Stage("data", (), data.settings, data.run, data.files, space=200_000_000),
    Stage("trim", (), trim.settings, trim.run, source_model, space=100_000_000),
    Stage("probe", ("data", "trim"), probe.settings, probe.run),
    Stage("plan", ("trim", "probe"), plan.settings, plan.run),
    Stage("drop", ("trim", "plan"), drop.settings, drop.run, space=100_000_000),
    Stage("recover", ("data", "trim", "drop"), recover.settings, recover.run, space=300_000_000),
    Stage("export", ("data", "trim", "plan", "recover"), export.settings, export.run, space=200_000_000),
    Stage("gate", ("export",), gate.settings, gate.run, space=50_000_000),
    Stage("report", ("export", *EVIDENCE), report.settings, report.run, space=20_000_000),
    Stage("seal", ("export", "report", *EVIDENCE), seal.settings, seal.run, space=200_000_000),
)
NAMES = tuple(stage.name for stage in STAGES)


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        folder: the run folder.
        receipts: of all stages up to the last one asked for.
        done: names of the stages that were carried out now; empty means there was nothing to do.
    """

    folder: Path
    receipts: tuple[Receipt, ...]
    done: tuple[str, ...]

    def facts(self, stage: str) -> Mapping[str, Any]:
        """The facts of a stage; empty if it was not asked for."""
        return next((receipt.facts for receipt in self.receipts if receipt.stage == stage), {})


def run_recipe(
    recipe: Recipe, until: str | None = None, force: Sequence[str] = (), progress: Progress | None = None,
    stages: Sequence[Stage] = STAGES,
) -> Outcome:  # fmt: skip
    """Do every stage that is not done.

    Args:
        recipe: what to run; its resolved copy is kept in the run folder.
        until: the last stage to do; all by default.
        force: stages to do again from the start even if nothing changed.
        progress: where to report to.
        stages: the list; tests give shorter ones.

    Raises:
        PipelineError: no such stage.
        compress.recipe.RecipeError: a path of a shipped recipe is not set.
        RunLockedError: another process works in the folder.
        DiskFullError: what is finished is kept.
    """
    require_paths(recipe)
    names = [stage.name for stage in stages]
    for name in (*force, *([until] if until else [])):
        if name not in names:
            raise PipelineError(f"no stage {name!r}; the stages are: {', '.join(names)}")
    wanted = stages[: names.index(until) + 1] if until else stages
    run, out = RunDir(recipe.folder), progress or Silent()
    with locked(run.root), naming_full_disk(run.root, 1_000_000):
        run.keep_recipe(recipe.to_yaml())
        receipts: dict[str, Receipt] = {}
        known = functools.cache(fingerprint.of_path)  # the source checkpoint is an input of most stages
        done = []
        for number, stage in enumerate(wanted, start=1):
            key = key_of(stage, recipe, receipts, known)
            why = "forced" if stage.name in force else run.why_not_done(key)
            if why:
                out.say(f"{number}/{len(wanted)} {stage.name}  ({why})")
                receipts[stage.name] = _do(stage, key, Context(recipe, run, stage.name, out), fresh=stage.name in force)
                done.append(stage.name)
            else:
                receipts[stage.name] = _must(run.receipt(stage.name), stage.name)
    return Outcome(run.root, tuple(receipts.values()), tuple(done))


def key_of(
    stage: Stage, recipe: Recipe, receipts: Mapping[str, Receipt], known: Callable[[Path], str] = digests.of_path
) -> StageKey:
    """Settings and inputs of a stage, once the stages that it needs are done; `known` digests a file or folder."""
    inputs = {need: _digest_of(need, receipts) for need in stage.needs}
    inputs |= {name: known(path) for name, path in stage.files(recipe).items()}
    return StageKey(stage.name, stage.settings(recipe), inputs)


def _digest_of(need: str, receipts: Mapping[str, Receipt]) -> str:
    """`stage` is the identity of its result, `stage/file` the digest of that very output."""
    name, _, file = need.partition("/")
    receipt = receipts[name]
    if not file:
        return receipt.identity
    return next(item.sha256 for item in receipt.outputs if item.path == file)


def _do(stage: Stage, key: StageKey, context: Context, fresh: bool) -> Receipt:
    started = time.monotonic()
    require_space(context.run.root, stage.space)
    with naming_full_disk(context.folder, stage.space):
        context.run.begin(key, fresh)
        result = stage.run(context)
        receipt = context.run.finish(key, result, time.monotonic() - started)
    short = {name: value for name, value in receipt.facts.items() if isinstance(value, (str, int, float))}
    shown = ", ".join(f"{name} {value}" for name, value in short.items() if len(str(value)) < 60)
    context.say(f"done in {receipt.seconds:.1f} s" + (f": {shown}" if shown else ""))
    return receipt


def _must(receipt: Receipt | None, name: str) -> Receipt:
    if receipt is None:
        raise PipelineError(
            f"the receipt of stage {name!r} vanished while the run was going on; give the same command again"
        )
    return receipt
