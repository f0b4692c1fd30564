# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters on every linear layer while training, merged into the weights afterwards: only importer of peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def adapters(module: nn.Module, rank: int, seed: int) -> Iterator[None]:
    """While open, only adapters are trainable; leaving without an error merges them and the module is plain again.

    Args:
        module: changed in place; its parameters' gradient flags are put back.
        rank: of each adapter; alpha equals it.
        seed: of their initialisation (the update starts at zero).

    Raises:
        ValueError: the module has no linear layer.
    """
    from peft import LoraConfig, LoraModel

    wishes = {name: p.requires_grad for name, p in module.named_parameters()}
    targets = [name for name, child in module.named_modules() if type(child) is nn.Linear]
    if not targets:
        raise ValueError("LoRA needs linear layers and this model has none: use method `full`")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = LoraModel(
            module, LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=targets), "recovery"
        )
    finish = wrapped.unload
    try:
        yield
        finish = wrapped.merge_and_unload
    finally:
        finish()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(wishes[name])
