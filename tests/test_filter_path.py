# SPDX-License-Identifier: Apache-2.0
"""A chunk's path: bounds that follow from its rows, slowed without leaving it, admitted twice it stays the same."""

import numpy as np
import pytest
from arm_models import seven
from filter_world import Cell, joint_spec

from runtime.contract.chunk import ActionChunk
from runtime.safety.bridge import bridge
from runtime.safety.reference import Reach, path_of, stretch

ARM = seven()
SPEC = joint_spec(ARM)
WIDE = Reach(*(np.array(x) for x in (ARM.limits.low, ARM.limits.high)), np.ones(7), np.full(7, 4.0), np.full(7, 40.0))


def rows(seed: int = 0, noise: float = 1e-3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(1, 51)[:, None] * 0.05
    return ARM.home + rng.uniform(0, 0.2, 7) * np.sin(rng.uniform(0.3, 1.5, 7) * t) + rng.normal(0, noise, (50, 7))


def test_bounds_are_the_differences_of_the_rows():
    values, dt_s = rows(), 0.05
    path = path_of(values, dt_s)
    p, v, a = path.at(np.linspace(0.05, path.end_s, 2000))
    padded = np.vstack([2 * values[0] - values[1], values, 2 * values[-1] - values[-2]])
    assert np.all(p >= values.min(axis=0) - 1e-12)
    assert np.all(p <= values.max(axis=0) + 1e-12)
    assert np.all(np.abs(v) <= np.abs(np.diff(values, axis=0)).max(axis=0) / dt_s + 1e-9)
    assert np.all(np.abs(a) <= np.abs(np.diff(values, n=2, axis=0)).max(axis=0) / dt_s**2 + 1e-9)
    assert path.jerks()[1:] == pytest.approx(np.diff(padded, n=3, axis=0) / dt_s**3, abs=1e-6)
    assert np.abs(path.positions[1:] - values).max() <= np.abs(np.diff(values, n=2, axis=0)).max() / 6 + 1e-12


def test_slowing_keeps_the_limits_and_the_path():
    for seed in range(5):
        path = path_of(rows(seed, noise=3e-3), 0.02)
        slower = stretch(path, WIDE)
        assert slower > 1.0
        slow = path_of(rows(seed, noise=3e-3), 0.02 * slower)
        assert np.all(np.abs(slow.jerks()) <= WIDE.jerk * (1 + 1e-9))
        assert np.all(np.abs(slow.accelerations) <= WIDE.rate * (1 + 1e-9))
        assert np.all(np.abs(slow.velocities) <= WIDE.speed * (1 + 1e-9))
        share = np.linspace(0, 1, 200)
        assert slow.at(share * slow.end_s)[0] == pytest.approx(path.at(share * path.end_s)[0], abs=1e-9)


def test_what_was_admitted_once_needs_no_more_slowing():
    first = path_of(rows(1, noise=3e-3), 0.02)
    again = path_of(rows(1, noise=3e-3), 0.02 * stretch(first, WIDE))
    assert stretch(again, WIDE) == pytest.approx(1.0, abs=1e-9)


def test_admitting_changes_no_row():
    cell = Cell(ARM, SPEC)
    values = rows(2).astype(np.float32)
    admitted = cell.filter.admit(ActionChunk(values, cell.now, 0.05, SPEC.names), cell.situation())
    assert admitted.rows == pytest.approx(values.astype(np.float64))
    assert admitted.ended_by == ""


def test_a_bridge_ends_on_the_path_with_its_speed():
    path = path_of(rows(3, noise=0.0), 0.05)
    state = (ARM.home + 0.01, np.full(7, 0.05), np.zeros(7))
    way = bridge(state, path, 0.2, 0.7, WIDE)
    assert way is not None
    p, v, a = path.at(0.2 + 0.7 * way.end_s)
    assert way.positions[-1] == pytest.approx(p[0], abs=1e-9)
    assert way.velocities[-1] == pytest.approx(0.7 * v[0], abs=1e-9)
    assert way.accelerations[-1] == pytest.approx(0.49 * a[0], abs=1e-8)
    assert np.all(np.abs(way.jerks()) <= WIDE.jerk)
    assert np.allclose([way.positions[0], way.velocities[0]], state[:2])


def test_no_bridge_where_the_limits_forbid_every_one():
    path = path_of(rows(3, noise=0.0), 0.05)
    fast = (ARM.home, np.full(7, 5.0), np.zeros(7))
    assert bridge(fast, path, 0.2, 1.0, WIDE) is None


def test_a_chunk_that_leaves_the_workspace_is_used_up_to_there():
    """The tool is led through the side of its box by the first joint."""
    t = np.arange(1, 51)[:, None] * 0.05
    values = ARM.home + np.eye(7)[0] * 0.9 * t
    values[:, 0] = np.minimum(values[:, 0], 1.6)
    far = Cell(ARM, joint_spec(ARM, 80))
    long = np.vstack([values, np.repeat(values[-1:], 30, axis=0)]).astype(np.float32)
    admitted = far.filter.admit(ActionChunk(long, far.now, 0.05, SPEC.names), far.situation())
    assert "the tool would be at" in admitted.ended_by
    assert 0 < len(admitted.rows) < 80
    reached = ARM.kinematics.places(admitted.rows).tcp
    assert np.all(reached[:, 0] >= ARM.limits.tool.workspace_low[0])


def test_a_range_that_is_left_ends_the_chunk_before():
    cell = Cell(ARM, SPEC)
    values = np.tile(ARM.home, (50, 1))
    values[:, 6] = ARM.home[6] + np.linspace(0, 2.5, 50)
    admitted = cell.filter.admit(ActionChunk(values.astype(np.float32), cell.now, 0.05, SPEC.names), cell.situation())
    assert "takes j7 to" in admitted.ended_by
    assert np.all(admitted.rows <= np.array(ARM.limits.high))
