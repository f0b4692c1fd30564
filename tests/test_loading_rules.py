# SPDX-License-Identifier: Apache-2.0
"""What a robot refuses to load although its digests are right, and that what was verified is what is loaded."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from artifact_factory import artifact_files, write_draft
from fuzz_bases import DATA, MODEL, bases

from runtime.backends.fake_backend import FakeBackend
from runtime.contract import loading_limits as limits
from runtime.contract.artifact import Artifact, load_manifest, read_artifact, verify_artifact
from runtime.contract.conventions import FileRole
from runtime.contract.regular_file import examine, read_bounded
from runtime.contract.verify import list_directory
from runtime.contract.write import ArtifactFile, extend_artifact
from runtime.errors import ArtifactError, ContractError
from runtime.inference.policy import Policy


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
