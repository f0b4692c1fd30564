# SPDX-License-Identifier: Apache-2.0
"""What a torch device does at most, measured here and now, and how close something came: clocks, peaks, memory, floors.

A floor is the time of a device that does nothing but multiply, or nothing but read: per part of a network the larger of
FLOPs / FLOP/s and weight bytes / byte/s, with both peaks measured on that very device.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from runtime.inference.peak import best
from runtime.inference.roofline import Peak

GIB = 1 << 30
PRODUCTS_PER_CALL, KERNELS = 16, 256
WARM_UP = 3


def described(device: torch.device) -> dict[str, Any]:
    """Name and memory of the device."""
    if device.type != "cuda":
        return {"name": f"cpu, {torch.get_num_threads()} threads", "bytes": 0}
    about = torch.cuda.get_device_properties(device)
    return {"name": about.name, "bytes": about.total_memory, "multiprocessors": about.multi_processor_count}


def settle(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], rounds: int, device: torch.device) -> list[float]:
    """Of every call, after `WARM_UP` that do not count."""
    found = []
    for turn in range(rounds + WARM_UP):
        settle(device)
        start = time.perf_counter()
        work()
        settle(device)
        if turn >= WARM_UP:
            found.append(time.perf_counter() - start)
    return found


@contextmanager
def watched(device: torch.device) -> Iterator[dict[str, Any]]:
    """Peak bytes on the device while open; None where the device keeps no count."""
    found: dict[str, Any] = {"peak_allocated_bytes": None, "peak_reserved_bytes": None}
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if device.type == "cuda":
        settle(device)
        found["peak_allocated_bytes"] = torch.cuda.max_memory_allocated(device)
        found["peak_reserved_bytes"] = torch.cuda.max_memory_reserved(device)


def used(device: torch.device) -> int:
    """Bytes in use on the whole device, whoever holds them."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def measure_peak(device: torch.device, dtype: torch.dtype, weight_bytes: int, precision: str) -> Peak:
    """FLOP/s of big products, bytes/s of a copy as large as the weights, seconds per tiny kernel; best of several."""
    cuda = device.type == "cuda"
    size = min(max(weight_bytes, 1 << 22), 4 * GIB if cuda else 1 << 26)
    flops = product_rate(device, dtype, 8192 if cuda else 512)
    return Peak({precision: flops}, copy_rate(device, size), best(launches(device)) / KERNELS)


def peaks(device: torch.device, sides: Sequence[int] = (4096, 8192, 16384), size: int = 2 * GIB) -> dict[str, Any]:
    """FLOP/s of the best square bfloat16 product and byte/s of a copy.

    Args:
        device: nothing else should run there.
        sides: of the matrices that are tried.
        size: bytes that are copied.
    """
    flops = {str(side): product_rate(device, torch.bfloat16, side) for side in sides}
    rate = copy_rate(device, size)
    return {"flops_by_side": flops, "flops": max(flops.values()), "bytes_per_s": rate, "copied_bytes": size}


def product_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of square products, the best of several rounds of `PRODUCTS_PER_CALL`."""
    left = torch.randn(side, side, device=device, dtype=dtype)

    def products() -> None:
        for _ in range(PRODUCTS_PER_CALL):
            left @ left
        settle(device)

    return PRODUCTS_PER_CALL * 2.0 * side**3 / best(products)


def copy_rate(device: torch.device, size: int) -> float:
    """Byte/s, read plus written, of the best copy of `size` bytes."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        settle(device)

    return 2.0 * size / best(copy)


def launches(device: torch.device) -> Callable[[], None]:
    """`KERNELS` tiny kernels one after the other; on a GPU in a CUDA graph, the least that an engine can do."""
    tiny = torch.ones(8, device=device)

    def several() -> None:
        for _ in range(KERNELS):
            tiny.add_(1.0)

    if device.type != "cuda":
        return several
    several()
    settle(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        several()

    def replay() -> None:
        graph.replay()
        settle(device)

    return replay


def floor(flops: dict[str, float], moved: dict[str, float], peak_flops: float, peak_bytes: float) -> dict[str, float]:
    """Milliseconds per part that no device of these peaks can beat, and their sum.

    Args:
        flops, moved: by part, FLOPs and bytes of weights.
        peak_flops, peak_bytes: per second.
    """
    each = {name: 1e3 * max(flops[name] / peak_flops, moved[name] / peak_bytes) for name in flops}
    return {**each, "sum": sum(each.values())}
