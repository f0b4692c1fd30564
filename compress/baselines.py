# SPDX-License-Identifier: Apache-2.0
"""The rankings that GateProbe is compared with, all behind one call; low = drop first.

metric      value of a block                                        reads
uniform     evenly spread removal; half of it keeps blocks 0, 2..   nothing
random      a permutation drawn from `seed`                         nothing
magnitude   sum |w|                                                 weights
cosine      1 - mean cosine of the stream before and after          samples (LLM-Drop: 2406.15786)
taylor      |mean over samples of sum(w * dL/dw)|                   actions
fisher      mean over samples of sum (dL/dw)^2                      actions
loo         loss without the block - loss with it                   actions (the oracle)
gateprobe   mean over samples of |<dL/dh_i, h_i - h_{i-1}>|         actions
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import gateprobe as gate_probe
from compress.leave_one_out import leave_one_out
from compress.models.base import Batch, VlaModel
from compress.probing import Probe, find_group, find_groups, require_finite, subject_of
from compress.residual_stream import per_sample, tapped
from compress.scores import Progress, ScoreError, Scores, summed, without_samples


class Scorer(Protocol):
    """Scores every block of a stack; the model is left as it was."""

    def __call__(
        self,
        model: VlaModel,
        batches: Iterable[Batch],
        role: str,
        part: str,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Scores:
        """Score the stack `role`."""
        ...


def uniform(
    model: VlaModel, batches: Iterable[Batch], role: str, part: str, seed: int = 0, progress: Progress | None = None
) -> Scores:
    """Blocks in bit-reversed order: every prefix of the ranking is spread over the stack, block 0 goes last."""
    del batches, seed, progress
    subject = subject_of(model, role, part)
    bits = max(1, (subject.depth - 1).bit_length())
    values = [float(-int(f"{block:0{bits}b}"[::-1], 2)) for block in subject.blocks]
    return without_samples("uniform", subject, values, 0.0)


def random(
    model: VlaModel, batches: Iterable[Batch], role: str, part: str, seed: int = 0, progress: Progress | None = None
) -> Scores:
    """A permutation; the control that the source paper lacks."""
    del batches, progress
    subject = subject_of(model, role, part)
    values = np.random.default_rng(seed).permutation(len(subject.blocks))
    return without_samples("random", subject, values.tolist(), 0.0, {"seed": seed})


def magnitude(
    model: VlaModel, batches: Iterable[Batch], role: str, part: str, seed: int = 0, progress: Progress | None = None
) -> Scores:
    """Sum of absolute weights: blocks of a stack have one shape, and a writer that is gone weighs nothing."""
    del batches, seed, progress
    subject, start = subject_of(model, role, part), time.perf_counter()
    values = [
        sum(float(w.detach().double().abs().sum()) for w in weights) for weights in block_weights(model, role, part)
    ]
    return without_samples("magnitude", subject, values, time.perf_counter() - start)


def cosine(
    model: VlaModel, batches: Iterable[Batch], role: str, part: str, seed: int = 0, progress: Progress | None = None
) -> Scores:
    """1 - cosine between the stream before and after, averaged over a sample's tokens; blind to what is read later."""
    del seed
    group = find_group(model, role)

    def measure(batch: Batch, number: int) -> tuple[Tensor, None]:
        with torch.no_grad(), tapped(model.module, group, part) as stream:
            model.loss(batch, number)
        pairs = zip(stream.before, stream.after, strict=True)
        return torch.stack([_turn(before, after, batch) for before, after in pairs], dim=1), None

    return Probe("cosine", model, batches, role, part, progress).run(measure)


def taylor(
    model: VlaModel, batches: Iterable[Batch], role: str, part: str, seed: int = 0, progress: Progress | None = None
) -> Scores:
    """First-order change of the mean loss if the block's weights went to zero."""
    del seed

    def value(weights: list[nn.Parameter], gradients: list[Tensor]) -> Tensor:
        return sum(((w.detach() * g).sum() for w, g in zip(weights, gradients, strict=True)), torch.zeros(()))

    probe = Probe("taylor", model, batches, role, part, progress, reduce=lambda rows: np.abs(rows.mean(axis=0)))
    return _over_gradients(probe, value)


