# SPDX-License-Identifier: Apache-2.0
"""A clock that is set is told from time that passes, and by how much; what was commanded moves with it."""

import numpy as np
import pytest
from artifact_factory import action_spec

from runtime.contract.chunk import ActionChunk
from runtime.control.clock_watch import ClockWatch
from runtime.safety.filter import SafetyFilter
from runtime.safety.limits import CartesianLimits, Timing
from runtime.safety.motion import ChunkRejected, Measured, Situation

SPEC = action_spec()
LIMITS = CartesianLimits(0.5, 4.0, 8.0, 80.0, (-0.5, -0.5, 0.0), (0.5, 0.5, 0.8), 0.05, 0.3)


@pytest.mark.parametrize("passed", [0.0, 0.25, 0.5, -1e-7])
def test_time_that_passes_is_no_step(passed):
    watch = ClockWatch(0.5)
    assert watch.look(100.0, 7.0) is None
    assert watch.look(100.0 + passed, 7.25) is None


@pytest.mark.parametrize(("now", "by"), [(150.0, 49.75), (50.0, -50.25), (100.5625, 0.3125), (99.75, -0.5)])
def test_clock_that_was_set_is_told_with_what_the_other_clock_did_not_go(now, by):
    watch = ClockWatch(0.5)
    watch.look(100.0, 7.0)
    step = watch.look(now, 7.25)
    assert step.by_s == by
    assert step.text == f"the clock went from 100.000 s to {now:.3f} s between two ticks"
    assert watch.look(now + 0.25, 7.5) is None, "once"


def at(now: float) -> Situation:
    measured = Measured(now, {}, np.array([0.0, 0.0, 0.4]), np.zeros(3))
    return Situation(now, measured, measured)


def chunk(stamp: float) -> ActionChunk:
    values = np.tile(np.array([0.2, 0, 0, 0, 0, 0, 1.0], np.float32), (SPEC.horizon, 1))
    return ActionChunk(values, stamp, SPEC.dt_s, SPEC.names)


@pytest.mark.parametrize("by", [-50.0, 50.0])
def test_filter_goes_on_in_the_new_time(by):
    filter_ = SafetyFilter(SPEC, LIMITS, Timing())
    filter_.command(filter_.admit(chunk(100.0), at(100.0)), 0.0, at(100.0))
    filter_.clock_stepped(by)
    with pytest.raises(ChunkRejected, match="not newer"):
        filter_.admit(chunk(100.0 + by), at(100.02 + by))
    assert filter_.admit(chunk(100.01 + by), at(100.02 + by))
    stop = filter_.brake(at(100.02 + by))
    assert stop.velocities[0, 0] == pytest.approx(0.2 - 8.0 * 0.02), "from the speed that is being played"
