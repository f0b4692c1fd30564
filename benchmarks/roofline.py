# SPDX-License-Identifier: Apache-2.0
"""What a device can do at best, and how close something came: clocks, peak memory, measured peaks, floors.

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

GIB = 1 << 30
WARM_UP = 3


def described(device: torch.device) -> dict[str, Any]:
    """Name and memory of the device."""
    if device.type != "cuda":
        return {"name": f"cpu, {torch.get_num_threads()} threads", "bytes": 0}
    about = torch.cuda.get_device_properties(device)
    return {"name": about.name, "bytes": about.total_memory, "multiprocessors": about.multi_processor_count}


def settle(device: torch.device) -> None:
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


def peaks(device: torch.device, sides: Sequence[int] = (4096, 8192, 16384), size: int = 2 * GIB) -> dict[str, Any]:
    """FLOP/s of the best square bfloat16 product and byte/s (read plus written) of the best copy.

    Args:
        device: nothing else should run there.
        sides: of the matrices that are tried.
        size: bytes that are copied.
    """
    flops = {}
    for side in sides:
        a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
        flops[str(side)] = 2 * side**3 / min(seconds(lambda a=a, b=b: a @ b, 20, device))
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * size / min(seconds(lambda: target.copy_(source), 20, device))
    return {"flops_by_side": flops, "flops": max(flops.values()), "bytes_per_s": copied, "copied_bytes": size}


def floor(flops: dict[str, float], moved: dict[str, float], peak_flops: float, peak_bytes: float) -> dict[str, float]:
    """Milliseconds per part that no device of these peaks can beat, and their sum.

    Args:
        flops, moved: by part, FLOPs and bytes of weights.
        peak_flops, peak_bytes: per second.
    """
    each = {name: 1e3 * max(flops[name] / peak_flops, moved[name] / peak_bytes) for name in flops}
    return {**each, "sum": sum(each.values())}
