# SPDX-License-Identifier: Apache-2.0
"""A signed artifact and the station that trusts it: keys, trust store and both statements, as the tools write them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from runtime.contract.artifact import Artifact, load_manifest
from runtime.contract.conventions import Verdict
from runtime.contract.dsse import sign
from runtime.contract.ed25519 import Signer, new_private_key
from runtime.contract.manifest import SIGNATURES_DIR, Manifest
from runtime.contract.statements import (
    BUILD_FILE,
    BUILD_TYPE,
    RELEASE_FILE,
    RELEASE_TYPE,
    BuildStatement,
    ReleaseStatement,
)
from runtime.contract.trust_store import KEYS_FILE, REVOKED_FILE, Revoked, Role, TrustedKey, TrustStore
from runtime.contract.utc_time import format_utc

NOW = datetime(2026, 11, 27, 20, 0, tzinfo=timezone.utc)
SERIAL = "1b4e28ba-2fa1-41d2-883f-b9a761bde3fb"
LIMITS = "d" * 64


@dataclass(frozen=True)
class People:
    """One builder and one releaser."""

    builder: Signer
    releaser: Signer

    def trust(self, **changes: Any) -> TrustStore:
        """What a station that knows both believes."""
        keys = (trusted(self.builder, Role.BUILDER), trusted(self.releaser, Role.RELEASER))
        return replace(TrustStore(keys, nothing_revoked()), **changes)


def people() -> People:
    return People(new_private_key()[1], new_private_key()[1])


def trusted(signer: Signer, role: Role, **changes: Any) -> TrustedKey:
    raw = base64.b64encode(signer.public).decode()
    return replace(
        TrustedKey(signer.keyid, role, raw, f"the {role.value}", format_utc(NOW + timedelta(days=365))), **changes
    )


def nothing_revoked(**changes: Any) -> Revoked:
    return replace(Revoked((), (), (), format_utc(NOW)), **changes)


def write_trust(directory: Path, trust: TrustStore) -> Path:
    """The store as files that only we may write."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    for name, data in ((KEYS_FILE, trust.keys_json()), (REVOKED_FILE, trust.revoked.to_json())):
        (directory / name).write_bytes(data)
        (directory / name).chmod(0o644)
    return directory


def build_statement(manifest: Manifest, manifest_bytes: bytes, **changes: Any) -> BuildStatement:
    digest = hashlib.sha256(manifest_bytes).hexdigest()
    return replace(BuildStatement(digest, manifest.artifact_id, manifest.policy_id, format_utc(NOW)), **changes)


def release_statement(manifest: Manifest, manifest_bytes: bytes, **changes: Any) -> ReleaseStatement:
    """For the robot ur5e, 90 days from NOW."""
    assert manifest.gate is not None
    made = ReleaseStatement(
        serial=SERIAL,
        manifest_sha256=hashlib.sha256(manifest_bytes).hexdigest(),
        artifact_id=manifest.artifact_id,
        policy_id=manifest.policy_id,
        gate_sha256=manifest.gate.report_sha256,
        verdict=Verdict.PROMOTE,
        robot="ur5e",
        limits_sha256=LIMITS,
        tasks=("pick up the red cube",),
        control_dt_s=manifest.policy.action.dt_s,
        cameras=tuple(sorted(image.key for image in manifest.policy.observation.images)),
        issued_at=format_utc(NOW),
        expires_at=format_utc(NOW + timedelta(days=90)),
    )
    return replace(made, **changes)


def write_signatures(
    root: Path, who: People, build: BuildStatement | None = None, release: ReleaseStatement | None = None
) -> None:
    """Both envelopes over the manifest that lies in `root`."""
    manifest, data = load_manifest(root)
    folder = root / SIGNATURES_DIR
    folder.mkdir(exist_ok=True)
    build = build or build_statement(manifest, data)
    release = release or release_statement(manifest, data)
    (folder / BUILD_FILE).write_bytes(sign(BUILD_TYPE, build.to_json(), who.builder).to_json())
    (folder / RELEASE_FILE).write_bytes(sign(RELEASE_TYPE, release.to_json(), who.releaser).to_json())


def signed_artifact(folder: Path, who: People, **draft: Any) -> Artifact:
    """A promoted artifact with both signatures, as `compress seal` leaves it."""
    from artifact_factory import judge, write_draft

    artifact = judge(write_draft(folder, **draft), folder, Verdict.PROMOTE)
    write_signatures(folder, who)
    return artifact
