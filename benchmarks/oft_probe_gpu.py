# SPDX-License-Identifier: Apache-2.0
"""A full-size OpenVLA-OFT (7.5 B, random weights, bfloat16) on one GPU: probe time, memory, latency and its floor.

    python benchmarks/oft_probe_gpu.py OUT.json                         one GPU of 24 GB or more
    python benchmarks/oft_probe_gpu.py OUT.json --tiny --device cpu     the same code on small shapes, in seconds

NOT YET SEEN ON A GPU: only the tiny form has run (tests/test_oft_probe_gpu.py). Parts, each written to OUT.json as soon
as it is there; the same command again does what is missing:

    peaks       FLOP/s of the best square bfloat16 product, byte/s of the best copy, of this very device
    build       the network made on the device: seconds, bytes there, bytes on the host
    memory      peak of one probe batch of 1 and of 2 samples, with and without activation checkpointing, and what
                follows: the batch size. Where the device has no allocator statistics (CPU) peaks are estimated
    probe       GateProbe of the language stack, frozen parameters: seconds, peak memory, scores. Goal: 30 s for 512
    latency/N   one chunk, batch 1, eager, N language blocks, beside its floor

The floor (`device_peak`) is summed over language stack, vision with projector, and heads; FLOPs are counted while the
network runs. Latency depends on shapes, not on weights: blocks leave evenly, nothing is recovered.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import batch_size
import device_peak
import numpy as np
import oft_random
import torch
from device_peak import GIB, seconds, settle, watched

from compress.atomic import write_json
from compress.calibration import CalibrationSet
from compress.checkpoint_size import Stack
from compress.costs import count_flops
from compress.estimate import activations
from compress.gateprobe import gate_derivatives, probe
from compress.models.base import Batch, Surgery
from compress.models.openvla_oft import LANGUAGE, OpenVlaOft
from compress.models.surgery import operate
from compress.probing import quiet
from compress.receipt import versions
from compress.scale.blocks import checkpointed

GOAL_S, GOAL_SAMPLES = 30.0, 512
KEEPS = {False: (32, 16, 8, 2), True: (8, 4, 2)}  # full size, tiny
MOST = 32  # samples per batch: no more are tried


class Run:
    """The result file and what it takes to measure the rest."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.device, self.path = given, torch.device(given.device), given.out
        self.keeps, self._model = KEEPS[given.tiny], None
        self.config, self.io = oft_random.tiny_size() if given.tiny else oft_random.full_size()
        asked = {name: getattr(given, name) for name in ("tiny", "samples", "seed", "rounds", "batch_size")}
        head = {
            "schema": "dropgate.oft_probe_gpu/1", "asked": asked, "device": device_peak.described(self.device),
            "versions": {**versions(), "cuda": torch.version.cuda or ""},
        }  # fmt: skip
        self.data: dict[str, Any] = {**head, "parts": {}}
        if self.path.exists():
            found = json.loads(self.path.read_text())
            differ = sorted(name for name in head if found.get(name) != head[name])
            if differ:
                sys.exit(
                    f"{self.path} was written with another {', '.join(differ)}: give another file name, or delete it"
                )
            self.data = found

    def part(self, name: str, work: Callable[[Run], dict[str, Any]]) -> None:
        """Do a part unless the file has it."""
        if name in self.data["parts"]:
            return
        print(f"{name} ...", file=sys.stderr, flush=True)
        found = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), **work(self)}
        self.data["parts"][name] = found
        write_json(self.path, self.data)

    @property
    def model(self) -> OpenVlaOft:
        """Built when it is first needed."""
        if self._model is None:
            self._model = oft_random.build(self.config, self.io, self.device, torch.bfloat16, self.given.seed)
        return self._model

    def batch(self, count: int) -> Batch:
        """On the device."""
        return self.model.collate(oft_random.samples(self.io, count, self.given.seed)).to(self.device)


def peaks_of(run: Run) -> dict[str, Any]:
    """What this device can do at best."""
    return device_peak.peaks(run.device, (64, 128), 1 << 20) if run.given.tiny else device_peak.peaks(run.device)


