# SPDX-License-Identifier: Apache-2.0
"""A bench as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.inference.bench import ArtifactLatency, Bench

MIB = 1 << 20


def table(bench: Bench) -> list[str]:
    """Latency, stages, memory and floor of every artifact, then the machine."""
    rows = bench.artifacts
    lines = [
        *_block(
            "whole call [ms]",
            ["p50", "p95", "p99", "max", "p99/p50", "CPU p50", "x first"],
            rows,
            [[a.p50_ms, a.p95_ms, a.p99_ms, a.max_ms, a.p99_over_p50, a.cpu_p50_ms, a.times_first] for a in rows],
        ),
        *_block("stages, median [ms]", list(rows[0].stages), rows, [list(a.stages.values()) for a in rows]),
        *_block(
            "cold",
            ["load s", "first act s", "first ms", "MiB loaded", "MiB now", "MiB peak"],
            rows,
            [[a.cold["load_s"], a.cold["first_action_s"], a.cold["first_ms"], *_mebibytes(a)] for a in rows],
        ),
    ]
    known = [(a, a.floor) for a in rows if a.floor is not None]
    if known:
        values = [[f.floor_ms, f.achieved_ms, f.ratio, f.compute_ms, f.bandwidth_ms, f.launch_ms] for _, f in known]
        names = ["floor ms", "achieved ms", "ratio", "compute", "bandwidth", "launch"]
        lines += _block("graph alone", names, [a for a, _ in known], values, [f"binds: {f.binds}" for _, f in known])
    lines += [f"{a.name}: no floor: {a.no_floor}" for a in rows if a.floor is None]
    lines += [f"peak, {name}: {_peak(found)}" for name, found in bench.peaks.items()]
    threads = "its own choice of threads" if bench.threads is None else f"{bench.threads} thread(s)"
    cpu = f"{bench.machine['cpu'] or bench.machine['machine']}, {bench.machine['cpus']} CPUs"
    before, after = (bench.load[key] for key in ("before", "after"))
    noisy = max(before or 0.0, after or 0.0) > bench.machine["cpus"]
    load = "load unknown" if before is None or after is None else f"load {before:.2f} before, {after:.2f} after"
    lines.append(f"{rows[0].runs} rounds in turns, {bench.backend}, {threads}, {cpu}; {load}")
    if noisy:
        lines.append("NOISY: more processes wanted a CPU than there are; percentiles and floors are of a busy machine")
    return lines


def _block(
    title: str, names: Sequence[str], rows: Sequence[ArtifactLatency], values: Sequence[Sequence[float]],
    ends: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    width = max(len(title), *(len(row.name) for row in rows))
    sizes = [max(9, len(name)) for name in names]
    lines = [f"{title:<{width}}" + "".join(f"  {name:>{size}}" for name, size in zip(names, sizes, strict=True))]
    for i, (row, numbers) in enumerate(zip(rows, values, strict=True)):
        cells = "".join(f"  {_number(value):>{size}}" for value, size in zip(numbers, sizes, strict=True))
        lines.append(f"{row.name:<{width}}{cells}" + (f"  {ends[i]}" if ends else ""))
    return lines


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _mebibytes(row: ArtifactLatency) -> list[float]:
    return [row.memory.get(key, 0) / MIB for key in ("loaded", "rss", "rss_peak")]


def _peak(found: object) -> str:
    assert isinstance(found, dict)
    rates = ", ".join(f"{value / 1e9:.0f} GFLOP/s {name}" for name, value in found["flops"].items())
    return f"{rates}, {found['bytes_per_s'] / 1e9:.1f} GB/s, {found['launch_s'] * 1e6:.2f} us per node"
