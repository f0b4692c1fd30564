# SPDX-License-Identifier: Apache-2.0
"""What a robot refuses to load although its digests are right, and that what was verified is what is loaded."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import fuzz_files
import numpy as np
import pytest
from artifact_factory import TASK, artifact_files, observation, prompt_spec, tokenizer_bytes, write_draft
from fuzz_bases import DATA, MODEL, bases
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.backends.fake_backend import FakeBackend
from runtime.contract import loading_limits as limits
from runtime.contract.artifact import Artifact, load_manifest, read_artifact, verify_artifact
from runtime.contract.conventions import FileRole
from runtime.contract.manifest import parse_json
from runtime.contract.panics import LibraryPanic, panics_as_errors
from runtime.contract.regular_file import examine, read_bounded
from runtime.contract.tensors import dump_tensors, parse_tensors
from runtime.contract.tokenizer_rules import check_tokenizer
from runtime.contract.verify import list_directory
from runtime.contract.write import ArtifactFile, extend_artifact
from runtime.errors import ArtifactError, ContractError, ObservationError
from runtime.inference.golden import load_golden
from runtime.inference.policy import Policy
from runtime.inference.tokenizer import PromptTokenizer


@pytest.fixture
def draft(tmp_path: Path) -> Artifact:
    return write_draft(tmp_path / "policy")


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    """With weights beside the graph, one of them 64 KiB of zeros."""
    bases(tmp_path)
    return tmp_path / "rich"


# files


def test_hard_link_is_refused_even_with_right_content(draft: Artifact, tmp_path: Path) -> None:
    os.link(draft.root / MODEL, tmp_path / "other name")
    assert verify_artifact(draft.root).hard_linked == (MODEL,)
    with pytest.raises(ArtifactError, match=rf"hard_linked: {MODEL}\); copy the artifact again"):
        read_artifact(draft.root)


def test_hard_linked_manifest_is_refused(draft: Artifact, tmp_path: Path) -> None:
    os.link(draft.root / "manifest.json", tmp_path / "m")
    assert verify_artifact(draft.root).hard_linked == ("manifest.json",)


def test_file_with_holes_is_refused_even_with_right_content(rich: Path) -> None:
    data = (rich / DATA).read_bytes()
    with (rich / DATA).open("wb") as stream:
        for at in range(0, len(data), 4096):
            if any(data[at : at + 4096]):
                os.pwrite(stream.fileno(), data[at : at + 4096], at)
        os.truncate(stream.fileno(), len(data))
    assert (rich / DATA).read_bytes() == data
    if (rich / DATA).stat().st_blocks * 512 >= len(data):
        pytest.skip("this file system keeps no holes")
    assert verify_artifact(rich).sparse == (DATA,)


def test_compressible_file_is_no_file_with_holes(rich: Path) -> None:
    assert not examine(rich, DATA).sparse
    assert verify_artifact(rich).ok


def test_file_larger_than_its_role_allows_is_not_read(draft: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(limits.FILE_BYTES, FileRole.TOKENIZER, 10)
    monkeypatch.setattr("runtime.contract.verify.examine", lambda *a, **k: pytest.fail("read") if "tok" in a[1] else
                        examine(*a, **k))  # fmt: skip
    assert verify_artifact(draft.root).oversized == ("tokenizer.json",)


def test_manifest_of_many_megabytes_is_not_read(draft: Artifact) -> None:
    with (draft.root / "manifest.json").open("ab") as stream:
        os.truncate(stream.fileno(), limits.MANIFEST_BYTES + 1)
    with pytest.raises(ArtifactError, match=rf"expected a regular file of at most {limits.MANIFEST_BYTES}"):
        load_manifest(draft.root)


@pytest.mark.parametrize("deep", [True, False])
def test_listing_stops_at_a_hostile_directory(tmp_path: Path, deep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIRECTORY_ENTRIES", 20)
    if deep:
        (tmp_path / "/".join("d" * (limits.DIRECTORY_DEPTH + 2))).mkdir(parents=True)
    else:
        for index in range(21):
            (tmp_path / str(index)).touch()
    with pytest.raises(ArtifactError, match="expected an artifact directory"):
        list_directory(tmp_path)


def test_folder_exchanged_for_a_link_leads_nowhere(draft: Artifact, tmp_path: Path) -> None:
    (draft.root / "evidence").rename(tmp_path / "moved")
    (draft.root / "evidence").symlink_to(tmp_path / "moved")
    with pytest.raises(OSError, match=r"evidence|Not a directory|symbolic"):
        read_bounded(draft.root, "evidence/probe.json", 100)
    with pytest.raises(ArtifactError, match="it was verified before"):
        draft.read_bytes("evidence/probe.json")


def test_pipe_in_place_of_a_verified_file_is_not_waited_for(draft: Artifact) -> None:
    (draft.root / "tokenizer.json").unlink()
    os.mkfifo(draft.root / "tokenizer.json")
    with pytest.raises(ArtifactError, match="expected a regular file"):
        draft.read_bytes("tokenizer.json")


# what is verified is what is loaded


def rewrite(path: Path) -> None:
    """The same bytes again, in place, once the kernel's clock has moved."""
    before, data = path.stat().st_ctime_ns, path.read_bytes()
    deadline = time.monotonic() + 5
    while path.stat().st_ctime_ns == before and time.monotonic() < deadline:
        path.write_bytes(data)