def fisher(
    model: VlaModel, batches: Iterable[Batch], role: str, part: str, seed: int = 0, progress: Progress | None = None
) -> Scores:
    """Diagonal empirical Fisher information: squared gradients of each single sample."""
    del seed

    def value(_weights: list[nn.Parameter], gradients: list[Tensor]) -> Tensor:
        return sum((g.square().sum() for g in gradients), torch.zeros(()))

    return _over_gradients(Probe("fisher", model, batches, role, part, progress), value)


def loo(
    model: VlaModel, batches: Iterable[Batch], role: str, part: str, seed: int = 0, progress: Progress | None = None
) -> Scores:
    """Leave one out, prefix-cached."""
    del seed
    return leave_one_out(model, batches, role, part, progress)


def gateprobe(
    model: VlaModel, batches: Iterable[Batch], role: str, part: str, seed: int = 0, progress: Progress | None = None
) -> Scores:
    """`compress.gateprobe.probe` behind the common call."""
    del seed
    return gate_probe.probe(model, batches, role, part, progress)


def _in_pairs(single: Scorer) -> Scorer:
    """The same metric, also for a role `A+B`: the sum of both stacks' scores."""

    @functools.wraps(single)
    def score(
        model: VlaModel, batches: Iterable[Batch], role: str, part: str, seed: int = 0, progress: Progress | None = None
    ) -> Scores:
        groups = find_groups(model, role)
        found = [single(model, batches, group.role, part, seed, progress) for group in groups]
        return found[0] if len(found) == 1 else summed(found, groups[0].unit)

    return score


SCORERS: dict[str, Scorer] = {
    "gateprobe": gateprobe, "uniform": _in_pairs(uniform), "random": _in_pairs(random),
    "magnitude": _in_pairs(magnitude), "cosine": _in_pairs(cosine), "taylor": _in_pairs(taylor),
    "fisher": _in_pairs(fisher), "loo": _in_pairs(loo),
}  # fmt: skip


def scorer(name: str) -> Scorer:
    """The scorer of that name.

    Raises:
        ScoreError: there is none.
    """
    if name not in SCORERS:
        raise ScoreError(f"metric is {name!r}, expected one of: {', '.join(SCORERS)}")
    return SCORERS[name]


def block_weights(model: VlaModel, role: str, part: str) -> list[list[nn.Parameter]]:
    """The parameters of the scored part of each live block."""
    group = find_group(model, role)
    stack = group.stack(model.module)
    if part == "block":
        return [list(block.parameters()) for block in stack]
    name = group.attention if part == "attention" else group.mlp
    return [list(getattr(block, name).parameters()) for block in stack]


def _turn(before: list[Tensor], after: list[Tensor], batch: Batch) -> Tensor:
    """1 - mean cosine per sample, (B,)."""
    total, tokens = torch.zeros(len(batch), device=after[0].device), 0
    for low, high in zip(before, after, strict=True):
        turn = 1.0 - F.cosine_similarity(low.float(), high.float(), dim=-1)  # (rows, tokens)
        total, tokens = total + per_sample(turn, batch), tokens + turn.numel() // len(batch)
    return total / tokens


def _over_gradients(probe: Probe, value: Callable[[list[nn.Parameter], list[Tensor]], Tensor]) -> Scores:
    """`value(weights, gradients)` of each block for each single sample: one backward pass per sample."""
    weights = block_weights(probe.model, probe.role, probe.part)
    flat = [w for block in weights for w in block]

    def measure(batch: Batch, number: int) -> tuple[Tensor, None]:
        rows = []
        for single in (one_of(batch, index) for index in range(len(batch))):
            with torch.enable_grad():
                loss = probe.model.loss(single, number)
                require_finite(loss, single, "action loss")  # L1 has a finite gradient where the loss is NaN
                found = torch.autograd.grad(loss.sum(), flat, allow_unused=True)
            gradients = iter([torch.zeros_like(w) if g is None else g for w, g in zip(flat, found, strict=True)])
            rows.append(
                torch.stack(
                    [value(block, [next(gradients) for _ in block]).to(batch.actions.device) for block in weights]
                )
            )
        return torch.stack(rows), None

    return replace(probe, trainable=flat).run(measure)


def one_of(batch: Batch, index: int) -> Batch:
    """The batch of one sample."""
    here = slice(index, index + 1)
    return Batch(
        {k: v[here] for k, v in batch.inputs.items()}, batch.actions[here], batch.pad[here], batch.sample_ids[here]
    )
