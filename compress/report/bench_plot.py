# SPDX-License-Identifier: Apache-2.0
"""A bench as a picture: for each artifact the floor by its terms, the graph's own time, and the whole call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TERMS = {"compute_ms": "#5f7b99", "bandwidth_ms": "#d9862b", "launch_ms": "#7a7a7a"}
GRAPH, REST, WHISKER = "#f0cfa4", "#e4e4e4", "#111111"
HIGH, GAP = 0.32, 0.04


def plot(bench: Mapping[str, Any], stem: Path) -> list[Path]:
    """Write `stem`.svg and `stem`.png from a bench's JSON; returns the paths."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "dropgate"
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    rows = list(bench["artifacts"])
    figure, axes = pyplot.subplots(figsize=(8.4, 1.9 + 0.95 * len(rows)), layout="constrained")
    right = max(row["p99_ms"] for row in rows)
    for at, row in enumerate(rows):
        _bars(axes, at, row, right)
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.45, -0.75)
    axes.set_xlim(0.0, 1.32 * right)
    axes.set_xlabel("time per call [ms]; upper bar: floor, lower bar: measured p50, whisker to p99", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#d4d4d4", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.suptitle(_where(bench), fontsize=9)
    shown = {"floor, compute": TERMS["compute_ms"], "floor, bandwidth": TERMS["bandwidth_ms"],
             "floor, launch": TERMS["launch_ms"], "graph": GRAPH, "rest of the call": REST}  # fmt: skip
    handles = [Patch(facecolor=colour, edgecolor="#111", linewidth=0.5, label=text) for text, colour in shown.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(ending) for ending in (".svg", ".png")]
    for path in paths:
        dated = {"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 150}
        figure.savefig(path, **dated)
    pyplot.close(figure)
    return paths


def _bars(axes: Any, at: int, row: Mapping[str, Any], right: float) -> None:
    upper, lower = at - HIGH / 2 - GAP, at + HIGH / 2 + GAP
    floor = row["floor"]
    axes.text(0.0, upper - HIGH / 2 - 0.03, row["name"], va="bottom", fontsize=9, fontweight="bold")
    if floor is None:
        axes.text(0.01 * right, upper, "no floor: work not counted", va="center", fontsize=8)
    else:
        start = 0.0
        for term, colour in TERMS.items():
            axes.barh(upper, floor[term], HIGH, left=start, color=colour, edgecolor="#111", linewidth=0.5)
            start += floor[term]
        words = f"{floor['floor_ms']:.3g} ms; the graph takes {floor['ratio']:.2f} x, {floor['binds']} binds"
        axes.text(start + 0.01 * right, upper, words, va="center", fontsize=8)
    graph = row["stages"]["inference"]
    axes.barh(lower, graph, HIGH, color=GRAPH, edgecolor="#111", linewidth=0.5)
    axes.barh(lower, max(0.0, row["p50_ms"] - graph), HIGH, left=graph, color=REST, edgecolor="#111", linewidth=0.5)
    axes.plot([row["p50_ms"], row["p99_ms"]], [lower, lower], color=WHISKER, linewidth=1.2)
    axes.plot([row["p99_ms"]] * 2, [lower - 0.08, lower + 0.08], color=WHISKER, linewidth=1.2)
    words = f"p50 {row['p50_ms']:.3g}, p99 {row['p99_ms']:.3g} ms"
    axes.text(row["p99_ms"] + 0.01 * right, lower, words, va="center", fontsize=8)


def _where(bench: Mapping[str, Any]) -> str:
    machine, load = bench["machine"], bench["load"]
    threads = "engine's own threads" if bench["threads"] is None else f"{bench['threads']} thread(s)"
    parts: Sequence[str] = (
        f"{bench['backend']}, {threads}",
        f"{machine['cpu'] or machine['machine']}, {machine['cpus']} CPUs",
        f"{bench['artifacts'][0]['runs']} rounds in turns",
    )
    busy = [f"load {load['before']:.1f} before, {load['after']:.1f} after"] if None not in load.values() else []
    return "\n".join(("; ".join(parts[:2]), "; ".join([*parts[2:], *busy])))
