# SPDX-License-Identifier: Apache-2.0
"""`ActionChunk`: finite first, read-only, and addressed by time."""

from __future__ import annotations

import numpy as np
import pytest
from artifact_factory import action_spec
from hypothesis import given
from hypothesis import strategies as st

from runtime.contract.chunk import ActionChunk
from runtime.errors import PolicyOutputError


def chunk(values=None, stamp_s: float = 10.0) -> ActionChunk:
    rows = np.arange(56.0).reshape(8, 7) if values is None else values
    return ActionChunk.of(rows, action_spec(), stamp_s)


def test_chunk_is_a_read_only_float32_copy() -> None:
    source = np.zeros((8, 7))
    made = chunk(source)
    source[0, 0] = 1.0
    assert made.values[0, 0] == 0.0
    assert made.values.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        made.values[0, 0] = 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_non_finite_value_is_named_before_shape(bad: float) -> None:
    values = np.zeros((3, 9))
    values[2, 4] = bad
    with np.errstate(over="ignore"), pytest.raises(PolicyOutputError, match=r"at \[2, 4\], expected finite numbers"):
        chunk(values)


@pytest.mark.parametrize("shape", [(8, 6), (0, 7), (7,), (1, 8, 7)])
def test_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PolicyOutputError, match=r"found shape .*, expected \(H >= 1, 7\)"):
        chunk(np.zeros(shape))


def test_wrong_horizon_is_refused() -> None:
    with pytest.raises(PolicyOutputError, match="found 7 rows, expected 8"):
        chunk(np.zeros((7, 7)))


@pytest.mark.parametrize(("stamp_s", "dt_s"), [(np.nan, 0.05), (0.0, 0.0), (0.0, -1.0), (0.0, np.inf)])
def test_chunk_without_a_time_is_refused(stamp_s: float, dt_s: float) -> None:
    with pytest.raises(PolicyOutputError, match="expected finite, dt_s > 0"):
        ActionChunk(np.zeros((1, 1)), stamp_s, dt_s, ("a",))


@given(row=st.integers(0, 7), fraction=st.floats(0.0, 0.99), stamp_s=st.floats(0.0, 1e5))
def test_each_row_owns_its_interval(row: int, fraction: float, stamp_s: float) -> None:
    made = chunk(stamp_s=stamp_s)
    assert made.index_at(stamp_s + (row + fraction) * made.dt_s) == row


@pytest.mark.parametrize("time_s", [9.99, 10.4, 11.0, np.nan, np.inf])
def test_outside_its_time_a_chunk_says_nothing(time_s: float) -> None:
    made = chunk()
    assert made.end_s == pytest.approx(10.4)
    assert made.value_at(time_s) is None


def test_value_at_returns_the_row_of_that_time() -> None:
    made = chunk()
    np.testing.assert_array_equal(made.value_at(10.12), made.values[2])
