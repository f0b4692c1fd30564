# SPDX-License-Identifier: Apache-2.0
"""A bench with the machine's floor (`compress bench --output DIR`) -> how far from the least possible, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from compress.report.chart_floor import floor_chart
from compress.report.errors import ReportError, reading
from compress.report.evidence import Evidence
from compress.report.numbers import DASH, small

HELPS = {
    "compute": "fewer or cheaper operations would help (drop blocks, int8)",
    "bandwidth": "fewer bytes would help (weight-only int4, smaller weights)",
    "launch": "fewer nodes would help (fusion, CUDA graphs)",
    "overhead": "more than half of the time is in none of the floor's terms: the nodes between the products",
}


@dataclass(frozen=True)
class FloorView:
    """Chart; rows (artifact, floor, compute, bandwidth, launch, graph [ms], ratio, what binds); sentences."""

    chart: Markup
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def floor(evidence: Evidence) -> FloorView | None:
    """None without such a bench. Raises ReportError if it is damaged or timed other policies."""
    data = evidence.data.get("floor")
    if data is None:
        return None
    path = evidence.paths["floor"]
    with reading(path, "bench"):
        artifacts = data["artifacts"]
        known = {str(row["policy_id"]) for row in artifacts}
        ours = evidence.policy_id
        if ours and ours not in known:
            timed = ", ".join(sorted(policy[:12] for policy in known))
            raise ReportError(
                f"{path}: timed policies {timed}, not {ours[:12]}; run: compress bench ARTIFACT --output DIR"
            )
        return FloorView(floor_chart("floor", artifacts), tuple(map(_row, artifacts)), _notes(data))


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    found = row["floor"]
    if found is None:
        return (row["name"], DASH, DASH, DASH, DASH, small(row["stages"]["inference"]), DASH, row["no_floor"])
    terms = (small(found[f"{name}_ms"]) for name in ("floor", "compute", "bandwidth", "launch", "achieved"))
    return (row["name"], *terms, f"{found['ratio']:.2f}", found["binds"])


def _notes(data: Mapping[str, Any]) -> tuple[str, ...]:
    bound = [
        f"{row['name']}: {row['floor']['binds']} binds; {HELPS[row['floor']['binds']]}."
        for row in data["artifacts"]
        if row["floor"]
    ]
    machine, load = data["machine"], data["load"]
    threads = "the engine's own threads" if data["threads"] is None else f"{data['threads']} thread(s)"
    where = (
        f"{data['backend']}, {threads}, {machine['cpu'] or machine['machine']}, {machine['cpus']} CPUs, "
        f"{data['artifacts'][0]['runs']} rounds in turns."
    )
    busy = [load[when] for when in ("before", "after") if load[when] is not None]
    crowd = f"Load {', '.join(f'{value:.1f}' for value in busy)} (before, after)." if busy else "Load not known."
    noisy = [f"{crowd} More than there are CPUs: the floor is too high, the ratio too low."]
    calm = [crowd]
    floor = (
        "The floor is the sum over matrix products of the larger of arithmetic and reading weights, and time per node."
    )
    return (*bound, floor, where, *(noisy if busy and max(busy) > machine["cpus"] else calm))
