# SPDX-License-Identifier: Apache-2.0
"""Read an artifact directory: verified whole, or an error. Nothing half-loaded.

Signatures live in `signatures/`, outside the manifest (they sign it). Checking them is a `SignatureVerifier`, given by
the caller that knows which keys the station trusts; without one only integrity is checked, not origin.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.contract.manifest import MANIFEST_FILE, SIGNATURES_DIR, Manifest
from runtime.contract.normalization import Normalizers
from runtime.contract.verify import VerificationReport, compare
from runtime.errors import ArtifactError


class SignatureVerifier(Protocol):
    """Checks who vouches for a manifest. Raises ArtifactError when the signatures do not cover it."""

    def verify(self, manifest: Manifest, manifest_bytes: bytes, signatures_dir: Path) -> None:
        """Check detached signatures in `signatures_dir` (may not exist) over the exact `manifest_bytes`."""


@dataclass(frozen=True)
class Artifact:
    """A verified artifact directory.

    `root` is absolute with links resolved; `manifest_bytes` are what signatures cover.
    """

    root: Path
    manifest: Manifest
    manifest_bytes: bytes

    def path(self, name: str) -> Path:
        """Absolute path of a listed file; ContractError lists what there is otherwise."""
        return self.root / self.manifest.file(name).path

    def read_bytes(self, name: str) -> bytes:
        """Content of a listed file, digested again at this moment; ArtifactError if it changed since verification."""
        entry = self.manifest.file(name)
        data = (self.root / entry.path).read_bytes()
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ArtifactError(f"{self.root / entry.path}: changed after it was verified; copy the artifact again")
        return data

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


def load_manifest(directory: Path) -> tuple[Manifest, bytes]:
    """The manifest and its exact bytes, without looking at other files; ArtifactError or ContractError."""
    path = directory / MANIFEST_FILE
    if path.is_symlink() or not path.is_file():
        there = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else "no such directory"
        raise ArtifactError(
            f"{directory}: found {there}, expected an artifact directory with a regular {MANIFEST_FILE}"
        )
    data = path.read_bytes()
    return Manifest.from_json(data), data


def verify_artifact(directory: str | Path) -> VerificationReport:
    """Compare the directory with its manifest; raises only when there is no valid manifest to compare with."""
    root = Path(directory).resolve()
    manifest, _ = load_manifest(root)
    return compare(root, manifest)


def read_artifact(directory: str | Path, *, verifier: SignatureVerifier | None = None) -> Artifact:
    """The verified artifact; ArtifactError names extra, missing, changed, linked, irregular and unsafe files.

    The directory itself may be a link (`current -> v3`); it is resolved once. `verifier` None checks integrity only.
    """
    root = Path(directory).resolve()
    manifest, data = load_manifest(root)
    compare(root, manifest).raise_if_bad(root)
    if verifier is not None:
        verifier.verify(manifest, data, root / SIGNATURES_DIR)
    return Artifact(root, manifest, data)
