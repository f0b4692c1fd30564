# SPDX-License-Identifier: Apache-2.0
"""The simulation regression's verdict beside an artifact: it must be about these bytes and this robot, and say `pass`.

It lies in `<artifact>.regression/regression.json`, outside the artifact, because it is made afterwards, on the station.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.contract.artifact import Artifact
from runtime.contract.loading_limits import JSON_BYTES
from runtime.contract.manifest import parse_json
from runtime.contract.regular_file import read_bounded
from runtime.errors import ContractError, GateRefusedError

SCHEMA = "dropgate.regression/1"
FOLDER_SUFFIX, REPORT = ".regression", "regression.json"
NEXT = "run: ros2 run dropgate_sim regress ARTIFACT"
SIMULATED_NAMESPACE = "/dropgate_sim/"  # a simulated arm takes its commands below it, where no real driver listens
SIMULATED_ROBOTS = ("libero_panda",)  # those of which dropgate_sim has a simulation


def regression_folder(artifact: Path) -> Path:
    """Where the evidence about an artifact directory lies: its sibling."""
    return artifact.with_name(artifact.name + FOLDER_SUFFIX)


def check_regression(artifact: Artifact, robot: str, limits_sha256: str) -> dict[str, Any]:
    """The report, if it allows motion of `robot` within the limits of this digest.

    Raises:
        GateRefusedError: missing, unreadable, of another artifact or robot, with other limits, or not passed.
    """
    path = regression_folder(artifact.root) / REPORT
    try:
        report = parse_json(read_bounded(path.parent, path.name, JSON_BYTES), REPORT)
    except FileNotFoundError:
        raise GateRefusedError(f"simulation regression: {path} is not there; {NEXT}") from None
    except (OSError, ContractError) as error:
        raise GateRefusedError(f"simulation regression: {path} cannot be read ({error}); {NEXT}") from error
    expected = {
        "schema": SCHEMA,
        "artifact_id": artifact.manifest.artifact_id,
        "policy_id": artifact.manifest.policy_id,
        "robot": robot,
        "limits_sha256": limits_sha256,
        "verdict": "pass",
    }
    found = report if isinstance(report, dict) else {}
    for name, wanted in expected.items():
        if found.get(name) != wanted:
            raise GateRefusedError(
                f"simulation regression: {path} has {name} {found.get(name)!r}, expected {wanted!r}; {NEXT}"
            )
    return found


def limits_of_regression(artifact: Artifact) -> str:
    """Digest of the limits that the regression beside the artifact ran with; empty if none says so. No verdict."""
    path = regression_folder(artifact.root) / REPORT
    try:
        report = parse_json(read_bounded(path.parent, path.name, JSON_BYTES), REPORT)
    except (OSError, ContractError):
        return ""
    found = report.get("limits_sha256") if isinstance(report, dict) else None
    return found if isinstance(found, str) else ""
