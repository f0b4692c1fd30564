# SPDX-License-Identifier: Apache-2.0
"""Who vouches for an artifact? Both signatures are checked against the station's trust store, and nothing is believed
before: a payload is parsed only after its signature was found good.

`signatures/` may hold `build.dsse.json` and `release.dsse.json`, each a plain file, and nothing else. A release needs a
build. Times are compared with the given clock: a key or release counts until its end, a statement from the future not
at all.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from runtime.contract.conventions import Verdict
from runtime.contract.dsse import Envelope
from runtime.contract.loading_limits import ENVELOPE_BYTES
from runtime.contract.manifest import SIGNATURES_DIR, Manifest
from runtime.contract.regular_file import read_bounded
from runtime.contract.statements import (
    BUILD_FILE,
    BUILD_TYPE,
    RELEASE_FILE,
    RELEASE_TYPE,
    BuildStatement,
    ReleaseStatement,
)
from runtime.contract.trust_store import Role, TrustedKey, TrustStore
from runtime.contract.utc_time import aware, format_utc
from runtime.errors import ArtifactError, ContractError, GateRefusedError

T = TypeVar("T")
CLOCK_SKEW = timedelta(minutes=5)  # how far the signer's clock may be ahead of ours
_FILES = (BUILD_FILE, RELEASE_FILE)
UNSIGNED = "run: compress seal ARTIFACT --builder-key KEY"
UNRELEASED = "run: compress seal ARTIFACT --releaser-key KEY"


@dataclass(frozen=True)
class Signed:
    """What was vouched for and by whom; `release` None: the artifact is built by a trusted key, but not released."""

    build: BuildStatement
    release: ReleaseStatement | None
    builder: TrustedKey | None = None
    releaser: TrustedKey | None = None


def verify_signed(
    artifact_root: Path, manifest: Manifest, manifest_bytes: bytes, trust: TrustStore, now: datetime
) -> Signed:
    """The statements about exactly `manifest_bytes` (those that `manifest` was parsed from), checked at `now` (UTC).

    Files are the caller's business (`read_artifact`).

    Raises:
        ArtifactError: unsigned, signed with an unknown, ended, revoked or wrong-role key, changed, about another
            artifact; `signatures/` holds something else; the artifact was revoked.
        GateRefusedError: the release is expired, from the future, revoked, or not about this gate verdict.
        TrustError: the library cryptography is missing.
    """
    now = aware(now, "now")
    present = _present(artifact_root)
    if manifest.artifact_id in trust.revoked.artifacts:
        raise ArtifactError(f"artifact {manifest.artifact_id}: was revoked on this station; install another")
    payload, builder = _payload(artifact_root, BUILD_FILE, BUILD_TYPE, Role.BUILDER, trust, now)
    build = _parsed(BuildStatement.from_json, payload, BUILD_FILE)
    _check_subject(build, manifest, manifest_bytes, BUILD_FILE)
    _check_begun(build.begins, now, BUILD_FILE, ArtifactError)
    if RELEASE_FILE not in present:
        return Signed(build, None, builder)
    payload, releaser = _payload(artifact_root, RELEASE_FILE, RELEASE_TYPE, Role.RELEASER, trust, now)
    release = _parsed(ReleaseStatement.from_json, payload, RELEASE_FILE)
    _check_subject(release, manifest, manifest_bytes, RELEASE_FILE)
    _check_release(release, manifest, trust, now)
    return Signed(build, release, builder, releaser)


@dataclass(frozen=True)
class SignedVerifier:
    """A `SignatureVerifier` for `read_artifact`: `verify_signed` at `now()`, and a release where one is required."""

    trust: TrustStore
    now: Callable[[], datetime]
    require_release: bool = True

    def verify(self, manifest: Manifest, manifest_bytes: bytes, signatures_dir: Path) -> None:
        """ArtifactError or GateRefusedError unless the signatures cover this manifest."""
        signed = verify_signed(signatures_dir.parent, manifest, manifest_bytes, self.trust, self.now())
        if self.require_release and signed.release is None:
            raise GateRefusedError(f"{signatures_dir.parent}: built, but not released; {UNRELEASED}")


def describe(signed: Signed | None) -> dict[str, Any]:
    """For people and programs: who vouches, for what, until when; None: no signature was asked for."""
    if signed is None:
        return {"origin": "unknown: integrity only, no signature was checked; add --trust DIR"}
    facts: dict[str, Any] = {"origin": "a builder this station trusts"}
    facts["builder"] = signed.builder.label if signed.builder is not None else "unknown"
    if signed.release is None:
        return {**facts, "release": f"none; {UNRELEASED}"}
    release = signed.release
    facts["releaser"] = signed.releaser.label if signed.releaser is not None else "unknown"
    names = ("serial", "robot", "limits_sha256", "control_dt_s", "cameras", "tasks", "issued_at", "expires_at")
    return {**facts, "release": {name: getattr(release, name) for name in names}}


def _present(root: Path) -> frozenset[str]:
    """Names in `signatures/`; ArtifactError unless there is a build, and nothing but plain known files."""
    folder = root / SIGNATURES_DIR
    try:
        status = os.lstat(folder)
    except FileNotFoundError:
        raise ArtifactError(f"{root}: unsigned, there is no {SIGNATURES_DIR}/; {UNSIGNED}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise ArtifactError(f"{folder}: found a link or a file, expected a directory")
    with os.scandir(folder) as entries:
        found = list(itertools.islice(entries, len(_FILES) + 1))
    for entry in sorted(found, key=lambda e: e.name):
        status = entry.stat(follow_symlinks=False)
        fault = (
            f"an extra file, expected only {' and '.join(_FILES)}" if entry.name not in _FILES
            else "a link" if stat.S_ISLNK(status.st_mode)
            else "no regular file" if not stat.S_ISREG(status.st_mode)
            else "a file with a second name (hard link)" if status.st_nlink != 1
            else ""
        )  # fmt: skip
        if fault:
            raise ArtifactError(f"{folder / entry.name!s}: found {fault}; copy the artifact again from its releaser")
    names = frozenset(entry.name for entry in found)
    if BUILD_FILE not in names:
        raise ArtifactError(f"{root}: unsigned, {SIGNATURES_DIR}/{BUILD_FILE} is not there; {UNSIGNED}")
    return names


def _payload(
    root: Path, name: str, kind: str, role: Role, trust: TrustStore, now: datetime
) -> tuple[bytes, TrustedKey]:
    """Payload and signer of one envelope, signature checked; nothing of the payload was looked at."""
    where = f"{SIGNATURES_DIR}/{name}"
    try:
        envelope = Envelope.from_json(read_bounded(root, where, ENVELOPE_BYTES), where, kind)
    except (ContractError, OSError) as error:
        raise ArtifactError(f"{error}") from error
    if envelope.keyid in trust.revoked.keys:
        raise ArtifactError(f"{where}: signed with key {envelope.keyid}, which was revoked on this station")
    key = trust.key(envelope.keyid)
    if key is None:
        known = ", ".join(k.label for k in trust.keys if k.role is role) or "none"
        raise ArtifactError(
            f"{where}: signed with key {envelope.keyid}, unknown to this station; it knows as {role.value}: {known}"
        )
    if key.role is not role:
        raise ArtifactError(f"{where}: signed by {key.label}, but only a {role.value} may sign this")
    if now >= key.ends:
        raise ArtifactError(f"{where}: the key of {key.label} ended at {key.not_after}, it is {format_utc(now)}")
    return envelope.opened(key.public, where), key


def _parsed(read: Callable[[bytes], T], payload: bytes, name: str) -> T:
    try:
        return read(payload)
    except ContractError as error:
        raise ArtifactError(f"{SIGNATURES_DIR}/{name}: signed, but not valid ({error}); sign again") from error


def _check_subject(
    statement: BuildStatement | ReleaseStatement, manifest: Manifest, manifest_bytes: bytes, name: str
) -> None:
    expected = {
        "manifest_sha256": hashlib.sha256(manifest_bytes).hexdigest(),
        "artifact_id": manifest.artifact_id,
        "policy_id": manifest.policy_id,
    }
    for field, wanted in expected.items():
        found = getattr(statement, field)
        if found != wanted:
            raise ArtifactError(
                f"{SIGNATURES_DIR}/{name}: is about another artifact ({field} {found}, expected {wanted}); it belongs "
                "to an older or another one"
            )


def _check_begun(begins: datetime, now: datetime, name: str, error: type[ArtifactError]) -> None:
    if begins > now + CLOCK_SKEW:
        raise error(
            f"{SIGNATURES_DIR}/{name}: not yet valid, signed at {format_utc(begins)}, here it is {format_utc(now)}; is "
            "this station's clock right?"
        )


def _check_release(release: ReleaseStatement, manifest: Manifest, trust: TrustStore, now: datetime) -> None:
    where = f"release {release.serial}"
    if release.serial in trust.revoked.releases:
        raise GateRefusedError(f"{where}: was revoked on this station; {UNRELEASED}")
    _check_begun(release.begins, now, RELEASE_FILE, GateRefusedError)
    if now >= release.expires:
        raise GateRefusedError(f"{where}: expired at {release.expires_at}, it is {format_utc(now)}; {UNRELEASED}")
    gate = manifest.gate
    if gate is None or gate.verdict is not Verdict.PROMOTE:
        found = "no verdict" if gate is None else gate.verdict.value
        raise GateRefusedError(f"{where}: the artifact's own gate says {found}, expected promote")
    policy = manifest.policy
    expected: dict[str, object] = {
        "gate_sha256": gate.report_sha256,
        "control_dt_s": policy.action.dt_s,
        "cameras": tuple(sorted(image.key for image in policy.observation.images)),
    }
    for field, wanted in expected.items():
        found = getattr(release, field)
        if found != wanted:
            raise GateRefusedError(f"{where}: names {field} {found!r}, the artifact has {wanted!r}; {UNRELEASED}")
