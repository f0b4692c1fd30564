# SPDX-License-Identifier: Apache-2.0
"""`compress verify ARTIFACT`: is every file what the manifest says, what was the verdict, and who vouches for it?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.verbs.answer import ERROR, HOLD, OK, Answer, Verbs, add_verb

if TYPE_CHECKING:
    from runtime.contract.artifact import Artifact


def add_parser(verbs: Verbs) -> None:
    """`verify`."""
    parser = add_verb(
        verbs,
        "verify",
        _verify,
        "check an artifact against its manifest: exit 0 intact and promoted, 1 intact but held or a draft, 2 damaged; "
        "with --trust also who signed it: 1 not released, 2 unsigned or refused",
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="artifact directory (holds manifest.json)")
    parser.add_argument(
        "--trust", type=Path, metavar="DIR", help="a station's trust store; without it only integrity is checked"
    )


def _verify(options: argparse.Namespace) -> Answer:
    from runtime.contract.artifact import read_artifact, verify_artifact
    from runtime.errors import ArtifactError

    report = verify_artifact(options.artifact)
    if not report.ok:
        return Answer(
            ERROR,
            {"intact": False, "artifact": str(options.artifact), "problem": report.describe()},
            [f"damaged: {report.describe()}"],
        )
    artifact = read_artifact(options.artifact)
    manifest = artifact.manifest
    gate = manifest.gate
    verdict = "draft" if gate is None else gate.verdict.value
    reason = "no gate verdict yet; run: compress gate" if gate is None else gate.reason
    data = {
        "intact": True,
        "artifact": str(options.artifact),
        "artifact_id": manifest.artifact_id,
        "policy_id": manifest.policy_id,
        "verdict": verdict,
        "reason": reason,
        "files": len(manifest.files),
    }
    lines = [f"intact: {len(manifest.files)} files, artifact {manifest.artifact_id}", f"{verdict}: {reason}"]
    try:
        released, signatures, said = _signatures(artifact, options.trust)
    except ArtifactError as error:
        return Answer(ERROR, {**data, "signed": False, "problem": str(error)}, [*lines, f"refused: {error}"])
    good = verdict == "promote" and released
    return Answer(OK if good else HOLD, {**data, **signatures}, [*lines, *said])


def _signatures(artifact: Artifact, trust: Path | None) -> tuple[bool, dict[str, Any], list[str]]:
    """Released (or not asked), facts, lines."""
    from runtime.contract.signed import describe, verify_signed
    from runtime.contract.trust_store import TrustStore
    from runtime.contract.utc_time import utc_now

    if trust is None:
        return True, describe(None), ["integrity only, origin unknown: no signature was checked; add --trust DIR"]
    signed = verify_signed(artifact.root, artifact.manifest, artifact.manifest_bytes, TrustStore.load(trust), utc_now())
    facts = describe(signed)
    lines = [f"built by: {facts['builder']}"]
    if signed.release is None:
        return False, {**facts, "signed": True}, [*lines, f"release: {facts['release']}"]
    r = signed.release
    lines.append(f"released by: {facts['releaser']}, for {r.robot}, {r.issued_at} to {r.expires_at}, serial {r.serial}")
    return True, {**facts, "signed": True}, lines
