# SPDX-License-Identifier: Apache-2.0
"""Axis marks and number texts: laws."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.report.numbers import e_value, points, rate, ticks
from compress.report.svg import Canvas, Scale

FINITE = st.floats(-1e9, 1e9, allow_nan=False)


@given(FINITE, st.floats(1e-6, 1e9))
def test_axis_marks_cover_the_data_evenly_and_are_few(low: float, span: float) -> None:
    high = low + span
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        return  # closer than any axis could show
    marks = ticks(low, high)
    slack = 1e-6 * (high - low) + 1e-9 * abs(low)
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert 2 <= len(marks) <= 8
    steps = [b - a for a, b in pairwise(marks)]
    assert max(steps) - min(steps) <= 1e-6 * max(steps) + 1e-9 * max(map(abs, marks))


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_a_scale_never_draws_outside_its_range(low: float, value: float) -> None:
    assert 10.0 <= Scale(low, low + 7.0, 10.0, 90.0)(value) <= 90.0


def test_equal_values_still_have_an_axis() -> None:
    assert len(ticks(3.0, 3.0)) >= 2


@pytest.mark.parametrize(("log_e", "text"), [(None, "certain"), (0.0, "1"), (2.995732273553991, "20")])
def test_wealth_is_shown_as_a_plain_number(log_e: float | None, text: str) -> None:
    assert e_value(log_e) == text


def test_a_rate_without_trials_is_a_dash_and_a_loss_has_a_sign() -> None:
    assert rate(None) == rate({"trials": 0}) == "\u2013"
    assert points(-0.041) == "\u22124.1"


@given(st.text(min_size=1))
def test_no_text_breaks_out_of_a_drawing(text: str) -> None:
    canvas = Canvas("n", text, text, 10)
    canvas.text(0, 0, text, title=text)
    markup = canvas.markup()
    assert markup.count("<") - markup.count("</") == 5  # svg, title, desc, text, its title
