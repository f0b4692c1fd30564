# SPDX-License-Identifier: Apache-2.0
"""Stop causes are closed, the first one is kept; percentiles from bins never understate."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.telemetry import Incident, LatencyHistogram, StopCause

NO_DEADLINE = settings(deadline=None)  # a busy machine is not a defect
DURATIONS = st.lists(st.floats(0.0, 1e3), min_size=1, max_size=200)
CAUSES = [
    "none", "cancelled", "finished", "stop_requested", "permit_lost", "enable_lost", "observation_stale",
    "observation_missing", "observation_skewed", "observation_frozen", "observation_invalid", "worker_died",
    "worker_timeout", "policy_error", "chunk_rejected", "chunk_late", "command_conflict", "command_late",
    "not_following", "clock_jump", "deactivated", "internal_error",
]  # fmt: skip


def filled(durations: list[float]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.add(duration)
    return histogram


def test_causes_are_a_closed_list() -> None:
    assert [cause.value for cause in StopCause] == CAUSES
    with pytest.raises(ValueError, match="tripped"):
        StopCause("tripped")


def test_first_cause_is_kept_and_later_ones_appended() -> None:
    incident = Incident()
    assert (incident.cause, incident.text, incident.first, incident.later) == (StopCause.NONE, "", None, ())
    assert incident.record(StopCause.WORKER_DIED, "signal 9", 1.0)
    assert not incident.record(StopCause.CHUNK_LATE, "nothing left to play", 1.2)
    assert not incident.record(StopCause.WORKER_DIED, "again", 1.4)
    assert (incident.cause, incident.text) == (StopCause.WORKER_DIED, "signal 9")
    assert [(e.cause.value, e.time_s) for e in incident.later] == [("chunk_late", 1.2), ("worker_died", 1.4)]


def test_incident_without_a_cause_is_refused() -> None:
    incident = Incident()
    with pytest.raises(ValueError, match="expected the reason of a stop"):
        incident.record(StopCause.NONE, "nothing", 0.0)
    assert incident.first is None


def test_incident_of_a_flapping_cause_stays_small() -> None:
    incident = Incident()
    for tick in range(Incident.MAX_EVENTS + 10):
        incident.record(StopCause.PERMIT_LOST, "no permit", float(tick))
    assert (incident.first.time_s, len(incident.later), incident.dropped) == (0.0, Incident.MAX_EVENTS - 1, 10)


def test_incident_is_plain_json() -> None:
    incident = Incident()
    incident.record(StopCause.CLOCK_JUMP, "went back", math.nan)
    said = json.loads(json.dumps(incident.to_json(), allow_nan=False))
    event = {"cause": "clock_jump", "text": "went back", "time_s": None}
    assert said == {"cause": "clock_jump", "text": "went back", "events": [event], "dropped": 0}


@NO_DEADLINE
@given(DURATIONS, st.floats(0.001, 100.0))
def test_percentile_never_understates_and_hardly_overstates(durations: list[float], percent: float) -> None:
    true = float(np.percentile(durations, percent, method="inverted_cdf"))
    found = filled(durations).percentile(percent)
    assert found >= true
    assert found <= max(true * 1.048, min(1e-5, max(durations))) or true >= 100.0
    assert found <= max(durations)


@NO_DEADLINE
@given(DURATIONS, DURATIONS)
def test_merge_equals_adding_everything(one: list[float], other: list[float]) -> None:
    merged = filled(one)
    merged.merge(filled(other))
    assert merged.to_json() == filled(one + other).to_json()


def test_merge_with_nothing_changes_nothing() -> None:
    histogram, empty = filled([0.002]), LatencyHistogram()
    histogram.merge(LatencyHistogram())
    assert (histogram.count, histogram.max_s) == (1, 0.002)
    empty.merge(histogram)
    assert empty.to_json() == histogram.to_json()


def test_sample_on_an_edge_belongs_to_the_bin_above() -> None:
    for edge, value in enumerate(LatencyHistogram.EDGES_S):
        assert filled([value]).to_json()["counts"].index(1) == edge + 1
        assert filled([float(np.nextafter(value, 0.0))]).to_json()["counts"].index(1) == edge


def test_nothing_measured_is_not_fast() -> None:
    empty = LatencyHistogram()
    assert all(math.isnan(value) for value in (empty.p50_s, empty.p95_s, empty.p99_s, empty.max_s))
    said = json.loads(json.dumps(empty.to_json(), allow_nan=False))
    assert (said["count"], said["p99_s"], said["max_s"]) == (0, None, None)


def test_slow_tail_shows_in_p99_and_not_in_p50() -> None:
    histogram = filled([0.001] * 98 + [0.5, 250.0])
    assert 0.001 <= histogram.p50_s <= 0.00105
    assert 0.001 <= histogram.p95_s <= 0.00105
    assert 0.5 <= histogram.p99_s <= 0.525
    assert (histogram.max_s, histogram.percentile(100.0), histogram.count) == (250.0, 250.0, 100)


def test_reset_forgets_everything() -> None:
    histogram = filled([0.1, 7.0])
    histogram.reset()
    assert histogram.to_json() == LatencyHistogram().to_json()


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, -math.inf])
def test_impossible_duration_is_refused_and_not_counted(value: float) -> None:
    histogram = filled([0.1])
    with pytest.raises(ValueError, match="expected a finite duration >= 0"):
        histogram.add(value)
    assert histogram.count == 1


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.1, math.nan])
def test_impossible_percentile_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="expected above 0 and at most 100"):
        filled([0.1]).percentile(percent)


def test_edges_span_ten_microseconds_to_a_hundred_seconds() -> None:
    said = filled([1.0]).to_json()
    assert said["edges_s"][0] == pytest.approx(1e-5)
    assert said["edges_s"][-1] == pytest.approx(100.0)
    assert np.all(np.diff(said["edges_s"]) > 0.0)
    assert len(said["counts"]) == len(said["edges_s"]) + 1
