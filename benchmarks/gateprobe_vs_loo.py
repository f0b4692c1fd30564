# SPDX-License-Identifier: Apache-2.0
"""Does GateProbe rank blocks as leave-one-out does, and how much faster? Same model, same batches, one interleaved run.

    python benchmarks/gateprobe_vs_loo.py --demos DEMOS --samples 128 --json out.json    the built-in reference policy
    python benchmarks/gateprobe_vs_loo.py --checkpoint FOLDER --demos DEMOS --role vision.siglip

For every batch the three methods take turns (their order rotates), each timed with the batch already collated:
GateProbe: one forward and one backward pass over activations. Naive leave-one-out: one forward pass per block, and one
more. Cached leave-one-out: the same numbers, bit for bit (checked here), without repeating what a block cannot change.
Agreement is with the mean loss increase of leave-one-out; its interval is a bootstrap over samples.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
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
    """Rows per sample and seconds per batch of one method."""

    rows: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def matrix(self) -> np.ndarray:
        return np.concatenate(self.rows)


def methods(model: VlaModel, role: str, part: str) -> dict[str, Callable[[Batch, int], Tensor]]:
    """Each: (batch, number) -> (B, blocks)."""
    group = find_group(model, role)

    def gateprobe(batch: Batch, number: int) -> Tensor:
        return gate_derivatives(model, group, part, batch, number, check=number == 0)[0].abs()

    def naive(batch: Batch, number: int) -> Tensor:
        base, losses = naive_losses(model, group, part, batch, number)
        return (losses - base).T

    def cached(batch: Batch, number: int) -> Tensor:
        base, losses = cached_losses(model, group, part, batch, number, check=number == 0)
        return (losses - base).T

    return {"gateprobe": gateprobe, "naive": torch.no_grad()(naive), "cached": torch.no_grad()(cached)}


def interleave(model: VlaModel, batches: list[Batch], role: str, part: str) -> dict[str, Tally]:
    """Run all methods over all batches in turns, after one untimed round."""
    calls, tallies = methods(model, role, part), {name: Tally() for name in METHODS}
    with quiet(model.module):
        for name in METHODS:
            calls[name](batches[0], 0)
        for number, batch in enumerate(batches):
            turn = number % len(METHODS)
            for name in METHODS[turn:] + METHODS[:turn]:
                start = _now(model)
                values = calls[name](batch, number)
                tallies[name].seconds.append(_now(model) - start)
                tallies[name].rows.append(values.double().cpu().numpy())
            print(f"batch {number + 1}/{len(batches)}", end="\r", file=sys.stderr)
    if not np.array_equal(tallies["naive"].matrix(), tallies["cached"].matrix()):
        raise SystemExit("the prefix cache does not give the bits of naive leave-one-out: this is a defect")
    return tallies


def bootstrap(probe: np.ndarray, loo: np.ndarray, draws: int = 500) -> dict[str, list[float]]:
    """95 % intervals of Spearman and Kendall over resampled samples."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        chosen = rng.integers(0, len(probe), len(probe))
        found.append(rank_agreement(probe[chosen].mean(0).tolist(), loo[chosen].mean(0).tolist()))
    rows = np.array([pair for pair in found if None not in pair], dtype=float)
    low, high = np.quantile(rows, [0.025, 0.975], axis=0)
    return {"spearman": [low[0], high[0]], "kendall": [low[1], high[1]]}


def compare(model: VlaModel, batches: list[Batch], role: str, part: str) -> dict[str, Any]:
    """The whole result, plain data."""
    tallies = interleave(model, batches, role, part)
    ids = [name for batch in batches for name in batch.sample_ids]
    subject = subject_of(model, role, part)
    scores = {
        name: from_samples(name, subject, tallies[name].matrix(), ids, sum(tallies[name].seconds)) for name in METHODS
    }
    probe, loo = scores["gateprobe"], scores["naive"]
    spearman, kendall = rank_agreement(probe.values, loo.values)
    fast = np.array(tallies["gateprobe"].seconds)
    result: dict[str, Any] = {
        "schema": "dropgate.gateprobe_vs_loo/1",
        "model_identity": subject.model_identity,
        "role": role,
        "part": part,
        "blocks": list(subject.blocks),
        "samples": len(ids),
        "batch_size": len(batches[0]),
        "gateprobe": list(probe.values),
        "leave_one_out": list(loo.values),
        "spearman": spearman,
        "kendall": kendall,
        "interval_95": bootstrap(tallies["gateprobe"].matrix(), tallies["naive"].matrix()),
        "loo_halves": None if loo.stability is None else [loo.stability.spearman, loo.stability.kendall],
        "same_drop_set": {str(k): overlap(probe, loo, k) for k in range(1, len(subject.blocks))},
        "seconds": {name: float(sum(tallies[name].seconds)) for name in METHODS},
        "others": others(model, batches, role, part, loo),
        "goals": GOALS,
    }
    for name in ("naive", "cached"):
        ratios = np.array(tallies[name].seconds) / fast
        result[f"speedup_{name}"] = float(np.median(ratios))
        result[f"speedup_{name}_quartiles"] = [float(q) for q in np.quantile(ratios, [0.25, 0.75])]
    return {**result, **provenance(model)}


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
    lines = [f"{result['role']}/{result['part']}: {result['samples']} samples in batches of {result['batch_size']}", ""]
    lines.append(f"{'block':>6}{'gateprobe':>14}{'leave one out':>16}")
    for block, gate, loss in zip(result["blocks"], result["gateprobe"], result["leave_one_out"], strict=True):
        lines.append(f"{block:>6}{gate:>14.5f}{loss:>16.5f}")
    lines += ["", f"{'against leave one out':<24}{'Spearman':>10}{'Kendall':>10}"]
    rows = {"gateprobe": (result["spearman"], result["kendall"]), **result["others"]}
    for name, pair in rows.items():
        lines.append(f"{name:<24}" + "".join(f"{'-' if v is None else format(v, '.3f'):>10}" for v in pair))
    interval = result["interval_95"]
    shown = ", ".join(f"{name} {low:.3f} to {high:.3f}" for name, (low, high) in interval.items())
    lines += [f"95 % interval of gateprobe: {shown}", ""]
    for name in METHODS:
        ratio = (
            "" if name == "gateprobe" else f"   {result[f'speedup_{name}']:.2f} x gateprobe's time (median per batch)"
        )
        lines.append(f"{name:<12}{result['seconds'][name]:>10.2f} s{ratio}")
    for name, goal in GOALS.items():
        value = result[name]
        verdict = "not known" if value is None else "reached" if value >= goal else "missed"
        lines.append(f"goal {name} >= {goal:g}: {verdict}")
    return "\n".join(lines)


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
    parser.add_argument("--role", default="language")
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
    result = compare(model, batches, given.role, given.part)
    result["calibration_digest"] = chosen.digest()
    print(table(result))
    if given.json is not None:
        write_json(given.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
