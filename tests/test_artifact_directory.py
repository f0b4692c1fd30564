# SPDX-License-Identifier: Apache-2.0
"""An artifact directory is exactly what its manifest says, or it is refused with every difference named."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import jsonschema
import pytest
from artifact_factory import artifact_files, judge, lineage, write_draft

from runtime.contract.artifact import Artifact, read_artifact, verify_artifact
from runtime.contract.conventions import FileRole, Verdict
from runtime.contract.manifest import Manifest
from runtime.contract.schema import SCHEMA_FILE
from runtime.contract.verify import file_digest
from runtime.contract.write import ArtifactFile, extend_artifact
from runtime.errors import ArtifactError, ContractError

LISTED = sorted(artifact_files())


@pytest.fixture
def draft(tmp_path: Path) -> Artifact:
    return write_draft(tmp_path / "policy")


def listing(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_written_artifact_reads_back_equal(draft: Artifact) -> None:
    assert read_artifact(draft.root) == draft
    assert verify_artifact(draft.root).describe() == "intact"
    assert draft.read_bytes("evidence/probe.json") == b"{}\n"


def test_same_inputs_give_same_bytes(draft: Artifact, tmp_path: Path) -> None:
    again = write_draft(tmp_path / "elsewhere" / "deeper")
    assert listing(again.root) == listing(draft.root)


def test_manifest_names_no_place(draft: Artifact, tmp_path: Path) -> None:
    assert str(tmp_path).encode() not in draft.manifest_bytes


def test_shipped_manifest_fits_shipped_schema(draft: Artifact) -> None:
    schema = json.loads(SCHEMA_FILE.read_bytes())
    jsonschema.validate(json.loads(draft.manifest_bytes), schema)


def test_no_temporary_folder_is_left(draft: Artifact) -> None:
    assert [entry.name for entry in draft.root.parent.iterdir()] == ["policy"]


@pytest.mark.parametrize("path", LISTED)
def test_one_flipped_bit_is_named(draft: Artifact, path: str) -> None:
    file = draft.root / path
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert verify_artifact(draft.root).changed == (path,)
    with pytest.raises(ArtifactError, match=rf"changed: {path}\); copy the artifact again .* python -m runtime verify"):
        read_artifact(draft.root)


def test_any_flipped_bit_of_the_manifest_is_refused(draft: Artifact) -> None:
    data = draft.manifest_bytes
    for position in range(0, len(data), 97):
        with pytest.raises(ContractError):
            Manifest.from_json(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])


def test_missing_file_is_named(draft: Artifact) -> None:
    (draft.root / "policy.onnx").unlink()
    assert verify_artifact(draft.root).missing == ("policy.onnx",)


@pytest.mark.parametrize("path", ["note.txt", "evidence/more.json", "policy.onnx.data", "signatures"])
def test_extra_file_is_named(draft: Artifact, path: str) -> None:
    (draft.root / path).write_bytes(b"")
    assert verify_artifact(draft.root).extra == (path,)


def test_empty_folder_is_extra(draft: Artifact) -> None:
    (draft.root / "cache").mkdir()
    assert verify_artifact(draft.root).extra == ("cache/",)


def test_signatures_may_hold_unlisted_files(draft: Artifact) -> None:
    (draft.root / "signatures").mkdir()
    assert verify_artifact(draft.root).ok
    (draft.root / "signatures" / "builder.sig").write_bytes(b"x")
    assert verify_artifact(draft.root).ok


@pytest.mark.parametrize("path", ["tokenizer.json", "evidence", "signatures"])
def test_symbolic_link_is_refused_even_to_right_content(draft: Artifact, tmp_path: Path, path: str) -> None:
    target = draft.root / path
    if target.exists():
        target.rename(tmp_path / "moved")
    else:
        (tmp_path / "moved").mkdir()
    target.symlink_to(tmp_path / "moved")
    assert verify_artifact(draft.root).linked == (path,)
    with pytest.raises(ArtifactError, match=f"linked: {path}"):
        read_artifact(draft.root)


def test_linked_manifest_is_refused(draft: Artifact, tmp_path: Path) -> None:
    (draft.root / "manifest.json").rename(tmp_path / "m")
    (draft.root / "manifest.json").symlink_to(tmp_path / "m")
    with pytest.raises(ArtifactError, match=r"expected an artifact directory with a regular manifest\.json"):
        read_artifact(draft.root)


def test_pipe_and_socket_are_irregular(draft: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(draft.root / "pipe")
    monkeypatch.chdir(draft.root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert verify_artifact(draft.root).irregular == ("pipe", "socket")


def test_pipe_in_place_of_a_file_is_not_opened(draft: Artifact) -> None:
    (draft.root / "policy.onnx").unlink()
    os.mkfifo(draft.root / "policy.onnx")
    assert verify_artifact(draft.root).irregular == ("policy.onnx",)


@pytest.mark.parametrize("name", ["a\\..\\b", ".hidden", "Tokenizer.json"])
def test_unsafe_name_on_disk_is_named(draft: Artifact, name: str) -> None:
    (draft.root / name).write_bytes(b"")
    report = verify_artifact(draft.root)
    assert name in report.unsafe
    assert name in report.extra


def test_name_that_is_not_utf8_can_be_printed(draft: Artifact) -> None:
    Path(os.fsdecode(os.fsencode(draft.root) + b"/\xff")).write_bytes(b"")
    assert "\\udcff" in verify_artifact(draft.root).describe()


def test_every_difference_is_reported_at_once(draft: Artifact) -> None:
    (draft.root / "policy.onnx").unlink()
    (draft.root / "tokenizer.json").write_bytes(b"{}")
    (draft.root / "note.txt").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"extra: note.txt; missing: policy.onnx; changed: tokenizer.json"):
        read_artifact(draft.root)


def test_directory_without_manifest_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "readme").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"found \['readme'\], expected an artifact directory"):
        verify_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="no such directory"):
        read_artifact(tmp_path / "none")


def test_directory_may_be_reached_by_a_link(draft: Artifact, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(draft.root)
    assert read_artifact(tmp_path / "current") == draft


def test_file_changed_after_verification_is_refused(draft: Artifact) -> None:
    (draft.root / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: changed after it was verified"):
        draft.read_bytes("tokenizer.json")


def test_unlisted_name_cannot_be_opened(draft: Artifact) -> None:
    with pytest.raises(ContractError, match=r"'../secret' is not listed, available: \['evidence/probe.json'"):
        draft.path("../secret")


def test_digest_does_not_depend_on_block_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    file.write_bytes(bytes(range(256)) * 9)
    whole = file_digest(file)
    monkeypatch.setattr("runtime.contract.verify._BLOCK", 7)
    assert file_digest(file) == whole


def test_artifact_is_replaced_whole(draft: Artifact) -> None:
    other = write_draft(draft.root, files={**artifact_files(), "report.html": ArtifactFile(FileRole.REPORT, b"<p>")})
    assert other.manifest.artifact_id != draft.manifest.artifact_id
    assert read_artifact(draft.root) == other


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_something_else_is_never_overwritten(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "home"
    if kind == "folder":
        target.mkdir()
        (target / "thesis.tex").write_text("x")
    elif kind == "file":
        target.write_text("x")
    else:
        target.symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="choose another directory or remove it yourself"):
        write_draft(target)
    assert target.is_symlink() or target.is_file() or (target / "thesis.tex").read_text() == "x"


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert write_draft(tmp_path / "new").root == tmp_path / "new"


def test_failed_write_leaves_old_artifact_and_no_debris(draft: Artifact) -> None:
    with pytest.raises(ContractError, match="is needed, available"):
        write_draft(draft.root, files={"a": ArtifactFile(FileRole.EVIDENCE, b"")})
    missing = ArtifactFile(FileRole.MODEL, draft.root / "none")
    with pytest.raises(ArtifactError, match=r"policy.onnx: source .*none is not a file"):
        write_draft(draft.root, files={**artifact_files(), "policy.onnx": missing})
    assert read_artifact(draft.root) == draft
    assert [entry.name for entry in draft.root.parent.iterdir()] == ["policy"]


def test_copy_that_went_wrong_is_never_published(draft: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.contract import write

    real = write._write_synced

    def loses_the_end(destination: Path, content: bytes | Path) -> None:
        real(destination, content[:-1] if destination.name == "policy.onnx" and isinstance(content, bytes) else content)

    monkeypatch.setattr(write, "_write_synced", loses_the_end)
    with pytest.raises(ArtifactError, match=r"changed: policy\.onnx"):
        write_draft(draft.root)
    assert read_artifact(draft.root) == draft
    assert [entry.name for entry in draft.root.parent.iterdir()] == ["policy"]


def test_text_as_file_content_is_refused() -> None:
    with pytest.raises(ContractError, match=r"ArtifactFile.content: found 'str', expected bytes, or a pathlib\.Path"):
        ArtifactFile(FileRole.MODEL, "policy.onnx")


def test_rename_failure_restores_the_old_artifact(draft: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def fails_for_new(source, destination) -> None:
        if ".new-" in str(source):
            raise OSError("disk is gone")
        real(source, destination)

    monkeypatch.setattr(os, "rename", fails_for_new)
    with pytest.raises(OSError, match="disk is gone"):
        write_draft(draft.root, lineage=lineage())
    assert read_artifact(draft.root) == draft


def test_verdict_joins_draft_in_place(draft: Artifact) -> None:
    promoted = judge(draft, draft.root, Verdict.PROMOTE)
    assert promoted.manifest.policy_id == draft.manifest.policy_id
    assert read_artifact(draft.root).manifest.gate.verdict is Verdict.PROMOTE
    assert set(listing(promoted.root)) - set(LISTED) == {"manifest.json", "evidence/gate.json"}


def test_verdict_does_not_move_to_other_weights(draft: Artifact, tmp_path: Path) -> None:
    promoted = judge(draft, draft.root, Verdict.PROMOTE)
    other = {"policy.onnx": ArtifactFile(FileRole.MODEL, b"other weights")}
    with pytest.raises(ContractError, match="the verdict was earned with other weights or specs; run the gate"):
        extend_artifact(promoted, tmp_path / "forged", other)


def test_verdict_survives_more_evidence(draft: Artifact) -> None:
    promoted = judge(draft, draft.root, Verdict.PROMOTE)
    more = extend_artifact(promoted, draft.root, {"evidence/bench.json": ArtifactFile(FileRole.EVIDENCE, b"{}")})
    assert more.manifest.gate == promoted.manifest.gate


def test_signature_verifier_sees_exact_bytes_and_may_refuse(draft: Artifact) -> None:
    class OnlyNobody:
        seen: tuple[Manifest, bytes, Path] | None = None

        def verify(self, manifest: Manifest, manifest_bytes: bytes, signatures_dir: Path) -> None:
            self.seen = (manifest, manifest_bytes, signatures_dir)
            raise ArtifactError("nobody vouches for this")

    verifier = OnlyNobody()
    with pytest.raises(ArtifactError, match="nobody vouches"):
        read_artifact(draft.root, verifier=verifier)
    assert verifier.seen == (draft.manifest, (draft.root / "manifest.json").read_bytes(), draft.root / "signatures")


def test_normalization_of_wrong_size_is_refused(tmp_path: Path) -> None:
    from runtime.contract.normalization import Normalization, Normalizers

    q = "q01_q99"
    small = Normalizers(Normalization.of(q, [0.0], [1.0]), Normalization.of(q, [0.0], [1.0]))
    files = {**artifact_files(), "normalization.safetensors": ArtifactFile(FileRole.NORMALIZATION, small.to_bytes())}
    with pytest.raises(ArtifactError, match=r"found \(state, action\) sizes \(1, 1\), expected by the specs \(8, 7\)"):
        write_draft(tmp_path / "a", files=files).normalizers()