def build(run: Run) -> dict[str, Any]:
    """Make the network."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with watched(run.device) as found:
        module = run.model.module
        settle(run.device)
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    numbers = [p.numel() for p in module.parameters()]
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    return {
        "seconds": took, "parameters": sum(numbers), "weight_bytes": weights, **found,
        "host_peak_growth_bytes": 1024 * (after - before),
    }  # fmt: skip


def estimated_peak(run: Run, count: int, again: bool) -> float:
    """By the table of `compress.estimate`: what `--dry-run` promises."""
    shape, tokens = run.config.language, language_tokens(run)
    stack = Stack("language", "language", shape.depth, shape.width, shape.mlp_width, True, 0, 0, tokens)
    inside, entering = activations(stack, False, 2), 2.0 * tokens * shape.width
    kept = inside + shape.depth * entering if again else shape.depth * inside
    return sum(p.numel() * p.element_size() for p in run.model.module.parameters()) + count * kept


def language_tokens(run: Run) -> int:
    """BOS, patches, state, prompt, suffix, slots, stop."""
    config = run.config
    return len(run.io.cameras) * config.patches + run.io.prompt.max_tokens + config.slots + 3


def measured_peak(run: Run, count: int, again: bool) -> float:
    """Peak bytes of one probe batch; infinite if it does not fit."""
    if run.device.type != "cuda":
        return estimated_peak(run, count, again)
    try:
        with watched(run.device) as found, checkpointed(run.model, again), quiet(run.model.module):
            gate_derivatives(run.model, [(LANGUAGE, "block")], run.batch(count), check=True)
    except torch.cuda.OutOfMemoryError:
        return float("inf")
    return float(found["peak_allocated_bytes"])


def memory(run: Run) -> dict[str, Any]:
    """How the probe is to run here."""
    if run.device.type == "cuda":
        settle(run.device)
        free = torch.cuda.mem_get_info(run.device)[0] + torch.cuda.memory_reserved(run.device)
    else:
        free = (
            int(next(x for x in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in x).split()[1]) << 10
        )
    most = 1 << (min(MOST, run.given.batch_size or MOST, run.given.samples).bit_length() - 1)
    found = batch_size.choose(lambda count, again: measured_peak(run, count, again), batch_size.USABLE * free, most)
    guess = estimated_peak(run, found["batch_size"], found["checkpointing"])
    return {**found, "free_bytes": free, "estimated_peak_bytes": guess, "measured": run.device.type == "cuda"}


class Timed(CalibrationSet):
    """Counts the seconds that making batches takes on the host."""

    spent = 0.0

    def __getitem__(self, number: int) -> Batch:
        start = time.perf_counter()
        found = super().__getitem__(number)
        self.spent += time.perf_counter() - start
        return found


def probed(run: Run) -> dict[str, Any]:
    """GateProbe of the language stack, after one batch that does not count."""
    how, model, given = run.data["parts"]["memory"], run.model, run.given
    batches = Timed(model, oft_random.samples(run.io, given.samples, given.seed), how["batch_size"])
    forward, blocks = count_flops(model, run.batch(1), LANGUAGE)
    with watched(run.device) as found, checkpointed(model, how["checkpointing"]):
        with quiet(model.module):
            gate_derivatives(model, [(LANGUAGE, "block")], run.batch(how["batch_size"]))
        settle(run.device)
        start = time.perf_counter()
        scores = probe(model, batches, "language")
        total = time.perf_counter() - start
    flops = given.samples * (forward + (1 + how["checkpointing"]) * sum(blocks))
    return {
        "samples": given.samples, "batch_size": how["batch_size"], "checkpointing": how["checkpointing"],
        "seconds": scores.wall_s, "seconds_collating": batches.spent, "seconds_with_identity": total, **found,
        "share_of_peak_flops": flops / scores.wall_s / run.data["parts"]["peaks"]["flops"],
        "goal_reached": scores.wall_s <= GOAL_S if given.samples >= GOAL_SAMPLES else None,
        "scores": scores.to_json(),
    }  # fmt: skip


def shorten(model: OpenVlaOft, keep: int) -> None:
    """Leave `keep` language blocks, evenly spread, first and last included."""
    done = model.surgery["language"]
    chosen = np.unique(np.linspace(0, len(done.kept) - 1, keep).round().astype(int))
    wanted = Surgery(done.depth, tuple(done.kept[i] for i in chosen))
    operate(model.module, LANGUAGE, done, wanted)
    model.record_surgery({"language": wanted})


def parts_of(run: Run, batch: Batch) -> tuple[dict[str, float], dict[str, float]]:
    """FLOPs and weight bytes of one inference; of the token table only rows are read, which count for nothing."""
    module = run.model.module
    total, blocks = count_flops(run.model, batch, LANGUAGE)

    def bytes_of(*names: str) -> float:
        held = (p for name in names for p in module.get_submodule(name).parameters())
        return float(sum(p.numel() * p.element_size() for p in held))

    moved = {
        "language": bytes_of("language.layers"),
        "vision": bytes_of("dinov2", "siglip", "projector"),
        "heads": bytes_of("head", "proprio_projector"),
    }
    return {"language": float(sum(blocks)), "vision": float(total - sum(blocks)), "heads": 0.0}, moved


def latency(keep: int) -> Callable[[Run], dict[str, Any]]:
    """One chunk with `keep` language blocks."""

    def work(run: Run) -> dict[str, Any]:
        shorten(run.model, keep)
        batch, best = run.batch(1), run.data["parts"]["peaks"]
        flops, moved = parts_of(run, batch)
        with watched(run.device) as found, torch.inference_mode(), quiet(run.model.module):
            times = 1e3 * np.array(seconds(lambda: run.model.predict(batch), run.given.rounds, run.device))
        low, middle, high = (float(q) for q in np.quantile(times, [0.1, 0.5, 0.9]))
        least = device_peak.floor(flops, moved, best["flops"], best["bytes_per_s"])
        return {
            "blocks": keep, "tokens": language_tokens(run), "median_ms": middle, "p10_ms": low, "p90_ms": high,
            "flops": flops, "weight_bytes": moved, "floor_ms": least, "over_floor": middle / least["sum"], **found,
        }  # fmt: skip

    return work


def shown(data: dict[str, Any]) -> str:
    """For people."""
    parts, gib = data["parts"], lambda value: "not counted" if value is None else f"{value / GIB:.1f} GiB"
    best, made, probe_ = parts["peaks"], parts["build"], parts["probe"]
    lines = [
        f"{data['device']['name']}: {best['flops'] / 1e12:.3g} TFLOP/s bfloat16, {best['bytes_per_s'] / 1e9:.4g} GB/s",
        f"built in {made['seconds']:.1f} s: {made['parameters'] / 1e9:.2f} G parameters, {gib(made['weight_bytes'])}; "
        f"host memory grew by {gib(made['host_peak_growth_bytes'])}",
        f"probe of {probe_['samples']} samples in batches of {probe_['batch_size']}"
        f"{', activations computed twice' if probe_['checkpointing'] else ''}: {probe_['seconds']:.1f} s "
        f"({probe_['seconds_with_identity']:.1f} s with the digest of the weights), peak "
        f"{gib(probe_['peak_allocated_bytes'])}, {probe_['share_of_peak_flops']:.0%} of the peak FLOP/s",
        "",
        "| language blocks | median ms | p10 to p90 | floor ms | over floor | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for row in (part for name, part in parts.items() if name.startswith("latency/")):
        lines.append(
            f"| {row['blocks']} | {row['median_ms']:.2f} | {row['p10_ms']:.2f} to {row['p90_ms']:.2f} | "
            f"{row['floor_ms']['sum']:.3g} | {row['over_floor']:.2f} | {gib(row['peak_allocated_bytes'])} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the JSON result; taken up where it was left")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes")
    parser.add_argument("--samples", type=int, default=GOAL_SAMPLES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=50, help="timed calls per latency")
    parser.add_argument("--batch-size", type=int, help=f"at most; {MOST} by default, and never more than fits")
    given = parser.parse_args(arguments)
    if torch.device(given.device).type == "cuda" and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} finds no CUDA device: run this on a GPU, or add --tiny --device cpu")
    run = Run(given)
    work = {"peaks": peaks_of, "build": build, "memory": memory, "probe": probed}
    for name, part in {**work, **{f"latency/{keep}": latency(keep) for keep in run.keeps}}.items():
        run.part(name, part)
    print(shown(run.data))


if __name__ == "__main__":
    main()
