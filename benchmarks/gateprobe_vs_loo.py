# SPDX-License-Identifier: Apache-2.0
"""Does GateProbe rank blocks as leave-one-out does, and how much faster? Same model, same batches, one interleaved run.

    python benchmarks/gateprobe_vs_loo.py --demos DEMOS --samples 128 --json out.json    the built-in reference policy
    python benchmarks/gateprobe_vs_loo.py --checkpoint FOLDER --demos DEMOS --role all

For every batch the three methods take turns (their order rotates), each timed with the batch already collated:
GateProbe: one forward and one backward pass over activations, for all stacks asked for. Naive leave-one-out: one
forward pass per block, and one more per stack. Cached leave-one-out: the same numbers, bit for bit (checked here),
without repeating what a block cannot change. Where others use the machine, read the processor's time, not the clock's.
Agreement is with the mean loss increase of leave-one-out; its interval is a bootstrap over samples.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.atomic import write_json
from compress.baselines import SCORERS
from compress.calibration import from_demos
from compress.data.libero_hdf5 import open_demos
from compress.gateprobe import gate_derivatives
from compress.leave_one_out import cached_losses, naive_losses
from compress.models.base import Batch, VlaModel
from compress.models.registry import load_model
from compress.probing import device_of, find_group, quiet, subject_of
from compress.scores import Scores, from_samples, rank_agreement

GOALS = {"spearman": 0.9, "kendall": 0.75, "speedup_naive": 8.0}
METHODS = ("gateprobe", "naive", "cached")
OTHERS = ("taylor", "fisher", "cosine", "magnitude", "uniform", "random")


@dataclass
class Tally:
    """What one method gave: per stack, rows per sample; per batch, seconds by the clock and of the processor."""

    rows: dict[str, list[np.ndarray]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def matrix(self, role: str) -> np.ndarray:
        return np.concatenate(self.rows[role])


def methods(model: VlaModel, roles: Sequence[str], part: str) -> dict[str, Callable[[Batch, int], list[Tensor]]]:
    """Each: (batch, number) -> (B, blocks) for each stack."""
    groups = [find_group(model, role) for role in roles]

    def gateprobe(batch: Batch, number: int) -> list[Tensor]:
        found = gate_derivatives(model, [(group, part) for group in groups], batch, number, check=number == 0)
        return [derivative.abs() for derivative, _ in found]

    def left_out(losses_of: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[Batch, int], list[Tensor]]:
        def measure(batch: Batch, number: int) -> list[Tensor]:
            with torch.no_grad():
                pairs = [losses_of(model, group, part, batch, number) for group in groups]
            return [(losses - base).T for base, losses in pairs]

        return measure

    return {"gateprobe": gateprobe, "naive": left_out(naive_losses), "cached": left_out(cached_losses)}


def interleave(model: VlaModel, batches: list[Batch], roles: Sequence[str], part: str) -> dict[str, Tally]:
    """Run all methods over all batches in turns, after one untimed round."""
    calls, tallies = methods(model, roles, part), {name: Tally({role: [] for role in roles}) for name in METHODS}
    with quiet(model.module):
        for name in METHODS:
            calls[name](batches[0], 0)
        for number, batch in enumerate(batches):
            turn = number % len(METHODS)
            for name in METHODS[turn:] + METHODS[:turn]:
                start, cpu = _now(model), time.process_time()
                values = calls[name](batch, number)
                tallies[name].seconds.append(_now(model) - start)
                tallies[name].cpu_seconds.append(time.process_time() - cpu)
                for role, rows in zip(roles, values, strict=True):
                    tallies[name].rows[role].append(rows.double().cpu().numpy())
            print(f"batch {number + 1}/{len(batches)}", end="\r", file=sys.stderr)
    for role in roles:
        if not np.array_equal(tallies["naive"].matrix(role), tallies["cached"].matrix(role)):
            raise SystemExit(
                f"{role}: the prefix cache does not give the bits of naive leave-one-out: this is a defect"
            )
    return tallies


def bootstrap(probe: np.ndarray, loo: np.ndarray, draws: int = 500) -> dict[str, list[float]]:
    """95 % intervals of Spearman and Kendall over resampled samples."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        chosen = rng.integers(0, len(probe), len(probe))
        found.append(rank_agreement(probe[chosen].mean(0).tolist(), loo[chosen].mean(0).tolist()))
    rows = np.array([pair for pair in found if None not in pair], dtype=float)
    if not len(rows):
        return {}  # a stack of one block has no ranking
    low, high = np.quantile(rows, [0.025, 0.975], axis=0)
    return {"spearman": [low[0], high[0]], "kendall": [low[1], high[1]]}


def compare(model: VlaModel, batches: list[Batch], roles: Sequence[str], part: str) -> dict[str, Any]:
    """The whole result, plain data."""
    tallies = interleave(model, batches, roles, part)
    result: dict[str, Any] = {
        "schema": "dropgate.gateprobe_vs_loo/1",
        "model_identity": model.identity(),
        "part": part,
        "samples": sum(len(batch) for batch in batches),
        "batch_size": len(batches[0]),
        "stacks": {role: agreement(model, batches, role, part, tallies) for role in roles},
        "seconds": {name: sum(tallies[name].seconds) for name in METHODS},
        "cpu_seconds": {name: sum(tallies[name].cpu_seconds) for name in METHODS},
        "goals": GOALS,
    }
    for clock in ("seconds", "cpu_seconds"):
        fast = np.array(getattr(tallies["gateprobe"], clock))
        for name in ("naive", "cached"):
            ratios = np.array(getattr(tallies[name], clock)) / fast
            low, middle, high = (float(q) for q in np.quantile(ratios, [0.25, 0.5, 0.75]))
            result[f"speedup_{name}_{clock}"] = {"median": middle, "quartiles": [low, high]}
    return {**result, **provenance(model)}


