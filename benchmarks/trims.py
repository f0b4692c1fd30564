# SPDX-License-Identifier: Apache-2.0
"""What each exact trim saves: milliseconds in ONNX Runtime for the built-in policy, FLOPs and weights at full size.

    python benchmarks/trims.py [--rounds N] [--calls N] [--variant NAME] [--json FILE] [--count-only]

Timed: the reference policy whole, with every other language block gone, with two left, and with every other block as
a stub; each with and without a trim, in turns (A B A B), one thread. A ratio is taken per round, between the medians of
its calls; printed are the median of those ratios and their quartiles, and the same of CPU time, which other jobs
disturb less. Counted, on torch's meta device: OpenVLA-OFT 7B by number of language blocks, and the token tables of the
published networks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.export.onnx_export import export_stage
from compress.export.parity import relative_l2
from compress.export.trims import TrimSpec, module_cost, trimmed
from compress.export.versions import installed
from compress.models.base import Surgery, VlaModel
from compress.models.closed_table import ClosedTable, sharing_copy
from compress.models.observations import random_samples
from compress.models.registry import checkpoint_path, load_model
from compress.models.rows import narrow
from compress.models.surgery import operate
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.contract.graph import ACTIONS

TASKS = tuple(f"put the {colour} block in the {side} tray" for side in ("left", "right") for colour in ("red", "blue"))
ROLE, KEPT_ROWS, TOLD_TOKENS = "language", 512, 12
TRIMS = {
    "none": TrimSpec(names=()),
    "rows": TrimSpec(names=("rows",)),
    "kv": TrimSpec(names=("kv",)),
    "tasks": TrimSpec(names=(), tasks=TASKS),
    "all": TrimSpec(tasks=TASKS),
    "one task": TrimSpec(names=(), tasks=TASKS[:1]),
}


def reference(kept: Callable[[int], tuple[int, ...]], form: str = "compact") -> VlaModel:
    """The built-in policy, its language blocks cut to `kept(depth)`."""
    model = load_model("reference", checkpoint_path("reference", "builtin"))
    (group,) = [found for found in model.groups if found.role == ROLE]
    done = model.surgery[ROLE]
    chosen = kept(done.depth)
    gone = tuple(i for i in done.kept if i not in chosen)
    wanted = Surgery(done.depth, chosen) if form == "compact" else Surgery(done.depth, done.kept, gone, gone)
    operate(model.module, group, done, wanted)
    model.record_surgery({ROLE: wanted})
    return model


def every_other(depth: int) -> tuple[int, ...]:
    return tuple(range(0, depth, 2))


CUT = ("none", "rows", "tasks", "all", "one task")
VARIANTS: dict[str, tuple[tuple[str, ...], Callable[[], VlaModel]]] = {
    "two": (CUT, lambda: reference(lambda depth: (0, depth - 1))),
    "half": (CUT, lambda: reference(every_other)),
    "half as stubs": (("none", "kv"), lambda: reference(every_other, "stub")),
    "whole": (("none", "rows", "tasks", "one task"), lambda: reference(lambda depth: tuple(range(depth)))),
}


def timed(variant: str, rounds: int, calls: int, folder: Path) -> list[dict[str, Any]]:
    """One row per trim; the first is the untrimmed graph."""
    wanted_trims, make = VARIANTS[variant]
    model = make()
    stage, engines, rows = model.stages()[0], {}, []
    sample = [model.collate([s]).inputs for s in random_samples(model, 4)]
    told = model.tokenize(TASKS[0])  # type: ignore[attr-defined]
    feeds = [{n: v.numpy() for n, v in seen.items()} for seen in sample]
    feeds = [{**seen, "input_ids": told[0], "attention_mask": told[1]} for seen in feeds]
    for name in wanted_trims:
        spec = TRIMS[name]
        small = trimmed(stage, model.specs(), model.side_files()["tokenizer.json"], spec)
        place = folder / f"{variant}-{name}".replace(" ", "-")
        place.mkdir()
        graph = export_stage(small.stage, place, rewrite=small.rewrite)
        engines[name] = OnnxRuntimeBackend(threads=1)
        engines[name].load(graph.path, graph.spec)
        cost = module_cost(small.stage.module, stage.example_inputs)
        rows.append({"variant": variant, "trim": name, "nodes": graph.nodes, "file_bytes": graph.parameters_bytes,
                     "flops": cost.flops})  # fmt: skip
    wanted = [engines["none"].infer(seen)[ACTIONS].astype(np.float64) for seen in feeds]
    wall, cpu = interleaved({name: engine.infer for name, engine in engines.items()}, feeds, rounds, calls)
    for row in rows:
        mine, ratio = wall[row["trim"]], wall[row["trim"]] / wall["none"]
        found = [engines[row["trim"]].infer(seen)[ACTIONS].astype(np.float64) for seen in feeds]
        row |= {
            "p50_ms": float(np.median(mine)),
            "time_ratio": float(np.median(ratio)),
            "time_ratio_quartiles": [float(q) for q in np.quantile(ratio, (0.25, 0.75))],
            "cpu_p50_ms": float(np.median(cpu[row["trim"]])),
            "cpu_ratio": float(np.median(cpu[row["trim"]] / cpu["none"])),
            "difference": max(relative_l2(a, b) for a, b in zip(found, wanted, strict=True)),
        }
    for engine in engines.values():
        engine.close()
    return rows


def interleaved(
    contenders: dict[str, Callable[[Any], Any]], feeds: list[Any], rounds: int, calls: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Median wall and CPU milliseconds per round; in a round every call of one is followed by one of each other."""
    for run in contenders.values():
        for seen in feeds:
            run(seen)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(rounds):
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for call in range(calls):
            order = list(contenders)
            for name in order if (number + call) % 2 == 0 else reversed(order):
                cpu, start = time.process_time(), time.perf_counter()
                contenders[name](feeds[call % len(feeds)])
                spent[name].append(((time.perf_counter() - start) * 1e3, (time.process_time() - cpu) * 1e3))
        for name, values in spent.items():
            wall, own = np.median(np.array(values), axis=0)
            found[name].append((float(wall), float(own)))
    wall_of, cpu_of = ({name: np.array(rows)[:, k] for name, rows in found.items()} for k in (0, 1))
    return wall_of, cpu_of


