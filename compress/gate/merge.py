# SPDX-License-Identifier: Apache-2.0
"""All shards' rows -> one verdict. What was made differently, or disagrees with itself, is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from compress.atomic import write_json
from compress.gate.floor import task_floors
from compress.gate.judge import judge
from compress.gate.made_with import FILE, ONE_BY_ONE, read_settings, refuse_other
from compress.gate.panel_fit import refused_panels
from compress.gate.plan import GatePlan, PlanMismatch
from compress.gate.policies import PolicySource
from compress.gate.report import GateReport
from compress.gate.rows import EpisodeRow, RowKey, read_rows
from compress.gate.shard import ROWS, SHARDS, shard_folders
from compress.gate.sim_gate import conclude
from compress.gate.spec import GateSpec
from compress.gate.verdict import unfit_for_proof

PLAN, MERGED = "plan.json", "merge.json"
OUTCOME = ("success", "steps", "actions")  # what a repeated episode must give again


class MergeRefused(ValueError):
    """These shards are not one gate run."""


@dataclass(frozen=True)
class Shards:
    """Rows of all shards, their common settings, and which shard each row came from."""

    settings: Mapping[str, Any]
    rows: Mapping[RowKey, EpisodeRow]
    origin: Mapping[RowKey, frozenset[str]]
    counts: Mapping[str, int]


def merge(folder: Path) -> GateReport:
    """The verdict of all shards in `folder`; writes gate.json, gate.md, episodes.parquet and merge.json there.

    Raises:
        MergeRefused: no shards, incomplete screening, an episode with two outcomes, a pair torn apart.
        MixedSettings: shards of different plans, artifacts, renderers, versions or code.
        PlanMismatch, RowsDamaged: files that are not what they should be.
    """
    shards = read_shards(folder)
    plan = _plan(folder, shards)
    _pairs_are_whole(shards)
    floors = task_floors(plan, shards.rows)
    if floors is None:
        raise MergeRefused(f"screening is not complete in {sorted(shards.counts)}. {_next(folder)}")
    judgement = None if unfit_for_proof(plan, floors) else judge(plan, floors, shards.rows)
    batch = shards.settings["compared"]["batch"]
    no_proof = f"answers were computed {batch} at a time, a robot asks one by one: no proof"
    arms = _arms(plan, shards.settings)
    report = conclude(
        folder,
        _spec(plan),
        arms,
        plan,
        shards.rows,
        floors,
        judgement,
        refused_panels(plan, {name: arm for name, arm in arms.items() if Path(arm.artifact).is_dir()}),
        no_proof=no_proof if batch != ONE_BY_ONE else "",
    )
    write_json(folder / MERGED, {"shards": dict(shards.counts), "settings": dict(shards.settings)})
    return report


def read_shards(folder: Path) -> Shards:
    """All shards below `folder`. Raises MergeRefused, MixedSettings, RowsDamaged."""
    found = shard_folders(folder)
    if not found:
        raise MergeRefused(f"{folder / SHARDS} has no shard. {_next(folder)}")
    settings = read_settings(found[0] / FILE)
    rows: dict[RowKey, EpisodeRow] = {}
    origin: dict[RowKey, frozenset[str]] = {}
    counts = {}
    for shard in found:
        refuse_other(
            read_settings(shard / FILE), settings, f"shards {shard.name} and {found[0].name} were made differently"
        )
        mine = read_rows(shard / ROWS)
        counts[shard.name] = len(mine)
        for row in mine:
            _refuse_disagreement(rows.get(row.key), row, shard.name)
            rows.setdefault(row.key, row)
            origin[row.key] = origin.get(row.key, frozenset()) | {shard.name}
    return Shards(settings, rows, origin, counts)


def _refuse_disagreement(there: EpisodeRow | None, row: EpisodeRow, shard: str) -> None:
    if there is None:
        return
    differ = [name for name in OUTCOME if getattr(there, name) != getattr(row, name)]
    if differ:
        raise MergeRefused(
            f"{dict(row.key._asdict())} was run twice with different outcomes: {', '.join(differ)} (again in {shard}). "
            "Next: compress gate replay says how often outcomes flip here"
        )


def _pairs_are_whole(shards: Shards) -> None:
    """Both sides of a pair come from one shard."""
    for key, where in shards.origin.items():
        if key.arm != "candidate":
            continue
        other = shards.origin.get(key._replace(arm="baseline", policy="baseline"))
        if other is not None and not where & other:
            raise MergeRefused(
                f"the pair of task {key.task}, state {key.state} was torn apart: candidate from {sorted(where)}, "
                f"baseline from {sorted(other)}. Next: run shards I/N of one N only"
            )


def _plan(folder: Path, shards: Shards) -> GatePlan:
    try:
        plan = GatePlan.from_json(json.loads((folder / PLAN).read_text()))
    except (OSError, json.JSONDecodeError) as error:
        raise PlanMismatch(f"{folder / PLAN}: {error}") from error
    wanted = shards.settings["compared"]["plan_digest"]
    if plan.digest() != wanted:
        raise PlanMismatch(f"{folder / PLAN} has digest {plan.digest()}, the shards were run for {wanted}")
    return plan


def _arms(plan: GatePlan, settings: Mapping[str, Any]) -> dict[str, PolicySource]:
    paths = settings["where"]["artifacts"]
    return {name: PolicySource(identity, artifact=paths.get(name, "")) for name, identity in plan.arms.items()}


def _spec(plan: GatePlan) -> GateSpec:
    """The plan's own protocol; how the shards were carried out stands in their settings."""
    known = {field.name for field in fields(GateSpec)}
    return replace(GateSpec(), **{name: value for name, value in plan.protocol.items() if name in known})


def _next(folder: Path) -> str:
    return f"Next: compress gate run --shard I/N --output {folder} for each I, or copy the shards' folders there"
