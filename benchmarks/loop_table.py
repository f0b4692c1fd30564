# SPDX-License-Identifier: Apache-2.0
"""A flow sampler as an ONNX `Loop` and written out step by step: files, time to export and load, latency, parity.

    PYTHONPATH=.:tests python benchmarks/loop_table.py [--steps N] [--rounds N] [--policy NAME] [--json FILE]

The policies are those of the test suite with random weights: real module classes, tiny, and one of pi0's full depth (18
pairs of blocks, 27 vision blocks) at a width of 64. Both forms run in ONNX Runtime on one thread, in turns (A B A B);
a ratio is the median of per-round ratios.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import family_pi0
import family_smolvla
import numpy as np
from family_cases import samples_for, scramble

from compress.export import parity
from compress.export.bench import interleave
from compress.export.onnx_export import export_stage
from compress.export.options import GraphOptions
from compress.models.base import VlaModel
from compress.models.pi0 import Pi0Vla
from compress.models.smolvla import SmolVla
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.inference import machine

FORMS = ("loop", "unrolled")


def pi0(steps: int) -> VlaModel:
    return drawn(Pi0Vla(family_pi0.tiny_config(num_inference_steps=steps), family_pi0.io(), 0))


def pi0_full_depth(steps: int) -> VlaModel:
    config = family_pi0.narrow_config()
    config.num_inference_steps = steps
    return drawn(Pi0Vla(config, family_pi0.io(), 0))


def smolvla(steps: int) -> VlaModel:
    io = family_smolvla.make(0).io  # type: ignore[attr-defined]
    return drawn(SmolVla(type(family_smolvla.TINY)(**{**vars(family_smolvla.TINY), "steps": steps}), io, 0))


def drawn(model: Any) -> VlaModel:
    """With weights that all matter."""
    scramble(model.module, 0)
    made: VlaModel = model
    return made


POLICIES: dict[str, Callable[[int], VlaModel]] = {"pi0": pi0, "smolvla": smolvla, "pi0 full depth": pi0_full_depth}


def compared(name: str, steps: int, rounds: int) -> list[dict[str, Any]]:
    """One row per form."""
    model = POLICIES[name](steps)
    (stage,) = model.stages()
    specs = model.specs()
    norms = model.io.normalizers.action  # type: ignore[attr-defined]
    seen = parity.observations([(s.sample_id, model.collate([s]).inputs) for s in samples_for(model, 8)])
    feed = {key: value.numpy() for key, value in next(iter(seen.values())).items()}
    rows, engines = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for form in FORMS:
            place = Path(scratch) / form
            place.mkdir()
            options = GraphOptions(sampler=form)  # type: ignore[arg-type]
            graph = export_stage(stage, place, options=options)
            report = parity.check(stage, graph.path, graph.spec, seen, specs["action"], norms, options=options)
            engines[form], start = OnnxRuntimeBackend(threads=1), time.perf_counter()
            engines[form].load(graph.path, graph.spec)
            rows.append({
                "policy": name, "steps": steps, "form": form, "nodes": graph.nodes, "export_s": graph.export_s,
                "load_s": time.perf_counter() - start, "graph_bytes": graph.path.stat().st_size,
                "data_bytes": graph.parameters_bytes, "error": report.graph, "limit": report.limit,
            })  # fmt: skip
        calls = {form: lambda _, engine=engine: engine.infer(feed) for form, engine in engines.items()}
        wall, cpu = interleave(calls, rounds)
        for engine in engines.values():
            engine.close()
    for row in rows:
        ratio = wall[row["form"]] / wall["loop"]
        row |= {
            "p50_ms": float(np.median(wall[row["form"]])),
            "times_loop": float(np.median(ratio)),
            "times_loop_quartiles": [float(q) for q in np.quantile(ratio, (0.25, 0.75))],
            "cpu_times_loop": float(np.median(cpu[row["form"]] / cpu["loop"])),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--policy", choices=POLICIES, action="append", help="this one only; may be repeated")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    for name in given.policy or POLICIES:
        for row in compared(name, given.steps, given.rounds):
            found.append(row)
            low, high = row["times_loop_quartiles"]
            print(
                f"{name:15} {row['form']:8} {row['nodes']:6} nodes, graph {row['graph_bytes'] / 1e3:8.1f} kB, weights "
                f"{row['data_bytes'] / 1e3:8.1f} kB, export {row['export_s']:5.1f} s, load {row['load_s']:5.2f} s, "
                f"{row['p50_ms']:7.2f} ms, {row['times_loop']:.3f} of the loop ({low:.3f} to {high:.3f}), "
                f"CPU {row['cpu_times_loop']:.3f}, error {row['error']:.1e} of {row['limit']:.1e}",
                flush=True,
            )
        if given.json is not None:
            data = {"schema": "dropgate.loop_table/1", "machine": machine.facts(), "load": machine.load_average()}
            data |= {"versions": machine.versions(), "rows": found}
            given.json.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
