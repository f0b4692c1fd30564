# SPDX-License-Identifier: Apache-2.0
"""Frames and batches: chunks never cross an episode, splits never share one, a step is always the same batch."""

from __future__ import annotations

import algorithm_factory as factory
import numpy as np
import pytest
import torch

from compress.data.frames import FrameSource


def test_chunk_stops_at_the_episodes_end() -> None:
    arrays = factory.demos(episodes=3, length=10)
    actions, pad = arrays.chunk(8, 4)
    assert pad.tolist() == [False, False, True, True]
    np.testing.assert_array_equal(actions[:2], arrays.actions[8:10])
    assert (actions[2:, :-1] == 0).all()
    assert (actions[2:, -1] == arrays.actions[9, -1]).all()


def test_sample_ids_count_within_their_episode() -> None:
    arrays = factory.demos(episodes=3, length=10)
    assert arrays.sample(13, 4).sample_id == f"{arrays.names[1]}/3"


def test_split_holds_out_whole_episodes() -> None:
    arrays = factory.demos()
    training, testing = arrays.split(0.3, seed=1)
    assert not set(arrays.episode[training]) & set(arrays.episode[testing])
    assert len(training) + len(testing) == len(arrays)


def test_batch_depends_on_its_number_alone() -> None:
    model, arrays = factory.policy(), factory.demos()
    there, back = (FrameSource(arrays, model, 4, 8, seed=3) for _ in range(2))
    wanted = [there.batch(step) for step in range(40)]
    for step in (39, 0, 17):
        assert back.batch(step).sample_ids == wanted[step].sample_ids
        assert torch.equal(back.batch(step).actions, wanted[step].actions)


def test_epoch_shows_no_frame_twice() -> None:
    model, arrays = factory.policy(), factory.demos()
    source = FrameSource(arrays, model, 4, 8, seed=3)
    seen = [i for step in range(source.per_epoch) for i in source.batch(step).sample_ids]
    assert len(seen) == len(set(seen))


def test_digest_tells_data_and_order_apart() -> None:
    model, arrays = factory.policy(), factory.demos()
    digests = {FrameSource(arrays, model, 4, size, seed).digest() for size in (4, 8) for seed in (0, 1)}
    assert len(digests) == 4


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fill one batch"):
        FrameSource(factory.demos(), factory.policy(), 4, 8, 0, np.arange(3))
