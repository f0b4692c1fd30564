# SPDX-License-Identifier: Apache-2.0
"""An artifact that a station admits: gate report with panels, both signatures, trust store, station policy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from artifact_factory import TASK, judge, write_draft
from signing_factory import NOW, People, build_statement, people, release_statement, write_signatures, write_trust

from runtime.contract.admission import Admission, StationFacts
from runtime.contract.admission_evidence import decide
from runtime.contract.artifact import Artifact, read_artifact
from runtime.contract.conventions import Verdict
from runtime.contract.regression import REPORT, SCHEMA, regression_folder
from runtime.contract.trust_store import TrustStore
from runtime.errors import DropGateRuntimeError

ROBOT, LIMITS = "ur5e", "d" * 64
CAMERAS = ("agentview", "wrist")


def rates(successes: int, trials: int) -> dict[str, Any]:
    rate = successes / trials if trials else None
    return {"successes": successes, "trials": trials, "rate": rate, "wilson95": [0.0, 1.0]}


def panel(name: str, **changes: Any) -> dict[str, Any]:
    """An entry of `panels` that passes: 100 pairs, two lost, two gained."""
    made = {
        "name": name, "kind": "suite", "margin": 0.03, "alpha": 0.05, "pairs": 100, "planned": 800, "outcome": "pass",
        "candidate": rates(90, 100), "baseline": rates(90, 100), "lost": 2, "gained": 2,
        "difference": {"mean": 0.0, "lower": -0.02, "upper": 0.03}, "reason": "not worse by 3 points",
        "steps_to_success": {"candidate": 70.0, "baseline": 71.0},
    }  # fmt: skip
    return {**made, **changes}


def gate_json(policy_id: str, panels: list[dict[str, Any]] | None, **changes: Any) -> bytes:
    content: dict[str, Any] = {
        "schema": "dropgate.gate/2", "verdict": "promote", "reason": "passed", "vetoes": [],
        "arms": {"candidate": {"policy_id": policy_id}, "baseline": {"policy_id": "e" * 64}},
        "panels": [panel("in_distribution"), panel("robot_pose")] if panels is None else panels,
    }  # fmt: skip
    return json.dumps({**content, **changes}).encode()


def demands(**changes: Any) -> dict[str, Any]:
    """Content of a station policy."""
    one = {"margin": 0.03, "alpha": 0.05, "min_pairs": 30}
    made = {
        "schema": "dropgate.station_policy/1", "panels": {"in_distribution": dict(one), "robot_pose": dict(one)},
        "min_baseline": 0.5, "max_release_days": 90, "require_regression": True,
    }  # fmt: skip
    return {**made, **changes}


def write_policy(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    path.chmod(0o644)
    return path


@dataclass(frozen=True)
class Cell:
    """A station with an artifact that it admits; `ask` decides, with one thing changed or none."""

    artifact: Artifact
    who: People
    trust: Path
    policy: Path
    facts: StationFacts

    def ask(self, now: datetime = NOW, **changes: Any) -> Admission:
        given = {"artifact": self.artifact, "trust": self.trust, "policy": self.policy, "station": self.facts} | changes
        return decide(given["artifact"], given["trust"], given["policy"], given["station"], now)

    def with_facts(self, **changes: Any) -> Admission:
        return self.ask(station=replace(self.facts, **changes))

    def sign(self, **release: Any) -> None:
        """Sign again, with other content of the release."""
        sign_release(self.artifact, self.who, self.facts, **release)

    def believe(self, trust: TrustStore) -> None:
        write_trust(self.trust, trust)

    def demand(self, **changes: Any) -> None:
        write_policy(self.policy, demands(**changes))


def sign_release(artifact: Artifact, who: People, facts: StationFacts, **changes: Any) -> None:
    given = {"robot": facts.robot, "limits_sha256": facts.limits_sha256} | changes
    built = {"signed_at": given["issued_at"]} if "issued_at" in given else {}
    manifest, data = artifact.manifest, artifact.manifest_bytes
    write_signatures(
        artifact.root, who, build_statement(manifest, data, **built), release_statement(manifest, data, **given)
    )


def write_regression(artifact: Artifact, robot: str = ROBOT, limits: str = LIMITS, **changes: Any) -> Path:
    manifest = artifact.manifest
    report = {
        "schema": SCHEMA, "artifact_id": manifest.artifact_id, "policy_id": manifest.policy_id, "robot": robot,
        "limits_sha256": limits, "verdict": "pass",
    }  # fmt: skip
    path = regression_folder(artifact.root) / REPORT
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**report, **changes}))
    return path


def make_cell(folder: Path, panels: list[dict[str, Any]] | None = None, **gate: Any) -> Cell:
    """Everything that admits; `panels` and `gate` change gate.json before it is sealed and signed."""
    draft = write_draft(folder / "draft")
    report = gate_json(draft.manifest.policy_id, panels, **gate)
    artifact = judge(draft, folder / "artifact", Verdict(gate.get("verdict", "promote")), report=report)
    who, facts = people(), StationFacts(ROBOT, LIMITS, CAMERAS, artifact.manifest.policy.action.dt_s)
    sign_release(artifact, who, facts)
    write_regression(artifact)
    policy = write_policy(folder / "station_policy.json", demands())
    return Cell(artifact, who, write_trust(folder / "trust", who.trust()), policy, facts)


def reread(cell: Cell) -> Artifact | DropGateRuntimeError:
    """The artifact as a station would read it now, or why not."""
    try:
        return read_artifact(cell.artifact.root)
    except DropGateRuntimeError as error:
        return error


__all__ = ["TASK", "Cell", "demands", "gate_json", "make_cell", "panel", "rates", "reread", "sign_release"]
