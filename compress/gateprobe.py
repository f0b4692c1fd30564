# SPDX-License-Identifier: Apache-2.0
"""GateProbe: how much the action loss changes if a block's contribution is turned down (arXiv 2606.27755, section 3.2).

A virtual gate on the residual branch, h_i = h_{i-1} + a_i F_i(h_{i-1}), has at a_i = 1 the derivative

    dL/da_i = < dL/dh_i , F_i(h_{i-1}) > = < dL/dh_i , h_i - h_{i-1} >

and block i scores the mean over samples of |dL/da_i|. No gate is inserted: one forward pass and one backward pass over
activations give all blocks of a stack. The absolute value is taken per sample, before the mean; a loss summed over the
batch gives each sample its own gradient, because samples do not mix (checked on the first batch).

    part        reads                   gradient at
    block       h_i - h_{i-1}           h_i
    attention   m_i - h_{i-1}           m_i, the stream between attention and MLP
    mlp         h_i - m_i               h_i
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from compress.models.base import Batch, BlockGroup, VlaModel
from compress.probing import Probe, find_group, find_groups, require_finite, subject_of
from compress.residual_stream import Stream, per_sample, tapped
from compress.scores import Progress, ScoreError, Scores, from_samples, summed


def probe(
    model: VlaModel,
    batches: Iterable[Batch],
    role: str = "language",
    part: str = "block",
    progress: Progress | None = None,
) -> Scores:
    """Score every block of a stack.

    Args:
        model: left as it was: same weights, same flags, no gradients, no hooks.
        batches: calibration batches with actions; batch k is given the loss noise of seed k.
        role: the stack, or `A+B` for pairs of blocks: then the sum of both stacks' scores, of the same passes.
        part: `block`, `attention` or `mlp`.
        progress: called with batches done, batches in all (0 if unknown) and a text.

    Returns:
        Scores whose `noise` is what rounding of the stream to its own dtype may add.

    Raises:
        ScoreError: NaN or infinity (the message names the samples), no samples, or samples that mix.
        ModelError: no such stack.
    """
    groups = find_groups(model, role)
    found = probe_together(model, batches, [(group.role, part) for group in groups], progress)
    return found[0] if len(found) == 1 else summed(found, groups[0].unit)


def probe_together(
    model: VlaModel, batches: Iterable[Batch], targets: Sequence[tuple[str, str]], progress: Progress | None = None
) -> tuple[Scores, ...]:
    """Score several stacks (role, part) in the same forward and backward passes; otherwise as `probe`.

    The scores are those of separate probes; each reports the time of the common run.
    """
    stacks = [(find_group(model, role), part) for role, part in targets]
    subjects = [subject_of(model, role, part) for role, part in targets]

    def measure(batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        found = gate_derivatives(model, stacks, batch, noise_seed=number, check=number == 0)
        return torch.cat([derivative.abs() for derivative, _ in found], 1), torch.cat([noise for _, noise in found], 1)

    ends = np.cumsum([len(subject.blocks) for subject in subjects])
    walk = Probe("gateprobe", model, batches, " + ".join(role for role, _ in targets), targets[0][1], progress)
    matrix, noise, ids, wall = walk.collect(measure, int(ends[-1]))
    columns = zip(np.split(matrix, ends[:-1], axis=1), np.split(noise, ends[:-1], axis=1), strict=True)
    return tuple(
        from_samples("gateprobe", subject, values, ids, wall, doubt)
        for subject, (values, doubt) in zip(subjects, columns, strict=True)
    )


def gate_derivatives(
    model: VlaModel, stacks: Sequence[tuple[BlockGroup, str]], batch: Batch, noise_seed: int = 0, check: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """dL_s/da_i of every sample s and live block i of each (group, part), and its rounding noise, (B, blocks) each.

    With parameters frozen (`probing.quiet`) nothing is computed for weights, nor below the first block's end.
    """
    with torch.enable_grad(), ExitStack() as taps:
        streams = [taps.enter_context(tapped(model.module, group, part, differentiable=True)) for group, part in stacks]
        loss = model.loss(batch, noise_seed)
    require_finite(loss, batch, "action loss")
    if not loss.requires_grad:
        roles = ", ".join(group.role for group, _ in stacks)
        raise ScoreError(f"{roles}: the action loss does not depend on this stack; all of it can go unprobed")
    if check and len(batch) > 1:
        for stream in streams:
            _require_own_rows(loss, stream, batch)
    states = [state for stream in streams for calls in stream.after for state in calls]
    gradients = iter(torch.autograd.grad(loss.sum(), states, allow_unused=True))
    with torch.no_grad():
        return [_columns(stream, gradients, batch) for stream in streams]


def _columns(stream: Stream, gradients: Iterator[Tensor | None], batch: Batch) -> tuple[Tensor, Tensor]:
    pairs = zip(stream.before, stream.after, strict=True)
    blocks = [_inner(before, after, [next(gradients) for _ in after], batch) for before, after in pairs]
    derivative, noise = zip(*blocks, strict=True)
    return torch.stack(derivative, dim=1), torch.stack(noise, dim=1)


def _inner(
    before: list[Tensor], after: list[Tensor], gradients: list[Tensor | None], batch: Batch
) -> tuple[Tensor, Tensor]:
    """<gradient, after - before> per sample, and the standard deviation that rounding gives it, (B,) each.

    Both ends of the difference, the gradient and the product carry a relative error of their dtype's eps.
    A stream whose end nobody reads has no gradient: its block is dead and scores exactly 0.
    """
    kind = torch.promote_types(after[0].dtype, torch.float32)
    value = torch.zeros(len(batch), dtype=kind, device=after[0].device)
    variance = torch.zeros_like(value)
    for low, high, gradient in zip(before, after, gradients, strict=True):
        if gradient is not None:
            a, b, g = low.to(kind), high.to(kind), gradient.to(kind)
            product = g * (b - a)
            value += per_sample(product, batch)
            spread = g.square() * (a.square() + b.square()) + 2 * product.square()
            variance += per_sample(spread, batch) * torch.finfo(high.dtype).eps ** 2
    return value, variance.sqrt()


def _require_own_rows(loss: Tensor, stream: Stream, batch: Batch) -> None:
    """The first sample's loss must depend on the first sample's rows only."""
    states = stream.after[-1]
    found = torch.autograd.grad(loss[0], states, retain_graph=True, allow_unused=True)
    for state, gradient in zip(states, found, strict=True):
        share = max(1, state.shape[0] // len(batch))
        if gradient is not None and bool(gradient[share:].nan_to_num(0.0).any()):
            raise ScoreError(
                f"the loss of sample {batch.sample_ids[0]} depends on rows of other samples: rows are not ordered "
                "sample by sample, or samples mix; probe with batch size 1"
            )
