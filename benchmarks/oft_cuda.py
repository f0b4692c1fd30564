# SPDX-License-Identifier: Apache-2.0
"""OpenVLA-OFT's shapes on a CUDA GPU at 32, 16, 8 and 2 language blocks, against the floor of that very GPU.

    python benchmarks/oft_cuda.py --output runs/oft_cuda            7B shapes, random bf16 weights, one GPU
    python benchmarks/oft_cuda.py --tiny --device cpu --output DIR  the same code end to end on small shapes, no GPU

NOT YET SEEN ON A GPU: the full form was written without one; only `--tiny --device cpu` has run.

For every depth: torch eager and torch.compile (max-autotune without CUDA graphs, then with) in bf16, and ONNX Runtime's
CUDA provider in fp16 if onnxruntime-gpu is installed; p50 and p99 with synchronisation, memory. The floor comes from
peak FLOP/s (a big matrix product), bandwidth (a device copy) and time per kernel (in a CUDA graph) measured here, and
from FLOPs and weight bytes counted in the very forward pass. One JSON file per depth and engine in `--output`: what is
there is not done again. Goal: at most 1.6 x the floor, 2 x at 2 blocks.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_peak import measure_peak, settle, used
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compress.atomic import write_json
from compress.costs import CPU_ATTENTION
from compress.models.openvla_oft_config import LlamaShape, OpenVlaOftConfig, VitShape, openvla_7b
from compress.models.openvla_oft_module import OpenVlaOftModule
from runtime.inference import machine
from runtime.inference.roofline import Floor, Product, Work, floor

DEPTHS, TINY_DEPTHS = (32, 16, 8, 2), (4, 2)
EAGER, COMPILED, GRAPHED, ORT = "eager", "compiled", "compiled_graphs", "onnxruntime_cuda"
MODES = {COMPILED: "max-autotune-no-cudagraphs", GRAPHED: "max-autotune"}
GOAL, GOAL_AT_TWO = 1.6, 2.0
WARM_UP = 10
PROMPT, CAMERAS = 35, 2
NO_GPU = "run it on a machine with one, or with --tiny --device cpu to see the code run"


def shape_of(depth: int, tiny: bool) -> OpenVlaOftConfig:
    """The published sizes at another depth, or small ones of the same kind."""
    if not tiny:
        whole = openvla_7b()
        language = LlamaShape(**{**vars(whole.language), "depth": depth})
        return OpenVlaOftConfig(**{**vars(whole), "language": language})
    return OpenVlaOftConfig(
        language=LlamaShape(depth, 64, heads=4, kv_heads=4, mlp_width=128, vocabulary=512),
        dinov2=VitShape(depth=2, width=32, heads=16, mlp_width=64, prefix=5),
        siglip=VitShape(depth=2, width=48, heads=16, mlp_width=80),
        image_size=28,
        suffix_id=400,
    )


def policy(config: OpenVlaOftConfig, device: torch.device, dtype: torch.dtype) -> OpenVlaOftModule:
    """Random weights, made on the device itself: 15 GB need not pass through the host."""
    with torch.device("meta"):
        module = OpenVlaOftModule(config)
    module = module.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    torch.manual_seed(0)
    for values in (*module.parameters(), *module.buffers()):
        if values.is_floating_point():
            values.normal_(0.0, 0.02)
    for layer in module.modules():
        if type(layer).__name__.endswith("Norm") and getattr(layer, "weight", None) is not None:
            layer.weight.fill_(1.0)
    module.settle()
    module.language.rotary_emb.to(device)
    return module


def inputs_of(config: OpenVlaOftConfig, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """One observation: two images, a prompt, a state."""
    draw, side = torch.Generator().manual_seed(1), config.image_size
    ids = torch.randint(3, 300, (1, PROMPT), generator=draw)
    ids[0, 0] = config.bos_id
    pixels = torch.randn(1, CAMERAS, 3, side, side, generator=draw)
    state = torch.zeros(1, config.state_dim)
    return [pixels.to(device, dtype), ids.to(device), torch.ones_like(ids).to(device), state.to(device, dtype)]


def counted(module: nn.Module, inputs: list[Tensor], precision: str) -> Work:
    """FLOPs and weight bytes of every layer that multiplies, and of attention, in one real forward pass."""
    rows: list[Product] = []

    def note(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        weight = layer.weight
        per_output = weight.numel() // weight.shape[0]
        rows.append(Product(precision, 2 * out.numel() * per_output, weight.numel() * weight.element_size(), 1))

    hooks = [m.register_forward_hook(note) for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    try:
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter, torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    rest = counter.get_total_flops() - sum(row.flops for row in rows)
    return Work((*rows, Product(precision, max(1, rest), 0, 1)))


def timed(call: Callable[[], Any], rounds: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of synchronised calls, first calls apart."""
    first = []
    for _ in range(WARM_UP):
        start = time.perf_counter()
        call()
        settle(device)
        first.append((time.perf_counter() - start) * 1e3)
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        settle(device)
        found.append((time.perf_counter() - start) * 1e3)
    p50, p95, p99 = (float(value) for value in np.percentile(found, (50, 95, 99)))
    return {
        "first_ms": first[0], "warm_up_ms": float(np.median(first[1:])), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
        "p99_over_p50": p99 / p50,
    }  # fmt: skip


def torch_call(engine: str, module: nn.Module, inputs: list[Tensor]) -> Callable[[], Any]:
    """Eager or compiled; inference mode."""
    run = module if engine == EAGER else torch.compile(module, mode=MODES[engine], dynamic=False)

    @torch.inference_mode()
    def call() -> Any:
        return run(*inputs)

    return call


