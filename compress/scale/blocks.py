# SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing: what happens inside a block is computed again in the backward pass instead of being kept.

The unit is a block of every stack; where another stack reads a block's keys and values it is the block's MLP (most of
its activations), because the cache that carries them between the stacks is filled once, in the forward pass.
Networks here draw no random numbers, so the second computation gives the first one's bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from compress.models.base import VlaModel


@contextmanager
def checkpointed(model: VlaModel, wanted: bool = True) -> Iterator[None]:
    """While open, backward passes go through blocks that kept only their inputs; gradients are the same.

    Hooks on norms (`residual_stream.tapped`) see the second computation too, if they are still there when it happens.
    """
    held = [(unit, unit.__dict__.get("forward")) for unit in units(model)] if wanted else []
    for unit, _ in held:
        unit.forward = _again(unit.forward)
    try:
        yield
    finally:
        for unit, before in held:
            del unit.__dict__["forward"]
            if before is not None:
                unit.forward = before


def units(model: VlaModel) -> list[nn.Module]:
    """The modules whose inside is computed twice; stubs have nothing inside."""
    found = [
        block.get_submodule(group.mlp) if group.shared_kv else block
        for group in model.groups
        for block in group.stack(model.module)
    ]
    return [unit for unit in found if next(unit.parameters(), None) is not None]


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run
