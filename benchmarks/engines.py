# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime, torch eager, torch.compile, OpenVINO (float32, int8, bf16) on the same policies, whole, half and cut.

    python benchmarks/engines.py                              both policies, one thread
    python benchmarks/engines.py --policy reference --rounds 60 --json out.json
    python benchmarks/engines.py --policy oft-150m --engines onnxruntime,torch

Random weights: latency depends on shapes. Blocks are removed evenly. Every engine and every depth is a process of its
own; they take turns on the same inputs, the order reversed each round; ratios are medians of per-round ratios, of wall
time and of CPU time (which other jobs hardly touch, and which with one thread is the wall time of a quiet machine).
Every answer is compared with torch eager's. An engine that is not installed is left out, with the reason.
For finished artifacts: `compress bench`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import random_policies
import torch

from compress.export.exact import cpu_copy, forward_float32
from compress.export.onnx_export import export_stage, graph_spec
from compress.export.quantize import quantize_graph
from compress.export.work import count
from compress.models.base import VlaModel
from runtime.backends.registry import BACKENDS, create_backend
from runtime.inference import machine
from runtime.inference.turns import Answer, Contender, serve, take_turns

POLICIES: dict[str, Callable[[], VlaModel]] = {
    "reference": random_policies.reference,
    "oft-150m": random_policies.oft_150m,
}
TORCH, COMPILE, ORT, OPENVINO = "torch", "compile", "onnxruntime", "openvino"
ORT_INT8, OPENVINO_INT8, OPENVINO_BF16 = "onnxruntime-int8", "openvino-int8", "openvino-bf16"
ENGINES = (TORCH, COMPILE, ORT, OPENVINO, ORT_INT8, OPENVINO_INT8, OPENVINO_BF16)
BACKEND_OF = {ORT_INT8: ORT, OPENVINO_INT8: OPENVINO, OPENVINO_BF16: "openvino:bf16"}
COLUMNS = {
    "p50_ms": "p50", "p99_ms": "p99", "p99_over_p50": "p99/p50", "cpu_p50_ms": "CPU p50", "times_torch": "x torch",
    "times_torch_cpu": "by CPU", "times_full": "x full", "times_full_cpu": "by CPU", "error_to_torch": "max error",
}  # fmt: skip
WARM_UP, GOAL_RATIO, GOAL_P99 = 2, 1.5, 1.2


def why_not(engine: str) -> str:
    """Why an engine cannot be measured here, or ''."""
    if engine in (TORCH, COMPILE):
        return ""
    library = BACKEND_OF.get(engine, engine).partition(":")[0]
    if library not in BACKENDS:
        return f"no backend of that name, available: {sorted(BACKENDS)}"
    return "" if importlib.util.find_spec(library) else f"{library} is not installed"


def made(policy: str, keep: int) -> VlaModel:
    """The policy at that depth; the same weights in every process."""
    model = POLICIES[policy]()
    if keep < random_policies.depth_of(model):
        random_policies.shorten(model, keep)
    return model


def inputs_of(model: VlaModel, count: int = 4) -> list[dict[str, np.ndarray]]:
    """Random pixels and state, different prompt lengths."""
    draw, found = np.random.default_rng(0), []
    for number in range(count):
        given = {name: value.numpy().copy() for name, value in model.stages()[0].example_inputs.items()}
        given["pixels"] = draw.normal(0, 0.5, given["pixels"].shape).astype(np.float32)
        given["state"] = draw.uniform(-1, 1, given["state"].shape).astype(np.float32)
        given["attention_mask"][:, 4 + number :] = 0
        found.append(given)
    return found


