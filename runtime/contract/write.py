# SPDX-License-Identifier: Apache-2.0
"""Write an artifact directory: all files in a temporary sibling, synced, verified by reading it back, then renamed.

A reader sees the old artifact, or none for the instant between two renames, or the new one; never a mixture.
Only an artifact, or nothing, is ever replaced: a path that holds something else is refused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.contract import check
from runtime.contract.artifact import Artifact, load_manifest, read_artifact
from runtime.contract.conventions import FileRole
from runtime.contract.lineage import Lineage
from runtime.contract.manifest import MANIFEST_FILE, FileEntry, GateSummary, GoldenRef, Manifest, PackageVersion
from runtime.contract.policy_spec import PolicySpec
from runtime.errors import ArtifactError, DropGateRuntimeError


@dataclass(frozen=True)
class ArtifactFile:
    """Content for one file of an artifact: bytes, or the path of an existing file to copy. Raises ContractError."""

    role: FileRole
    content: bytes | Path

    def __post_init__(self) -> None:
        found = type(self.content).__name__
        check.require(
            isinstance(self.content, (bytes, Path)), "ArtifactFile.content", found, "bytes, or a pathlib.Path"
        )


def write_artifact(
    directory: str | Path,
    files: Mapping[str, ArtifactFile],
    *,
    lineage: Lineage,
    policy: PolicySpec,
    golden: GoldenRef,
    created_with: tuple[PackageVersion, ...],
    gate: GateSummary | None = None,
) -> Artifact:
    """Write and read back an artifact; `files` maps POSIX paths to content, the manifest is made here.

    Same arguments give the same bytes. Raises ContractError if the parts disagree, ArtifactError if `directory` holds
    something that is not an artifact.
    """

    def manifest_for(entries: tuple[FileEntry, ...]) -> Manifest:
        return Manifest(lineage, policy, golden, created_with, entries, gate)

    target = Path(os.path.abspath(directory))
    _refuse_foreign(target)
    entries = tuple(_entry(path, file) for path, file in sorted(files.items()))
    return _publish(target, files, manifest_for(entries))


def extend_artifact(
    artifact: Artifact, directory: str | Path, files: Mapping[str, ArtifactFile], gate: GateSummary | None = None
) -> Artifact:
    """A new artifact with the same policy, more (or newer) files, and a verdict; `gate` None keeps the one there is.

    This is how the gate turns a draft into a judged artifact: `GateSummary.policy_id` is `artifact.manifest.policy_id`.
    `directory` may be the artifact's own. Signatures are not carried over, because they covered the old manifest.
    """
    target = Path(os.path.abspath(directory))
    _refuse_foreign(target)
    kept = {e.path: ArtifactFile(e.role, artifact.root / e.path) for e in artifact.manifest.files}
    # what is kept keeps its digest: a file that changed since it was verified is refused when the copy is read back
    listed = {entry.path: entry for entry in artifact.manifest.files}
    listed |= {path: _entry(path, file) for path, file in files.items()}
    entries = tuple(listed.values())
    return _publish(target, {**kept, **files}, artifact.manifest.with_gate(gate or artifact.manifest.gate, entries))


def _refuse_foreign(target: Path) -> None:
    if not os.path.lexists(target):
        return
    advice = "choose another directory or remove it yourself"
    if target.is_symlink() or not target.is_dir():
        raise ArtifactError(f"{target}: found a link or a file, expected nothing or an artifact directory; {advice}")
    if not any(target.iterdir()):
        return
    try:
        load_manifest(target)
    except DropGateRuntimeError as error:
        raise ArtifactError(
            f"{target}: will not be overwritten, because it is not an artifact ({error}); {advice}"
        ) from error


def _entry(path: str, file: ArtifactFile) -> FileEntry:
    if isinstance(file.content, bytes):
        return FileEntry(path, len(file.content), hashlib.sha256(file.content).hexdigest(), file.role)
    if not file.content.is_file():
        raise ArtifactError(f"{path}: source {file.content} is not a file")
    state, size = hashlib.sha256(), 0
    with file.content.open("rb") as stream:
        while block := stream.read(1 << 20):
            state.update(block)
            size += len(block)
    return FileEntry(path, size, state.hexdigest(), file.role)


def _publish(target: Path, files: Mapping[str, ArtifactFile], manifest: Manifest) -> Artifact:
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent))
    try:
        staging.chmod(0o755)
        for path, file in files.items():
            destination = staging / path
            destination.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(destination, file.content)
        _write_synced(staging / MANIFEST_FILE, manifest.to_json())
        artifact = read_artifact(staging)
        _sync_directories(staging)
        _swap(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _sync_directory(target.parent)
    return replace(artifact, root=target.resolve())


def _swap(staging: Path, target: Path) -> None:
    if not target.exists():
        os.rename(staging, target)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    os.rename(target, retired)
    try:
        os.rename(staging, target)
    except BaseException:
        os.rename(retired, target)
        raise
    shutil.rmtree(retired)


def _write_synced(destination: Path, content: bytes | Path) -> None:
    with destination.open("xb") as stream:
        if isinstance(content, bytes):
            stream.write(content)
        else:
            with content.open("rb") as source:
                shutil.copyfileobj(source, stream, 1 << 20)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_directories(root: Path) -> None:
    for folder, _, _ in os.walk(root):
        _sync_directory(Path(folder))


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
