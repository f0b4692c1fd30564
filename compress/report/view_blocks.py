# SPDX-License-Identifier: Apache-2.0
"""Plan and scores -> one map per stack, and what there is to say about how sure the ranking is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from compress.plan import Plan
from compress.report.chart_blocks import block_map
from compress.report.errors import reading
from compress.report.evidence import Evidence
from compress.report.numbers import DASH, blocks, percent
from compress.scores import Scores, Stability


@dataclass(frozen=True)
class Stack:
    """One stack on the page: heading, chart, sentences, and a row per other metric (name, drops, shared)."""

    title: str
    chart: Markup
    notes: tuple[str, ...]
    compared: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Ranking:
    """The typed content of plan.json and probe.json."""

    plans: tuple[Plan, ...] = ()
    scores: tuple[Scores, ...] = ()
    compared: tuple[Scores, ...] = ()


def read_ranking(evidence: Evidence) -> Ranking:
    """Plans and scores; empty where a file is missing."""
    plan, probe = evidence.data.get("plan"), evidence.data.get("probe")
    plans: tuple[Plan, ...] = ()
    scores: tuple[Scores, ...] = ()
    compared: tuple[Scores, ...] = ()
    if plan is not None:
        with reading(evidence.paths["plan"], "plan"):
            plans = tuple(Plan.from_json(entry) for entry in plan["plans"])
    if probe is not None:
        with reading(evidence.paths["probe"], "probe"):
            one_stack = "subject" in probe  # what Scores.to_json alone gives
            scores = tuple(Scores.from_json(entry) for entry in ([probe] if one_stack else probe["scores"]))
            compared = () if one_stack else tuple(Scores.from_json(entry) for entry in probe["compared"])
    return Ranking(plans, scores, compared)


def stacks(ranking: Ranking) -> tuple[Stack, ...]:
    """Every stack that was planned or probed, plans first."""
    plans = {(plan.role, plan.part): plan for plan in ranking.plans}
    scores = {_key(item): item for item in ranking.scores}
    return tuple(
        _stack(index, plans.get(key), scores.get(key), [other for other in ranking.compared if _key(other) == key])
        for index, key in enumerate(dict.fromkeys([*plans, *scores]))
    )


def _key(scores: Scores) -> tuple[str, str]:
    return scores.subject.role, scores.subject.part


def _stack(index: int, plan: Plan | None, scores: Scores | None, others: list[Scores]) -> Stack:
    role, part = (plan.role, plan.part) if plan else _key(scores) if scores else ("", "")
    what = "" if part == "block" else f", {part} only"
    return Stack(
        f"{role}{what}",
        block_map(f"blocks{index}", plan, scores),
        (*_of_plan(plan), *_of_scores(scores)),
        _compared(plan, others),
    )


def _of_plan(plan: Plan | None) -> list[str]:
    if plan is None:
        return ["No plan evidence: which of these blocks left is not known."]
    words = [f"Keeps {len(plan.kept)} of {plan.depth}: {blocks(plan.kept)}. Drops {blocks(plan.dropped)}."]
    words += [f"Asked for: {name.replace('_', ' ')} {value:g}." for name, value in plan.rule.items()]
    words += [] if plan.ranked else [f"The list was {plan.metric}; scores did not decide."]
    predicted: Mapping[str, Any] = plan.predicted
    after = [f"{predicted['parameters']:,.0f} parameters"] if "parameters" in predicted else []
    after += [f"{percent(predicted['flops_share'])} of the FLOPs"] if "flops_share" in predicted else []
    shared = "latency_before_ms" in predicted
    after += [f"{predicted['latency_ms']:.1f} ms per inference"] if "latency_ms" in predicted and not shared else []
    if shared:
        words.append(
            f"Predicted with all stacks cut: {predicted['latency_ms']:.1f} of {predicted['latency_before_ms']:.1f} ms "
            "per inference; the combination with the least sum of scores, which are estimates that may not add up."
        )
    if after:
        words.append(f"Predicted with only this stack cut: {', '.join(after)}.")
    if plan.close_call:
        words.append(f"The cut runs through a tie of blocks {blocks(plan.close_call)}: another choice was as good.")
    return words


def _of_scores(scores: Scores | None) -> list[str]:
    if scores is None:
        return ["No probe evidence: what ranked the blocks is not known."]
    order = blocks(scores.order())
    words = [f"Ranked by {scores.metric} on {len(scores.sample_ids)} samples, first to leave first: {order}."]
    words.append(_stability(scores.stability))
    ties = "; ".join(f"{chr(ord('a') + i % 26)} = {blocks(group)}" for i, group in enumerate(scores.ties))
    words.append(f"Tied within rounding: {ties}." if ties else "No ties.")
    return words


def _stability(stability: Stability | None) -> str:
    if stability is None:
        return "Split-half stability: not measured (this metric reads no samples, or there was one)."
    rho, tau = (DASH if v is None else f"{v:.2f}" for v in (stability.spearman, stability.kendall))
    caution = "" if stability.split == "episodes" else " Neighbouring frames are in both halves, which flatters this."
    return (
        f"Split-half stability (halves by {stability.split}): Spearman {rho}, Kendall {tau}; 1 is the same ranking. "
        f"Whiskers span the two halves.{caution}"
    )


def _compared(plan: Plan | None, others: list[Scores]) -> tuple[tuple[str, str, str], ...]:
    if plan is None or not plan.dropped:
        return ()
    count, rows = len(plan.dropped), []
    for other in others:
        chosen = tuple(sorted(other.order()[:count]))
        rows.append((other.metric, blocks(chosen), f"{len(set(chosen) & set(plan.dropped))} of {count}"))
    return tuple(rows)
