# SPDX-License-Identifier: Apache-2.0
"""What a policy was never trained to say is refused by name; a heuristic that permits nothing by itself."""

from dataclasses import replace

import numpy as np
import pytest
from artifact_factory import action_spec

from runtime.contract.action import ActionDim
from runtime.contract.conventions import (
    ActionKind,
    DimRole,
    Frame,
    GripperSign,
    HoldRule,
    NormMethod,
    RotationConvention,
    Unit,
)
from runtime.contract.normalization import Normalization
from runtime.errors import ContractError
from runtime.safety.plausibility import Plausibility

DELTA = action_spec()  # seven dimensions, the last one a gripper from -1 to 1
JOINTS = replace(
    DELTA, dims=tuple(ActionDim(name, DimRole.JOINT, Unit.RADIAN, -2.0, 4.0) for name in ("a", "b")),
    kind=ActionKind.ABSOLUTE, frame=Frame.JOINT, rotation=RotationConvention.NONE, gripper=GripperSign.NONE,
    hold=HoldRule.REPEAT_LAST,
)  # fmt: skip


def rows(*values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_rows_inside_the_range_are_plausible_and_its_ends_are_inside():
    assert Plausibility.of(JOINTS).objection(rows((-2.0, 4.0), (4.0, -2.0))) == ""


def test_three_half_ranges_from_the_middle_are_the_end_and_what_lies_beyond_is_named():
    plausible = Plausibility.of(JOINTS)  # middle 1, half range 3
    assert "row" not in plausible.objection(rows((10.0, 1.0), (10.0, 1.0), (10.0, 1.0)))
    for beyond in (10.01, -8.01):
        assert f"row 2 asks b for {beyond}, the policy's own range is -2 to 4" in plausible.objection(
            rows((1.0, 1.0), (1.0, 1.0), (1.0, beyond))
        )
    assert "row 0 asks a for nan" in plausible.objection(rows((np.nan, 1.0)))


def test_half_of_the_numbers_may_lie_outside_and_no_more():
    plausible = Plausibility.of(JOINTS)
    half = rows((4.1, 1.0), (4.1, 1.0))
    assert plausible.objection(half) == ""
    more = np.full((10, 2), 4.1)
    more.flat[11:] = 1.0
    assert "55% of the chunk lie beyond" in plausible.objection(more)
    assert "75% of the chunk lie beyond" in plausible.objection(rows((4.1, 1.0), (4.1, 4.1)))


def test_a_step_of_a_whole_range_is_the_largest_and_the_jump_is_named():
    plausible = Plausibility.of(JOINTS)
    assert plausible.objection(rows((-2.0, 0.0), (4.0, 0.0))) == ""
    assert "a jumps from row 1 to row 2 by 1.1 trained ranges" in plausible.objection(
        rows((-2.0, 0.0), (-2.0, 0.0), (4.6, 0.0), (4.6, 0.0))
    )


def test_rows_of_deltas_are_steps_themselves_and_may_turn_round_from_end_to_end():
    one, gripper = np.zeros(7), np.zeros(7)
    one[0], gripper[6] = 0.05, 1.0
    plausible = Plausibility.of(DELTA)
    assert plausible.objection(np.stack([-one, one, -one])) == ""
    assert plausible.objection(np.stack([-1.9 * one, 1.9 * one, 0 * one])) == ""
    assert "dx jumps" in plausible.objection(np.stack([-2.1 * one, 2.1 * one, 0 * one]))


def test_a_gripper_may_slam_and_lie_at_its_ends():
    grips = np.zeros((8, 7))
    grips[:, 6] = 2.9 * np.where(np.arange(8) % 2, 1.0, -1.0)
    assert Plausibility.of(DELTA).objection(grips) == ""
    only = replace(
        DELTA, dims=DELTA.dims[-1:], frame=Frame.JOINT, rotation=RotationConvention.NONE
    )  # nothing but a gripper
    assert Plausibility.of(only).objection(grips[:, 6:]) == ""


def test_arm_whose_gripper_is_well_may_still_lie_outside_its_range():
    far = np.zeros((8, 7))
    far[:, :4] = 1.5 * DELTA.high[:4]
    assert "67% of the chunk lie beyond" in Plausibility.of(DELTA).objection(far)
    far[:, 3] = 0.0
    assert Plausibility.of(DELTA).objection(far) == ""


def test_one_row_has_no_steps():
    assert Plausibility.of(JOINTS).objection(rows((0.0, 0.0))) == ""


@pytest.mark.parametrize("method", [NormMethod.Q01_Q99, NormMethod.MIN_MAX])
def test_trained_ranges_replace_those_of_the_spec_in_physical_units(method):
    trained = Normalization.of(method, np.full(7, -0.4), np.full(7, 0.2))
    found = Plausibility.of(DELTA, trained)
    assert found.low == pytest.approx(-0.4 * DELTA.scale)
    assert found.high == pytest.approx(0.2 * DELTA.scale)
    assert found.step == pytest.approx(2.0 * 0.6 * DELTA.scale)


def test_mean_and_deviation_are_a_range_of_three_deviations_to_each_side():
    found = Plausibility.of(JOINTS, Normalization.of(NormMethod.MEAN_STD, [0.5, -1.0], [0.1, 0.5]))
    assert found.low == pytest.approx([0.2, -2.5])
    assert found.high == pytest.approx([0.8, 0.5])
    assert found.step == pytest.approx([0.6, 3.0])


def test_what_was_not_trained_or_never_moved_keeps_the_range_of_the_spec():
    trained = Normalization.of(NormMethod.MIN_MAX, [0.0, 0.3], [1.0, 0.3], [False, True])
    found = Plausibility.of(JOINTS, trained)
    assert found.low.tolist() == [-2.0, -2.0]
    assert found.high.tolist() == [4.0, 4.0]


def test_identity_says_nothing_about_ranges():
    found = Plausibility.of(JOINTS, Normalization.identity(2))
    assert (found.low.tolist(), found.high.tolist()) == ([-2.0, -2.0], [4.0, 4.0])


def test_statistics_of_another_policy_are_refused():
    with pytest.raises(ContractError, match="statistics of 3 dimensions, expected 2"):
        Plausibility.of(JOINTS, Normalization.of(NormMethod.MIN_MAX, np.zeros(3), np.ones(3)))
