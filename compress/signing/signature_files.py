# SPDX-License-Identifier: Apache-2.0
"""Put an envelope into an artifact's `signatures/`: whole or not at all, and never over another one unasked."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from compress.signing.errors import SigningError
from runtime.contract.artifact import Artifact
from runtime.contract.dsse import Envelope
from runtime.contract.loading_limits import ENVELOPE_BYTES
from runtime.contract.manifest import SIGNATURES_DIR
from runtime.contract.regular_file import read_bounded
from runtime.errors import ArtifactError, ContractError


def existing(artifact: Artifact, name: str, payload_type: str) -> str | None:
    """What lies where this envelope would go, in words; None if nothing does."""
    path = f"{SIGNATURES_DIR}/{name}"
    if not os.path.lexists(artifact.root / path):
        return None
    try:
        envelope = Envelope.from_json(read_bounded(artifact.root, path, ENVELOPE_BYTES), path, payload_type)
    except (ContractError, OSError) as error:
        return f"a file that is no such envelope ({error})"
    return f"a signature of key {envelope.keyid}"


def signer_of(artifact: Artifact, name: str, payload_type: str) -> str:
    """Key id that an envelope in `signatures/` names; SigningError if it is not there or no envelope."""
    path = f"{SIGNATURES_DIR}/{name}"
    try:
        return Envelope.from_json(read_bounded(artifact.root, path, ENVELOPE_BYTES), path, payload_type).keyid
    except (ContractError, OSError) as error:
        raise SigningError(
            f"{artifact.root}: {path} is missing or no envelope ({error}); the builder signs first"
        ) from None


def write_envelope(artifact: Artifact, name: str, envelope: Envelope, replace: bool) -> Path:
    """Write it; the temporary file lies beside the artifact, because `signatures/` may hold nothing else even briefly.

    Raises:
        SigningError: something is there and `replace` is False.
        OSError: the disk is full or not writable; what was there is unchanged.
    """
    found = existing(artifact, name, envelope.payload_type)
    folder = artifact.root / SIGNATURES_DIR
    target = folder / name
    if found is not None and not replace:
        raise SigningError(f"{target}: holds {found}; it stays. To put yours in its place add --replace")
    if folder.is_symlink():
        raise ArtifactError(f"{folder}: found a link, expected a directory")
    folder.mkdir(exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{artifact.root.name}.{name}-", dir=artifact.root.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(handle, 0o644)
            stream.write(envelope.to_json())
            stream.flush()
            os.fsync(handle)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return target
