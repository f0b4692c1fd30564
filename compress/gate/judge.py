# SPDX-License-Identifier: Apache-2.0
"""Rows and plan -> verdict, by the plan's own order: rows that came early wait, so workers cannot change the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from compress.gate.floor import TaskFloor
from compress.gate.jobs import Job
from compress.gate.panel_verdict import PanelVerdict, judge_panel
from compress.gate.plan import MIN_POPULATION, GatePlan, Pair
from compress.gate.rates import Results
from compress.gate.rows import EpisodeRow, RowKey
from compress.gate.stats import Decision, Outcome, PairedTest, decide
from compress.gate.vetoes import Veto, vetoes

Rows = Mapping[RowKey, EpisodeRow]


@dataclass(frozen=True)
class Judgement:
    """Where the paired comparison stands.

    Attributes:
        test: margin, alpha, population.
        decision: what the pairs up to the first missing one say.
        pairs: those that the decision rests on, in order.
        results: (candidate, baseline) success of each of them.
        planned: pairs in the budget.
        missing: pairs of the budget whose rows are still needed; 0 once decided or complete.
    """

    test: PairedTest
    decision: Decision
    pairs: tuple[Pair, ...]
    results: tuple[tuple[bool, bool], ...]
    planned: int
    missing: int

    @property
    def settled(self) -> bool:
        """More rows cannot change anything."""
        return self.decision.outcome is not Outcome.UNDECIDED or self.missing == 0


def counted_pairs(plan: GatePlan, floors: tuple[TaskFloor, ...]) -> tuple[Pair, ...]:
    """All pairs of the tasks that count, in the plan's order."""
    counting = {floor.task for floor in floors if floor.counts}
    return tuple(pair for pair in plan.order if pair.task in counting)


def pair_jobs(plan: GatePlan, floors: tuple[TaskFloor, ...]) -> list[Job]:
    """Both policies on each pair of the budget, in order."""
    budget = counted_pairs(plan, floors)[: int(plan.protocol["pairs"])]
    return [
        Job.of(arm, arm, pair, plan.task(pair.task).max_steps) for pair in budget for arm in ("baseline", "candidate")
    ]


def judge(plan: GatePlan, floors: tuple[TaskFloor, ...], rows: Rows) -> Judgement:
    """The verdict of the rows that are there."""
    population = counted_pairs(plan, floors)
    budget = population[: int(plan.protocol["pairs"])]
    finite = len(population) if len(population) >= MIN_POPULATION else None
    test = PairedTest(float(plan.protocol["margin"]), float(plan.protocol["alpha"]), finite, max(1, len(budget)))
    results: list[tuple[bool, bool]] = []
    for pair in budget:
        both = [rows.get(Job.of(arm, arm, pair, 0).key) for arm in ("candidate", "baseline")]
        if both[0] is None or both[1] is None:
            break
        results.append((both[0].success, both[1].success))
    decision = decide([float(candidate) - float(baseline) for candidate, baseline in results], test)
    used = decision.pairs
    missing = 0 if decision.outcome is not Outcome.UNDECIDED else len(budget) - len(results)
    return Judgement(test, decision, budget[:used], tuple(results[:used]), len(budget), missing)


def primary_panel(judgement: Judgement, rows: Rows) -> PanelVerdict:
    """The pooled comparison as the first panel of `gate.json`, with the bounds that go with its decision."""
    steps: dict[str, float | None] = {}
    for arm in ("candidate", "baseline"):
        found = [rows[Job.of(arm, arm, pair, 0).key] for pair in judgement.pairs]
        won = [row.steps for row in found if row.success]
        steps[arm] = float(median(won)) if won else None
    return judge_panel("in_distribution", "suite", judgement.test, judgement.results, judgement.planned, steps)


def level_vetoes(plan: GatePlan, judgement: Judgement) -> tuple[Veto, ...]:
    """Suites, then tasks, each against the margin of the primary comparison and Holm-adjusted over its level."""
    suites: dict[str, Results] = {str(plan.protocol["suite"]): judgement.results}
    tasks: dict[str, Results] = {}
    for task in plan.tasks:
        of_task = [r for pair, r in zip(judgement.pairs, judgement.results, strict=True) if pair.task == task.index]
        if of_task:
            tasks[task.name] = tuple(of_task)
    test = judgement.test
    return vetoes("suite", suites, test.margin, test.alpha) + vetoes("task", tasks, test.margin, test.alpha)
