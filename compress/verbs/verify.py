# SPDX-License-Identifier: Apache-2.0
"""`compress verify ARTIFACT`: is every file what the manifest says, and what was the verdict?"""

from __future__ import annotations

import argparse
from pathlib import Path

from compress.verbs.answer import ERROR, HOLD, OK, Answer, Verbs, add_verb


def add_parser(verbs: Verbs) -> None:
    """`verify`."""
    parser = add_verb(
        verbs,
        "verify",
        _verify,
        "check an artifact against its manifest: exit 0 intact and promoted, 1 intact but held or a draft, 2 damaged",
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="artifact directory (holds manifest.json)")


def _verify(options: argparse.Namespace) -> Answer:
    from runtime.contract.artifact import read_artifact, verify_artifact

    report = verify_artifact(options.artifact)
    if not report.ok:
        return Answer(
            ERROR,
            {"intact": False, "artifact": str(options.artifact), "problem": report.describe()},
            [f"damaged: {report.describe()}"],
        )
    manifest = read_artifact(options.artifact).manifest
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
    return Answer(OK if verdict == "promote" else HOLD, data, lines)
