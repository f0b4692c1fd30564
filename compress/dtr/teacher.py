# SPDX-License-Identifier: Apache-2.0
"""Distillation: besides its own loss, the student is pulled towards what the unpruned policy says of the same batch.

What a policy says is what its module returns inside `loss`: the chunk for a regression head, the velocity for a flow
head. Both see the same noise seed, so student and teacher answer the same question.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.base import Batch, ModelError, VlaModel
from compress.probing import quiet
from compress.training import LossFn


def distilled_loss(teacher: VlaModel, weight: float) -> LossFn:
    """Action loss + `weight` * mean |student output - teacher output| over steps that carry loss.

    Raises:
        ModelError: (when called) a module whose output is not shaped like the action chunk (B, H, A).
    """

    def loss_fn(model: VlaModel, batch: Batch, step: int) -> Tensor:
        with torch.no_grad(), quiet(teacher.module), _heard(teacher.module) as wanted:
            teacher.loss(batch, noise_seed=step)
        with _heard(model.module) as said:
            own = model.loss(batch, noise_seed=step).mean()
        error = (_chunk(said, batch, "student") - _chunk(wanted, batch, "teacher")).abs().mean(-1)  # (B, H)
        real = (~batch.pad).to(error.dtype)
        return own + weight * (error * real).sum() / real.sum().clamp(min=1.0)

    return loss_fn


@contextmanager
def _heard(module: nn.Module) -> Iterator[list[Any]]:
    """While open, collect what the module returns."""
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def _chunk(outputs: list[Any], batch: Batch, who: str) -> Tensor:
    shapes = [tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in outputs]
    if shapes != [tuple(batch.actions.shape)]:
        raise ModelError(
            f"the {who}'s module returned {shapes} in one loss, expected one tensor {tuple(batch.actions.shape)}: "
            "set distill to 0"
        )
    output: Tensor = outputs[0]
    return output
