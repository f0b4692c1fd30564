# SPDX-License-Identifier: Apache-2.0
"""The other rankings, each against a slower or hand-written way to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from algorithm_factory import batches, policy

from compress.baselines import SCORERS, block_weights, one_of
from compress.leave_one_out import cached_losses, leave_one_out, naive_losses
from compress.models.surgery import ZeroMlp
from compress.probing import find_group
from compress.recipe_sections import Metric
from compress.scores import ScoreError

ROLES = ("language", "vision.siglip")


@pytest.mark.parametrize("part", ["block", "attention", "mlp"])
@pytest.mark.parametrize("role", ROLES)
def test_prefix_cache_gives_the_very_bits_of_naive_leave_one_out(role: str, part: str) -> None:
    model = policy(depth=3, vision_depth=2)
    batch, group = batches(model, 2, 2)[0], find_group(model, role)
    with torch.no_grad():
        base, losses = naive_losses(model, group, part, batch)
        cached_base, cached = cached_losses(model, group, part, batch, check=True)
    assert torch.equal(base, cached_base)
    assert torch.equal(losses, cached)
    assert len({float(loss) for loss in losses[:, 0]}) == len(losses)


def test_prefix_cache_runs_only_what_follows_the_block() -> None:
    model = policy(depth=3, vision_depth=1)
    batch, group = batches(model, 2, 2)[0], find_group(model, "language")
    calls = {"vision": 0, "mlp": 0}
    model.module.vision.post_layernorm.register_forward_hook(
        lambda *_: calls.__setitem__("vision", calls["vision"] + 1)
    )
    for block in model.module.language.layers:
        block.mlp.gate_proj.register_forward_hook(lambda *_: calls.__setitem__("mlp", calls["mlp"] + 1))
    with torch.no_grad():
        cached_losses(model, group, "block", batch)
    assert calls == {"vision": 1, "mlp": 3 + 2 + 1 + 0}


def test_module_with_a_memory_is_caught_by_the_check() -> None:
    model = policy(depth=2, vision_depth=1)
    batch, group = batches(model, 2, 2)[0], find_group(model, "language")
    count = iter(range(100))
    model.module.projector.register_forward_hook(lambda _m, _a, out: out + next(count))
    with torch.no_grad(), pytest.raises(ScoreError, match="keeps state between calls"):
        cached_losses(model, group, "block", batch, check=True)


def test_naive_and_cached_scores_agree_and_say_which_they_are() -> None:
    model = policy(depth=2, vision_depth=1)
    given = batches(model, 3, 2)
    naive, cached = (leave_one_out(model, given, "language", "block", cached=flag) for flag in (False, True))
    assert naive.values == cached.values
    assert (naive.extra["prefix_cached"], cached.extra["prefix_cached"]) == (False, True)


def test_cosine_is_one_minus_the_mean_token_cosine() -> None:
    model = policy(depth=2, vision_depth=1)
    given = batches(model, 2, 1)
    streams: list[tuple[torch.Tensor, torch.Tensor]] = []
    block = model.module.language.layers[1]
    hook = block.register_forward_hook(lambda _m, args, out: streams.append((args[0], out)))
    found = SCORERS["cosine"](model, given, "language", "block").values[1]
    hook.remove()
    wanted = [float(1 - torch.cosine_similarity(a, b, dim=-1).mean()) for a, b in streams]
    assert found == pytest.approx(np.mean(wanted), abs=1e-6)


def gradients_by_hand(double: bool = True) -> tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]]:
    """Weights and per-sample gradients of a two-block stack."""
    model = policy(depth=2, vision_depth=1, double=double)
    weights = block_weights(model, "language", "block")
    rows = []
    for batch in batches(model, 3, 3, double=True):
        for index in range(len(batch)):
            model.module.zero_grad()
            model.loss(one_of(batch, index)).sum().backward()
            rows.append([torch.cat([w.grad.flatten() for w in block]) for block in weights])
    return [[torch.cat([w.detach().flatten() for w in block]) for block in weights]], rows


def test_taylor_and_fisher_match_plain_backward() -> None:
    (weights,), rows = gradients_by_hand()
    taylor = [abs(np.mean([float(weights[i] @ row[i]) for row in rows])) for i in range(2)]
    fisher = [np.mean([float(row[i] @ row[i]) for row in rows]) for i in range(2)]
    model = policy(depth=2, vision_depth=1, double=True)
    given = batches(model, 3, 2, double=True)
    np.testing.assert_allclose(SCORERS["taylor"](model, given, "language", "block").values, taylor, rtol=1e-9)
    np.testing.assert_allclose(SCORERS["fisher"](model, given, "language", "block").values, fisher, rtol=1e-9)


@pytest.mark.parametrize("metric", ["taylor", "fisher", "magnitude"])
def test_writer_that_is_gone_weighs_nothing(metric: str) -> None:
    model = policy(depth=2, vision_depth=1)
    model.module.language.layers[0].mlp = ZeroMlp()
    values = SCORERS[metric](model, batches(model, 2, 2), "language", "mlp").values
    assert values[0] == 0.0
    assert values[1] > 0.0


def test_magnitude_doubles_with_the_weights() -> None:
    model = policy(depth=2, vision_depth=1)
    before = SCORERS["magnitude"](model, [], "language", "attention").values
    with torch.no_grad():
        for weight in model.module.language.layers[1].self_attn.parameters():
            weight *= 2.0
    after = SCORERS["magnitude"](model, [], "language", "attention").values
    assert after == pytest.approx((before[0], 2 * before[1]))


def test_random_is_its_seed() -> None:
    model = policy(depth=6, vision_depth=1)
    first, again, other = (SCORERS["random"](model, [], "language", "block", seed=s).values for s in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == list(range(6))


def test_uniform_keeps_every_second_block_at_half() -> None:
    order = SCORERS["uniform"](policy(depth=8, vision_depth=1), [], "language", "block").order()
    assert sorted(order[:4]) == [1, 3, 5, 7]
    assert sorted(order[:6]) == [1, 2, 3, 5, 6, 7]
    assert order[-1] == 0


def test_recipe_offers_every_metric_there_is() -> None:
    assert set(Metric.__args__) == set(SCORERS)  # type: ignore[attr-defined]
