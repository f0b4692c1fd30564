# SPDX-License-Identifier: Apache-2.0
"""Costs are counted and timed on the real modules."""

from __future__ import annotations

import pytest
from algorithm_factory import batches, config, policy

from compress.baselines import SCORERS
from compress.costs import Timing, count_flops, flops_share, measure, time_parts
from compress.dtr.drop import drop
from compress.models.base import ModelError
from compress.plan import PlanSpec, make_plan


def test_block_flops_are_the_textbook_sum() -> None:
    model = policy(depth=2, vision_depth=1)
    shape = config()
    tokens = 2 * (shape.image_size // shape.patch_size // 2) ** 2 + 1 + shape.max_tokens + shape.horizon
    width, hidden = shape.language.width, shape.language.mlp_width
    batch = batches(model, 3, 3)[0]
    mlp = 2 * tokens * 3 * width * hidden
    attention = 2 * tokens * 4 * width * width + 4 * tokens * tokens * width
    for part, wanted in (("mlp", mlp), ("attention", attention), ("block", mlp + attention)):
        assert count_flops(model, batch, model.groups[0], part)[1] == (wanted, wanted)


def test_whole_is_the_sum_of_what_leaves_and_what_stays() -> None:
    model = policy(depth=3, vision_depth=1)
    batch = batches(model, 2, 2)[0]
    costs = measure(model, batch, "language")
    plan = make_plan(SCORERS["uniform"](model, [], "language", "block"), PlanSpec(drop=1), costs)
    drop(model, plan)
    after = measure(model, batch, "language")
    assert after.total_parameters == plan.predicted["parameters"]
    assert after.total_flops / costs.total_flops == pytest.approx(plan.predicted["flops_share"])
    assert flops_share(model, batch) == pytest.approx(plan.predicted["flops_share"])
    assert flops_share(model, batch, policy(depth=3, vision_depth=1)) == pytest.approx(plan.predicted["flops_share"])


def test_share_of_a_stack_without_any_mlp_needs_the_whole_policy() -> None:
    model = policy(depth=1, vision_depth=1)
    batch = batches(model, 2, 2)[0]
    drop(model, make_plan(SCORERS["uniform"](model, [], "language", "mlp"), PlanSpec(part="mlp", drop=1)))
    with pytest.raises(ModelError, match="give the unpruned policy as teacher"):
        flops_share(model, batch)
    assert 0.1 < flops_share(model, batch, policy(depth=1, vision_depth=1)) < 1.0


def test_timed_parts_are_inside_the_whole() -> None:
    model = policy(depth=2, vision_depth=1)
    timing = time_parts(model, batches(model, 1, 1)[0], model.groups[0], repeats=3, warm_up=1)
    assert 0.0 < sum(timing.part_ms) < timing.total_ms
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.module.modules())


def test_injected_timer_is_believed() -> None:
    model = policy(depth=2, vision_depth=1)
    batch = batches(model, 1, 1)[0]
    costs = measure(model, batch, "language", timer=lambda *_: Timing(9.0, (4.0, 1.0), "station"))
    assert (costs.total_latency_ms, costs.latency_ms, costs.device) == (9.0, (4.0, 1.0), "station")
    assert costs.left((0,))["latency_ms"] == 5.0
