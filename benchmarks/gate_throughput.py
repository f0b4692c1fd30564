# SPDX-License-Identifier: Apache-2.0
"""How fast the gate is on this machine: pairs per minute, cores, time to verdict; does the simulator scale?

    python benchmarks/gate_throughput.py --baseline DIR --bad DIR [--engine local] [--engine served] --json out.json

Three parts, one after the other, on a quiet machine:
scaling  the simulator alone in 1 and 2 processes: the same episodes, pictures as in the gate, a policy that stands
         still; wall and CPU seconds of the processes per episode, environments built beforehand
equal    a whole gate of the baseline against itself: what a good candidate costs
bad      a whole gate of a planted bad candidate against the baseline
Cores used = CPU seconds of all processes / wall seconds. Whole gates include loading, screening and blind replays.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from compress.atomic import write_json
from compress.gate.engines import ENGINES, engine_named
from compress.gate.environment import hardware, versions
from compress.gate.episodes import STEP_NAMES, STEP_S
from compress.gate.jobs import Job, WorkerSetup
from compress.gate.plan import Pair
from compress.gate.policies import PolicySource
from compress.gate.sim_gate import GateProgress, run_gate
from compress.gate.spec import GateSpec
from compress.gate.workers import WorkerPool
from runtime.contract.chunk import ActionChunk

TICKS = os.sysconf("SC_CLK_TCK")
NAME = "still"


class Still:
    """Looks at the pictures and stands still: what is left is the simulator."""

    def infer(self, observation: Any, instruction: str, stamp_s: float) -> ActionChunk:
        """Eight commands of no motion."""
        return ActionChunk(np.zeros((8, 7), dtype=np.float32), stamp_s, STEP_S, STEP_NAMES)

    def close(self) -> None:
        """Nothing to free."""


def cpu_of(pids: tuple[int, ...]) -> float:
    """CPU seconds that these processes have used so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def simulator(processes: int, episodes: int, steps: int, size: int) -> dict[str, float]:
    """The same episodes in so many processes: wall and CPU seconds per episode, and episodes per minute."""
    source = PolicySource("still", factory=f"{Path(__file__).stem}:Still", image_size=size)
    setup = WorkerSetup("dropgate_tabletop", "", size, 8, 1, {"baseline": source})

    def jobs(count: int, cap: int) -> list[Job]:
        return [Job.of("baseline", "baseline", Pair(0, state, 0), cap) for state in range(count)]

    with tempfile.TemporaryDirectory() as logs, WorkerPool(setup, processes, 600.0, Path(logs), {0: NAME}) as pool:
        while True:  # until every process has built its environment
            pool.run(jobs(processes, 8), lambda row: None)
            if len(pool._workers) == processes and all(worker.tasks for worker in pool._workers):
                break
        rows: list[Any] = []
        before, began = cpu_of(pool.pids), time.perf_counter()
        pool.run(jobs(episodes, steps), rows.append)
        wall, cpu = time.perf_counter() - began, cpu_of(pool.pids) - before
    done = sum(row.steps for row in rows)
    return {
        "processes": processes,
        "episodes": len(rows),
        "steps": done,
        "wall_s": wall,
        "cpu_s_per_episode": cpu / len(rows),
        "cpu_ms_per_step": 1000 * cpu / done,
        "wall_s_per_episode": wall / len(rows),
        "episodes_per_min": 60 * len(rows) / wall,
        "cores": cpu / wall,
    }


def whole_gate(candidate: Path, baseline: Path, spec: GateSpec, engine: str) -> dict[str, Any]:
    """One gate from nothing to its verdict."""
    first: dict[str, float] = {}

    def progress(step: GateProgress) -> None:
        first.setdefault(step.phase, time.perf_counter())

    def cpu() -> float:
        mine, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime

    with tempfile.TemporaryDirectory() as folder:
        before, began = cpu(), time.perf_counter()
        report = run_gate(candidate, baseline, spec, Path(folder), progress, engine_named(engine))
        wall = time.perf_counter() - began
        used = cpu() - before
    paired = report.data.get("paired") or {}
    pairs, since = int(paired.get("pairs", 0)), first.get("pairs", began)
    return {
        "engine": engine,
        "verdict": report.verdict.value,
        "reason": report.reason,
        "pairs": pairs,
        "episodes": report.data.get("episodes"),
        "time_to_verdict_s": wall,
        "cpu_s": used,
        "cores": used / wall,
        "pairs_per_min": 60 * pairs / (began + wall - since) if pairs else None,
        "pairs_per_min_with_screening": 60 * pairs / wall if pairs else None,
    }


def table(found: dict[str, Any]) -> list[str]:
    """For people."""
    lines = []
    for run in found["scaling"]:
        lines.append(
            f"simulator, {run['processes']:.0f} process(es): {run['cpu_s_per_episode']:.2f} CPU s and "
            f"{run['wall_s_per_episode']:.2f} s per episode, {run['episodes_per_min']:.1f} episodes/min, "
            f"{run['cores']:.2f} cores"
        )
    if found["scaling"]:
        lines.append(f"speed-up of the simulator: {found['speed_up']:.2f}")
    for name in ("equal", "bad"):
        for run in found[name]:
            rate = "no pairs" if run["pairs_per_min"] is None else f"{run['pairs_per_min']:.1f} pairs/min"
            lines.append(
                f"{name}, {run['engine']}: {run['verdict']} after {run['pairs']} pairs and "
                f"{run['time_to_verdict_s']:.0f} s, {rate}, {run['cores']:.2f} cores ({run['reason']})"
            )
    return lines


def main() -> int:
    """Runs the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, required=True, help="artifact of the reference policy")
    parser.add_argument("--bad", type=Path, required=True, help="artifact of a policy that was cut too far")
    parser.add_argument("--parts", default="scaling,equal,bad")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="for whole gates (default: local)")
    parser.add_argument("--episodes", type=int, default=12, help="of the scaling part")
    parser.add_argument("--steps", type=int, default=120, help="of an episode of the scaling part")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--margin", type=float, default=0.10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--floor-states", type=int, default=8, help="screening scenes per task")
    parser.add_argument("--tasks", type=int, nargs="*", help="of the suite (default: all)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    parts, engines = options.parts.split(","), options.engine or ["local"]
    spec = GateSpec(
        pairs=options.pairs, margin=options.margin, workers=options.workers, panels={}, filmstrips=0,
        tasks=tuple(options.tasks) if options.tasks else None, floor_states=options.floor_states,
    )  # fmt: skip
    found: dict[str, Any] = {"scaling": [], "equal": [], "bad": [], "hardware": hardware(), "versions": versions()}
    if "scaling" in parts:
        found["scaling"] = [simulator(n, options.episodes, options.steps, 128) for n in (1, 2)]
        found["speed_up"] = found["scaling"][0]["wall_s"] / found["scaling"][1]["wall_s"]
    for name, candidate in (("equal", options.baseline), ("bad", options.bad)):
        if name in parts:
            found[name] = [whole_gate(candidate, options.baseline, spec, engine) for engine in engines]
    print("\n".join(table(found)))
    if options.json:
        write_json(options.json, found)
    else:
        print(json.dumps(found, indent=2, sort_keys=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
