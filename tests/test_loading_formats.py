# SPDX-License-Identifier: Apache-2.0
"""JSON, tensor files and tokenizers that were made to harm are refused by their bytes, before a library reads them."""

from __future__ import annotations

import contextlib
import json
import random
import time
from pathlib import Path
from typing import Any

import fuzz_files
import numpy as np
import pytest
from artifact_factory import TASK, artifact_files, observation, prompt_spec, tokenizer_bytes, write_draft
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.contract import loading_limits as limits
from runtime.contract.conventions import FileRole
from runtime.contract.manifest import parse_json
from runtime.contract.panics import LibraryPanic, panics_as_errors
from runtime.contract.tensors import dump_tensors, parse_tensors
from runtime.contract.tokenizer_rules import check_tokenizer
from runtime.contract.write import ArtifactFile
from runtime.errors import ContractError, ObservationError
from runtime.inference.golden import load_golden
from runtime.inference.tokenizer import PromptTokenizer

# JSON


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100 + "]" * 100, "more than 64 levels"),
        ("[" * 1_000_000, "more than 64 levels"),
        ('{"a": 1e999}', "found 1e999, expected finite"),
        ('{"a": -1e999}', "found -1e999, expected finite"),
        ("1" * 5000, "a shorter number"),
        ('{"a": {"b": 1, "b": 2}}', r"found \['b'\], expected every name once"),
    ],
)
def test_hostile_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        parse_json(text.encode(), "x")


def test_brackets_inside_text_are_no_nesting() -> None:
    assert parse_json(json.dumps(["[" * 1000, '\\"[{' * 100]).encode(), "x")[0] == "[" * 1000


@pytest.mark.parametrize("text", ['"' + '\\"' * 500_000, '{"a":' + '"\\' * 500_000, "{" + '"":0,' * 200_000])
def test_hostile_json_is_refused_in_linear_time(text: str) -> None:
    started = time.process_time()
    with pytest.raises(ContractError):
        parse_json(text.encode(), "x")
    assert time.process_time() - started < 5.0  # quadratic: minutes


# tensor files


@given(st.binary(max_size=200))
@example(b"{}")  # a file of no tensors is one
@settings(max_examples=200, deadline=None)
def test_no_header_raises_anything_but_a_contract_error(junk: bytes) -> None:
    data = dump_tensors({"a": np.arange(3.0), "b": np.ones((2, 2), np.int64)})
    for mangled in (junk, len(junk).to_bytes(8, "little") + junk, data[:8] + junk + data[8 + len(junk) :]):
        try:
            found = parse_tensors(mangled, "x")
        except ContractError:
            continue
        assert mangled == data or not found


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": {"dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, "needs"),
        ({"a": {"dtype": "F64", "shape": [1] * 9, "data_offsets": [0, 8]}}, "at most 8 sizes"),
        ({"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, "dtype: found 'F8_E4M3'"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "no gap"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "the header describes 4"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "sizes"),
        ({"a": 1}, "expected dtype, shape"),
        ({"__metadata__": {"a": 1}}, "expected text by name"),
    ],
)
def test_header_that_lies_is_refused(header: dict[str, Any], message: str) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(ContractError, match=rf"x: not a readable safetensors file .*{message}"):
        parse_tensors(len(text).to_bytes(8, "little") + text + bytes(8), "x")


def test_golden_tensor_without_axes_is_a_contract_error(tmp_path: Path) -> None:
    tensors = {f"observation.{key}": np.float32(0.0) for key in observation()}
    scalar = dump_tensors({**tensors, "expected.actions": np.float32(0.0)})
    files = {**artifact_files(), "golden.safetensors": ArtifactFile(FileRole.GOLDEN, scalar)}
    with pytest.raises(ContractError, match="expected 2 samples"):
        load_golden(write_draft(tmp_path / "policy", files=files))


# tokenizers


@pytest.mark.parametrize("index", range(len(fuzz_files.FORBIDDEN)))
def test_harmful_tokenizer_is_refused(index: int) -> None:
    content = json.loads(tokenizer_bytes()) | fuzz_files.FORBIDDEN[index](random.Random(0))
    with pytest.raises(ContractError, match=r"^x"):
        check_tokenizer(json.dumps(content).encode(), "x")


@pytest.mark.parametrize("index", range(len(fuzz_files.PARTS)))
def test_no_tokenizer_raises_anything_but_a_contract_error(index: int) -> None:
    rng = random.Random(index)
    content = json.loads(tokenizer_bytes()) | fuzz_files.PARTS[index](rng)
    for _ in range(100):
        with contextlib.suppress(ContractError):
            check_tokenizer(json.dumps(fuzz_files.value_of(rng, content)).encode(), "x")
    content["pre_tokenizer"] = {"type": {"type": "Whitespace"}}
    with pytest.raises(ContractError, match=r"pre_tokenizer: found .*, expected one of"):
        check_tokenizer(json.dumps(content).encode(), "x")


# the pre-tokenizers of the published families, shortened
SPLITS = (r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+", " ", r"\d")
PUBLISHED = {
    "gemma": {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}},
    "llama": {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}},
    "qwen": {"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": SPLITS[0]}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}},
}  # fmt: skip


@pytest.mark.parametrize("family", PUBLISHED)
def test_parts_of_published_tokenizers_are_accepted(family: str) -> None:
    content = json.loads(tokenizer_bytes()) | PUBLISHED[family]
    PromptTokenizer(json.dumps(content).encode(), prompt_spec())


def test_panic_of_the_tokenizer_is_an_error_of_ours() -> None:
    content = json.loads(tokenizer_bytes()) | fuzz_files._template("missing", 1)
    tokenizer = PromptTokenizer(json.dumps(content).encode(), prompt_spec(add_special_tokens=True))
    with pytest.raises(ObservationError, match=r"the tokenizer cannot read .*panicked"):
        tokenizer.encode(TASK)


def test_panic_at_loading_is_a_contract_error() -> None:
    content = json.loads(tokenizer_bytes()) | {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"]}}
    with pytest.raises(ContractError, match="not a tokenizer file"):
        PromptTokenizer(json.dumps(content).encode(), prompt_spec())


def test_long_instruction_does_not_reach_the_tokenizer() -> None:
    tokenizer = PromptTokenizer(tokenizer_bytes(), prompt_spec())
    with pytest.raises(ObservationError, match=f"expected at most {limits.INSTRUCTION_CHARACTERS}"):
        tokenizer.encode("a" * limits.INSTRUCTION_CHARACTERS)


def test_only_panics_are_turned_into_errors() -> None:
    class PanicException(BaseException):
        pass

    with pytest.raises(LibraryPanic), panics_as_errors():
        raise PanicException("x")
    with pytest.raises(KeyboardInterrupt), panics_as_errors():
        raise KeyboardInterrupt
