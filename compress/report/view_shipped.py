# SPDX-License-Identifier: Apache-2.0
"""trims.json, parity.json, convertible.json -> what was taken away on export, and whether TensorRT takes the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from compress.report.chart_shipped import Step, shipped_chart
from compress.report.errors import reading
from compress.report.evidence import Evidence
from compress.report.numbers import DASH, percent, small


@dataclass(frozen=True)
class Shipped:
    """What the page shows.

    Attributes:
        chart: None without a change of size.
        steps: rows: step, what it did, operations before, after, bytes before, after.
        notes: sentences on trims and quantisation.
        convertible: sentences; None without convertible.json.
        layers: rows: element type, layer outputs of it, multiplications in it.
        trims_known: trims.json is there.
    """

    chart: Markup | None
    steps: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    convertible: tuple[str, ...] | None
    layers: tuple[tuple[str, str, str], ...]
    trims_known: bool


def shipped(evidence: Evidence) -> Shipped:
    """From what there is."""
    steps, rows = _trims(evidence)
    notes: list[str] = []
    parity = evidence.data.get("parity")
    if parity is not None and parity.get("quantize"):
        with reading(evidence.paths["parity"], "export"):
            fewer = parity["quantize"]
            sizes = (float(fewer["bytes_before"]), float(fewer["bytes_after"]))
            steps.append(Step(f"quantised to {fewer['kind']}", {"bytes": sizes}))
            what = f"{fewer['quantized']} weight matrices, {len(fewer['kept'])} stayed in float"
            rows.append((f"quantised to {fewer['kind']}", what, DASH, DASH, *(small(size / 1e6) for size in sizes)))
    elif parity is not None:
        notes.append("Not quantised: the weights ship as they were exported.")
    notes += _unused(evidence)
    convertible, layers = _convertible(evidence)
    chart = shipped_chart("shipped", steps) if steps else None
    return Shipped(chart, tuple(rows), tuple(notes), convertible, layers, "trims" in evidence.data)


def _trims(evidence: Evidence) -> tuple[list[Step], list[tuple[str, ...]]]:
    data = evidence.data.get("trims")
    if data is None:
        return [], []
    steps, rows = [], []
    with reading(evidence.paths["trims"], "export"):
        for trim in data["trims"]:
            sizes = {k: (float(trim["before"][k]), float(trim["after"][k])) for k in ("flops", "bytes")}
            steps.append(Step(f"trim: {trim['name']}", sizes))
            numbers = (small(value / 1e6) for k in ("flops", "bytes") for value in sizes[k])
            rows.append((f"trim: {trim['name']}", "; ".join(trim["what"]) or "found nothing to take away", *numbers))
    return steps, rows


def _unused(evidence: Evidence) -> list[str]:
    """The trim before the probe: weights that nothing reads."""
    data = evidence.data.get("trim")
    if data is None:
        return []
    with reading(evidence.paths["trim"], "trim"):
        gone = data["elements_before"] - data["elements_after"]
        return [
            f"Before anything was dropped, {gone:,} of {data['elements_before']:,} parameters were taken out because "
            f"nothing reads them ({percent(data['share'])}, {small(data['bytes_saved'] / 1e6)} MB)."
        ]


def _convertible(evidence: Evidence) -> tuple[tuple[str, ...] | None, tuple[tuple[str, str, str], ...]]:
    data = evidence.data.get("convertible")
    if data is None:
        return None, ()
    with reading(evidence.paths["convertible"], "export"):
        if data["status"] != "converts":
            return (f"TensorRT: {data['status']} ({data['why']}). That is not a pass.",), ()
        kept = ", ".join(f"{name} {count}" for name, count in sorted(data["kept_float32"].items()))
        sentences = (
            f"{data['builder']} parses and builds the shipped graph: {data['layers']} layers, every multiplication in "
            "the precision that the graph says. Speed and kernels are seen on the station alone.",
            *((f"Compute in float32 although the graph multiplies in less: {kept}.",) if kept else ()),
        )
        multiplies: Mapping[str, Mapping[str, Any]] = data["multiplies"]
        rows = tuple(
            (name, str(count), _multiplied(multiplies, name))
            for name, count in sorted(data["dtypes"].items(), key=lambda item: -item[1])
        )
        return sentences, rows


def _multiplied(multiplies: Mapping[str, Mapping[str, Any]], dtype: str) -> str:
    found = [f"{count[dtype]} {kind.lower().replace('_', ' ')}" for kind, count in multiplies.items() if dtype in count]
    return ", ".join(found) or DASH
