# SPDX-License-Identifier: Apache-2.0
"""`compress gate`: of a recipe, or of two artifacts given by hand."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.verbs import gate_plan
from compress.verbs.answer import ERROR, HOLD, OK, Answer, Verbs, add_recipe, add_verb, progress
from compress.verbs.gate_parts import add_parts, engine_of
from compress.verbs.run import answer_for

if TYPE_CHECKING:
    from compress.gate.spec import GateSpec

# options that replace a default of GateSpec; None leaves it
NUMBERS: dict[str, type] = {
    "pairs": int,
    "states": int,
    "margin": str,
    "alpha": float,
    "workers": int,
    "order_seed": int,
    "env_seed": int,
}


def add_parser(verbs: Verbs) -> None:
    """`gate`."""
    parser = add_verb(
        verbs,
        "gate",
        _gate,
        "prove in simulation that the compressed policy is not worse: exit 0 promote, 1 hold, 2 error",
    )
    add_recipe(parser, optional=True)
    parser.add_argument("--candidate", type=Path, metavar="DIR", help="artifact to judge; replaces RECIPE")
    parser.add_argument("--baseline", type=Path, metavar="DIR", help="artifact to compare it with")
    _add_question(parser)
    add_parts(parser, _add_question, spec_of)
    parser.add_argument("--force", action="store_true", help="with RECIPE: run the gate again from the start")


def _add_question(parser: argparse.ArgumentParser) -> None:
    """What is asked."""
    parser.add_argument("--suite", help="simulated tasks (default: dropgate_tabletop)")
    parser.add_argument("--tasks", metavar="TASK,TASK", help="names or indices (default: all of the suite)")
    for name, kind in NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=f"the gate's `{name}`")
    gate_plan.add_options(parser)
    parser.add_argument("--libero-assets", type=Path, metavar="DIR", help="LIBERO's assets, for its own suites")


def spec_of(options: argparse.Namespace) -> GateSpec:
    """The gate's defaults with what was given."""
    from compress.gate.spec import GateSpec

    given = [name for name in ("suite", "tasks", "libero_assets", *NUMBERS) if getattr(options, name) is not None]
    values: dict[str, Any] = {name: getattr(options, name) for name in given}
    if "tasks" in values:
        values["tasks"] = tuple(int(t) if t.isdigit() else t for t in values["tasks"].split(","))
    return GateSpec(**values)


def _gate(options: argparse.Namespace) -> Answer:
    from compress.settings import SettingsError

    by_hand = options.candidate is not None or options.baseline is not None
    given = [n for n in ("suite", "tasks", "libero_assets", *NUMBERS) if getattr(options, n) is not None]
    planned = [name for name in gate_plan.OPTIONS if getattr(options, name) is not None]
    if options.plan:
        if options.recipe is not None or by_hand:
            raise SettingsError("--plan runs no gate: give it without RECIPE, --candidate and --baseline")
        return gate_plan.forecast(options)
    if planned:
        raise SettingsError(f"{', '.join(planned)}: only with --plan")
    if options.recipe is not None and (by_hand or given):
        raise SettingsError(
            "give RECIPE alone, or --candidate and --baseline: the recipe has its own gate section "
            f"({', '.join(given) or 'artifacts'})"
        )
    if options.recipe is not None and options.engine != "local":
        raise SettingsError("--engine is for --candidate and --baseline: a recipe's gate runs on this machine")
    if options.recipe is not None:
        return answer_for(options, "gate", ["gate"] if options.force else [])[1]
    if options.candidate is None or options.baseline is None:
        raise SettingsError("gate needs RECIPE, or both --candidate DIR and --baseline DIR")
    return _two_artifacts(options)


def _two_artifacts(options: argparse.Namespace) -> Answer:
    from compress.gate.sim_gate import run_gate
    from compress.stages.gate import tally

    folder = (options.output or Path("runs/gate")).absolute()
    options.resume_folder = folder
    with progress(options).bar("gate", 0) as bar:
        report = run_gate(options.candidate, options.baseline, spec_of(options), folder, tally(bar), engine_of(options))
    verdict = report.verdict.value
    data = {"verdict": verdict, "reason": report.reason, "folder": str(folder), "gate": dict(report.data)}
    code = {"promote": OK, "hold": HOLD}.get(verdict, ERROR)
    return Answer(code, data, [f"{verdict}: {report.reason}", *([] if code == ERROR else [f"evidence: {folder}"])])
