# SPDX-License-Identifier: Apache-2.0
"""How blocks leave a live model: shorten the list, or replace a block's writers by zero (both exact)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.base import BlockGroup, ModelError, Surgery


class ZeroAttention(nn.Module):
    """Stands in for an attention module: writes nothing to the residual stream."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Zeros shaped like `hidden_states` (B, L, D), and no attention weights."""
        return torch.zeros_like(hidden_states), None


class ZeroMlp(nn.Module):
    """Stands in for an MLP: writes nothing to the residual stream."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Zeros shaped like `hidden_states` (B, L, D)."""
        return torch.zeros_like(hidden_states)


class ZeroProjection(nn.Module):
    """Stands in for one linear layer; `weight` is empty and keeps the dtype that joint loops read."""

    weight: Tensor

    def __init__(self, replaced: nn.Linear) -> None:
        super().__init__()
        self.out_features = replaced.out_features
        self.register_buffer("weight", replaced.weight.detach().new_empty(0), persistent=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., in) -> zeros (..., out)."""
        return hidden_states.new_zeros(*hidden_states.shape[:-1], self.out_features)


class Hollow(nn.Module):
    """Stands where weights were on which no action depends: gives back what it is given."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The first argument."""
        return hidden_states


def hollow(module: nn.Module, paths: Iterable[str]) -> None:
    """Put a `Hollow` at every dotted path, in place.

    Raises:
        ModelError: there is no such submodule.
    """
    for path in paths:
        parent, _, name = path.rpartition(".")
        try:
            holder = module.get_submodule(parent)
            holder.get_submodule(name)
        except AttributeError as error:
            raise ModelError(f"nothing to hollow at {path}: {error}") from error
        setattr(holder, name, Hollow())


def without_attention(block: nn.Module, group: BlockGroup) -> None:
    """Silence a block's attention in place; where keys and values are shared, they go on being computed."""
    if not group.shared_kv:
        setattr(block, group.attention, ZeroAttention())
        return
    attention = block.get_submodule(group.attention)
    for name in ("q_proj", "o_proj"):
        projection = getattr(attention, name)
        if not isinstance(projection, ZeroProjection):
            setattr(attention, name, ZeroProjection(projection))


def operate(module: nn.Module, group: BlockGroup, done: Surgery, wanted: Surgery) -> None:
    """Bring the stack of `group` from the state `done` to the state `wanted`, in place.

    Raises:
        ModelError: the live stack does not match `done`, or `wanted` would bring back what was removed.
    """
    stack = group.stack(module)
    if len(stack) != len(done.kept):
        raise ModelError(f"{group.role}: the model has {len(stack)} blocks, its record says {len(done.kept)}")
    lost = sorted(set(wanted.kept) - set(done.kept))
    if wanted.depth != done.depth or lost:
        raise ModelError(
            f"{group.role}: blocks {lost} of {wanted.depth} are no longer in the model (kept: {list(done.kept)})"
        )
    _require_same_kinds(module, group, done, wanted)
    where = {original: position for position, original in enumerate(done.kept)}
    survivors = [stack[where[i]] for i in wanted.kept]
    for original, block in zip(wanted.kept, survivors, strict=True):
        if original in wanted.without_attention:
            without_attention(block, group)
        if original in wanted.without_mlp:
            setattr(block, group.mlp, ZeroMlp())
    parent_path, _, name = group.blocks.rpartition(".")
    parent = module.get_submodule(parent_path) if parent_path else module
    setattr(parent, name, nn.ModuleList(survivors))
    for position, block in enumerate(survivors):  # caches are indexed by position
        writer = getattr(block, group.attention)
        if hasattr(writer, "layer_idx"):
            writer.layer_idx = position


def _require_same_kinds(module: nn.Module, group: BlockGroup, done: Surgery, wanted: Surgery) -> None:
    """Some of transformers' stacks give blocks a kind by their place (`layer_types`); a shorter list would move it."""
    owner = module.get_submodule(group.blocks.rpartition(".")[0])
    kinds = getattr(getattr(owner, "config", None), "layer_types", None) or []
    where = {original: place for place, original in enumerate(done.kept)}
    moved = [i for place, i in enumerate(wanted.kept) if where[i] < len(kinds) and kinds[where[i]] != kinds[place]]
    if moved:
        raise ModelError(
            f"{group.role}: blocks {moved} would change their kind ({', '.join(sorted(set(kinds)))}), which this stack "
            "gives by place; use form `stub`"
        )
