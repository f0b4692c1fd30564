# SPDX-License-Identifier: Apache-2.0
"""Latency of the reference policy as its language stack gets shorter, and of ONNX Runtime against torch, in one run.

    python benchmarks/latency.py                       random weights at the reference size, 12 -> 6 -> 2 blocks
    python benchmarks/latency.py --checkpoint FOLDER   another checkpoint of the reference family
    python benchmarks/latency.py --artifact A --artifact B   finished artifacts or drafts, no torch

Latency depends on shapes, not on weights: blocks are removed evenly and nothing is recovered. Ratios are medians
of per-round ratios of interleaved calls. Every contender lives in a process of its own and only one of them computes at
a time: thread pools of two engines in one process disturb each other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from compress.data.samples import Sample
from compress.export import bench
from compress.export.draft import export_draft
from compress.models.base import Surgery
from compress.models.reference import ReferenceVla
from compress.models.reference_config import ReferenceConfig
from compress.models.surgery import operate
from compress.reference import tokenizer
from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import Normalization, Normalizers

ROLE, DRAFT, MODEL = "language", "draft", "model"
PROMPTS = (
    "open the top drawer",
    "put the black bowl in the left tray",
    "turn on the stove",
    "push the plate to the front of the stove",
)


def random_model() -> ReferenceVla:
    """The reference architecture at full size with random weights."""
    config = ReferenceConfig()
    unit = {
        size: Normalization.of(NormMethod.Q01_Q99, -np.ones(size), np.ones(size))
        for size in (config.state_dim, config.action_dim)
    }
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.build(Path(folder) / "tokenizer.json", config.vocab_size)
        data = (Path(folder) / "tokenizer.json").read_bytes()
    return ReferenceVla(config, Normalizers(unit[config.state_dim], unit[config.action_dim]), data)


def shorten(model: ReferenceVla, keep: int) -> None:
    """Keep `keep` blocks, evenly spread, first and last included."""
    (group,) = [group for group in model.groups if group.role == ROLE]
    done = model.surgery[ROLE]
    chosen = np.unique(np.linspace(0, len(done.kept) - 1, keep).round().astype(int))
    wanted = Surgery(done.depth, tuple(done.kept[i] for i in chosen))
    operate(model.module, group, done, wanted)
    model.record_surgery({ROLE: wanted})


def samples(config: ReferenceConfig) -> list[Sample]:
    """Eight random observations."""
    source, side = np.random.default_rng(0), config.image_size
    return [
        Sample(
            {camera: source.integers(0, 256, (side, side, 3), dtype=np.uint8) for camera in config.cameras},
            source.uniform(-1, 1, config.state_dim).astype(np.float32),
            np.zeros((config.horizon, config.action_dim), np.float32),
            np.zeros(config.horizon, bool),
            PROMPTS[i % len(PROMPTS)],
            f"random/{i}",
        )
        for i in range(8)
    ]


def drafts(checkpoint: Path | None, folder: Path) -> dict[str, Path]:
    """Export the policy whole, at half depth and with two blocks; each folder holds the draft and the torch model."""
    made: dict[str, Path] = {}
    full = None
    for divisor in (1, 2, None):
        model = random_model() if checkpoint is None else ReferenceVla.load(checkpoint)
        full = full or len(model.surgery[ROLE].kept)
        keep = full // divisor if divisor else 2
        shorten(model, keep)
        name = f"{keep}-blocks"
        say(name)
        nothing = hashlib.sha256(b"benchmark").hexdigest()
        source = {"name": "benchmark", "revision": "0", "sha256": model.identity()}
        lineage = {"source": source, "recipe_sha256": nothing, "plan_sha256": nothing}
        (folder / name).mkdir()
        export_draft(model, samples(model.config), folder / name / DRAFT, lineage, say)
        model.save(folder / name / MODEL)
        made[name] = folder / name
    return made


class Contender:
    """One engine with one artifact in its own process; `call(i)` gives wall and CPU milliseconds of one inference."""

    def __init__(self, folder: Path, engine: str, threads: int) -> None:
        command = [sys.executable, __file__, "--serve", str(folder), engine, "--threads", str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, index: int) -> tuple[float, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{index}\n")
        self._process.stdin.flush()
        wall, cpu = self._process.stdout.readline().split()
        return float(wall), float(cpu)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def serve(folder: Path, engine: str, threads: int) -> None:
    """Answer numbers on stdin with milliseconds on stdout until it closes."""
    torch.set_num_threads(threads)
    model = ReferenceVla.load(folder / MODEL) if engine == bench.TORCH else None
    calls, _ = bench.contenders(folder / DRAFT if model or (folder / DRAFT).exists() else folder, model, threads)
    for line in sys.stdin:
        cpu, start = time.process_time(), time.perf_counter()
        calls[engine](int(line))
        print((time.perf_counter() - start) * 1e3, (time.process_time() - cpu) * 1e3, flush=True)


def compare(artifacts: dict[str, Path], engines: tuple[str, ...], rounds: int, threads: int) -> bench.BenchReport:
    """Interleaved rounds, reversed every other round, over processes that wait while they are not asked."""
    running = {
        f"{name}/{engine}": Contender(folder, engine, threads)
        for name, folder in artifacts.items()
        for engine in engines
    }
    try:
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
        for index in range(-bench.WARM_UP, rounds):
            for name in running if index % 2 == 0 else reversed(running):
                found = running[name].call(abs(index))
                if index >= 0:
                    times[name].append(found)
    finally:
        for contender in running.values():
            contender.close()
    wall, cpu = ({name: np.array(rows)[:, k] for name, rows in times.items()} for k in (0, 1))
    return bench.report_of(tuple(artifacts), wall, cpu, threads)


def say(line: str) -> None:
    """To people, not into the table."""
    print(line, file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="folder of a reference checkpoint; random weights without it")
    parser.add_argument(
        "--artifact", type=Path, action="append", default=[], help="time these instead; the first is the reference"
    )
    parser.add_argument("--rounds", type=int, default=50, help="timed calls per contender")
    parser.add_argument("--threads", type=int, default=1, help="of torch and ONNX Runtime alike")
    parser.add_argument("--json", type=Path, help="write the report here too")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(Path(given.serve[0]), given.serve[1], given.threads)
        return
    engines = (bench.GRAPH, bench.POLICY) if given.artifact else (bench.TORCH, bench.GRAPH, bench.POLICY)
    with tempfile.TemporaryDirectory() as folder:
        chosen = {path.name: path for path in given.artifact} or drafts(given.checkpoint, Path(folder))
        report = compare(chosen, engines, given.rounds, given.threads)
    print("\n".join(bench.table(report)))
    print(
        f"{given.rounds} interleaved rounds, {given.threads} thread(s), {report.machine['cpu']}, "
        f"{dict(report.versions)}"
    )
    if given.json:
        given.json.write_text(json.dumps(report.to_json(), indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
