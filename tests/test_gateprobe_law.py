# SPDX-License-Identifier: Apache-2.0
"""GateProbe against its definition: a real gate, a hand-written loop, a dead block, and leave-one-out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_factory import batches, fitted, policy
from torch import Tensor, nn

from compress.baselines import SCORERS, one_of
from compress.gateprobe import gate_derivatives, probe, probe_together
from compress.models.base import VlaModel
from compress.probing import find_group, quiet
from compress.scores import rank_agreement

PARTS = ("block", "attention", "mlp")
ROLES = ("language", "vision.siglip")


class Gate(nn.Module):
    """alpha times what a writer writes; for a whole block, the stream plus alpha times what the block adds."""

    def __init__(self, inner: nn.Module, part: str, alpha: float) -> None:
        super().__init__()
        self.inner, self.part, self.alpha = inner, part, alpha

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(hidden_states, *args, **kwargs)
        if self.part == "attention":
            return self.alpha * output[0], *output[1:]
        return self.alpha * output if self.part == "mlp" else hidden_states + self.alpha * (output - hidden_states)


@contextmanager
def gated(model: VlaModel, role: str, index: int, part: str, alpha: float) -> Iterator[None]:
    group = find_group(model, role)
    stack = group.stack(model.module)
    holder, name = (stack, str(index)) if part == "block" else (stack[index], getattr(group, part))
    inner = getattr(holder, name)
    setattr(holder, name, Gate(inner, part, alpha))
    try:
        yield
    finally:
        setattr(holder, name, inner)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("role", ROLES)
def test_inner_product_is_the_derivative_of_a_real_gate(role: str, part: str) -> None:
    model = policy(depth=2, vision_depth=2, double=True)
    batch = batches(model, 2, 2, double=True)[0]
    with quiet(model.module):
        ((derivative, _),) = gate_derivatives(model, [(find_group(model, role), part)], batch)
        step = 1e-5
        for index in range(2):
            with gated(model, role, index, part, 1.0 + step):
                above = model.loss(batch)
            with gated(model, role, index, part, 1.0 - step):
                below = model.loss(batch)
            torch.testing.assert_close(derivative[:, index], (above - below) / (2 * step), rtol=1e-5, atol=1e-8)
    assert float(derivative.abs().min()) > 1e-7


@pytest.mark.parametrize("part", PARTS)
def test_gate_of_zero_is_the_silenced_block(part: str) -> None:
    from compress.leave_one_out import silenced

    model = policy(depth=3, vision_depth=1, double=True)
    batch = batches(model, 2, 2, double=True)[0]
    group = find_group(model, "language")
    with torch.no_grad():
        with gated(model, "language", 1, part, 0.0):
            gate = model.loss(batch)
        with silenced(group, group.stack(model.module)[1], part):
            silent = model.loss(batch)
    torch.testing.assert_close(gate, silent, rtol=1e-14, atol=1e-14)


def test_absolute_value_comes_before_the_mean() -> None:
    model = policy(depth=2, vision_depth=1, double=True)
    given = batches(model, 4, 2, double=True)
    group = find_group(model, "language")
    with quiet(model.module):
        singles = [
            gate_derivatives(model, [(group, "block")], one_of(b, i))[0][0][0] for b in given for i in range(len(b))
        ]
    by_hand = torch.stack(singles).abs().mean(dim=0)
    cancelling = torch.stack(singles).mean(dim=0).abs()
    np.testing.assert_allclose(probe(model, given).values, by_hand.numpy(), rtol=1e-9)
    assert not np.allclose(by_hand.numpy(), cancelling.numpy(), rtol=0.1)


def test_stacks_probed_together_score_as_if_probed_alone() -> None:
    model = policy(depth=2, vision_depth=2, double=True)
    given = batches(model, 4, 2, double=True)
    targets = (("vision.siglip", "block"), ("language", "block"), ("language", "mlp"), ("language", "attention"))
    for (role, part), together in zip(targets, probe_together(model, given, targets), strict=True):
        alone = probe(model, given, role, part)
        assert together.subject == alone.subject
        np.testing.assert_allclose(together.values, alone.values, rtol=1e-9)


def test_order_of_samples_does_not_matter() -> None:
    model = policy(depth=3, vision_depth=1, double=True)
    given = [one_of(b, i) for b in batches(model, 5, 5, double=True) for i in range(5)]
    there, back = probe(model, given), probe(model, given[::-1])
    assert there.values == back.values
    assert there.per_half == back.per_half
    assert there.digest() == back.digest()


@pytest.mark.parametrize("role", ROLES)
def test_batch_size_does_not_matter(role: str) -> None:
    model = policy(depth=2, vision_depth=2, double=True)
    small, large = (probe(model, batches(model, 6, size, double=True), role) for size in (1, 6))
    np.testing.assert_allclose(small.values, large.values, rtol=1e-9)
    assert small.sample_ids == large.sample_ids


def test_noise_covers_the_error_of_single_precision() -> None:
    single, double = policy(vision_depth=1), policy(vision_depth=1, double=True)
    found, exact = probe(single, batches(single, 6, 3)), probe(double, batches(double, 6, 3, double=True))
    error = np.abs(np.subtract(found.values, exact.values))
    assert (error <= 3 * np.asarray(found.noise)).all(), error / np.asarray(found.noise)
    assert max(found.noise) < 1e-4 * min(found.values)


def read_before_the_last_block(model: Any) -> None:
    """Rewire: the head sees what enters the last language block, so that block is computed and never read."""
    seen: list[Tensor] = []
    language = model.module.language
    language.layers[-1].register_forward_pre_hook(lambda _block, args: seen.append(args[0]))

    def swap(_module: nn.Module, _args: Any, output: Any) -> Any:
        output.last_hidden_state = seen.pop()
        return output

    language.register_forward_hook(swap)


def test_dead_last_block_scores_exactly_zero_and_cosine_cannot_see_it() -> None:
    model = policy(depth=4, vision_depth=1)
    read_before_the_last_block(model)
    given = batches(model, 4, 4)
    assert probe(model, given).values[-1] == 0.0
    assert min(probe(model, given).values[:-1]) > 0.0
    assert SCORERS["loo"](model, given, "language", "block").values[-1] == 0.0
    cosine = SCORERS["cosine"](model, given, "language", "block").values
    assert cosine[-1] > 0.01


@pytest.mark.parametrize("seed", [0, 3])
def test_ranks_like_leave_one_out_on_a_fitted_policy(seed: int) -> None:
    model, given = fitted(seed)
    oracle = SCORERS["loo"](model, given, "language", "block")
    spearman, kendall = rank_agreement(probe(model, given).values, oracle.values)
    assert spearman is not None
    assert kendall is not None
    assert spearman > 0.7, (spearman, oracle.values)
    assert kendall > 0.5


def test_tower_called_once_per_camera_scores_the_same() -> None:
    model = policy(depth=1, vision_depth=2, double=True)
    given = batches(model, 3, 3, double=True)
    together = probe(model, given, "vision.siglip").values
    tower = type(model.module.vision).forward

    def one_by_one(self: Any, pixel_values: Tensor, **kwargs: Any) -> Any:
        first, second = (tower(self, pixel_values=pixel_values[camera::2], **kwargs) for camera in (0, 1))
        states = torch.stack([first.last_hidden_state, second.last_hidden_state], dim=1)
        first.last_hidden_state = states.flatten(0, 1)
        return first

    model.module.vision.forward = one_by_one.__get__(model.module.vision)
    np.testing.assert_allclose(probe(model, given, "vision.siglip").values, together, rtol=1e-9)