def start(policy: str, keep: int, engine: str, graph: Path, threads: int) -> tuple[Answer, Callable[[Answer], Answer]]:
    """In the contender's process: load, then answer numbers with milliseconds."""
    torch.set_num_threads(threads)
    begun = time.perf_counter()
    call: Callable[[dict[str, np.ndarray]], np.ndarray]
    model = made(policy, keep)
    given = inputs_of(model)
    if engine in (TORCH, COMPILE):
        module = cpu_copy(model.stages()[0].module, torch.float32)
        run = torch.compile(module, dynamic=False) if engine == COMPILE else module

        def call(values: dict[str, np.ndarray]) -> np.ndarray:
            return forward_float32(run, [torch.from_numpy(values[name]) for name in values]).numpy()
    else:
        backend = create_backend(BACKEND_OF.get(engine, engine), threads=threads)
        backend.load(graph, graph_spec(graph))

        def call(values: dict[str, np.ndarray]) -> np.ndarray:
            return backend.infer(values)["actions"]

    del model
    first = call(given[0])
    ready = {"ready_s": time.perf_counter() - begun, "actions": first.ravel().tolist(), "memory": machine.memory()}

    def answer(question: Answer) -> Answer:
        values = given[question["call"] % len(given)]
        cpu, wall = time.process_time(), time.perf_counter()
        call(values)
        return {"ms": (time.perf_counter() - wall) * 1e3, "cpu_ms": (time.process_time() - cpu) * 1e3}

    return ready, answer


