# SPDX-License-Identifier: Apache-2.0
"""Tensors from observation and instruction: layouts, ranges, padding; a prompt is refused rather than cut."""

from __future__ import annotations

import numpy as np
import pytest
from artifact_factory import TASK, image_spec, observation, prompt_spec, state_spec, tokenizer_bytes

from runtime.errors import ContractError, ObservationError
from runtime.inference.preprocess import checked_state, normalised_image
from runtime.inference.tokenizer import PromptTokenizer

IMAGE = observation()["wrist"]


def test_state_outside_declared_range_is_refused() -> None:
    spec = state_spec(low=(-1.0,) * 8, high=(1.0,) * 8)
    checked_state(np.ones(8), spec)
    with pytest.raises(ObservationError, match=r"\['state'\]\['y'\]: found 1.5, expected -1 to 1 \[m\]"):
        checked_state(np.array([0, 1.5, 0, 0, 0, 0, 0, 0]), spec)


def test_image_layouts_give_the_same_planes() -> None:
    planes = normalised_image(IMAGE, image_spec("wrist"))
    chw = normalised_image(np.ascontiguousarray(IMAGE.transpose(2, 0, 1)), image_spec("wrist", layout="CHW"))
    np.testing.assert_array_equal(planes, chw)
    expected = (IMAGE[3, 5, 1] / 255.0 - 0.4) / 0.25
    assert planes[1, 3, 5] == pytest.approx(expected, abs=1e-6)
    assert planes.dtype == np.float32


def test_prompt_is_padded_and_masked() -> None:
    ids, mask = PromptTokenizer(tokenizer_bytes(), prompt_spec(pad_id=7)).encode("Pick up")
    assert ids.tolist() == [[2, 3, 4, 5, 7, 7, 7, 7, 7, 7]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0, 0, 0]]
    assert ids.dtype == mask.dtype == np.int64


def test_prompt_that_just_fits_is_kept_whole_and_one_more_is_refused() -> None:
    tokenizer = PromptTokenizer(tokenizer_bytes(), prompt_spec())
    assert tokenizer.encode(" ".join(["cube"] * 8))[1].sum() == 10
    with pytest.raises(ObservationError, match=r"found 11 tokens in .*, expected 1 to 10; shorten the instruction"):
        tokenizer.encode(" ".join(["cube"] * 9))


def test_truncation_inside_tokenizer_file_is_overruled() -> None:
    from tokenizers import Tokenizer

    library = Tokenizer.from_buffer(tokenizer_bytes())
    library.enable_truncation(3)
    library.enable_padding(length=64)
    tokenizer = PromptTokenizer(library.to_str().encode(), prompt_spec())
    assert tokenizer.encode(TASK)[1].sum() == 7


def test_broken_tokenizer_file_is_named() -> None:
    with pytest.raises(ContractError, match=r"tokenizer\.json: not a tokenizer file"):
        PromptTokenizer(b"{}", prompt_spec())
