# SPDX-License-Identifier: Apache-2.0
"""Panels of a plan -> jobs, verdicts, and what they mean for the release."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import median

from compress.gate.floor import TaskFloor
from compress.gate.jobs import Job
from compress.gate.judge import Judgement
from compress.gate.panel_spec import kind_of
from compress.gate.panel_verdict import NOT_RUN, PanelVerdict, judge_panel
from compress.gate.plan import MIN_POPULATION, GatePlan, Pair
from compress.gate.rows import EpisodeRow, RowKey
from compress.gate.stats import Outcome, PairedTest
from compress.gate.verdict import Verdict, verdict_of

Rows = Mapping[RowKey, EpisodeRow]
RowPair = tuple[EpisodeRow, EpisodeRow]  # candidate, baseline
Scene = tuple[Pair, int]  # a pair, and the task whose sentence is given
POLICIES = ("candidate", "baseline")
LEAST_MARGINS = 2.0  # a baseline must manage at least so many margins of a panel that is to prove something
SLOWER = 1.2  # a candidate whose median success takes longer than this times the baseline's is warned about


def panel_scenes(plan: GatePlan, floors: Iterable[TaskFloor], name: str) -> tuple[Scene, ...]:
    """All scenes of a panel whose task counts, in the plan's order."""
    counting = {floor.task for floor in floors if floor.counts}
    return tuple(scene for scene in plan.panels[name] if scene[0].task in counting)


def panel_jobs(plan: GatePlan, floors: Iterable[TaskFloor], name: str) -> list[Job]:
    """Both policies on each scene of the panel's budget, in order."""
    budget = panel_scenes(plan, floors, name)[: int(plan.protocol["panels"][name]["pairs"])]
    return [panel_job(plan, name, scene, policy) for scene in budget for policy in ("baseline", "candidate")]


def panel_job(plan: GatePlan, name: str, scene: Scene, policy: str) -> Job:
    """One policy on one scene of a panel."""
    pair, told = scene
    return Job.of(policy, policy, pair, plan.task(pair.task).max_steps, told=told, panel=name)


def judge_scenes(plan: GatePlan, scenes: tuple[Scene, ...], name: str, rows: Rows) -> PanelVerdict:
    """The panel's answer on `scenes`, its whole population in order, from the rows that are there."""
    terms = plan.protocol["panels"][name]
    finite = len(scenes) if len(scenes) >= MIN_POPULATION else None
    test = PairedTest(float(terms["margin"]), float(terms["alpha"]), finite)
    budget = scenes[: int(terms["pairs"])]
    pairs = row_pairs(plan, budget, name, rows)
    found = judge_panel(name, kind_of(name), test, counted(pairs, name), len(budget), {})
    return replace(found, steps=median_steps(pairs[: len(found.results)], name))


def panel_settled(plan: GatePlan, scenes: tuple[Scene, ...], name: str, rows: Rows) -> bool:
    """More rows cannot change the panel's answer."""
    found = judge_scenes(plan, scenes, name, rows)
    return found.outcome in (Outcome.PASS.value, Outcome.FAIL.value) or len(found.results) == found.planned


def row_pairs(plan: GatePlan, scenes: Iterable[Scene], name: str, rows: Rows) -> list[RowPair]:
    """(candidate, baseline) of the scenes up to the first that either has not run."""
    pairs: list[RowPair] = []
    for scene in scenes:
        candidate, baseline = (rows.get(panel_job(plan, name, scene, policy).key) for policy in POLICIES)
        if candidate is None or baseline is None:
            break
        pairs.append((candidate, baseline))
    return pairs


def counted(pairs: Iterable[RowPair], name: str) -> list[tuple[bool, bool]]:
    """The counted event: the goal was reached; under another sentence: it was not, by a policy that did not crash."""
    other = kind_of(name) == "swap"

    def event(row: EpisodeRow) -> bool:
        return not (row.success or row.error) if other else row.success

    return [(event(candidate), event(baseline)) for candidate, baseline in pairs]


def median_steps(pairs: Iterable[RowPair], name: str) -> dict[str, float | None]:
    """Median control steps of the successes per policy; None without one, and where success is not the aim."""
    if kind_of(name) == "swap":
        return dict.fromkeys(POLICIES)
    taken = [[row.steps for row in rows if row.success] for rows in zip(*pairs, strict=True)] or [[], []]
    return {policy: float(median(steps)) if steps else None for policy, steps in zip(POLICIES, taken, strict=True)}


def judge_panels(
    plan: GatePlan,
    floors: tuple[TaskFloor, ...],
    judgement: Judgement | None,
    rows: Rows,
    refused: Mapping[str, str],
) -> tuple[PanelVerdict, ...]:
    """Every panel of the plan after the primary one; `refused` says of a panel why it cannot be run."""
    found = []
    for name in plan.panels:
        verdict = judge_scenes(plan, () if name in refused else panel_scenes(plan, floors, name), name, rows)
        if verdict.outcome == NOT_RUN:
            verdict = replace(verdict, reason=refused.get(name) or _why_not(plan, name, judgement))
        found.append(verdict)
    return tuple(found)


def release_verdict(
    plan: GatePlan, floors: tuple[TaskFloor, ...], judgement: Judgement | None, panels: Iterable[PanelVerdict]
) -> tuple[Verdict, str]:
    """Verdict and reason: the suite itself must pass, and every panel that is not advisory, with a fit baseline."""
    terms = plan.protocol["panels"]
    needed = [panel for panel in panels if not terms[panel.name]["advisory"]]
    judged = [replace(p, outcome=NOT_RUN, reason=why) if (why := weakness(p)) else p for p in needed]
    verdict, reason = verdict_of(plan, floors, judgement, judged)
    passed = ", ".join(panel.name for panel in judged)
    return verdict, f"{reason}; panels passed: {passed}" if verdict is Verdict.PROMOTE and passed else reason


def weakness(panel: PanelVerdict) -> str:
    """Why a panel that passed proves nothing; else empty.

    A candidate that always fails loses exactly the baseline's rate: where that is near the margin it would pass too.
    """
    n, least = len(panel.results), LEAST_MARGINS * panel.test.margin
    wins = sum(baseline for _, baseline in panel.results)
    if panel.outcome != Outcome.PASS.value or wins >= least * n:
        return ""
    return f"proves nothing, the baseline itself manages {wins} of {n} (at least {100 * least:g} % are expected)"


def slowness(panel: PanelVerdict) -> str:
    """That the candidate's median success takes much longer than the baseline's; else empty."""
    candidate, baseline = (panel.steps.get(policy) for policy in POLICIES)
    if candidate is None or baseline is None or candidate <= SLOWER * baseline:
        return ""
    return f"median success takes {candidate:g} steps, {100 * (candidate / baseline - 1):.0f} % more than {baseline:g}"


def panel_warnings(panels: Iterable[PanelVerdict]) -> list[str]:
    """Sentences for the report."""
    found = [(panel.name, why) for panel in panels for why in (weakness(panel), slowness(panel)) if why]
    return [f"{name}: {why}" for name, why in found]


def _why_not(plan: GatePlan, name: str, judgement: Judgement | None) -> str:
    if not plan.panels[name]:
        return "the plan has one task only, so there is no other sentence to give"
    if judgement is None or judgement.decision.outcome is not Outcome.PASS:
        return "not run: the suite itself did not pass"
    return "no pair was run. Next: run the gate again, it continues"
