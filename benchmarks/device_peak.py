# SPDX-License-Identifier: Apache-2.0
"""What a torch device does at most, measured here and now: FLOP/s, bytes per second, seconds per kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch

from runtime.inference.peak import best
from runtime.inference.roofline import Peak

PRODUCTS_PER_CALL, KERNELS = 16, 256


def settle(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_peak(device: torch.device, dtype: torch.dtype, weight_bytes: int, precision: str) -> Peak:
    """FLOP/s of big matrix products, bytes/s of a copy (read and write), seconds per tiny kernel; best of several."""
    side = 8192 if device.type == "cuda" else 512
    left = torch.randn(side, side, device=device, dtype=dtype)

    def products() -> None:
        for _ in range(PRODUCTS_PER_CALL):
            left @ left
        settle(device)

    flops = PRODUCTS_PER_CALL * 2.0 * side**3 / best(products)
    size = min(max(weight_bytes, 1 << 22), 4 << 30 if device.type == "cuda" else 1 << 26)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        settle(device)

    rate = 8.0 * source.numel() / best(copy)
    return Peak({precision: flops}, rate, best(launches(device)) / KERNELS)


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


def used(device: torch.device) -> int:
    """Bytes in use on the whole device, whoever holds them."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free