def counted() -> list[dict[str, Any]]:
    """OpenVLA-OFT 7B (two images, 32 prompt tokens) by number of language blocks, with and without `rows`."""
    from compress.models.openvla_oft import LANGUAGE
    from compress.models.openvla_oft_config import openvla_7b
    from compress.models.openvla_oft_module import OpenVlaOftModule

    ids, rows = torch.ones(1, 32, dtype=torch.int64), []
    example = {"pixels": torch.zeros(1, 2, 3, 224, 224), "input_ids": ids, "attention_mask": ids,
               "state": torch.zeros(1, 8)}  # fmt: skip
    for kept in (32, 16, 8, 2):
        with torch.device("meta"):
            module = OpenVlaOftModule(openvla_7b())
        chosen = tuple(np.unique(np.linspace(0, 31, kept).round().astype(int)).tolist())
        operate(module, LANGUAGE, Surgery.none(32), Surgery(32, chosen))
        module.language.config.num_hidden_layers = len(chosen)
        before = module_cost(module, example)
        small = sharing_copy(module)
        (what,) = narrow(small)
        after = module_cost(small, example)
        few = torch.ones(1, TOLD_TOKENS, dtype=torch.int64)
        told = module_cost(module, {**example, "input_ids": few, "attention_mask": few})
        assert before.flops is not None
        assert after.flops is not None
        assert told.flops is not None
        rows.append({"network": "openvla_oft", "blocks": kept, "what": what, "flops": before.flops,
                     "flops_trimmed": after.flops, "saved": 1 - after.flops / before.flops, "told_tokens": TOLD_TOKENS,
                     "flops_told": told.flops, "saved_told": 1 - told.flops / before.flops})  # fmt: skip
    return rows


def tables() -> list[dict[str, Any]]:
    """Token tables of the published networks, cut to `KEPT_ROWS` rows: parameters that leave, of how many."""
    from transformers import PI0Config

    from compress.models.openvla_oft_config import openvla_7b
    from compress.models.openvla_oft_module import OpenVlaOftModule
    from compress.models.pi05_module import Pi05Module

    with torch.device("meta"):
        networks: dict[str, tuple[nn.Module, nn.Embedding]] = {}
        oft, pi05 = OpenVlaOftModule(openvla_7b()), Pi05Module(PI0Config())
        networks["openvla_oft"] = oft, oft.language.embed_tokens
        networks["pi05"] = pi05, pi05.vlm.get_input_embeddings()
    rows = []
    for name, (network, table) in networks.items():
        small = ClosedTable(table, range(KEPT_ROWS))
        whole = sum(p.numel() for p in network.parameters())
        gone = table.weight.numel() - small.weight.numel()
        rows.append({"network": name, "rows": table.num_embeddings, "kept_rows": KEPT_ROWS, "parameters": whole,
                     "parameters_saved": gone, "saved": gone / whole, "bf16_bytes_saved": 2 * gone,
                     "map_bytes": small.row_of.numel() * 4})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=10, help="of each graph per round")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="this one only; may be repeated")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--count-only", action="store_true", help="no export and no clock")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"schema": "dropgate.trims_benchmark/1", "counted": counted(), "tables": tables()}
    for row in found["counted"]:
        print(
            f"openvla_oft {row['blocks']:2} blocks: {row['flops'] / 1e12:.3f} TFLOP, rows saves {row['saved']:.1%}, "
            f"a constant prompt of {row['told_tokens']} of 32 tokens {row['saved_told']:.1%}"
        )
    for row in found["tables"]:
        print(
            f"{row['network']}: {row['kept_rows']} of {row['rows']} token rows, -{row['parameters_saved'] / 1e6:.1f} M "
            f"of {row['parameters'] / 1e6:.0f} M parameters ({row['saved']:.1%}), "
            f"-{row['bf16_bytes_saved'] / 1e6:.0f} MB in bf16",
            flush=True,
        )
    if not given.count_only:
        found |= {"rounds": given.rounds, "calls": given.calls, "threads": 1, "machine": platform.processor()}
        found |= {"load_average": list(os.getloadavg()), "onnxruntime": installed("onnxruntime"), "timed": []}
        with tempfile.TemporaryDirectory() as folder:
            for variant in given.variant or VARIANTS:
                for row in timed(variant, given.rounds, given.calls, Path(folder)):
                    found["timed"].append(row)
                    low, high = row["time_ratio_quartiles"]
                    print(
                        f"{variant:14} {row['trim']:8} {row['p50_ms']:7.2f} ms, {row['time_ratio']:.3f} of untrimmed "
                        f"({low:.3f} to {high:.3f}), CPU {row['cpu_ratio']:.3f}, {row['nodes']} nodes, "
                        f"{row['file_bytes'] / 1e6:.2f} MB, {row['flops'] / 1e9:.3f} GFLOP, "
                        f"differs by {row['difference']:.1e}",
                        flush=True,
                    )
                keep(given.json, found)  # a machine that is shared may end this early
    keep(given.json, found)


def keep(path: Path | None, found: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
