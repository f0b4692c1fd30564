# SPDX-License-Identifier: Apache-2.0
"""Peak FLOP/s, memory bandwidth and time per node of this machine, measured here and now, not read off a data sheet.

FLOP/s and time per node go through the very engine, provider and thread count of the policy (`probe_graphs`). Bandwidth
on a CPU is that of numpy reading and copying a buffer as large as the weights, in as many threads: smaller policies
live in caches. On another device it is a matrix-vector product through the engine. The best of several tries counts:
a floor is a limit, and whatever disturbs a measurement only lowers it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from runtime.backends.base import zeros
from runtime.backends.registry import create_backend
from runtime.contract.graph import GraphSpec
from runtime.errors import BackendError
from runtime.inference import probe_graphs
from runtime.inference.roofline import Peak

CPU = ("CPUExecutionProvider", None)
SIDE, DEPTH = {True: 1024, False: 4096}, {True: 1, False: 8}  # on a CPU, elsewhere
NODES = 256
BUDGET_S, LEAST = 0.25, 5  # per number: seconds, tries
SMALLEST, LARGEST = 1 << 20, 1 << 30  # buffer [bytes]


def measure(
    backend: str, threads: int | None, provider: str | None, precisions: Sequence[str], sizes: Sequence[int]
) -> dict[int, Peak]:
    """What an engine reaches here, by size of the weights; a precision that it cannot compute in is left out.

    Args:
        backend, threads, provider: of the policy.
        precisions: names of `probe_graphs.PRECISIONS`.
        sizes: of the policies' constants [bytes].

    Raises:
        BackendError: the engine is not there, or cannot even run a chain of nodes.
    """
    on_cpu = provider in CPU
    side, depth = SIDE[on_cpu], DEPTH[on_cpu]
    with tempfile.TemporaryDirectory(prefix="dropgate-peak-") as scratch:
        path = Path(scratch) / "probe.onnx"

        def seconds(graph: GraphSpec) -> float:
            engine = create_backend(backend, threads=threads, provider=provider)
            try:
                engine.load(path, graph)
                inputs = zeros(graph.inputs)
                return best(lambda: engine.infer(inputs))
            finally:
                engine.close()

        flops = {}
        for precision in precisions:
            try:
                took = seconds(probe_graphs.product(path, precision, side, side, side, depth))
            except BackendError:
                continue
            flops[precision] = 2.0 * depth * side**3 / took
        few, many = seconds(probe_graphs.chain(path, 1)), seconds(probe_graphs.chain(path, NODES + 1))
        rates = {}
        for size in sizes:
            if on_cpu:
                rates[size] = stream(size, threads or _usable())
            else:
                columns = _clamped(size, 1 << 28) // (4 * side)
                rates[size] = 4.0 * side * columns / seconds(probe_graphs.product(path, "float32", 1, side, columns))
    return {size: Peak(flops, rate, max(0.0, many - few) / NODES) for size, rate in rates.items()}


def stream(size: int, threads: int) -> float:
    """Bytes per second of reading, or reading and writing, `size` bytes (1 MiB to 1 GiB) in `threads` threads."""
    count = _clamped(size, LARGEST) // 4
    source, target = np.ones(count, np.float32), np.empty(count, np.float32)
    parts = [slice(count * i // threads, count * (i + 1) // threads) for i in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        read = best(lambda: list(pool.map(lambda part: source[part].max(), parts)))
        copied = best(lambda: list(pool.map(lambda part: np.copyto(target[part], source[part]), parts)))
    return max(4.0 * count / read, 8.0 * count / copied)


def best(call: Callable[[], object]) -> float:
    """The least seconds of a call over `BUDGET_S`, after one that does not count."""
    call()
    found: list[float] = []
    while len(found) < LEAST or sum(found) < BUDGET_S:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def _clamped(size: int, largest: int) -> int:
    return min(max(size, SMALLEST), largest)


def _usable() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
