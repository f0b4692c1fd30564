# SPDX-License-Identifier: Apache-2.0
"""Does the gate's test keep its promises? A simulation study of the very code that decides, with its Monte Carlo error.

    python benchmarks/gate_statistics.py OUT                 2,000 gates per cell: OUT/gate_statistics.json and .png
    python benchmarks/gate_statistics.py OUT --gates 10000   more, for a smaller Monte Carlo error

1. Gates: promoted, held, pairs, for equal, half a margin worse, a margin worse and bad candidates.
2. Optional stopping: a candidate exactly at the margin, looked at after every pair, also far beyond any budget, in
   shuffled, round-robin and task-by-task order; beside it a fixed-sample test (Tango), looked at as often.
3. Coverage: how often a bound misses the truth at any pair.
4. Vetoes: whole gates of 40 tasks; false alarms on equal candidates, detection of broken tasks.
5. The bound: no test of these error rates can need fewer pairs (Wald 1945), from the closest candidates a margin worse.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.atomic import write_json
from compress.gate import power
from compress.gate.bets import fractions_for_pass, growth_optimal
from compress.gate.intervals import wilson
from compress.gate.sequence import confidence_sequence
from compress.gate.stats import PairedTest, log_wealth_above, log_wealth_below, wealth_paths
from compress.gate.vetoes import holm, pairs_to_speak, worse_p

SEED, ALPHA, BUDGET, CHUNK = 20261127, 0.05, 800, 500
# margin, baseline rate, discordance of equals, population
GATES = (
    (0.03, 0.97, 0.02, None), (0.03, 0.97, 0.05, None), (0.03, 0.90, 0.10, None),
    (0.03, 0.97, 0.02, 2000), (0.03, 0.97, 0.05, 2000), (0.03, 0.90, 0.10, 2000),
    (0.03, 0.97, 0.05, 500), (0.03, 0.97, 0.05, 200), (0.02, 0.97, 0.05, 2000), (0.02, 0.97, 0.05, 500),
)  # fmt: skip
TASKS, STATES = 40, 50


def share(hits: int, of: int) -> dict[str, Any]:
    """With its 95 % Monte Carlo interval (Wilson)."""
    return {"rate": hits / of, "mc95": list(wilson(hits, of)), "gates": of}


def gates(count: int) -> Iterator[dict[str, Any]]:
    """Question 1."""
    for margin, rate, discordance, population in GATES:
        test = PairedTest(margin, ALPHA, population, BUDGET)
        planted = power.Truth("14 % against 97 %", 0.97 * 0.86, 0.03 * 0.14)
        for truth in (*power.truths(rate, discordance, margin), planted):
            found = power.forecast(truth, test, BUDGET, count, SEED)
            yield {"margin": margin, "baseline": rate, "discordance": discordance, "population": population,
                   **found.to_json()}  # fmt: skip


def stopping(count: int) -> Iterator[dict[str, Any]]:
    """Question 2. All are exactly a margin worse; a hit at any pair counts: no rule of stopping does better."""
    rng = np.random.default_rng([SEED, 2])
    for margin in (0.03, 0.10):
        for discordance in sorted({margin, 0.05, 0.20, 0.50} - {0.05 if margin > 0.05 else 0.0}):
            truth = power.Truth("at", (discordance + margin) / 2, (discordance - margin) / 2)
            for population, budget, pairs in ((None, BUDGET, BUDGET), (None, None, 2400), (400, 400, 400)):
                test = PairedTest(margin, ALPHA, population, budget)
                passed, naive = 0, 0
                for size in chunks(count):
                    d = power.draw(truth, test, pairs, size, rng)
                    passed += int((wealth_paths(d, test).passing >= test.threshold).any(axis=1).sum())
                    naive += int(tango_hits(d, margin).sum())
                yield {"margin": margin, "discordance": discordance, "population": population, "pairs": pairs,
                       "order": "independent" if population is None else "shuffled", "passed": share(passed, count),
                       "tango_every_pair": share(naive, count)}  # fmt: skip
    yield from orders(count, rng)


def orders(count: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Ten tasks of 40 scenes; one is broken so far that the whole is exactly 3 points worse."""
    margin, tasks, states = 0.03, 10, 40
    lost = round(margin * tasks * states)
    test = PairedTest(margin, ALPHA, tasks * states, tasks * states)
    for order in ("shuffled", "round robin", "task by task, broken last"):
        passed = 0
        for size in chunks(count):
            broken = rng.permuted(np.tile(np.where(np.arange(states) < lost, -1.0, 0.0), (size, 1)), axis=1)
            d = np.zeros((size, tasks, states))
            d[:, -1] = broken
            flat = d.transpose(0, 2, 1) if order == "round robin" else d
            flat = flat.reshape(size, -1)
            flat = rng.permuted(flat, axis=1) if order == "shuffled" else flat
            passed += int((wealth_paths(flat, test).decisions()[0] == 1).sum())
        yield {"margin": margin, "discordance": margin, "population": tasks * states, "pairs": tasks * states,
               "order": order, "passed": share(passed, count)}  # fmt: skip


