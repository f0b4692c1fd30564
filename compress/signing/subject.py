# SPDX-License-Identifier: Apache-2.0
"""What a builder or releaser signs, read from the artifact itself: nobody types a digest, a task or a camera."""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from compress.signing.errors import SigningError
from runtime.contract import check
from runtime.contract.artifact import Artifact
from runtime.contract.conventions import Verdict
from runtime.contract.loading_limits import JSON_BYTES
from runtime.contract.manifest import parse_json
from runtime.contract.regression import SCHEMA as REGRESSION
from runtime.contract.regular_file import read_bounded
from runtime.contract.statements import BuildStatement, ReleaseStatement
from runtime.contract.utc_time import format_utc
from runtime.errors import ContractError

REGRESS = "run: ros2 run dropgate_sim regress ARTIFACT"


def build_of(artifact: Artifact, now: datetime) -> BuildStatement:
    """The builder's statement about a verified artifact, draft or judged."""
    digest, manifest = hashlib.sha256(artifact.manifest_bytes).hexdigest(), artifact.manifest
    return BuildStatement(digest, manifest.artifact_id, manifest.policy_id, format_utc(now))


def release_of(artifact: Artifact, robot: str, limits_sha256: str, valid: timedelta, now: datetime) -> ReleaseStatement:
    """The releaser's statement about a verified artifact.

    Raises:
        SigningError: its gate did not promote it, or its report names no tasks.
        ContractError: robot or digest are not what such names look like.
    """
    manifest = artifact.manifest
    gate = manifest.gate
    if gate is None or gate.verdict is not Verdict.PROMOTE:
        found = "it is a draft" if gate is None else f"its gate says {gate.verdict.value}: {gate.reason}"
        raise SigningError(f"{artifact.root}: only a promoted artifact is released, {found}; run: compress gate")
    return ReleaseStatement(
        serial=str(uuid.uuid4()),
        manifest_sha256=hashlib.sha256(artifact.manifest_bytes).hexdigest(),
        artifact_id=manifest.artifact_id,
        policy_id=manifest.policy_id,
        gate_sha256=gate.report_sha256,
        verdict=Verdict.PROMOTE,
        robot=robot,
        limits_sha256=limits_sha256,
        tasks=_judged_tasks(artifact, gate.report),
        control_dt_s=manifest.policy.action.dt_s,
        cameras=tuple(sorted(image.key for image in manifest.policy.observation.images)),
        issued_at=format_utc(now),
        expires_at=format_utc(now + valid),
    )


def _judged_tasks(artifact: Artifact, report: str) -> tuple[str, ...]:
    """The sentences that the gate judged, in its plan's order. Tasks that screening found to prove nothing were never
    run with the candidate: they are in the plan, and not in the verdict."""
    data = parse_json(artifact.read_bytes(report), report)
    told = data.get("verdict") if isinstance(data, dict) else None
    if told != Verdict.PROMOTE.value:
        raise SigningError(f"{artifact.root}: the manifest says promote, {report} says {told!r}; seal it again")
    plan = data.get("plan")
    tasks = _objects(plan.get("tasks") if isinstance(plan, dict) else None)
    counted = [floor.get("task") for floor in _objects(data.get("screening")) if floor.get("counts") is True]
    sentences = [
        task.get("sentence") for task in tasks if isinstance(task.get("index"), int) and task["index"] in counted
    ]
    if not sentences or not all(isinstance(text, str) and text for text in sentences):
        raise SigningError(
            f"{artifact.root}: {report} names no judged tasks (plan.tasks[].sentence where screening[].counts); "
            "run: compress gate"
        )
    return tuple(dict.fromkeys(map(str, sentences)))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def limits_from_regression(path: Path, artifact: Artifact, robot: str) -> str:
    """`limits_sha256` of a passed regression of this artifact on this robot; SigningError otherwise."""
    try:
        report = parse_json(read_bounded(path.absolute().parent, path.name, JSON_BYTES), str(path))
    except (OSError, ContractError) as error:
        raise SigningError(f"--regression: {path} cannot be read ({error}); {REGRESS}") from error
    found = report if isinstance(report, dict) else {}
    expected = {
        "schema": REGRESSION,
        "artifact_id": artifact.manifest.artifact_id,
        "policy_id": artifact.manifest.policy_id,
        "robot": robot,
        "verdict": "pass",
    }
    for name, wanted in expected.items():
        if found.get(name) != wanted:
            raise SigningError(f"--regression: {path} has {name} {found.get(name)!r}, expected {wanted!r}; {REGRESS}")
    limits = found.get("limits_sha256")
    if not isinstance(limits, str):
        raise SigningError(f"--regression: {path} has no limits_sha256; it is of an older release; {REGRESS}")
    check.sha256(limits, f"{path} limits_sha256")
    return limits
