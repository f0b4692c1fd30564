# SPDX-License-Identifier: Apache-2.0
"""Chunks meet in absolute time: nothing jumps at the seam, agreement stays agreement, a gripper is never half open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from artifact_factory import policy_spec
from control_world import World, values
from hypothesis import given
from hypothesis import strategies as st

from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, HoldRule
from runtime.control.blend import Blend, Blender, Kind
from runtime.errors import BackendError, ContractError
from runtime.inference.delay import delay_of, measure

SPEC = policy_spec().action
GRIP = len(SPEC.names) - 1
H, DT = SPEC.horizon, SPEC.dt_s


def chunk(x: float | np.ndarray, stamp_s: float, grip: float = 1.0) -> ActionChunk:
    values = np.zeros((H, len(SPEC.names)), np.float32)
    values[:, 0], values[:, GRIP] = x, grip
    return ActionChunk(values, stamp_s, DT, SPEC.names)


def use(blender: Blender, new: ActionChunk, now_s: float, behind_s: float = 0.0) -> ActionChunk:
    met = blender.meet(new, now_s, behind_s)
    blender.keep(new, met)
    return met


@pytest.mark.parametrize("kind", list(Kind))
def test_the_first_chunk_is_used_as_it_is(kind: Kind) -> None:
    first = chunk(0.3, 1.0)
    assert np.array_equal(use(Blender(SPEC, Blend(kind)), first, 1.05).values, first.values)


def test_replace_is_the_newest() -> None:
    blender, new = Blender(SPEC, Blend(Kind.REPLACE)), chunk(0.5, 1.1)
    use(blender, chunk(0.3, 1.0), 1.05)
    assert use(blender, new, 1.15) is new


@pytest.mark.parametrize("kind", [Kind.OVERLAP, Kind.ENSEMBLE])
@given(steps=st.integers(0, H - 1), x=st.floats(-1, 1, width=32))
def test_chunks_that_agree_stay_as_they_are(kind: Kind, steps: int, x: float) -> None:
    """A plan in absolute time, told twice, with any number of rows between the tellings."""
    plan = x + 0.01 * np.arange(2 * H)
    blender = Blender(SPEC, Blend(kind))
    use(blender, chunk(plan[:H], 1.0), 1.0)
    again = chunk(plan[steps : steps + H], 1.0 + steps * DT)
    assert np.allclose(use(blender, again, again.stamp_s + 0.02).values, again.values, atol=1e-6)


def test_what_is_frozen_is_the_old_chunks_and_then_the_new_one_fades_in() -> None:
    blender = Blender(SPEC, Blend(Kind.OVERLAP, frozen_s=2 * DT, fade_s=2 * DT))
    use(blender, chunk(0.0, 1.0), 1.0)
    x = use(blender, chunk(1.0, 1.0), 1.0).values[:, 0]
    assert x[:4] == pytest.approx([0.0, 0.0, 0.5, 1.0])
    assert (x[3:] == 1.0).all()


def test_the_gripper_is_one_of_the_two_never_between() -> None:
    for kind in (Kind.OVERLAP, Kind.ENSEMBLE):
        blender = Blender(SPEC, Blend(kind))
        use(blender, chunk(0.0, 1.0, grip=-1.0), 1.0)
        assert set(np.unique(use(blender, chunk(1.0, 1.0, grip=1.0), 1.0).values[:, GRIP])) <= {-1.0, 1.0}


def test_an_ensemble_weighs_as_act_does() -> None:
    blender = Blender(SPEC, Blend(Kind.ENSEMBLE, decay=0.5))
    for x in (0.0, 0.0):
        use(blender, chunk(x, 1.0), 1.0)
    weights = np.exp(-0.5 * np.arange(3))
    assert use(blender, chunk(1.0, 1.0), 1.0).values[0, 0] == pytest.approx(weights[2] / weights.sum())


def test_rows_meet_by_time_not_by_index() -> None:
    blender = Blender(SPEC, Blend(Kind.OVERLAP, frozen_s=100.0, fade_s=0.0))
    use(blender, chunk(np.arange(H), 1.0), 1.0)
    late = use(blender, chunk(-1.0, 1.0 + 3 * DT), 1.0 + 3 * DT).values[:, 0]
    assert late.tolist() == [*range(3, H), -1.0, -1.0, -1.0]


def test_a_chunk_that_has_fallen_behind_is_met_where_it_is() -> None:
    blender = Blender(SPEC, Blend(Kind.OVERLAP, frozen_s=100.0, fade_s=0.0))
    use(blender, chunk(np.arange(H), 1.0), 1.0)
    late = use(blender, chunk(-1.0, 1.0 + 3 * DT), 1.0 + 3 * DT, behind_s=2 * DT).values[:, 0]
    assert late[0] == 1.0


def test_places_are_met_between_rows_and_rates_as_they_hold() -> None:
    half = 1.0 + 0.5 * DT
    for kind, expected in ((ActionKind.ABSOLUTE, 0.5), (ActionKind.DELTA, 0.0)):
        hold = HoldRule.REPEAT_LAST if kind is ActionKind.ABSOLUTE else HoldRule.ZERO_MOTION
        dims = tuple(dim for dim in SPEC.dims if dim.role.value != "rotation")
        spec = replace(SPEC, kind=kind, hold=hold, dims=dims, rotation="none")
        values = np.zeros((H, len(dims)), np.float32)
        values[:, 0] = np.arange(H)
        blender = Blender(spec, Blend(Kind.OVERLAP, frozen_s=100.0))
        use(blender, ActionChunk(values, 1.0, DT, spec.names), 1.0)
        met = use(blender, ActionChunk(values * 0 - 1, half, DT, spec.names), half)
        assert met.values[0, 0] == pytest.approx(expected)


def test_what_was_refused_has_no_voice() -> None:
    blender = Blender(SPEC, Blend(Kind.OVERLAP, frozen_s=100.0))
    use(blender, chunk(0.1, 1.0), 1.0)
    blender.meet(chunk(0.9, 1.0), 1.0)
    assert use(blender, chunk(0.5, 1.0), 1.0).values[:, 0] == pytest.approx(0.1)


def test_what_does_not_fit_is_left_to_the_filter() -> None:
    blender = Blender(SPEC, Blend(Kind.ENSEMBLE))
    use(blender, chunk(0.1, 1.0), 1.0)
    odd = ActionChunk(np.zeros((H + 1, len(SPEC.names)), np.float32), 1.0, DT, SPEC.names)
    assert blender.meet(odd, 1.0) is odd


def test_nothing_is_remembered_after_a_stop() -> None:
    blender, new = Blender(SPEC, Blend(Kind.OVERLAP)), chunk(0.5, 1.1)
    use(blender, chunk(0.3, 1.0), 1.05)
    blender.clear()
    assert np.array_equal(use(blender, new, 1.15).values, new.values)


def test_absolute_rotations_are_not_averaged() -> None:
    spec = replace(SPEC, kind=ActionKind.ABSOLUTE, hold=HoldRule.REPEAT_LAST)
    with pytest.raises(ContractError, match="replace"):
        Blender(spec, Blend(Kind.ENSEMBLE))


@pytest.mark.parametrize("bad", [{"kind": "average"}, {"frozen_s": -1.0}, {"fade_s": float("nan")}])
def test_nonsense_is_refused(bad: dict) -> None:
    with pytest.raises(ContractError, match="blend"):
        Blend(**bad)


def test_the_delay_counts_rows_that_are_over_when_the_answer_comes() -> None:
    assert delay_of([0.049], 0.05).rows == 1
    assert delay_of([0.05], 0.05).rows == 1
    assert delay_of([0.051], 0.05).rows == 2
    delay = delay_of([0.12] * 99 + [5.0], 0.05)
    assert delay.max_s == 5.0
    with pytest.raises(BackendError, match="execute_rows"):
        delay_of([0.3], 0.05).require(SPEC, SPEC.horizon - 5)
    delay_of([0.3], 0.05).require(SPEC, SPEC.horizon - 6)


def test_first_calls_do_not_count() -> None:
    seconds = iter([9.0, 9.0, 9.0, *[0.01] * 20])
    assert measure(lambda: next(seconds), 0.05).max_s == 0.01


@pytest.mark.parametrize("seconds", [[], [float("nan")], [-1.0]])
def test_no_measurement_is_no_permission(seconds: list[float]) -> None:
    with pytest.raises(BackendError):
        delay_of(seconds, 0.05)


@pytest.mark.parametrize("kind", [Kind.OVERLAP, Kind.ENSEMBLE])
def test_a_chunk_that_was_slowed_speaks_about_the_instants_in_which_it_is_executed(kind: Kind) -> None:
    blender, old = Blender(SPEC, Blend(kind, frozen_s=10.0, decay=100.0)), chunk(np.arange(H) / 10, 1.0, grip=0.5)
    blender.keep(old, blender.meet(old, 1.0), slowed=2.0)
    met = blender.meet(chunk(-1.0, 1.0 + 4 * DT, grip=0.5), 1.0 + 4 * DT)
    assert met.values[:, 0] == pytest.approx(np.array([2, 2, 3, 3, 4, 4, 5, 5]) / 20), (
        "half of a delta in half of its time"
    )
    assert met.values[:, GRIP] == pytest.approx(0.5)


def test_rows_that_the_filter_cut_off_say_nothing() -> None:
    blender, old, new = Blender(SPEC, Blend(Kind.OVERLAP, frozen_s=10.0)), chunk(0.4, 1.0), chunk(-0.2, 1.0 + DT)
    blender.keep(old, blender.meet(old, 1.0), rows=3)
    assert blender.meet(new, 1.0 + DT).values[:, 0] == pytest.approx([0.4, 0.4] + [-0.2] * (H - 2))


def test_a_number_that_is_no_plan_is_refused_although_a_mean_would_hide_it() -> None:
    """Also for the next mean: what was refused has no voice."""

    def answers(call: int) -> np.ndarray:
        wild = values(0.2)
        wild[1, 0] = 3.4 if call == 3 else 0.2  # half ranges; the chunk before halves it
        return wild

    world = World(answers, blend=Blend(Kind.ENSEMBLE, decay=0.0)).ready()
    world.controller.start("go")
    while len(world.policy.asked) < 6:
        world.step()
        assert len(world.ticks) < 200
    task = world.controller.task
    assert task is not None
    assert task.rejected == 1
    assert max(np.linalg.norm(t.command.velocities[0][:3]) for t in world.ticks if t.command is not None) < 0.21
