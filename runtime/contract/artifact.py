# SPDX-License-Identifier: Apache-2.0
"""Read an artifact directory: verified whole, or an error. Nothing half-loaded.

Signatures live in `signatures/`, outside the manifest (they sign it). Checking them is a `SignatureVerifier`, given by
the caller that knows which keys the station trusts; without one only integrity is checked, not origin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from runtime.contract.contents import check_contents
from runtime.contract.loading_limits import MANIFEST_BYTES
from runtime.contract.manifest import EXECUTED_ROLES, MANIFEST_FILE, SIGNATURES_DIR, Manifest
from runtime.contract.normalization import Normalizers
from runtime.contract.regular_file import FileIdentity, identity, read_bounded
from runtime.contract.verify import VerificationReport, compare
from runtime.errors import ArtifactError, ContractError


class SignatureVerifier(Protocol):
    """Checks who vouches for a manifest. Raises ArtifactError when the signatures do not cover it."""

    def verify(self, manifest: Manifest, manifest_bytes: bytes, signatures_dir: Path) -> None:
        """Check detached signatures in `signatures_dir` (may not exist) over the exact `manifest_bytes`."""


@dataclass(frozen=True)
class Artifact:
    """A verified artifact directory.

    `root` is absolute with links resolved; `manifest_bytes` are what signatures cover. `identities` say which files
    were verified, by path.
    """

    root: Path
    manifest: Manifest
    manifest_bytes: bytes
    identities: Mapping[str, FileIdentity] = field(default_factory=dict, compare=False, repr=False)

    def path(self, name: str) -> Path:
        """Absolute path of a listed file; ContractError lists what there is otherwise."""
        return self.root / self.manifest.file(name).path

    def read_bytes(self, name: str) -> bytes:
        """Content of a listed file, digested again at this moment; ArtifactError if it changed since verification."""
        entry = self.manifest.file(name)
        try:
            data = read_bounded(self.root, entry.path, entry.size)
        except OSError as error:
            raise ArtifactError(f"{error}; it was verified before: copy the artifact again") from error
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ArtifactError(f"{self.root / entry.path}: changed after it was verified; copy the artifact again")
        return data

    @contextmanager
    def held_still(self) -> Iterator[None]:
        """Around the opening of files by path, as engines do: ArtifactError if what is executed is not, before and
        after, the very files that were verified, untouched."""
        self._unmoved("before")
        yield
        self._unmoved("while")

    def touched(self) -> tuple[str, ...]:
        """Files (the manifest too) that are no longer the very ones that were verified: exchanged, written, renamed."""
        return tuple(path for path, known in sorted(self.identities.items()) if _identity(self.root, path) != known)

    def _unmoved(self, when: str) -> None:
        for entry in self.manifest.files:
            if entry.role not in EXECUTED_ROLES or entry.path not in self.identities:
                continue
            try:
                found: object = identity(self.root, entry.path)
            except OSError as error:
                found = error
            if found != self.identities[entry.path]:
                raise ArtifactError(
                    f"{self.root / entry.path}: touched after it was verified, {when} the engine opened it (found "
                    f"{found}, expected {self.identities[entry.path]}); let nobody write there and load again"
                )

    def normalizers(self) -> Normalizers:
        """State and action normalisation, checked against the specs' sizes."""
        policy = self.manifest.policy
        ref = policy.normalization
        normalizers = Normalizers.from_bytes(self.read_bytes(ref.file), ref.state, ref.action, ref.file)
        found = (normalizers.state.dim, normalizers.action.dim)
        expected = (policy.observation.state.dim, policy.action.dim)
        if found != expected:
            raise ArtifactError(
                f"{self.root / ref.file}: found (state, action) sizes {found}, expected by the specs {expected}"
            )
        return normalizers


def _identity(root: Path, path: str) -> FileIdentity | None:
    try:
        return identity(root, path)
    except OSError:
        return None


def load_manifest(directory: Path) -> tuple[Manifest, bytes]:
    """The manifest and its exact bytes, without looking at other files; ArtifactError or ContractError."""
    path = directory / MANIFEST_FILE
    if path.is_symlink() or not path.is_file():
        there = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else "no such directory"
        raise ArtifactError(
            f"{directory}: found {there}, expected an artifact directory with a regular {MANIFEST_FILE}"
        )
    try:
        data = read_bounded(directory, MANIFEST_FILE, MANIFEST_BYTES)
    except OSError as error:
        raise ArtifactError(f"{directory}: {MANIFEST_FILE} cannot be read ({error})") from error
    return Manifest.from_json(data), data


def verify_artifact(directory: str | Path) -> VerificationReport:
    """Compare the directory with its manifest, then look into what would be loaded.

    Raises only when there is no valid manifest to compare with, or the directory cannot be an artifact.
    """
    root = Path(directory).resolve()
    manifest, data = load_manifest(root)
    found = compare(root, manifest)
    if not found.report.ok:
        return found.report
    try:
        check_contents(manifest, Artifact(root, manifest, data, found.identities).read_bytes)
    except (ContractError, ArtifactError) as error:
        return replace(found.report, refused=(str(error),))
    return found.report


def read_artifact(directory: str | Path, *, verifier: SignatureVerifier | None = None) -> Artifact:
    """The verified artifact; ArtifactError names extra, missing, changed, linked, irregular and unsafe files.

    The directory itself may be a link (`current -> v3`); it is resolved once. `verifier` None checks integrity only.
    Nothing inside a file is parsed before its digest and the signatures were checked; then graph, tokenizer and tensor
    files must be plain (`runtime.contract.contents`): ContractError.
    """
    root = Path(directory).resolve()
    manifest, data = load_manifest(root)
    found = compare(root, manifest)
    found.report.raise_if_bad(root)
    if verifier is not None:
        verifier.verify(manifest, data, root / SIGNATURES_DIR)
    artifact = Artifact(root, manifest, data, found.identities)
    check_contents(manifest, artifact.read_bytes)
    return artifact
