# SPDX-License-Identifier: Apache-2.0
"""Rows and plan -> verdict, by the plan's own order: rows that came early wait, so workers cannot change the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from compress.gate.floor import TaskFloor
from compress.gate.jobs import Job
from compress.gate.panel_verdict import PanelVerdict, judge_panel
from compress.gate.plan import MIN_POPULATION, GatePlan, Pair
from compress.gate.rates import Results
from compress.gate.rows import IN_DISTRIBUTION, EpisodeRow, RowKey
from compress.gate.stats import Decision, Outcome, PairedTest, decide
from compress.gate.vetoes import Veto, pairs_to_speak, vetoes

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
        missing: pairs whose rows are still needed; 0 once decided or complete.
        extra: after a pass, more pairs of the tasks of which too few were seen for a veto to speak: the next of each
            in the plan's order. They enter the vetoes and nothing else.
        extra_results: (candidate, baseline) success of those that are there.
    """

    test: PairedTest
    decision: Decision
    pairs: tuple[Pair, ...]
    results: tuple[tuple[bool, bool], ...]
    planned: int
    missing: int
    extra: tuple[Pair, ...] = ()
    extra_results: tuple[tuple[bool, bool], ...] = ()

    @property
    def decided(self) -> bool:
        """More pairs of the budget cannot change the pooled answer."""
        return self.decision.outcome is not Outcome.UNDECIDED or self.missing == 0


def counted_pairs(plan: GatePlan, floors: tuple[TaskFloor, ...]) -> tuple[Pair, ...]:
    """All pairs of the tasks that count, in the plan's order."""
    counting = {floor.task for floor in floors if floor.counts}
    return tuple(pair for pair in plan.order if pair.task in counting)


def pair_jobs(plan: GatePlan, floors: tuple[TaskFloor, ...]) -> list[Job]:
    """Both policies on each pair of the budget, in order."""
    budget = counted_pairs(plan, floors)[: int(plan.protocol["pairs"])]
    return _both(budget, plan)


def judge(plan: GatePlan, floors: tuple[TaskFloor, ...], rows: Rows) -> Judgement:
    """The verdict of the rows that are there."""
    population = counted_pairs(plan, floors)
    budget = population[: int(plan.protocol["pairs"])]
    finite = len(population) if len(population) >= MIN_POPULATION else None
    test = PairedTest(float(plan.protocol["margin"]), float(plan.protocol["alpha"]), finite, max(1, len(budget)))
    results = _results(budget, rows)
    decision = decide([float(candidate) - float(baseline) for candidate, baseline in results], test)
    used = decision.pairs
    extra = _extra(population, used, test) if decision.outcome is Outcome.PASS else ()
    looked = _results(extra, rows)
    missing = len(extra) - len(looked) if decision.outcome is not Outcome.UNDECIDED else len(budget) - len(results)
    return Judgement(test, decision, budget[:used], results[:used], len(budget), missing, extra, looked)


def extra_jobs(judgement: Judgement, plan: GatePlan) -> list[Job]:
    """Both policies on the extra pairs."""
    return _both(judgement.extra, plan)


def _both(pairs: Sequence[Pair], plan: GatePlan) -> list[Job]:
    return [
        Job.of(arm, arm, pair, plan.task(pair.task).max_steps) for pair in pairs for arm in ("baseline", "candidate")
    ]


def _results(pairs: Sequence[Pair], rows: Rows) -> Results:
    """(candidate, baseline) success up to the first pair that is not there."""
    results: list[tuple[bool, bool]] = []
    for pair in pairs:
        both = [rows.get(Job.of(arm, arm, pair, 0).key) for arm in ("candidate", "baseline")]
        if both[0] is None or both[1] is None:
            break
        results.append((both[0].success, both[1].success))
    return tuple(results)


def _extra(population: tuple[Pair, ...], used: int, test: PairedTest) -> tuple[Pair, ...]:
    tasks = {pair.task for pair in population}
    needed = pairs_to_speak(len(tasks), test.margin, test.alpha)
    seen = Counter(pair.task for pair in population[:used])
    extra = []
    for pair in population[used:]:
        if seen[pair.task] < needed:
            seen[pair.task] += 1
            extra.append(pair)
    return tuple(extra)


def primary_panel(judgement: Judgement, rows: Rows) -> PanelVerdict:
    """The pooled comparison as the first panel of `gate.json`, with the bounds that go with its decision."""
    steps: dict[str, float | None] = {}
    for arm in ("candidate", "baseline"):
        found = [rows[Job.of(arm, arm, pair, 0).key] for pair in judgement.pairs]
        won = [row.steps for row in found if row.success]
        steps[arm] = float(median(won)) if won else None
    return judge_panel(IN_DISTRIBUTION, "suite", judgement.test, judgement.results, judgement.planned, steps)


def level_vetoes(plan: GatePlan, judgement: Judgement) -> tuple[Veto, ...]:
    """Suites, then tasks, each against the margin of the primary comparison and Holm-adjusted over its level."""
    suites: dict[str, Results] = {str(plan.protocol["suite"]): judgement.results}
    tasks: dict[str, Results] = {}
    pairs, results = judgement.pairs + judgement.extra, judgement.results + judgement.extra_results
    for task in plan.tasks:
        of_task = [r for pair, r in zip(pairs, results, strict=False) if pair.task == task.index]
        if of_task:
            tasks[task.name] = tuple(of_task)
    test = judgement.test
    return vetoes("suite", suites, test.margin, test.alpha) + vetoes("task", tasks, test.margin, test.alpha)
