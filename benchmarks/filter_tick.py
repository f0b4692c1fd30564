# SPDX-License-Identifier: Apache-2.0
"""How long does one tick of the command path take? Schedule, filter, plan and monitor; seven joints, horizon 50.

    python benchmarks/filter_tick.py --ticks 5000 --output filter_tick     filter_tick.json, filter_tick.png
    python benchmarks/filter_tick.py --soak 3600 --output soak             an hour at 50 Hz, memory and missed ticks

A chunk arrives every 25 ticks (0.5 s); its admission is part of that tick. CPU time of the thread is given beside the
wall time, because a machine that is shared lengthens only the latter. The goals are 2 ms for p99 and 5 ms for the
largest, wall time, on a quiet core; nothing here judges.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import arm_models  # noqa: E402
import filter_world  # noqa: E402
import numpy as np  # noqa: E402

from runtime.contract.chunk import ActionChunk  # noqa: E402
from runtime.control.scheduler import Pace, Scheduler  # noqa: E402

TICK_S, CHUNK_EVERY, LATENCY_S = 0.02, 25, 0.12


class Loop:
    """The tick as the controller does it: advance, perhaps splice a new chunk, command what is due."""

    def __init__(self, seed: int) -> None:
        self.arm = arm_models.seven()
        self.spec = filter_world.joint_spec(self.arm)
        self.cell = filter_world.Cell(self.arm, self.spec)
        self.scheduler = Scheduler(Pace(self.spec.horizon, 0.1))
        self._rng = np.random.default_rng(seed)
        self._size = self._rng.uniform(0.05, 0.2, len(self.arm.home))
        self._rate = self._rng.uniform(0.3, 1.5, len(self.arm.home))
        self.count, self.tempo, self.idle = 0, 1.0, 0

    def chunk(self) -> ActionChunk:
        """A policy's plan around the home pose, with a little noise, made from what was seen `LATENCY_S` ago."""
        stamp = self.cell.now - LATENCY_S
        t = stamp - 100.0 + (np.arange(self.spec.horizon)[:, None] + 1.0) * self.spec.dt_s
        rows = (
            self.arm.home + self._size * np.sin(self._rate * t) + self._rng.normal(0, 2e-4, (len(t), len(self._size)))
        )
        return ActionChunk(rows.astype(np.float32), stamp, self.spec.dt_s, self.spec.names)

    def tick(self) -> tuple[float, float]:
        """(wall, CPU) seconds of what the controller does; the arm's part is not counted."""
        chunk = self.chunk() if self.count % CHUNK_EVERY == 0 else None
        situation = self.cell.situation()
        wall, cpu = time.perf_counter(), time.thread_time()
        self.scheduler.advance(self.cell.now, self.tempo)
        if chunk is not None:
            self.scheduler.splice(self.cell.filter.admit(chunk, situation), self.cell.now)
        due = self.scheduler.due()
        command = self.cell.filter.command(*due, situation) if due is not None else self.cell.filter.brake(situation)
        spent = time.perf_counter() - wall, time.thread_time() - cpu
        if command is not None:
            self.tempo = command.scale * due[0].time_scale if due is not None else 0.0
            self.cell.arriving = (self.cell.played + 0.002, command, self.cell.played)
        else:
            self.idle += 1
        self.cell.advance(TICK_S)
        self.cell.record.samples.clear()
        self.count += 1
        return spent


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=5000)
    parser.add_argument("--soak", type=float, default=0.0, help="seconds at 50 Hz instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("filter_tick"), help="without suffix")
    options = parser.parse_args()
    loop = Loop(options.seed)
    for _ in range(100):
        loop.tick()
    gc.collect()
    gc.freeze()
    found = _soak(loop, options.soak) if options.soak else _fast(loop, options.ticks)
    found["report"] |= {
        "joints": 7, "horizon": 50, "seed": options.seed, "cpu": _cpu(), "kernel": platform.release(),
        "python": platform.python_version(), "numpy": np.__version__, "load": os.getloadavg(),
        "monitor_trips": loop.cell.filter.trips, "ticks_without_a_command": loop.idle,
    }  # fmt: skip
    options.output.with_suffix(".json").write_text(json.dumps(found["report"], indent=2, sort_keys=True) + "\n")
    _draw(found["wall"], options.output.with_suffix(".png"))
    print(json.dumps(found["report"], indent=2, sort_keys=True))
    return 0


def _fast(loop: Loop, ticks: int) -> dict:
    """One after the other; memory at ten instants."""
    spent, memory = np.full((ticks, 2), np.nan), []  # in memory beforehand: it would grow as a leak does
    for k in range(ticks):
        spent[k] = loop.tick()
        if (k + 1) % max(1, ticks // 10) == 0:
            memory.append(_resident_kib())
    report = {
        "ticks": ticks, "wall_ms": _spread(spent[:, 0]), "cpu_ms": _spread(spent[:, 1]), "resident_kib": memory,
    }  # fmt: skip
    return {"wall": spent[:, 0], "report": report}


def _soak(loop: Loop, seconds: float) -> dict:
    """At 50 Hz by the clock; memory at ten instants, ticks that began more than one period late."""
    ticks, memory = int(seconds / TICK_S), []
    late, wall = np.full(ticks, np.nan), np.full(ticks, np.nan)
    due = time.perf_counter()
    for k in range(ticks):
        now = time.perf_counter()
        if now < due:
            time.sleep(due - now)
        late[k] = max(0.0, time.perf_counter() - due)
        wall[k] = loop.tick()[0]
        due += TICK_S
        if (k + 1) % max(1, ticks // 10) == 0:
            memory.append(_resident_kib())
    missed = int((late > TICK_S).sum())
    report = {
        "ticks": ticks, "wall_ms": _spread(wall), "jitter_ms": _spread(late), "missed": missed,
        "missed_share": missed / ticks, "resident_kib": memory,
    }  # fmt: skip
    return {"wall": wall, "report": report}


def _spread(seconds: np.ndarray) -> dict[str, float]:
    values = np.percentile(seconds * 1e3, [50, 95, 99, 100])
    return {name: round(float(value), 4) for name, value in zip(("p50", "p95", "p99", "max"), values, strict=True)}


def _resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _draw(wall: np.ndarray, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5))
    axes.hist(wall * 1e3, bins=np.geomspace(0.1, 100.0, 120), color="#336699")
    for limit, name in ((2.0, "goal for p99"), (5.0, "goal for the largest")):
        axes.axvline(limit, color="#993333", linewidth=1, linestyle="--", label=f"{limit:g} ms: {name}")
    axes.set(xscale="log", yscale="log", xlabel="one tick, wall time [ms]", ylabel="ticks")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