def measure(policy: str, engines: list[str], rounds: int, threads: int, folder: Path) -> dict[str, Any]:
    """All depths of one policy on all engines, in turns."""
    full = random_policies.depth_of(POLICIES[policy]())
    depths = list(dict.fromkeys((full, full // 2, 2)))
    sizes: dict[int, dict[str, Any]] = {}
    for keep in depths:
        model, place = made(policy, keep), folder / f"{policy}-{keep}"
        place.mkdir()
        say(f"{policy}: exporting {keep} blocks")
        graph = export_stage(model.stages()[0], place)
        (place / "int8").mkdir()
        quantize_graph(graph, place / "int8", "int8")
        work = count(graph.path)
        parameters = sum(p.numel() for p in model.module.parameters())
        sizes[keep] = {"parameters": parameters, "flops": work.flops, "weight_bytes": work.weight_bytes, "engines": {}}
    running: dict[str, Contender] = {}
    try:
        for keep in depths:
            for engine in engines:
                place = folder / f"{policy}-{keep}" / ("int8" if engine.endswith("int8") else "")
                command = [__file__, "--serve", policy, str(keep), engine, str(place / "policy.onnx")]
                command += ["--threads", str(threads)]
                running[f"{keep}/{engine}"] = Contender(
                    f"{policy} {keep}/{engine}", command, {"OMP_NUM_THREADS": str(threads)}
                )
                ready = running[f"{keep}/{engine}"].wait_ready()  # one after the other: compiling takes memory
                say(f"{policy}: {keep}/{engine} ready after {ready['ready_s']:.1f} s")
        _, timed = take_turns(running, rounds, WARM_UP)
    finally:
        for contender in running.values():
            contender.close()
    times = {name: {key: np.array([a[key] for a in rows]) for key in ("ms", "cpu_ms")} for name, rows in timed.items()}
    for name, found in times.items():
        keep, engine = name.split("/")
        sizes[int(keep)]["engines"][engine] = row(found, name, times, running, full)
    return {"depth": full, "sizes": {str(keep): size for keep, size in sizes.items()}}


def row(
    found: dict[str, Any], name: str, times: dict[str, Any], running: dict[str, Contender], full: int
) -> dict[str, Any]:
    """One engine at one depth, beside torch eager at that depth and beside itself at full depth."""
    keep, engine = name.split("/")
    p50, p95, p99 = (float(v) for v in np.percentile(found["ms"], (50, 95, 99)))
    ready = running[name].ready
    made_row = {
        "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "p99_over_p50": p99 / p50,
        "cpu_p50_ms": float(np.median(found["cpu_ms"])),
        "cpu_p99_over_p50": float(np.percentile(found["cpu_ms"], 99) / np.median(found["cpu_ms"])),
        "ready_s": ready["ready_s"], "rss_peak": ready["memory"].get("rss_peak", 0),
    }  # fmt: skip
    beside = {"times_torch": f"{keep}/{TORCH}", "times_full": f"{full}/{engine}"}
    for key, other in beside.items():
        if other in times:
            for kind, end in (("ms", ""), ("cpu_ms", "_cpu")):
                made_row[key + end] = float(np.median(times[other][kind] / found[kind]))
    if f"{keep}/{TORCH}" in running:
        eager = np.array(running[f"{keep}/{TORCH}"].ready["actions"])
        made_row["error_to_torch"] = float(np.abs(np.array(ready["actions"]) - eager).max())
    return made_row


def lines_of(policy: str, found: dict[str, Any]) -> list[str]:
    """A table of one policy."""
    keys, short = zip(*COLUMNS.items(), strict=True)
    lines = [f"{policy:<24}" + "".join(f"{name:>10}" for name in short)]
    for keep, size in found["sizes"].items():
        lines.append(f"  {keep} blocks, {size['parameters'] / 1e6:.1f} M, {size['flops'] / 1e9:.2f} GFLOP")
        for engine, numbers in size["engines"].items():
            cells = "".join(f"{numbers[key]:>10.3g}" if key in numbers else f"{'-':>10}" for key in keys)
            lines.append(f"    {engine:<20}{cells}")
    return lines


def goals(found: dict[str, Any]) -> list[str]:
    """Whether ONNX Runtime reached what it should, at every depth."""
    said = []
    for policy, numbers in found.items():
        for keep, size in numbers["sizes"].items():
            for engine in (ORT, ORT_INT8):
                ort, name = size["engines"].get(engine), f"{policy} {keep} {engine}"
                if ort is None:
                    continue
                if "times_torch_cpu" in ort:
                    ratio = ort["times_torch_cpu"]
                    word = "met" if ratio >= GOAL_RATIO else "MISSED"
                    said.append(f"{name}: {ratio:.2f} x torch eager by CPU time, goal {GOAL_RATIO}: {word}")
                steady = ort["p99_over_p50"]
                word = "met" if steady <= GOAL_P99 else "missed, or the machine was not quiet"
                said.append(f"{name}: p99 {steady:.2f} x p50, goal {GOAL_P99} on a quiet core: {word}")
    return said


def say(line: str) -> None:
    """To people, not into the table."""
    print(line, file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", choices=POLICIES, action="append", help="default: all of them")
    parser.add_argument("--engines", default=",".join(ENGINES), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of every engine (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        policy, keep, engine, graph = given.serve
        serve(lambda: start(policy, int(keep), engine, Path(graph), given.threads))
        return
    asked = given.engines.split(",")
    unknown = sorted(set(asked) - set(ENGINES))
    if unknown:
        parser.error(f"--engines: found {unknown}, available: {', '.join(ENGINES)}")
    skipped = {engine: reason for engine in asked if (reason := why_not(engine))}
    engines = [engine for engine in asked if engine not in skipped]
    for engine, reason in skipped.items():
        say(f"left out: {engine}: {reason}")
    before, found = machine.load_average(), {}
    with tempfile.TemporaryDirectory(prefix="dropgate-engines-") as folder:
        for policy in given.policy or POLICIES:
            found[policy] = measure(policy, engines, given.rounds, given.threads, Path(folder))
            print("\n".join(lines_of(policy, found[policy])), flush=True)
    load = {"before": before, "after": machine.load_average()}
    print("\n".join(goals(found)))
    facts, versions = machine.facts(), machine.versions()
    print(f"{given.rounds} rounds in turns, {given.threads} thread(s), {facts}, load {load}, {versions}")
    if given.json:
        data = {"schema": "dropgate.engines/1", "threads": given.threads, "rounds": given.rounds, "load": load,
                "machine": facts, "versions": versions, "skipped": skipped, "policies": found}  # fmt: skip
        given.json.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
