# SPDX-License-Identifier: Apache-2.0
"""What each block of a stack costs: parameters and FLOPs counted, milliseconds measured inside real forward passes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from compress.models.base import Batch, BlockGroup, ModelError, VlaModel
from compress.plan import Costs
from compress.probing import device_of, find_groups, quiet, subject_of, surgery_of


@dataclass(frozen=True)
class Timing:
    """Medians over repeats [ms]: one whole inference, and the part of each block inside it."""

    total_ms: float
    part_ms: tuple[float, ...]
    device: str


Timer = Callable[[VlaModel, Batch, BlockGroup, str], Timing]


def _cpu_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    flops: int = sdpa_flop_count(query, key, value)
    return flops


# torch counts the CUDA kernels of scaled dot product attention and leaves out the CPU one
CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention}


def measure(
    model: VlaModel, batch: Batch, role: str, part: str = "block", timer: Timer | None = None, form: str = "auto"
) -> Costs:
    """Count what leaves with a block, and time it if `timer` is given (`time_parts`, or a table of the right machine).

    Args:
        model: left as it was.
        batch: one observation is enough; FLOPs are per sample.
        role, part: the stack, or `A+B` for pairs of blocks.
        timer: measures latencies.
        form: how whole blocks are to go, see `PlanSpec`; with a stub, norms and shared keys and values stay.
    """
    groups, subject = find_groups(model, role), subject_of(model, role, part)
    owned = [
        [
            sum(p.numel() for writer in writers for p in writer.parameters())
            for writers in _parts(model, group, part, form)
        ]
        for group in groups
    ]
    timings = [] if timer is None else [timer(model, batch, group, part) for group in groups]
    counted = [count_flops(model, batch, group, part, form) for group in groups]
    return Costs(
        role=role,
        part=part,
        blocks=subject.blocks,
        parameters=tuple(map(sum, zip(*owned, strict=True))),
        flops=tuple(map(sum, zip(*(inside for _, inside in counted), strict=True))),
        total_parameters=sum(p.numel() for p in model.module.parameters()),
        total_flops=counted[0][0],
        model_identity=subject.model_identity,
        latency_ms=tuple(map(sum, zip(*(timing.part_ms for timing in timings), strict=True))),
        total_latency_ms=timings[0].total_ms if timings else None,
        device=timings[0].device if timings else "",
    )


def count_flops(
    model: VlaModel, batch: Batch, group: BlockGroup, part: str = "block", form: str = "auto"
) -> tuple[int, tuple[int, ...]]:
    """FLOPs of one inference per sample (matrix products and attention): of the model, and of each block's part."""
    inside = [0] * len(group.stack(model.module))
    with (
        FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter,
        ExitStack() as undo,
        quiet(model.module),
    ):

        def before(index: int) -> Any:
            def start(*_: Any) -> None:
                inside[index] -= counter.get_total_flops()

            return start

        def after(index: int) -> Any:
            def stop(*_: Any) -> None:
                inside[index] += counter.get_total_flops()

            return stop

        _hook(model, group, part, before, after, undo, form)
        model.chunk(batch.to(device_of(model.module)))
        total = counter.get_total_flops()
    return total // len(batch), tuple(flops // len(batch) for flops in inside)


def flops_share(model: VlaModel, batch: Batch, whole: VlaModel | None = None) -> float:
    """FLOPs of the pruned `model` as a share of the unpruned policy's.

    Args:
        model: after surgery.
        batch: an example.
        whole: the unpruned policy; without it, a missing part is counted like those that are still there.

    Raises:
        ModelError: no part of that kind is left to count, and `whole` is not given.
    """
    if whole is not None:
        group = whole.groups[0]
        return count_flops(model, batch, model.groups[0])[0] / count_flops(whole, batch, group)[0]
    total, missing = 0, 0.0
    for group in model.groups:
        record = surgery_of(model, group)
        gone = record.depth - len(record.kept)
        for part, without in (("attention", record.without_attention), ("mlp", record.without_mlp)):
            total, flops = count_flops(model, batch, group, part)
            there = [f for block, f in zip(record.kept, flops, strict=True) if block not in without]
            lost = gone + len(without)
            if lost and not there:
                raise ModelError(f"{group.role}: no {part} is left to count; give the unpruned policy as teacher")
            missing += lost * sum(there) / max(1, len(there))
    return total / (total + missing)


def time_parts(
    model: VlaModel, batch: Batch, group: BlockGroup, part: str = "block", repeats: int = 20, warm_up: int = 3
) -> Timing:
    """Time `model.chunk(batch)` with and without clocks inside, in turns; parts are scaled down to the plain run.

    Args:
        model, batch, group, part: what to run and which parts to time.
        repeats: timed runs of each kind.
        warm_up: runs before.
    """
    device = device_of(model.module)
    here, plain, hooked = batch.to(device), [], []
    spent: list[list[float]] = []
    with quiet(model.module):
        for turn in range(warm_up + repeats):
            alone = _run(model, here, device)
            clocks = [0.0] * len(group.stack(model.module))
            with ExitStack() as undo:
                _hook(model, group, part, _Ticker(clocks, device, -1.0), _Ticker(clocks, device, 1.0), undo)
                watched = _run(model, here, device)
            if turn >= warm_up:
                plain.append(alone)
                hooked.append(watched)
                spent.append(clocks)
    total = statistics.median(plain)
    scale = min(1.0, total / statistics.median(hooked))
    parts = tuple(1000.0 * scale * statistics.median(run[i] for run in spent) for i in range(len(spent[0])))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return Timing(1000.0 * total, parts, name)


def _parts(model: VlaModel, group: BlockGroup, part: str, form: str = "auto") -> list[list[nn.Module]]:
    """Per live block, the modules that leave with the part."""
    if part == "block" and (group.compact if form == "auto" else form == "compact"):
        return [[block] for block in group.stack(model.module)]
    found = []
    for block in group.stack(model.module):
        attention = block.get_submodule(group.attention)
        own = [getattr(attention, name) for name in ("q_proj", "o_proj")] if group.shared_kv else [attention]
        mlp = [block.get_submodule(group.mlp)]
        found.append({"attention": own, "mlp": mlp}.get(part, [*own, *mlp]))
    return found


def _hook(
    model: VlaModel,
    group: BlockGroup,
    part: str,
    before: Callable[[int], Any],
    after: Callable[[int], Any],
    undo: ExitStack,
    form: str = "auto",
) -> None:
    for index, modules in enumerate(_parts(model, group, part, form)):
        for module in modules:
            undo.callback(module.register_forward_pre_hook(before(index)).remove)
            undo.callback(module.register_forward_hook(after(index)).remove)


@dataclass(frozen=True)
class _Ticker:
    """Adds the time, with a sign, to a block's clock: -1 on entering, +1 on leaving."""

    clocks: list[float]
    device: torch.device
    sign: float

    def __call__(self, index: int) -> Callable[..., None]:
        def tick(*_: Any) -> None:
            _settle(self.device)
            self.clocks[index] += self.sign * time.perf_counter()

        return tick


def _run(model: VlaModel, batch: Batch, device: torch.device) -> float:
    _settle(device)
    start = time.perf_counter()
    model.chunk(batch)
    _settle(device)
    return time.perf_counter() - start


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