def tango_hits(d: np.ndarray, margin: float, first: int = 20) -> np.ndarray:
    """Does the one-sided 95 % Tango test pass at any pair from `first` on? For comparison only: it is for one look."""
    n = np.arange(1, d.shape[1] + 1)
    lost, gained = np.cumsum(d < 0, axis=1), np.cumsum(d > 0, axis=1)
    delta = -margin
    b = -lost - gained + (2 * n - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    other = (np.sqrt(np.maximum(b * b - 8 * n * c, 0)) - b) / (4 * n)
    score = (gained - lost - n * delta) / np.sqrt(np.maximum(n * (2 * other + delta * (1 - delta)), 1e-12))
    hits: np.ndarray = (score[:, first:] >= 1.6448536).any(axis=1)
    return hits


def coverage(count: int) -> Iterator[dict[str, Any]]:
    """Question 3: a bound misses the truth at some pair exactly when the wealth against the truth reaches 1/alpha."""
    rng = np.random.default_rng([SEED, 3])
    for population in (None, 2000, 400):
        for discordance, difference in ((0.05, 0.0), (0.05, -0.03), (0.10, -0.06), (0.20, 0.05), (0.83, -0.82)):
            test = PairedTest(0.03, ALPHA, population, BUDGET)
            truth = power.Truth("", (discordance - difference) / 2, (discordance + difference) / 2)
            low = high = 0
            for size in chunks(count):
                d = power.draw(truth, test, BUDGET, size, rng)
                mean = d.mean(axis=1)[0] if population == d.shape[1] else truth.difference
                if population is not None:
                    lost, gained = power.population_counts(truth, population)
                    mean = (gained - lost) / population
                above = log_wealth_above(d, fractions_for_pass(d, test), population, mean)
                low += int((above >= test.threshold).any(axis=1).sum())
                high += int((log_wealth_below(d, population, mean) >= test.threshold).any(axis=1).sum())
            widths = {}
            for pairs in (100, 200, 400, 800):
                if population is None or pairs <= population:
                    d = power.draw(truth, test, pairs, 4, rng)
                    found = [confidence_sequence(row, test) for row in d]
                    widths[str(pairs)] = [
                        float(np.mean([f.lower for f in found])),
                        float(np.mean([f.upper for f in found])),
                    ]
            yield {"population": population, "discordance": discordance, "difference": difference,
                   "lower_misses": share(low, count), "upper_misses": share(high, count),
                   "mean_bounds": widths}  # fmt: skip


def veto_gates(count: int) -> Iterator[dict[str, Any]]:
    """Question 4: 40 tasks x 50 scenes, the gate's own stop and extra pairs, then the vetoes of the tasks."""
    margin = 0.03
    cells = (
        ("equal, 5 % discordant", {}, 0.05), ("equal, 20 % discordant", {}, 0.20),
        ("equal, tasks of 0 to 40 % discordant", {}, None),
        ("one task broken", {0: 1.0}, 0.03), ("one task half broken", {0: 0.5}, 0.03),
    )  # fmt: skip
    for name, broken, discordance in cells:
        rng = np.random.default_rng([SEED, 4])
        test = PairedTest(margin, ALPHA, TASKS * STATES, BUDGET)
        tally = {"passed": 0, "vetoed": 0, "promoted": 0}
        extra: list[int] = []
        for size in chunks(count):
            task, d = populations(rng, size, broken, discordance)
            outcome, used = wealth_paths(d[:, :BUDGET], test).decisions()
            for run in np.flatnonzero(outcome == 1):
                vetoed, more = veto(task[run], d[run], int(used[run]), margin)
                tally["passed"] += 1
                tally["vetoed"] += vetoed
                tally["promoted"] += not vetoed
                extra.append(more)
        yield {"cell": name, "passed": share(tally["passed"], count), "promoted": share(tally["promoted"], count),
               "vetoed_if_passed": share(tally["vetoed"], max(1, tally["passed"])),
               "mean_extra_pairs": float(np.mean(extra)) if extra else None}  # fmt: skip


def populations(
    rng: np.random.Generator, size: int, broken: dict[int, float], discordance: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """(task, difference) of every pair in a shuffled order, (size, 2000) each; equal policies but for `broken`."""
    task = np.repeat(np.arange(TASKS), STATES)
    rate = np.linspace(0.0, 0.4, TASKS) if discordance is None else np.full(TASKS, discordance)
    u = rng.random((size, len(task)))
    half = rate[task] / 2
    d = np.where(u < half, -1.0, np.where(u < 2 * half, 1.0, 0.0))
    for index, loss in broken.items():
        here = task == index
        d[:, here] = np.where(rng.random((size, int(here.sum()))) < loss, -1.0, 0.0)
    order = np.argsort(rng.random((size, len(task))), axis=1)
    return task[order], np.take_along_axis(d, order, axis=1)


def veto(task: np.ndarray, d: np.ndarray, used: int, margin: float) -> tuple[bool, int]:
    """(is any task vetoed, extra pairs) as `compress.gate.judge` does it: the next pairs of tasks seen too seldom."""
    needed = pairs_to_speak(TASKS, margin, ALPHA)
    p, more = [], 0
    for index in range(TASKS):
        places = np.flatnonzero(task == index)
        seen = int((places < used).sum())
        looked = d[places[: max(seen, needed)]]
        more += max(0, needed - seen)
        p.append(worse_p(int((looked < 0).sum()), int((looked > 0).sum()), len(looked), margin))
    return min(holm(p)) <= ALPHA, more


def bounds() -> Iterator[dict[str, Any]]:
    """Question 5: kl(power || alpha) / KL(equal || closest null), and the same if the discordance were known."""
    kl = 0.9 * math.log(0.9 / ALPHA) + 0.1 * math.log(0.1 / (1 - ALPHA))
    for margin in (0.03, 0.02):
        for discordance in (0.02, 0.05, 0.10):
            bet = float(growth_optimal(np.array(discordance), np.array(margin)))
            chances = ((discordance / 2, -1.0), (1 - discordance, 0.0), (discordance / 2, 1.0))
            growth = sum(p * math.log1p(bet * (x + margin)) for p, x in chances)
            known = None
            if discordance > margin:
                null = ((discordance + margin) / 2, (discordance - margin) / 2)
                known = kl / sum(discordance / 2 * math.log(discordance / 2 / q) for q in null)
            yield {"margin": margin, "discordance": discordance, "power": 0.9, "growth": growth,
                   "least_mean_pairs": kl / growth, "least_if_discordance_were_known": known}  # fmt: skip


def chunks(count: int) -> Iterator[int]:
    """Sizes that add up to `count`."""
    yield from (min(CHUNK, count - start) for start in range(0, count, CHUNK))


def table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print as Markdown."""
    print(f"\n## {title}\n\n| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(cell(row.get(name)) for name in rows[0]) + " |", flush=True)


def cell(value: Any) -> str:
    """A number, a share with its interval, or text."""
    if isinstance(value, dict) and "rate" in value:
        low, high = value["mc95"]
        return f"{100 * value['rate']:.2f} % ({100 * low:.2f} to {100 * high:.2f})"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {low:+.3f} to {high:+.3f}" for key, (low, high) in value.items())
    if isinstance(value, list):
        return " to ".join(f"{item:.4f}" for item in value)
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def picture(path: Path) -> None:
    """One equal gate, one a margin worse, one bad: wealth above, bounds below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    test = PairedTest(0.03, ALPHA, 2000, BUDGET)
    rng = np.random.default_rng([SEED, 6])
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6), sharex="col", layout="constrained")
    equal, _, at, bad = power.truths(0.97, 0.05, 0.03)
    for column, (truth, pairs) in enumerate(((equal, 400), (at, BUDGET), (bad, 60))):
        d = power.draw(truth, test, pairs, 1, rng)
        paths, steps = wealth_paths(d, test), np.arange(1, pairs + 1)
        low, high = np.array(confidence_sequence(d[0], test).path).T
        top, bottom = axes[0, column], axes[1, column]
        top.plot(steps, paths.passing[0] / math.log(10), color="#12355b", label="not worse")
        top.plot(steps, paths.failing[0] / math.log(10), color="#d9862b", ls="--", label="worse")
        top.axhline(math.log10(1 / ALPHA), color="#111", ls=":")
        top.set_ylim(-4, 3)
        top.set_title(f"{truth.name} ({100 * truth.difference:+.0f} points)", fontsize=10)
        bottom.fill_between(steps, 100 * low, 100 * high, step="post", color="#5f7b99", alpha=0.35)
        bottom.axhline(-3, color="#111", ls=":")
        bottom.axhline(100 * truth.difference, color="#d9862b", lw=1)
        bottom.set_ylim(-45, 25)
        bottom.set_xlabel("pairs")
    axes[0, 0].set_ylabel("wealth, powers of ten (dotted: 1/alpha)")
    axes[1, 0].set_ylabel("difference, points (dotted: -margin)")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--gates", type=int, default=2000, metavar="N", help="simulated gates per cell (default: 2000)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    print(f"seed {SEED}, {options.gates} gates per cell, alpha {ALPHA}, budget {BUDGET}; intervals: Monte Carlo, 95 %")
    parts = {
        "gates": gates(options.gates), "stopping": stopping(options.gates), "coverage": coverage(options.gates),
        "vetoes": veto_gates(options.gates), "bounds": bounds(),
    }  # fmt: skip
    found: dict[str, Any] = {
        "schema": "dropgate.gate_statistics/1", "seed": SEED, "gates": options.gates, "alpha": ALPHA, "budget": BUDGET,
        "python": platform.python_version(), "numpy": np.__version__,
    }  # fmt: skip
    for name, rows in parts.items():
        found[name] = list(rows)
        table(name, found[name])
    found["wall_s"] = round(time.monotonic() - began, 1)
    write_json(options.out / "gate_statistics.json", found)
    picture(options.out / "gate_statistics.png")
    print(f"\n{found['wall_s']:.0f} s; {options.out / 'gate_statistics.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