def ort_call(module: nn.Module, inputs: list[Tensor], folder: Path) -> Callable[[], Any]:
    """ONNX Runtime on the GPU, inputs and outputs bound there; LookupError says why it cannot be had.

    The graph is traced on the GPU in fp16; its weights are an external file in `folder`, which stays for the next run.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise LookupError(f"onnxruntime is not importable ({error}); pip install onnxruntime-gpu") from error
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise LookupError(f"onnxruntime {onnxruntime.__version__} has no CUDA provider; pip install onnxruntime-gpu")
    path, names = folder / "policy.onnx", ("pixels", "input_ids", "attention_mask", "state")
    half = [value.half() if value.is_floating_point() else value for value in inputs]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.onnx.export(
            module.half(), tuple(half), str(path), input_names=list(names), output_names=["actions"],
            opset_version=20, dynamo=True, external_data=True,
        )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CUDAExecutionProvider"])
    binding = session.io_binding()
    for name, value in zip(names, half, strict=True):
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value.cpu().numpy(), "cuda", 0))
    binding.bind_output("actions", "cuda")
    return lambda: session.run_with_iobinding(binding)


def one(depth: int, engine: str, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One depth on one engine: times, floor, memory; or the reason why there is none."""
    dtype, precision = (torch.float32, "float32") if device.type == "cpu" else (torch.bfloat16, "bfloat16")
    config = shape_of(depth, given.tiny)
    module, inputs = policy(config, device, dtype), inputs_of(config, device, dtype)
    work = counted(module, inputs, precision)
    parameters = sum(p.numel() for p in module.parameters())
    peak = measure_peak(device, dtype, work.weight_bytes, precision)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        if engine == ORT:
            call = ort_call(module, inputs, given.output / f"graph-{depth}")
            del module
        else:
            call = torch_call(engine, module, inputs)
        times = timed(call, given.rounds, device)
    except LookupError as reason:
        return {"depth": depth, "engine": engine, "skipped": str(reason)}
    after = measure_peak(device, dtype, work.weight_bytes, precision)
    found: Floor = floor(work, peak.best(after), times["p50_ms"])
    memory = {"host": machine.memory().get("rss_peak", 0)}
    if device.type == "cuda":
        memory |= {"device_torch": torch.cuda.max_memory_allocated(device), "device_used": used(device)}
    return {
        "depth": depth, "engine": engine, "parameters": parameters, "flops": work.flops,
        "weight_bytes": work.weight_bytes, "dtype": "float16" if engine == ORT else precision, "memory": memory,
        "peak": {"flops": dict(peak.best(after).flops), "bytes_per_s": peak.best(after).bytes_per_s,
                 "launch_s": peak.best(after).launch_s},
        "times": times, "floor": vars(found), "goal": GOAL_AT_TWO if depth <= 2 else GOAL,
    }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """One row for people."""
    name = f"{row['depth']:>3} blocks  {row['engine']:<18}"
    if "skipped" in row:
        return f"{name}left out: {row['skipped']}"
    times, least = row["times"], row["floor"]
    word = "met" if least["ratio"] <= row["goal"] else "missed"
    return (
        f"{name}p50 {times['p50_ms']:8.3f}  p99 {times['p99_ms']:8.3f} ms  floor {least['floor_ms']:7.3f} ms  ratio "
        f"{least['ratio']:5.2f} ({least['binds']} binds; goal {row['goal']}: {word})"
    )


def main() -> int:
    """Measure what is not there yet, print all of it; 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results; a later run goes on there")
    parser.add_argument("--rounds", type=int, default=200, help="timed calls (default: %(default)s)")
    parser.add_argument("--depths", help="language blocks, such as 32,16,8,2")
    parser.add_argument("--engines", default=f"{EAGER},{COMPILED},{GRAPHED},{ORT}", help="default: %(default)s")
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that everything runs")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"oft_cuda: torch {torch.__version__} finds no CUDA device; {NO_GPU}", file=sys.stderr)
        return 2
    if device.type == "cpu" and not given.tiny:
        print("oft_cuda: 7B parameters on a CPU say nothing; add --tiny", file=sys.stderr)
        return 2
    depths = [int(d) for d in given.depths.split(",")] if given.depths else TINY_DEPTHS if given.tiny else DEPTHS
    given.output.mkdir(parents=True, exist_ok=True)
    rows, failed = [], 0
    for depth in depths:
        for engine in given.engines.split(","):
            try:
                rows.append(kept_or_done(depth, engine, given, device))
                print(line(rows[-1]), flush=True)
            except Exception:  # the outermost place: the other engines still have a turn, and the next run tries again
                failed += 1
                print(f"oft_cuda: {depth} blocks, {engine} failed:", file=sys.stderr)
                traceback.print_exc()
    write_json(given.output / "oft_cuda.json", {"schema": "dropgate.oft_cuda/1", "rows": rows})
    return 1 if failed else 0


def kept_or_done(depth: int, engine: str, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What an earlier run with these settings found, or a measurement."""
    path = given.output / f"{depth}-{engine}.json"
    settings = {"rounds": given.rounds, "tiny": given.tiny, "device_kind": device.type}
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if {key: kept.get(key) for key in settings} == settings:
            return kept
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.facts()["cpu"]
    try:
        row = {**one(depth, engine, given, device), **settings, "device": name, "versions": machine.versions()}
    finally:
        gc.collect()
        torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if "skipped" not in row:
        write_json(path, row)
    return row


if __name__ == "__main__":
    sys.exit(main())
