# SPDX-License-Identifier: Apache-2.0
"""Row by row where chunks meet: between which rows an older one is read, whose gripper counts, what is remembered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from artifact_factory import policy_spec

from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, HoldRule, RotationConvention
from runtime.control.blend import Blend, Blender, Kind
from runtime.errors import ContractError

SPEC = policy_spec().action
H, DT = SPEC.horizon, SPEC.dt_s
LINEAR = tuple(dim for dim in SPEC.dims if dim.role.value != "rotation")
PLACES = replace(
    SPEC, kind=ActionKind.ABSOLUTE, hold=HoldRule.REPEAT_LAST, dims=LINEAR, rotation=RotationConvention.NONE
)


def chunk(x: float | np.ndarray, stamp_s: float, grip: float | np.ndarray = 1.0, of=SPEC) -> ActionChunk:
    values = np.zeros((H, len(of.names)), np.float32)
    values[:, 0], values[:, -1] = x, grip
    return ActionChunk(values, stamp_s, DT, of.names)


def use(blender: Blender, new: ActionChunk, now_s: float) -> ActionChunk:
    met = blender.meet(new, now_s)
    blender.keep(new, met)
    return met


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_place_between_any_two_rows_of_the_older_chunk_lies_between_them(share):
    """Its last row holds; a gripper is never between."""
    places = np.array([3.0, -1.0, 0.5, 2.0, 7.0, -2.0, 4.0, 1.0])
    grips = np.array([1, -1, -1, 1, 1, -1, 1, -1])
    blender = Blender(PLACES, Blend(Kind.OVERLAP, frozen_s=100.0))
    use(blender, chunk(places, 1.0, grips, PLACES), 1.0)
    met = blender.meet(chunk(-9.0, 1.0 + share * DT, of=PLACES), 1.0)
    between = (1.0 - share) * places[:-1] + share * places[1:]
    assert met.values[:, 0] == pytest.approx([*between, places[-1]], abs=1e-5)
    assert met.values[:, -1].tolist() == grips.tolist()


@pytest.mark.parametrize("kind", [Kind.OVERLAP, Kind.ENSEMBLE])
def test_rows_on_time_up_to_rounding_are_those_rows(kind):
    blender = Blender(PLACES, Blend(kind, frozen_s=100.0, decay=0.0))
    use(blender, chunk(np.arange(H), 1.0, of=PLACES), 1.0)
    for off in (-1e-9, 0.0, 1e-9):
        values = blender.meet(chunk(np.arange(H) + 2.0, 1.0 + 2 * DT + off, of=PLACES), 1.0).values[:, 0]
        assert values == pytest.approx(np.arange(H) + 2.0, abs=1e-4)


def test_gripper_changes_over_where_the_new_chunk_has_the_greater_part():
    blender = Blender(SPEC, Blend(Kind.OVERLAP, frozen_s=DT, fade_s=4 * DT))
    use(blender, chunk(0.0, 1.0, -1.0), 1.0)
    met = blender.meet(chunk(1.0, 1.0, 1.0), 1.0)
    assert met.values[:6, 0] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 1.0], abs=1e-6)
    assert met.values[:2, -1].tolist() == [-1.0, -1.0]
    assert met.values[3:, -1].tolist() == [1.0] * (H - 3)
    exact = Blender(SPEC, Blend(Kind.OVERLAP, frozen_s=0.0, fade_s=2 * DT))
    use(exact, chunk(0.0, 1.0, -1.0), 1.0)
    half = exact.meet(chunk(1.0, 1.0, 1.0), 1.0)
    assert half.values[0, 0] == 0.5
    assert half.values[0, -1] == 1.0, "as much of the one as of the other: the newer"


def test_ensemble_meets_by_time_row_by_row():
    blender = Blender(SPEC, Blend(Kind.ENSEMBLE, decay=0.0))
    use(blender, chunk(np.arange(H), 1.0), 1.0)
    met = blender.meet(chunk(np.arange(H), 1.0 + 3 * DT), 1.0)
    assert met.values[:, 0] == pytest.approx([(k + k + 3) / 2.0 if k + 3 < H else k for k in range(H)], abs=1e-6)


def test_ensemble_remembers_what_the_policy_said_and_overlap_what_was_used():
    ensemble = Blender(SPEC, Blend(Kind.ENSEMBLE, decay=0.0))
    for x in (0.0, 0.6):
        use(ensemble, chunk(x, 1.0), 1.0)
    assert use(ensemble, chunk(0.9, 1.0), 1.0).values[0, 0] == pytest.approx((0.0 + 0.6 + 0.9) / 3.0)
    overlap = Blender(SPEC, Blend(Kind.OVERLAP, frozen_s=0.0, fade_s=2 * DT))
    for x in (0.0, 1.0):
        use(overlap, chunk(x, 1.0), 1.0)
    assert use(overlap, chunk(1.0, 1.0), 1.0).values[0, 0] == 0.75


def test_older_chunk_is_where_it_was_meant_if_nothing_is_said_of_falling_behind():
    blender, new = Blender(SPEC, Blend(Kind.OVERLAP, frozen_s=100.0)), chunk(-1.0, 1.0)
    use(blender, chunk(np.arange(H), 1.0), 1.0)
    assert np.array_equal(blender.meet(new, 1.0).values, blender.meet(new, 1.0, 0.0).values)


def test_chunk_of_other_names_is_left_to_the_filter():
    blender = Blender(SPEC, Blend(Kind.ENSEMBLE))
    use(blender, chunk(0.1, 1.0), 1.0)
    odd = ActionChunk(chunk(0.5, 1.0).values, 1.0, DT, SPEC.names[::-1])
    assert blender.meet(odd, 1.0) is odd


def test_kind_may_be_written_as_in_a_file():
    assert Blend("overlap").kind is Kind.OVERLAP  # type: ignore[arg-type]
    blender = Blender(SPEC, Blend("overlap", frozen_s=100.0))  # type: ignore[arg-type]
    use(blender, chunk(0.1, 1.0), 1.0)
    assert use(blender, chunk(0.5, 1.0), 1.0).values[:, 0] == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["frozen_s", "fade_s", "decay"])
def test_numbers_of_a_blend_are_finite_and_not_below_zero(name):
    assert getattr(Blend(**{name: 0.0}), name) == 0.0
    for value in (float("inf"), float("nan"), -1e-9):
        with pytest.raises(ContractError, match=f"blend: {name} is"):
            Blend(**{name: value})


def test_absolute_rotations_may_replace_each_other():
    spec = replace(SPEC, kind=ActionKind.ABSOLUTE, hold=HoldRule.REPEAT_LAST)
    blender, new = Blender(spec, Blend(Kind.REPLACE)), chunk(0.5, 1.0)
    use(blender, chunk(0.1, 1.0), 1.0)
    assert use(blender, new, 1.0) is new
