# SPDX-License-Identifier: Apache-2.0
"""bench.json and parity.json -> latency and exactness of what was exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from compress.report.chart_latency import latency_chart
from compress.report.errors import reading
from compress.report.evidence import Evidence
from compress.report.numbers import percent, points, small

TIMES = ("p50_ms", "p95_ms", "p99_ms", "mean_ms", "cpu_p50_ms")


@dataclass(frozen=True)
class Latency:
    """Chart, table rows (contender, then TIMES [ms]), and the measured ratios as sentences."""

    chart: Markup
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Parity:
    """Rows (dimension, unit, graph, torch float32), and sentences."""

    passed: bool
    rows: tuple[tuple[str, str, str, str], ...]
    notes: tuple[str, ...]


def latency(evidence: Evidence) -> Latency | None:
    """None without bench.json."""
    data = evidence.data.get("bench")
    if data is None:
        return None
    with reading(evidence.paths["bench"], "export"):
        timings = data["timings"]
        rows = tuple((t["name"], *(small(t[key]) for key in TIMES)) for t in timings)
        first = timings[0]["name"].partition("/")[0]
        names = dict.fromkeys(t["name"].partition("/")[0] for t in timings)  # in order; JSON keys are sorted
        notes = [
            f"{name}: the graph runs {data['speedup'][name]:.2f} times as fast as {first}'s "
            f"(takes {1 / data['speedup'][name]:.2f} of its time)."
            for name in names
            if name != first and name in data["speedup"]
        ]
        eager = data["torch_over_graph"]
        known = [name for name in names if name in eager]
        notes += [f"{name}: the graph runs {eager[name]:.2f} times as fast as torch eager." for name in known]
        notes += _expected(data.get("expected"))
        machine = data["machine"]
        notes.append(
            f"Ratios are medians over {timings[0]['rounds']} interleaved rounds, {data['threads']} "
            f"{'thread' if data['threads'] == 1 else 'threads'} per engine, on {machine['cpu'] or machine['machine']} "
            f"({machine['cpus']} CPUs, {machine['system']}). "
            "Engines: torch eager float32, the ONNX graph alone, and policy = image bytes in, commands out."
        )
        return Latency(latency_chart("latency", timings), rows, tuple(notes))


def _expected(found: dict[str, float] | None) -> list[str]:
    """The plan's expectation beside the measurement."""
    if not found:
        return ["The plan had no latency budget, so there is no expected time to compare with."]
    return [
        f"The plan expected {small(found['expected_ms'])} ms of the graph, {percent(found['expected_share'])} of the "
        f"unpruned one's time; measured {small(found['measured_ms'])} ms ({points(found['off'])} %), "
        f"{percent(found['measured_share'])} ({points(found['off_of_share'])} %)."
    ]


def parity(evidence: Evidence) -> Parity | None:
    """None without parity.json."""
    data = evidence.data.get("parity")
    if data is None:
        return None
    with reading(evidence.paths["parity"], "export"):
        rows = tuple((d["name"], d["unit"], small(d["graph"]), small(d["torch_own"])) for d in data["dims"])
        notes = (
            f"{'Passed' if data['passed'] else 'FAILED'}: relative error {small(data['graph'])} "
            f"(limit {small(data['limit'])}, torch itself in {data['precision']} {small(data['torch_own'])}); "
            f"worst observation {data['worst_observation']} "
            f"{small(data['worst_graph'])} (limit {small(data['worst_limit'])}).",
            f"{data['engine']} against torch in float64 on {len(data['observations'])} observations with prompts of "
            f"{', '.join(map(str, data['padded_lengths']))} tokens. "
            "The table has the largest absolute error per dimension.",
        )
        return Parity(bool(data["passed"]), rows, (*notes, *_quantized(data.get("quantize"))))


def _quantized(data: dict[str, Any] | None) -> tuple[str, ...]:
    """What the shipped graph lost to fewer bits; the rows above are of the float graph that it was made from."""
    if data is None:
        return ()
    errors = ", ".join(f"{d['name']} {small(d['largest'])} {d['unit']}" for d in data["dims"])
    worst = max(d["largest_command"] for d in data["dims"])
    return (
        f"Shipped in {data['kind']}: {data['quantized']} weight matrices, {len(data['kept'])} stayed in float, "
        f"{data['bytes_before'] / 1e6:.1f} MB became {data['bytes_after'] / 1e6:.1f} MB. "
        f"The table is of the float graph; the largest errors of the shipped one against it are {errors}: "
        f"at most {small(worst)} of a command, "
        f"{small(data['budget'])} was allowed.",
    )
