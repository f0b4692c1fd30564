# SPDX-License-Identifier: Apache-2.0
"""The controller's decision as a command: `python -m runtime admit`. Reads the same files, asks the same question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.contract.admission import GOLDEN, Admission, StationFacts
from runtime.contract.admission_evidence import decide
from runtime.contract.artifact import Artifact, read_artifact
from runtime.contract.finding import Check
from runtime.contract.regression import limits_of_regression
from runtime.contract.utc_time import utc_now
from runtime.errors import DropGateRuntimeError
from runtime.inference.proven import load_proven

_MARKS = {True: "ok", False: "FAILED", None: "unknown"}


@dataclass(frozen=True)
class Wish:
    """What was asked. `limits_sha256` None: those of the regression beside the artifact; `cameras` None: as the
    artifact asks."""

    artifact: Path
    trust: Path
    policy: Path
    robot: str
    limits_sha256: str | None = None
    cameras: list[str] | None = None
    backend: str = "onnxruntime"
    threads: int | None = None


def admission(wish: Wish) -> Admission:
    """The decision now. An artifact that cannot be read is a failed check, not an error."""
    artifact: Artifact | DropGateRuntimeError
    try:
        artifact = read_artifact(wish.artifact)
    except DropGateRuntimeError as error:
        artifact = error
    found = decide(artifact, wish.trust, wish.policy, _facts(wish, artifact), utc_now())
    return found.plus(_golden(wish, found))


def table(found: Admission) -> list[str]:
    """For people: a line per check, then the verdict."""
    width = max(len(check.name) for check in found.checks)
    lines = []
    for check in found.checks:
        wanted = f"; expected {check.expected}" if check.ok is not True and check.expected else ""
        lines.append(f"{_MARKS[check.ok]:8s}{check.name:{width}s}  {check.found}{wanted}")
    failed = len(found.reasons)
    return [*lines, "admitted" if found.admitted else f"refused: {failed} of {len(found.checks)} checks failed"]


def _facts(wish: Wish, artifact: Artifact | DropGateRuntimeError) -> StationFacts:
    if not isinstance(artifact, Artifact):
        return StationFacts(wish.robot, wish.limits_sha256 or "", tuple(wish.cameras or ()), 0.0)
    policy = artifact.manifest.policy
    limits = wish.limits_sha256 if wish.limits_sha256 is not None else limits_of_regression(artifact)
    cameras = policy.observation.image_keys if wish.cameras is None else tuple(wish.cameras)
    return StationFacts(wish.robot, limits, cameras, policy.action.dt_s)


def _golden(wish: Wish, found: Admission) -> Check:
    """Only what passed everything else is run: nothing of a refused artifact is handed to an engine."""
    expected = "the answers in golden.safetensors, from the engine here"
    if not found.admitted:
        return Check(GOLDEN, None, "not run: refused before", expected)
    try:
        policy, parity = load_proven(wish.artifact, wish.backend, threads=wish.threads, again=True)
    except DropGateRuntimeError as error:
        return Check(GOLDEN, False, str(error), expected)
    policy.close()
    if parity is None:
        return Check(GOLDEN, False, "not run", expected)
    return Check(
        GOLDEN, True, f"{parity.samples} samples, worst difference {max(parity.max_abs.values()):.1e}", expected
    )
