# SPDX-License-Identifier: Apache-2.0
"""What the loop tells a policy of the chunk in use: the same instants, frozen as far as the measured delay reaches,
and nothing where there is nothing to go on from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from artifact_factory import policy_spec
from control_world import TICK, World, values
from hypothesis import given
from hypothesis import strategies as st

from runtime.contract.chunk import ActionChunk
from runtime.contract.guidance import prefix_weights
from runtime.control.blend import Blend, Blender, Kind
from runtime.control.guide import REMEMBERED, Guide
from runtime.control.scheduler import Pace
from runtime.control.state import State

SPEC = policy_spec().action
H, D, DT = SPEC.horizon, len(SPEC.names), SPEC.dt_s
RTC = Blend(Kind.RTC, frozen_s=0.1, fade_s=0.1)


def plan(stamp_s: float, seed: int = 0) -> ActionChunk:
    return ActionChunk(np.random.default_rng(seed).normal(0, 0.2, (H, D)), stamp_s, DT, SPEC.names)


def in_use(chunk: ActionChunk, blend: Blend = RTC) -> Blender:
    blender = Blender(SPEC, blend)
    blender.guidance(chunk.stamp_s, chunk.stamp_s)
    blender.keep(chunk, blender.meet(chunk, chunk.stamp_s))
    return blender


@given(steps=st.integers(0, H - 1), behind=st.integers(0, 3))
def test_row_of_the_question_is_what_the_chunk_in_use_says_for_that_instant(steps: int, behind: int) -> None:
    old, now = plan(1.0), 1.0 + steps * DT
    said = in_use(old).guidance(now, now, behind * DT)
    first = steps - behind  # row of the old chunk that is due: what was slowed lies behind its own times
    told = [row for row in range(H) if 0 <= row + first < H]
    assert said is not None
    assert np.array_equal(said.commands[told], old.values[[row + first for row in told]])
    free = [row for row in range(H) if row not in told]
    assert not said.weights[free].any(), "where the old chunk says nothing the answer is free"
    assert first < 0 or said.weights[0] == 1.0


def test_chunk_that_is_over_guides_nothing() -> None:
    over = 1.0 + H * DT
    assert in_use(plan(1.0)).guidance(over, over) is None


@given(age=st.floats(0, 0.3), delay=st.floats(0, 0.3), frozen=st.floats(0, 0.2))
def test_what_is_over_by_the_time_of_the_answer_is_frozen(age: float, delay: float, frozen: float) -> None:
    """Rows that begin before age + delay + what is committed; then weights fall."""
    guide = Guide(SPEC, frozen)
    guide.asked(0.0)
    guide.answered(delay)
    said = guide.along(10.0 - age, 10.0, lambda time_s: np.zeros(D))
    assert said is not None
    rows = min(H, math.ceil((10.0 - (10.0 - age) + delay + frozen) / DT - 1e-6))
    assert np.array_equal(said.weights, prefix_weights(H, rows, H))


def test_delay_is_the_worst_of_the_last_and_an_old_one_is_forgotten() -> None:
    guide = Guide(SPEC, 0.0)
    assert guide.delay_s == 0.0
    for number, delay in enumerate((0.3, *[0.1] * (REMEMBERED - 1))):
        guide.asked(number)
        guide.answered(number + delay)
        assert guide.delay_s == pytest.approx(0.3)
    guide.answered(1e9)
    assert guide.delay_s == pytest.approx(0.3), "an answer that was not asked for measures nothing"
    guide.asked(50.0)
    guide.answered(50.1)
    assert guide.delay_s == pytest.approx(0.1)


@pytest.mark.parametrize("kind", [Kind.REPLACE, Kind.OVERLAP, Kind.ENSEMBLE])
def test_only_rtc_guides(kind: Kind) -> None:
    assert in_use(plan(1.0), Blend(kind)).guidance(1.1, 1.1) is None


def test_rtc_is_overlap_where_the_graph_cannot_be_guided() -> None:
    assert RTC.fitting(guided=True) is RTC
    assert RTC.fitting(guided=False) == Blend(Kind.OVERLAP, RTC.frozen_s, RTC.fade_s)
    for kind in (Kind.REPLACE, Kind.OVERLAP, Kind.ENSEMBLE):
        assert Blend(kind).fitting(guided=True) == Blend(kind).fitting(guided=False) == Blend(kind)


def running(latency_s: float = 0.06, **given_) -> World:
    world = World(answers=given_.pop("answers", lambda call: values(0.2)), latency_s=latency_s, blend=RTC, **given_)
    world.ready()
    world.controller.start("go")
    return world


def test_first_question_of_a_task_is_free_and_every_later_one_goes_on_from_the_chunk_in_use() -> None:
    world = running()
    world.step(100)
    assert world.controller.state is State.RUNNING
    first, *later = world.policy.guided
    assert first is None
    assert len(later) > 3
    for said in later:
        assert said is not None
        covered = said.weights > 0.0
        np.testing.assert_allclose(said.commands[covered], values(0.2)[: covered.sum()], atol=1e-6)


@pytest.mark.parametrize(("latency_s", "ticks"), [(0.02, 1), (0.05, 3), (0.1, 5)])
def test_frozen_rows_follow_the_delay_that_was_measured(latency_s: float, ticks: int) -> None:
    """In whole ticks, and what is committed after that; here an observation is as old as the tick that asks."""
    world = running(latency_s, pace=Pace(H, lead_s=0.3))
    world.step(100)
    for said in world.policy.guided[2:]:
        assert said is not None
        assert (said.weights == 1.0).sum() == math.ceil((ticks * TICK + RTC.frozen_s) / DT - 1e-6)
        assert (said.weights > 0.0).sum() >= 5


def test_nothing_from_before_a_stop_guides_the_next_task() -> None:
    world = running()
    world.step(60)
    world.controller.cancel()
    while world.controller.state is not State.ARMED:
        world.step()
    asked = len(world.policy.asked)
    world.controller.start("back")
    world.step(40)
    assert world.policy.guided[asked] is None
    assert world.policy.guided[asked + 1] is not None


def test_refused_chunk_does_not_guide() -> None:
    """The third answer is out of all bounds; the fourth question goes on from the second's chunk."""
    bad = np.full((H, D), 40.0, np.float32)
    world = running(answers=lambda call: bad if call == 2 else values(0.2))
    world.step(100)
    assert len(world.policy.guided) > 4
    for said in world.policy.guided[1:]:
        assert said is None or np.abs(said.commands).max() <= 1.0
