# SPDX-License-Identifier: Apache-2.0
"""`compress run RECIPE`, and one verb for every stage that can be asked for by itself."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compress.verbs.answer import HOLD, OK, Answer, Verbs, add_recipe, add_verb, progress

if TYPE_CHECKING:
    from compress.pipeline import Outcome
    from compress.recipe import Recipe

STAGE_VERBS = {
    "trim": "remove weights that no action depends on (and whatever must come before)",
    "probe": "score the blocks (and whatever must come before)",
    "plan": "choose the blocks that stay, and show the map",
    "drop": "write the pruned checkpoint",
    "recover": "fine-tune the pruned checkpoint; resumable",
    "export": "write and time the two draft artifacts",
}


def add_parsers(verbs: Verbs) -> None:
    """`run` and the stages."""
    run = add_verb(
        verbs, "run", _run, "do every stage of a recipe that is not done yet: from checkpoint to sealed artifact"
    )
    add_recipe(run)
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    run.add_argument(
        "--force",
        metavar="STAGE",
        action="append",
        default=[],
        help="do this stage again from the start; may be given twice",
    )
    run.add_argument(
        "--dry-run", action="store_true", help="only say what it would need of memory and time; exit 2 if it cannot fit"
    )
    run.add_argument("--processes", type=int, default=1, metavar="N", help="with --dry-run: under torchrun with N")
    for name, about in STAGE_VERBS.items():
        stage = add_verb(verbs, name, _stage, about)
        add_recipe(stage)
        stage.set_defaults(until=name)
        stage.add_argument("--force", action="store_true", help="do it again from the start")
        if name == "plan":
            stage.add_argument(
                "--keep", metavar="N,N", help="also show the maps for these numbers of blocks; changes nothing"
            )
            stage.add_argument(
                "--latency-budget", metavar="MS,MS",
                help="also show what would stay for these latencies of the whole policy, such as 30ms: all ranked "
                "stacks share the budget; changes nothing",
            )  # fmt: skip


def answer_for(options: argparse.Namespace, until: str | None, force: list[str]) -> tuple[Outcome, Answer]:
    """Run the recipe and say what happened."""
    from compress.verbs import together

    recipe = _recipe(options)
    options.resume_folder = recipe.folder  # for the message after Ctrl-C
    outcome = together.run(recipe, until, force, progress(options))
    verdict = outcome.facts("gate").get("verdict")
    data: dict[str, Any] = {
        "folder": str(outcome.folder),
        "done": list(outcome.done),
        "verdict": verdict,
        "artifact": outcome.facts("seal").get("artifact"),
        "stages": {r.stage: {"seconds": r.seconds, "key": r.key, "facts": dict(r.facts)} for r in outcome.receipts},
    }
    return outcome, Answer(HOLD if verdict == "hold" else OK, data, _lines(outcome))


def _recipe(options: argparse.Namespace) -> Recipe:
    from compress.recipe import load_recipe

    recipe = load_recipe(options.recipe)
    return recipe if options.output is None else replace(recipe, output=options.output.absolute())


def _run(options: argparse.Namespace) -> Answer:
    if options.dry_run:
        from compress.verbs.dry_run import dry_run

        return dry_run(options)
    return answer_for(options, options.until, options.force)[1]


def _stage(options: argparse.Namespace) -> Answer:
    outcome, answer = answer_for(options, options.until, [options.until] if options.force else [])
    maps = _what_if(outcome, options.keep) if getattr(options, "keep", None) else []
    if getattr(options, "latency_budget", None):
        found = _budgets(options, _milliseconds(options.latency_budget))
        maps += [line for lines in found.values() for line in lines]
        answer = replace(answer, data={**answer.data, "budgets": found})
    return replace(answer, data={**answer.data, "what_if": maps}, lines=[*answer.lines, *maps]) if maps else answer


def _milliseconds(text: str) -> list[float]:
    from compress.settings import SettingsError

    found = [re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:ms)?\s*", part) for part in text.split(",")]
    numbers = [float(match[1]) for match in found if match is not None]
    if len(numbers) != len(found) or not all(number > 0 for number in numbers):
        raise SettingsError(f"--latency-budget is {text!r}, expected milliseconds such as 30ms or 30,20.5")
    return numbers


def _budgets(options: argparse.Namespace, budgets: list[float]) -> dict[str, list[str]]:
    """Maps and expectation for every budget, with what to write in the recipe."""
    from compress.run_dir import RunDir
    from compress.stages.context import Context
    from compress.stages.plan import expected, what_if

    recipe = _recipe(options)
    context = Context(recipe, RunDir(recipe.folder), "plan", progress(options))
    found = {}
    for ms, plans in zip(budgets, what_if(context, budgets), strict=True):
        after, whole = expected(plans) or (0.0, 0.0)
        found[f"{ms:g}"] = [
            *(plan.map_text() for plan in plans),
            f"{ms:g} ms: expected {after:.2f} of {whole:.2f} ms; to use it, write `latency_budget_ms: {ms:g}` in the "
            "plan of every stack that may be cut",
        ]
    return found


def _what_if(outcome: Outcome, keep: str) -> list[str]:
    """Kept-block maps for other amounts, from the same scores."""
    from compress.plan import PlanSpec, make_plan
    from compress.settings import SettingsError
    from compress.stages.probe import SCORES, load_scores

    if not all(part.strip().isdigit() for part in keep.split(",")):
        raise SettingsError(f"--keep is {keep!r}, expected numbers of blocks such as 8,6,4")
    every = load_scores(outcome.folder / "probe" / SCORES)
    counts = [int(part) for part in keep.split(",")]
    return [make_plan(s, PlanSpec(s.subject.role, s.subject.part, keep=n)).map_text() for s in every for n in counts]


def _lines(outcome: Outcome) -> list[str]:
    gate, seal, export = outcome.facts("gate"), outcome.facts("seal"), outcome.facts("export")
    lines = [str(line) for line in outcome.facts("plan").get("map", [])]
    if export:
        lines.append(f"graph            {export['graph_p50_ms']} ms, {export['graph_speedup']} x the uncompressed one")
    if "expected_ms" in export:
        lines.append(
            f"expected         {export['expected_ms']} ms ({export['off']:+.1%} measured), "
            f"{export['expected_share']:.0%} of the uncompressed one's time ({export['off_of_share']:+.1%})"
        )
    if gate:
        lines.append(f"verdict          {gate['verdict']}: {gate['reason']}")
    if seal:
        lines.append(f"artifact         {seal['artifact']}")
    last = outcome.receipts[-1].stage if outcome.receipts else "nothing"
    if not outcome.done:
        return [f"nothing to do: {outcome.folder} is complete up to `{last}`", *lines]
    return [f"done: {', '.join(outcome.done)} in {outcome.folder}", *lines]
