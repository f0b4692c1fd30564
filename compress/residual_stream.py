# SPDX-License-Identifier: Apache-2.0
"""Read a stack's residual stream where it enters the norms, without touching the model.

Hooks sit on the norms, not on the blocks: the joint loops of pi0 and SmolVLA never call their blocks as modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from compress.models.base import Batch, BlockGroup
from compress.scores import ScoreError

Position = tuple[
    str, int
]  # ("in", i): enters block i; ("mid", i): between its writers; ("in", depth): leaves the stack


@dataclass(frozen=True)
class Stream:
    """What one forward pass showed: per live block, the tensors (rows, tokens, width) before and after the scored part.

    A block is read once per call of the stack (a tower may be called once per camera), hence lists.
    """

    before: tuple[list[Tensor], ...]
    after: tuple[list[Tensor], ...]


def positions(depth: int, part: str) -> tuple[tuple[Position, Position], ...]:
    """Where the stream is read before and after the scored part of each block."""
    if part == "attention":
        return tuple((("in", i), ("mid", i)) for i in range(depth))
    if part == "mlp":
        return tuple((("mid", i), ("in", i + 1)) for i in range(depth))
    return tuple((("in", i), ("in", i + 1)) for i in range(depth))


@contextmanager
def tapped(module: nn.Module, group: BlockGroup, part: str, differentiable: bool = False) -> Iterator[Stream]:
    """While open, forward passes leave their residual stream in the returned `Stream`.

    Args:
        module: the model's module.
        group: the stack.
        part: `block`, `attention` or `mlp`.
        differentiable: make the tensors behind each part usable as inputs of `torch.autograd.grad`.

    Raises:
        ScoreError: (on leaving) a norm was not called, or the stream was changed in place after it was read.
    """
    stack = group.stack(module)
    pairs = positions(len(stack), part)
    seen: dict[Position, list[Tensor]] = {p: [] for pair in pairs for p in pair}
    versions: list[tuple[Tensor, int]] = []
    leaves = {after for _, after in pairs} if differentiable else set()

    def reader(position: Position) -> Any:
        def read(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            state = args[0] if args else next(iter(kwargs.values()))
            if position in leaves and not state.requires_grad:
                state.requires_grad_(True)  # the first one: nothing above it needs a graph
            seen[position].append(state)
            versions.append((state, state._version))

        return read

    handles = []
    try:
        for position in seen:
            norm = _norm_at(module, group, stack, position)
            handles.append(norm.register_forward_pre_hook(reader(position), with_kwargs=True))
        yield Stream(tuple(seen[a] for a, _ in pairs), tuple(seen[b] for _, b in pairs))
    finally:
        for handle in handles:
            handle.remove()
    silent = [p for p, calls in seen.items() if not calls]
    if silent:
        raise ScoreError(
            f"{group.role}: the norms at {silent[:3]} were not called by the loss; check the group's norm names"
        )
    if any(state._version != version for state, version in versions):
        raise ScoreError(
            f"{group.role}: the model changes its residual stream in place, so what was read is no longer what flowed"
        )


def per_sample(values: Tensor, batch: Batch) -> Tensor:
    """Sum (rows, ...) over everything but samples -> (B,).

    A tower that sees C cameras has B * C rows, sample by sample.

    Raises:
        ScoreError: the rows are not a multiple of the batch.
    """
    rows, size = values.shape[0], len(batch)
    if rows % size:
        raise ScoreError(f"the stack sees {rows} rows for a batch of {size}: a sample's share cannot be told")
    return values.reshape(size, -1).sum(dim=1)


def _norm_at(module: nn.Module, group: BlockGroup, stack: nn.ModuleList, position: Position) -> nn.Module:
    kind, index = position
    if index == len(stack):
        return module.get_submodule(group.after)
    norm: nn.Module = getattr(stack[index], group.input_norm if kind == "in" else group.mid_norm)
    return norm
