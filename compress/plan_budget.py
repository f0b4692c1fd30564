# SPDX-License-Identifier: Apache-2.0
"""Which blocks of which stacks leave so that one inference meets a latency budget, at the least total score.

Within a stack, blocks leave in the order of their scores, as in every plan. How far each stack is cut is a knapsack: of
all combinations that meet the budget, the one with the least sum of scores, found exactly (dominated combinations are
dropped as stacks are joined). Scores are estimates of what the action loss gains when one block goes; adding them up
assumes that blocks do not make up for each other, within a stack and across stacks. A negative score counts as 0: it is
no reason to drop more than the budget asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compress.plan import Costs, Plan, PlanError, PlanSpec, ranked_plan, ranked_runs
from compress.scores import Scores

LOSS_UNITS = ("gateprobe", "taylor", "loo")  # metrics that say how much the loss changes, whatever the stack


@dataclass(frozen=True)
class Stack:
    """One stack under the budget: its scores, its plan entry and its timed costs."""

    scores: Scores
    spec: PlanSpec
    costs: Costs


@dataclass(frozen=True)
class _Choice:
    """Blocks dropped per stack, milliseconds saved, sum of scores."""

    dropped: tuple[tuple[int, ...], ...]
    saved: float
    score: float


def plan_for_budget(
    stacks: Sequence[Stack], budget_ms: float, saved_ms: float = 0.0, given: Sequence[Plan] = ()
) -> tuple[Plan, ...]:
    """One plan per stack; `predicted["latency_ms"]` is of the policy with all of them carried out.

    Args:
        stacks: timed in one run, so that they have the same total.
        budget_ms: of one inference.
        saved_ms: what plans that were given already save.
        given: those plans; only their number is told.

    Raises:
        PlanError: costs without times, scores of stacks that cannot be weighed against each other, or a budget that
            even the deepest cut misses; the message says what it leaves.
    """
    total = _total(stacks)
    if len(stacks) > 1:
        strange = sorted({s.scores.metric for s in stacks} - set(LOSS_UNITS))
        if strange or len({s.scores.metric for s in stacks}) > 1:
            found = ", ".join(sorted({s.scores.metric for s in stacks}))
            raise PlanError(
                f"several stacks share a latency budget, and scores by {found} cannot be weighed between stacks: probe "
                f"with one of {', '.join(LOSS_UNITS)}, or give each stack an amount of its own"
            )
    fronts = [_Choice((), saved_ms, 0.0)]
    for stack in stacks:
        fronts = _front([_joined(a, b) for a in fronts for b in _choices(stack)])
    fit = next((choice for choice in fronts if total - choice.saved <= budget_ms), None)
    if fit is None:
        least = total - fronts[-1].saved
        names = " and ".join(stack.spec.role for stack in stacks)
        with_ = f", with {len(given)} given plan(s) carried out" if given else ""
        raise PlanError(
            f"latency_budget_ms is {budget_ms:g}, but {names} cut to the least leave {least:.4g} ms (now {total:.4g} ms"
            f"{with_}; {stacks[0].costs.device}): raise the budget, or put more stacks under it"
        )
    both = {"latency_ms": total - fit.saved, "latency_before_ms": total}
    return tuple(
        ranked_plan(s.scores, s.spec, dropped, s.costs, both) for s, dropped in zip(stacks, fit.dropped, strict=True)
    )


def _total(stacks: Sequence[Stack]) -> float:
    totals = {stack.costs.total_latency_ms for stack in stacks}
    if len(totals) != 1 or None in totals:
        raise PlanError(
            f"a latency budget needs costs of {[s.spec.role for s in stacks]} timed in one run, found totals {totals}"
        )
    return float(next(total for total in totals if total is not None))


def _choices(stack: Stack) -> list[_Choice]:
    """What may leave a stack, from nothing to the most."""
    costs, scores = stack.costs, stack.scores
    if (costs.role, costs.part, costs.model_identity) != (
        stack.spec.role, stack.spec.part, scores.subject.model_identity,
    ):  # fmt: skip
        raise PlanError(
            f"the costs are of {costs.role}/{costs.part} or of another model: measure {stack.spec.role} again"
        )
    return [
        _Choice(
            (tuple(sorted(run)),),
            costs.saved_ms(run),
            sum(max(0.0, scores.of(block)) for block in run),
        )
        for run in ranked_runs(scores, stack.spec)
    ]


def _joined(a: _Choice, b: _Choice) -> _Choice:
    return _Choice((*a.dropped, *b.dropped), a.saved + b.saved, a.score + b.score)


def _front(choices: Sequence[_Choice]) -> list[_Choice]:
    """Those that save more than all with a lower score; least score first, then least time saved."""
    ordered = sorted(choices, key=lambda c: (c.score, c.saved, c.dropped))
    kept: list[_Choice] = []
    for choice in ordered:
        if not kept or choice.saved > kept[-1].saved:
            kept.append(choice)
    return kept
