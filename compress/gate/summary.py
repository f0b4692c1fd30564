# SPDX-License-Identifier: Apache-2.0
"""The numbers of a gate run as JSON data: paired comparison, per task, probe with wrong sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from compress.gate.floor import TaskFloor
from compress.gate.judge import Judgement
from compress.gate.panel_spec import INSTRUCTION_SWAP
from compress.gate.panel_verdict import PanelVerdict
from compress.gate.plan import GatePlan
from compress.gate.rates import comparison, rate
from compress.gate.rows import IN_DISTRIBUTION, EpisodeRow, RowKey


def paired_summary(judgement: Judgement | None, panel: PanelVerdict) -> dict[str, Any] | None:
    """Evidence, table of pairs, rates, bounds and intervals of the pairs that the verdict rests on.

    `path_log_e` has the two log wealths after each pair, `path` the lower and upper bound (`sequence.Sequence.path`).
    """
    if judgement is None:
        return None
    decision, test, results = judgement.decision, judgement.test, judgement.results
    return {
        "outcome": decision.outcome.value,
        "margin": test.margin,
        "alpha": test.alpha,
        "population": test.population,
        "pairs": len(results),
        "budget": judgement.planned,
        "missing": judgement.missing,
        "threshold_log_e": test.threshold,
        "log_e_pass": finite(decision.log_e_pass),
        "log_e_fail": finite(decision.log_e_fail),
        "path_log_e": [[finite(a), finite(b)] for a, b in decision.path],
        "lower": panel.lower,
        "upper": panel.upper,
        "path": [list(bounds) for bounds in panel.path],
        **comparison(results),
    }


def task_summaries(
    plan: GatePlan | None, floors: tuple[TaskFloor, ...], judgement: Judgement | None
) -> list[dict[str, Any]]:
    """Per task: does it count, screening rates, and its share of the paired comparison."""
    if plan is None:
        return []
    pairs = () if judgement is None else tuple(zip(judgement.pairs, judgement.results, strict=True))
    by_task = {floor.task: floor for floor in floors}
    lines = []
    for task in plan.tasks:
        floor = by_task.get(task.index)
        results = tuple(result for pair, result in pairs if pair.task == task.index)
        lines.append(
            {
                "task": task.index,
                "name": task.name,
                "sentence": task.sentence,
                "counts": floor is not None and floor.counts,
                "why": "not screened" if floor is None else floor.why,
                "blind_floor": None if floor is None or not floor.recorded else rate(floor.blind, floor.scenes),
                "screened_baseline": None if floor is None else rate(floor.baseline, floor.scenes),
                "pairs": len(results),
                **comparison(results),
            }
        )
    return lines


def wrong_instruction_summary(rows: Mapping[RowKey, EpisodeRow]) -> dict[str, Any]:
    """Per policy: how often the original goal was reached although another sentence was given (expected: near 0)."""
    out = {}
    for policy in ("candidate", "baseline"):
        asked = [row for row in rows.values() if row.panel == INSTRUCTION_SWAP and row.policy == policy]
        out[policy] = rate(sum(row.success for row in asked), len(asked))
    return out


def steps_summary(rows: Mapping[RowKey, EpisodeRow]) -> dict[str, Any]:
    """Per policy: median control steps of its successful episodes, median seconds of one query on this machine."""
    out = {}
    for arm in ("candidate", "baseline"):
        mine = [row for row in rows.values() if row.arm == arm and row.panel == IN_DISTRIBUTION]
        steps = [row.steps for row in mine if row.success]
        queries = [row.infer_s / row.queries for row in mine if row.queries]
        out[arm] = {
            "steps_to_success": median(steps) if steps else None,
            "query_s": median(queries) if queries else None,
        }
    return out


def finite(value: float) -> float | None:
    """JSON has no infinity: None stands for "certain"."""
    return value if math.isfinite(value) else None
