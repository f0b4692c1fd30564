# SPDX-License-Identifier: Apache-2.0
"""A teacher: besides its own loss, the student is pulled towards what the unpruned policy says and thinks.

What a policy says is what its head returns inside `loss`: the chunk for a regression head, the velocity for a flow
head. What it thinks is the residual stream that enters each block that both have. Both policies see the same noise
seed, so they answer the same question. (Output and feature distillation after depth pruning: arXiv 2407.14679.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.base import Batch, BlockGroup, ModelError, VlaModel
from compress.probing import quiet, surgery_of
from compress.residual_stream import tapped
from compress.scale.world import current
from compress.training import LossFn

Streams = list[list[Tensor]]


class Answers:
    """What the teacher says, kept by sample: for a policy without noise, each frame is asked once.

    Empty after a restart; the answers come again.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._steady: bool | None = None

    def get(self, batch: Batch) -> Tensor | None:
        """(B, H, A'), or None unless every sample is known."""
        if not self._steady or any(name not in self._kept for name in batch.sample_ids):
            return None
        return torch.stack([self._kept[name] for name in batch.sample_ids]).to(batch.actions.device)

    def put(self, batch: Batch, said: Tensor, again: Tensor | None = None) -> None:
        """Keep what was said. `again` is the answer under another noise seed: if it differs, nothing is ever kept."""
        if self._steady is None and again is not None:
            self._steady = bool(torch.equal(said, again))
        if self._steady:
            self._kept |= {name: row.cpu() for name, row in zip(batch.sample_ids, said.detach(), strict=True)}

    @property
    def undecided(self) -> bool:
        """Whether it is not known yet that the teacher's answers depend on the noise."""
        return self._steady is None


def distilled_loss(teacher: VlaModel, distill: float, features: float = 0.0) -> LossFn:
    """Action loss + `distill` * mean |student answer - teacher answer| + `features` * relative error of the streams.

    Means run over steps that carry loss. The error of a stream is squared and relative to the teacher's own square.

    Raises:
        ModelError: (when called) a head whose output is not shaped like a chunk.
    """
    cache = Answers()

    def loss_fn(model: VlaModel, batch: Batch, step: int) -> Tensor:
        wanted = None if features else cache.get(batch)
        taught: Streams = []
        if wanted is None:
            wanted, taught = _ask(teacher, model, batch, step, bool(features))
            again = _ask(teacher, model, batch, step + 1, False)[0] if cache.undecided and not features else None
            cache.put(batch, wanted, again)
        with ExitStack() as open_:
            streams = (
                [open_.enter_context(shared(model, group, model)) for group in cut(model, teacher)] if features else []
            )
            said = open_.enter_context(heard(model))
            total = model.loss(batch, noise_seed=step).mean()
        error = (answer(said, batch, "student") - wanted).abs().mean(-1)  # (B, H)
        real = (~batch.pad).to(error.dtype)
        count = current().mean(real.sum())  # of all processes: their losses add up to that of one
        total = total + distill * (error * real).sum() / count.clamp(min=1.0 / current().size)
        return total + features * _far(streams, taught) if features else total

    return loss_fn


def _ask(teacher: VlaModel, student: VlaModel, batch: Batch, step: int, streams: bool) -> tuple[Tensor, Streams]:
    with torch.no_grad(), quiet(teacher.module), ExitStack() as open_:
        groups = cut(student, teacher) if streams else []
        found = [open_.enter_context(shared(teacher, group, student)) for group in groups]
        said = open_.enter_context(heard(teacher))
        teacher.loss(batch, noise_seed=step)
    return answer(said, batch, "teacher"), found


def _far(streams: Streams, taught: Streams) -> Tensor:
    """Mean over places of |student - teacher|^2 / |teacher|^2."""
    pairs = [(s, t) for own, other in zip(streams, taught, strict=True) for s, t in zip(own, other, strict=True)]
    errors = [(s - t).square().mean() / current().mean(t.square().mean()).clamp(min=1e-12) for s, t in pairs]
    return torch.stack(errors).mean()


def cut(student: VlaModel, teacher: VlaModel) -> list[BlockGroup]:
    """The stacks in which the student lacks something."""
    return [g for g in student.groups if surgery_of(student, g) != surgery_of(teacher, g)]


@contextmanager
def shared(model: VlaModel, group: BlockGroup, student: VlaModel) -> Iterator[list[Tensor]]:
    """While open, the stream behind every block that `student` still has, as it flows in `model`, in order.

    Behind means: on entering the next block that the student has, so that a removed run counts to the block before it.
    Where only keys and values are read, the stream behind the last block is nobody's and is left out.
    """
    kept = surgery_of(student, group).kept
    present = surgery_of(model, group).kept
    flowing: list[Tensor] = []
    with tapped(model.module, group, "block") as stream:
        yield flowing
    ends = [*kept[1:], *([] if group.shared_kv else [surgery_of(student, group).depth])]
    for end in ends:
        position = next((p for p, i in enumerate(present) if i >= end), len(present)) - 1
        flowing.extend(stream.after[position])


@contextmanager
def heard(model: VlaModel) -> Iterator[list[Any]]:
    """While open, collect what the policy's head returns."""
    outputs: list[Any] = []
    head: nn.Module = model.module.get_submodule(model.head)
    handle = head.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def answer(outputs: list[Any], batch: Batch, who: str) -> Tensor:
    """The chunk in what a head returned, (B, H, A'): its first H rows; steps and A' may be padded."""
    size, steps, width = batch.actions.shape
    said = outputs[-1] if outputs else None
    if len(outputs) != 1 or not isinstance(said, Tensor) or said.ndim != 3 or said.shape[0] != size:
        shapes = [tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in outputs]
        raise ModelError(
            f"the {who}'s head returned {shapes} in one loss, expected one tensor ({size}, {steps} or more, {width} or "
            "more): set distill to 0"
        )
    return said[:, :steps]
