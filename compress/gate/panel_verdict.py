# SPDX-License-Identifier: Apache-2.0
"""One panel (suites, a robustness axis, the instruction swap) -> outcome, bounds and its entry in `gate.json`.

Every panel is a paired non-inferiority test of its own. All that a station requires must pass, so none needs a
correction: promoting wrongly means that a particular false one passed (intersection-union, Berger 1982).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compress.gate.rates import comparison
from compress.gate.sequence import confidence_sequence
from compress.gate.stats import Outcome, PairedTest, decide
from runtime.contract.panels import PANELS

KINDS = ("suite", "axis", "swap")
NOT_RUN = "not_run"


class BadPanel(ValueError):
    """A panel that nobody defined, or more pairs than planned."""


@dataclass(frozen=True)
class PanelVerdict:
    """Where one panel stands.

    Attributes:
        name, kind: one of PANELS, of KINDS.
        test: margin, alpha, population.
        outcome: `pass`, `fail`, `undecided` or `not_run`; `pass` exactly when `lower > -test.margin`.
        lower, upper: one-sided anytime-valid bounds of the mean difference, each at level 1 - alpha.
        path: (lower, upper) after each pair, rounded outwards to 0.001.
        results: (candidate, baseline) of the pairs that the outcome rests on.
        planned: pairs of the budget.
        steps: median control steps of a success, per policy, or None.
        reason: one sentence.
    """

    name: str
    kind: str
    test: PairedTest
    outcome: str
    lower: float
    upper: float
    path: tuple[tuple[float, float], ...]
    results: tuple[tuple[bool, bool], ...]
    planned: int
    steps: Mapping[str, float | None]
    reason: str

    def entry(self) -> dict[str, Any]:
        """What `gate.json` says of it under `panels`."""
        found = comparison(self.results)
        return {
            "name": self.name,
            "kind": self.kind,
            "margin": self.test.margin,
            "alpha": self.test.alpha,
            "pairs": len(self.results),
            "planned": self.planned,
            "outcome": self.outcome,
            "candidate": found["candidate"],
            "baseline": found["baseline"],
            "lost": found["lost"],
            "gained": found["gained"],
            "difference": {"mean": found["difference"], "lower": self.lower, "upper": self.upper},
            "steps_to_success": {policy: self.steps.get(policy) for policy in ("candidate", "baseline")},
            "reason": self.reason,
        }


def judge_panel(
    name: str, kind: str, test: PairedTest, results: Sequence[tuple[bool, bool]], planned: int,
    steps: Mapping[str, float | None],
) -> PanelVerdict:  # fmt: skip
    """The panel's answer; pairs after the decision are ignored.

    Args:
        name, kind: one of PANELS, of KINDS.
        test: fixed before the first pair; its budget is `planned` unless it has one.
        results: (candidate, baseline) of the pairs in the plan's order, up to the first missing one. True is the
            counted event: the goal was reached; for `swap`: it was NOT reached under the wrong sentence (the caller
            negates), so that a negative difference is a worse candidate everywhere.
        planned: pairs of the budget.
        steps: median control steps to success of `candidate` and `baseline`, None without a success.

    Raises:
        BadPanel: unknown name or kind, or more results than planned.
        BadEvidence: more results than the population has.
    """
    if name not in PANELS or kind not in KINDS:
        raise BadPanel(f"panel {name!r} of kind {kind!r}, expected one of {PANELS} and of {KINDS}")
    if len(results) > planned:
        raise BadPanel(f"panel {name}: {len(results)} pairs of {planned} planned: a pair was counted twice")
    test = test if test.budget is not None or planned < 1 else replace(test, budget=planned)
    differences = [float(candidate) - float(baseline) for candidate, baseline in results]
    decision = decide(differences, test)
    used = tuple((bool(candidate), bool(baseline)) for candidate, baseline in results[: decision.pairs])
    bounds = confidence_sequence(differences[: decision.pairs], test)
    lower, upper = _in_order(bounds.lower, bounds.upper, decision.outcome)
    outcome = decision.outcome.value if results else NOT_RUN
    reason = _reason(decision.outcome, test, used, planned, lower)
    return PanelVerdict(name, kind, test, outcome, lower, upper, bounds.path, used, planned, dict(steps), reason)


def _in_order(lower: float, upper: float, outcome: Outcome) -> tuple[float, float]:
    """Bounds that crossed (one of them missed the truth) meet at the one that decided; wider is never wrong."""
    if lower <= upper:
        return lower, upper
    return (lower, lower) if outcome is Outcome.PASS else (upper, upper)


def _reason(outcome: Outcome, test: PairedTest, used: tuple[tuple[bool, bool], ...], planned: int, lower: float) -> str:
    if not used:
        return "no pair was run"
    n, margin = len(used), test.margin
    score = f"candidate {sum(c for c, _ in used)}/{n}, baseline {sum(b for _, b in used)}/{n}"
    if outcome is Outcome.PASS:
        return f"not worse by {margin:g} or more after {n} pairs (alpha {test.alpha:g}): {score}"
    if outcome is Outcome.FAIL:
        return f"worse by more than {margin:g} after {n} pairs (alpha {test.alpha:g}): {score}"
    why = f"{planned - n} of {planned} pairs are missing" if n < planned else f"the budget of {n} pairs is spent"
    return f"undecided, {why}: {score}, the loss may be as large as {-lower:.3f}"
