# SPDX-License-Identifier: Apache-2.0
"""Scores as plain data: halves, agreement, ties, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from algorithm_factory import config, demos, policy, samples

from compress.calibration import CalibrationError, CalibrationSet, from_demos, pick
from compress.scores import ScoreError, Scores, Subject, find_ties, from_samples, rank_agreement

SUBJECT = Subject("language", "block", 3, (0, 1, 2), 1, (), "m" * 64)


def scores_of(matrix: list[list[float]], ids: list[str]) -> Scores:
    return from_samples("gateprobe", SUBJECT, np.asarray(matrix), ids, 1.0)


def test_halves_share_no_episode() -> None:
    ids = [f"t/demo_{e}/{f}" for e in range(3) for f in range(2)]
    found = scores_of([[e, 0.0, 1.0] for e in range(3) for _ in range(2)], ids)
    assert found.stability is not None
    assert found.stability.split == "episodes"
    assert found.per_half == ((1.0, 0.0, 1.0), (1.0, 0.0, 1.0))  # episodes 0 and 2, episode 1


def test_one_episode_is_halved_by_frames_and_says_so() -> None:
    found = scores_of([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], ["t/d/0", "t/d/1"])
    assert found.stability is not None
    assert (found.stability.split, found.stability.spearman) == ("samples", -1.0)


def test_single_sample_has_no_stability() -> None:
    assert scores_of([[1.0, 2.0, 3.0]], ["t/d/0"]).stability is None


def test_agreement_by_hand() -> None:
    spearman, kendall = rank_agreement([1, 2, 3, 4], [1, 3, 2, 4])
    assert spearman == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert kendall == pytest.approx(4 / 6)
    assert rank_agreement([1, 1, 1], [1, 2, 3]) == (None, None)


def test_ties_are_equal_or_within_noise() -> None:
    values = np.array([1.0, 5.0, 1.0, 5.1])
    assert find_ties((0, 1, 2, 3), values, np.zeros(4)) == ((0, 2),)
    assert find_ties((0, 1, 2, 3), values, np.full(4, 0.06)) == ((0, 2), (1, 3))


def test_equal_blocks_leave_from_the_end() -> None:
    assert scores_of([[2.0, 1.0, 1.0]], ["a"]).order() == (2, 1, 0)


def test_json_round_trip_keeps_the_digest() -> None:
    found = scores_of([[1.0, 2.0, 3.0], [3.0, 2.0, 1.5]], ["t/d/0", "t/d/1"])
    again = Scores.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert again.digest() == found.digest()


def test_damaged_scores_are_refused() -> None:
    data = scores_of([[1.0, 2.0, 3.0]], ["a"]).to_json()
    with pytest.raises(ScoreError, match="run the probe stage again"):
        Scores.from_json({**data, "colour": "red"})
    with pytest.raises(ScoreError, match=r"blocks \[1\] of language score NaN"):
        Scores.from_json({**data, "values": [1.0, float("nan"), 2.0]})
    with pytest.raises(ScoreError, match="2 values for 3 blocks"):
        Scores.from_json({**data, "values": [1.0, 2.0]})


def test_pick_spreads_over_episodes_and_phases() -> None:
    arrays = demos()
    chosen = pick(arrays, 12, seed=0, horizon=4)
    episodes = [s.sample_id.rpartition("/")[0] for s in chosen]
    assert {episodes.count(name) for name in arrays.names} == {2}
    for name in arrays.names:
        frames = sorted(int(s.sample_id.rpartition("/")[2]) for s in chosen if s.sample_id.startswith(f"{name}/"))
        assert frames[0] < 10 <= frames[1]


def test_pick_is_its_seed_and_never_repeats() -> None:
    arrays = demos()
    first, again, other = ([s.sample_id for s in pick(arrays, 40, seed, 4)] for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 40
    assert len(pick(arrays, len(arrays), 0, 4)) == len(arrays)


def test_pick_stays_among_the_allowed_frames() -> None:
    arrays = demos()
    _, held_out = arrays.split(0.2, seed=0)
    names = {arrays.names[int(arrays.episode[i])] for i in held_out}
    chosen = pick(arrays, 8, 0, 4, frames=held_out)
    assert {s.sample_id.rpartition("/")[0] for s in chosen} <= names


def test_impossible_calibration_sets_are_refused() -> None:
    model, few = policy(depth=1, vision_depth=1), samples(2)
    with pytest.raises(CalibrationError, match="expected 1 to 120"):
        pick(demos(), 121, 0, 4)
    with pytest.raises(CalibrationError, match="occurs twice"):
        CalibrationSet(model, [few[0], few[0]], 2)
    with pytest.raises(CalibrationError, match="0 samples in batches of 2"):
        CalibrationSet(model, [], 2)


def test_calibration_set_iterates_alike_twice() -> None:
    model = policy(depth=1, vision_depth=1)
    chosen = from_demos(model, demos(), 5, 2, seed=0)
    assert [len(b) for b in chosen] == [2, 2, 1]
    assert len(chosen) == 3
    assert [b.sample_ids for b in chosen] == [b.sample_ids for b in chosen]
    assert next(iter(chosen)).actions.shape == (2, config().horizon, 7)


def test_calibration_digest_sees_one_pixel() -> None:
    model, chosen = policy(depth=1, vision_depth=1), samples(2)
    before = CalibrationSet(model, chosen, 2).digest()
    assert CalibrationSet(model, samples(2), 1).digest() == before
    chosen[0].images["wrist"].setflags(write=True)
    changed = chosen[0].images["wrist"].copy()
    changed[0, 0, 0] ^= 1
    object.__setattr__(chosen[0], "images", {**chosen[0].images, "wrist": changed})
    assert CalibrationSet(model, chosen, 2).digest() != before