def agreement(model: VlaModel, batches: list[Batch], role: str, part: str, tallies: dict[str, Tally]) -> dict[str, Any]:
    """How GateProbe and the other metrics rank one stack, against leave-one-out."""
    ids = [name for batch in batches for name in batch.sample_ids]
    subject = subject_of(model, role, part)
    probe, loo = (from_samples(n, subject, tallies[n].matrix(role), ids, 0.0) for n in ("gateprobe", "naive"))
    spearman, kendall = rank_agreement(probe.values, loo.values)
    return {
        "blocks": list(subject.blocks),
        "gateprobe": list(probe.values),
        "leave_one_out": list(loo.values),
        "spearman": spearman,
        "kendall": kendall,
        "interval_95": bootstrap(tallies["gateprobe"].matrix(role), tallies["naive"].matrix(role)),
        "loo_halves": None if loo.stability is None else [loo.stability.spearman, loo.stability.kendall],
        "same_drop_set": {str(k): overlap(probe, loo, k) for k in range(1, len(subject.blocks))},
        "others": others(model, batches, role, part, loo),
    }


def others(model: VlaModel, batches: list[Batch], role: str, part: str, loo: Scores) -> dict[str, Any]:
    """Agreement of the other metrics with leave-one-out."""
    return {
        name: rank_agreement(SCORERS[name](model, batches, role, part, seed=0).values, loo.values) for name in OTHERS
    }


def overlap(a: Scores, b: Scores, drop: int) -> float:
    """Share of equal blocks among the first `drop` to leave."""
    return len(set(a.order()[:drop]) & set(b.order()[:drop])) / drop


def provenance(model: VlaModel) -> dict[str, Any]:
    device = device_of(model.module)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} cpu"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": f"{name}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }


def table(result: dict[str, Any]) -> str:
    lines = [f"{result['part']}: {result['samples']} samples in batches of {result['batch_size']}"]
    for role, found in result["stacks"].items():
        lines += ["", f"{role:<16}{'gateprobe':>14}{'leave one out':>16}"]
        for block, gate, loss in zip(found["blocks"], found["gateprobe"], found["leave_one_out"], strict=True):
            lines.append(f"{block:>16}{gate:>14.5f}{loss:>16.5f}")
        lines += ["", f"{'against leave one out':<24}{'Spearman':>10}{'Kendall':>10}"]
        for name, pair in {"gateprobe": (found["spearman"], found["kendall"]), **found["others"]}.items():
            lines.append(f"{name:<24}" + "".join(f"{'-' if v is None else format(v, '.3f'):>10}" for v in pair))
        shown = ", ".join(f"{name} {low:.3f} to {high:.3f}" for name, (low, high) in found["interval_95"].items())
        lines.append(f"95 % interval of gateprobe: {shown}")
        lines += [verdict(f"{role} {name}", found[name], GOALS[name]) for name in ("spearman", "kendall")]
    lines += ["", f"{'':<12}{'clock':>10}{'processor':>12}"]
    lines += [f"{name:<12}{result['seconds'][name]:>9.2f}s{result['cpu_seconds'][name]:>11.2f}s" for name in METHODS]
    for name in ("naive", "cached"):
        clock, cpu = (result[f"speedup_{name}_{kind}"]["median"] for kind in ("seconds", "cpu_seconds"))
        lines.append(f"{name} / gateprobe, median over batches: {clock:.2f} by the clock, {cpu:.2f} of the processor")
    lines.append(verdict("speedup over naive", result["speedup_naive_seconds"]["median"], GOALS["speedup_naive"]))
    return "\n".join(lines)


def verdict(name: str, value: float | None, goal: float) -> str:
    return f"goal {name} >= {goal:g}: {'not known' if value is None else 'reached' if value >= goal else 'missed'}"


def _now(model: VlaModel) -> float:
    device = device_of(model.module)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="reference")
    parser.add_argument("--checkpoint", default="builtin", help="checkpoint folder, or `builtin`")
    parser.add_argument("--demos", type=Path, nargs="+", required=True, help="HDF5 files or folders of them")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--role", default=["language"], nargs="+", help="stacks, scored in one pass; `all` for all")
    parser.add_argument("--part", default="block", choices=("block", "attention", "mlp"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    torch.set_num_threads(given.threads)
    model = load_model(given.family, given.checkpoint)
    if torch.cuda.is_available():
        model.module.to("cuda")
    demos = open_demos(given.demos).load_arrays()
    chosen = from_demos(model, demos, given.samples, given.batch_size, given.seed)
    batches = [batch.to(device_of(model.module)) for batch in chosen]
    roles = [group.role for group in model.groups] if given.role == ["all"] else given.role
    result = compare(model, batches, roles, given.part)
    result["calibration_digest"] = chosen.digest()
    print(table(result))
    if given.json is not None:
        write_json(given.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
