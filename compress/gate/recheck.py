# SPDX-License-Identifier: Apache-2.0
"""Recompute the verdict, and what stations decide by, from the evidence alone: gate.json (plan) and episodes.parquet
(rows). Needs no simulator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.gate.floor import task_floors
from compress.gate.judge import Judgement, judge, level_vetoes, primary_panel
from compress.gate.panel_verdict import NOT_RUN, PanelVerdict
from compress.gate.panels import judge_panels, release_verdict
from compress.gate.plan import GatePlan
from compress.gate.report import GATE_JSON, PARQUET
from compress.gate.rows import EpisodeRow, RowKey
from compress.gate.verdict import Verdict, unfit_for_proof


class EvidenceMismatch(ValueError):
    """gate.json claims what its own rows do not say."""


def recheck(folder: Path) -> tuple[Verdict, str]:
    """Verdict and reason as the rows in `folder` give them.

    Raises:
        EvidenceMismatch: gate.json says something else, or its evidence is incomplete.
        PlanMismatch: the plan in gate.json was edited.
    """
    claimed = json.loads((folder / GATE_JSON).read_text())
    if claimed.get("plan") is None:
        if claimed.get("verdict") == Verdict.PROMOTE.value:
            raise EvidenceMismatch(f"{folder / GATE_JSON} promotes without a plan")
        return Verdict(claimed["verdict"]), str(claimed["reason"])
    plan = GatePlan.from_json(claimed["plan"])
    if plan.digest() != claimed["plan_digest"]:
        raise EvidenceMismatch(f"plan digest is {plan.digest()}, gate.json says {claimed['plan_digest']}")
    rows = read_parquet(folder / PARQUET)
    floors = task_floors(plan, rows)
    if floors is None:
        raise EvidenceMismatch(f"{folder / PARQUET} has no complete screening")
    judgement = None if unfit_for_proof(plan, floors) else judge(plan, floors, rows)
    refused = {panel["name"]: panel["reason"] for panel in claimed["panels"] if panel["outcome"] == NOT_RUN}
    panels = judge_panels(plan, floors, judgement, rows, refused)
    verdict, reason = release_verdict(plan, floors, judgement, panels)
    if (verdict.value, reason) != (claimed["verdict"], claimed["reason"]):
        found = f"the rows say {verdict.value} ({reason})"
        raise EvidenceMismatch(f"{found}, gate.json says {claimed['verdict']} ({claimed['reason']})")
    _same_numbers(claimed, plan, judgement, rows, panels)
    return verdict, reason


def _same_numbers(
    claimed: Mapping[str, Any],
    plan: GatePlan,
    judgement: Judgement | None,
    rows: Mapping[RowKey, EpisodeRow],
    panels: tuple[PanelVerdict, ...],
) -> None:
    """Panels and vetoes, entry by entry; of a panel that was not run, that it was not: why cannot be seen in rows."""
    if judgement is None:
        return
    found = {
        "panels": [panel.entry() for panel in (primary_panel(judgement, rows), *panels)],
        "vetoes": [veto.to_json() for veto in level_vetoes(plan, judgement)],
    }
    for name, given in json.loads(json.dumps(found)).items():
        entries, there = ([_known(entry) for entry in side] for side in (given, claimed[name]))
        if entries == there:
            continue
        pairs = zip(entries, there, strict=False)
        differ = next(
            (f"{one}, gate.json has {other}" for one, other in pairs if one != other), "another number of them"
        )
        raise EvidenceMismatch(f"the rows give other {name} than gate.json: {differ}")


def _known(entry: dict[str, Any]) -> dict[str, Any]:
    if entry.get("outcome") != NOT_RUN:
        return entry
    return {name: value for name, value in entry.items() if name not in ("planned", "reason")}


def read_parquet(path: Path) -> dict[RowKey, EpisodeRow]:
    """The rows of episodes.parquet (without recorded actions)."""
    import pyarrow.parquet as pq

    rows = [_row(line) for line in pq.read_table(path).to_pylist()]
    return {row.key: row for row in rows}


def _row(line: dict[str, Any]) -> EpisodeRow:
    return EpisodeRow.from_json({**{k: v for k, v in line.items() if k not in ("place", "decided")}, "actions": ()})
