# SPDX-License-Identifier: Apache-2.0
"""Screening, paired comparison, vetoes, panels -> promote or hold, with one sentence of reason."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from compress.gate.floor import TaskFloor
from compress.gate.judge import Judgement, level_vetoes
from compress.gate.panel_verdict import PanelVerdict
from compress.gate.plan import GatePlan
from compress.gate.stats import Outcome


class Verdict(str, Enum):
    """Outcome of a gate run. Only the first lets an artifact near a robot."""

    PROMOTE = "promote"
    HOLD = "hold"
    ERROR = "error"


EXIT_CODES = {Verdict.PROMOTE: 0, Verdict.HOLD: 1, Verdict.ERROR: 2}


def verdict_of(
    plan: GatePlan, floors: tuple[TaskFloor, ...], judgement: Judgement | None, panels: Sequence[PanelVerdict] = ()
) -> tuple[Verdict, str]:
    """Verdict and reason; `panels` are the further ones that this release needs, all of which must pass."""
    trouble = unfit_for_proof(plan, floors)
    if trouble or judgement is None:
        return Verdict.HOLD, trouble or "the paired comparison was not run"
    wins = [sum(result[i] for result in judgement.results) for i in (0, 1)]
    n, margin, alpha = len(judgement.results), judgement.test.margin, judgement.test.alpha
    score = f"candidate {wins[0]}/{n}, baseline {wins[1]}/{n}"
    if judgement.decision.outcome is Outcome.PASS and judgement.missing:
        found = f"{judgement.missing} of {len(judgement.extra)} further pairs of tasks seen too seldom are missing"
        return Verdict.HOLD, f"not worse over all pairs ({score}), but {found}. Next: run the gate again, it continues"
    if judgement.decision.outcome is Outcome.PASS:
        objections = [*_vetoed(plan, judgement), *(f"{p.name}: {p.reason}" for p in panels if p.outcome != "pass")]
        if objections:
            return (
                Verdict.HOLD,
                f"not worse by {margin:g} or more over all pairs ({score}), but {'; '.join(objections)}",
            )
        return Verdict.PROMOTE, f"not worse than the baseline by {margin:g} or more (alpha {alpha:g}): {score}"
    if judgement.decision.outcome is Outcome.FAIL:
        return Verdict.HOLD, f"worse than the baseline by more than {margin:g} (alpha {alpha:g}): {score}"
    if judgement.missing:
        found = f"{judgement.missing} of {judgement.planned} pairs are missing"
        return Verdict.HOLD, f"{found} ({score}): not enough evidence. Next: run the gate again, it continues"
    return Verdict.HOLD, f"undecided after the budget of {n} pairs: {score}. Next: more pairs, or a better candidate"


def unfit_for_proof(plan: GatePlan, floors: tuple[TaskFloor, ...]) -> str:
    """Why no candidate could be proven good on this screening; empty if one could."""
    wins, scenes = sum(floor.baseline for floor in floors), sum(floor.scenes for floor in floors)
    least = float(plan.protocol["min_baseline"])
    if wins < least * scenes:
        solved = f"it solved {wins} of {scenes} screening scenes, expected at least {100 * least:g} %"
        return f"the baseline itself is broken: {solved}"
    if not any(floor.counts for floor in floors):
        return "no task counts as proof: " + "; ".join(f"{floor.name}: {floor.why}" for floor in floors)
    return ""


def _vetoed(plan: GatePlan, judgement: Judgement) -> list[str]:
    return [
        f"{veto.level} {veto.name} is significantly worse than that (lost {veto.lost}, gained {veto.gained} of "
        f"{veto.pairs} pairs, Holm-adjusted p {veto.p_holm:.2g})"
        for veto in level_vetoes(plan, judgement)
        if veto.vetoed
    ]