def exchange(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


@pytest.mark.parametrize("path", [MODEL, DATA])
@pytest.mark.parametrize("touch", [rewrite, exchange])
def test_file_touched_while_the_engine_opens_it_is_refused(rich: Path, path: str, touch: Any) -> None:
    class Meddler(FakeBackend):
        def load(self, model: Path, graph: Any) -> None:
            super().load(model, graph)
            touch(rich / path)

    with pytest.raises(ArtifactError, match=rf"{path}: touched after it was verified, while the engine opened it"):
        Policy.load(rich, Meddler(), allow_unsealed=True)


def test_file_touched_between_verification_and_engine_is_refused(rich: Path) -> None:
    artifact, opened = read_artifact(rich), []

    class Witness(FakeBackend):
        def load(self, model: Path, graph: Any) -> None:
            opened.append(model)

    exchange(rich / DATA)
    with pytest.raises(ArtifactError, match=r"touched after it was verified, before the engine opened it"):
        Policy(artifact, Witness())
    assert opened == []


def test_evidence_may_be_touched_meanwhile(draft: Artifact) -> None:
    exchange(draft.root / "evidence/probe.json")
    Policy(draft, FakeBackend()).close()


def test_changed_file_gets_no_new_digest_by_extending(draft: Artifact, tmp_path: Path) -> None:
    (draft.root / "evidence/probe.json").write_bytes(b"[]\n")
    more = {"evidence/bench.json": ArtifactFile(FileRole.EVIDENCE, b"{}")}
    with pytest.raises(ArtifactError, match=r"changed: evidence/probe\.json"):
        extend_artifact(draft, tmp_path / "more", more)


def test_writer_makes_nothing_that_the_reader_refuses(tmp_path: Path) -> None:
    files = artifact_files()
    files["tokenizer.json"] = ArtifactFile(FileRole.TOKENIZER, b'{"model": {"type": "BPE", "dropout": 0.5}}')
    with pytest.raises(ContractError, match=r"tokenizer\.json\.model\.dropout: found 0\.5"):
        write_draft(tmp_path / "policy", files=files)
    assert not (tmp_path / "policy").exists()


def test_verify_reports_what_no_robot_loads(draft: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GRAPH_NODES", 3)
    report = verify_artifact(draft.root)
    assert not report.ok
    assert report.refused == ("policy.onnx: found more than 3 nodes",)


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
@settings(max_examples=200, deadline=None)
def test_no_header_raises_anything_but_a_contract_error(junk: bytes) -> None:
    data = dump_tensors({"a": np.arange(3.0), "b": np.ones((2, 2), np.int64)})
    for mangled in (junk, len(junk).to_bytes(8, "little") + junk, data[:8] + junk + data[8 + len(junk) :]):
        try:
            parse_tensors(mangled, "x")
        except ContractError:
            continue
        assert mangled == data


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
