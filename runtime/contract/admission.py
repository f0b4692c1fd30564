# SPDX-License-Identifier: Apache-2.0
"""May this artifact move this robot, now? Every check is made, every failed one is named, and nothing overrides one.

Pure: what lies on disk is read by `admission_evidence`. A part that could not be had (damaged, unsigned, missing) comes
as its error: that is a failed check, and what depends on it is `unknown`, which admits nothing either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from runtime.contract.artifact import Artifact
from runtime.contract.conventions import Verdict
from runtime.contract.finding import Check, had
from runtime.contract.gate_report import GateReport
from runtime.contract.panel_checks import panel_checks
from runtime.contract.regression import SIMULATED_ROBOTS
from runtime.contract.signed import Signed
from runtime.contract.spec import PromptSpec
from runtime.contract.statements import ReleaseStatement
from runtime.contract.station_policy import StationPolicy
from runtime.contract.utc_time import format_utc
from runtime.errors import DropGateRuntimeError

SCHEMA = "dropgate.admission/1"
GOLDEN = "golden parity"  # the check that only whoever runs the engine can add


@dataclass(frozen=True)
class StationFacts:
    """What the station is and runs with.

    Attributes:
        robot: its name.
        limits_sha256: digest of the limits that its filter runs with; empty if not known.
        cameras: observation keys that it feeds.
        control_dt_s: step of the actions that it executes [s].
    """

    robot: str
    limits_sha256: str
    cameras: tuple[str, ...]
    control_dt_s: float


@dataclass(frozen=True)
class Admission:
    """The decision: all checks in order, what was found out, and the release that goals are compared with."""

    checks: tuple[Check, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    release: ReleaseStatement | None = None

    @property
    def admitted(self) -> bool:
        """True only if there is a release and every check was made and holds."""
        return self.release is not None and bool(self.checks) and all(check.ok is True for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every failed check, the first cause first."""
        return tuple(check.reason for check in self.checks if check.ok is False)

    def plus(self, *more: Check) -> Admission:
        """The same decision with further checks."""
        return replace(self, checks=(*self.checks, *more))

    def objection(self, instruction: str, prompt: PromptSpec, now: datetime) -> str:
        """Why this task may not be begun now; empty if it may."""
        if not self.admitted or self.release is None:
            return "not admitted: " + "; ".join(self.reasons)
        if now >= self.release.expires:
            return f"release {self.release.serial} expired at {self.release.expires_at}, it is {format_utc(now)}"
        wanted, released = _cased(prompt, (instruction,)), _cased(prompt, self.release.tasks)
        return (
            "" if wanted <= released else f"task {instruction!r} is not released; released: {_some(self.release.tasks)}"
        )

    def to_json(self) -> dict[str, Any]:
        """For the decision log and for programs."""
        states = {True: "ok", False: "failed", None: "unknown"}
        return {
            "admitted": self.admitted,
            "reasons": list(self.reasons),
            "facts": dict(self.facts),
            "checks": [
                {"name": c.name, "state": states[c.ok], "found": c.found, "expected": c.expected} for c in self.checks
            ],
        }


def admit(
    artifact: Artifact | DropGateRuntimeError,
    signed: Signed | DropGateRuntimeError | None,
    gate: GateReport | DropGateRuntimeError | None,
    policy: StationPolicy | DropGateRuntimeError,
    station: StationFacts,
    now: datetime,
    *,
    regression: Mapping[str, Any] | DropGateRuntimeError | None,
    stated: ReleaseStatement | None = None,
) -> Admission:
    """Make every check at `now` (UTC). None: could not be looked for, because the artifact itself is not there.

    Args:
        artifact: verified whole, or why not.
        signed: what trusted keys vouch for, or why there is nothing.
        gate: the artifact's own report, or why it cannot be had.
        policy: what this station demands, or why that cannot be read.
        station: robot, limits, cameras, step.
        now: aware.
        regression: the simulation regression's passed report, or why there is none.
        stated: where `signed` is an error: the release that the artifact carries, so that its other faults are named
            too; it admits nothing.
    """
    release = signed.release if isinstance(signed, Signed) else None
    shown = release or stated
    demands = policy if isinstance(policy, StationPolicy) else None
    checks = [
        had("artifact", artifact),
        had("station policy", policy),
        had("signatures", signed),
        _verdict(artifact),
        _released(signed),
        *_binding(shown, station),
        _age(shown, demands, now),
        had("gate report", gate),
        *panel_checks(gate, demands),
        _regression(regression, demands, station.robot),
    ]
    facts = {
        "time": format_utc(now),
        "robot": station.robot,
        "limits_sha256": station.limits_sha256,
        "cameras": sorted(station.cameras),
        "control_dt_s": station.control_dt_s,
        **_facts(artifact, signed, gate, demands),
    }
    return Admission(tuple(checks), facts, release)


def _verdict(artifact: Artifact | DropGateRuntimeError) -> Check:
    if not isinstance(artifact, Artifact):
        return Check("gate verdict", None, "unknown", Verdict.PROMOTE.value)
    gate = artifact.manifest.gate
    if gate is None:
        return Check("gate verdict", False, "none (a draft)", Verdict.PROMOTE.value)
    found = gate.verdict.value if gate.verdict is Verdict.PROMOTE else f"{gate.verdict.value} ({gate.reason})"
    return Check("gate verdict", gate.verdict is Verdict.PROMOTE, found, Verdict.PROMOTE.value)


def _released(signed: Signed | DropGateRuntimeError | None) -> Check:
    wanted = "a release; run: compress seal ARTIFACT --releaser-key KEY"
    if not isinstance(signed, Signed):
        return Check("release", None, "unknown", wanted)
    found = "none: built, but not released" if signed.release is None else signed.release.serial
    return Check("release", signed.release is not None, found, wanted)


def _binding(release: ReleaseStatement | None, station: StationFacts) -> list[Check]:
    """Is the release about this robot, within these limits, with these cameras, at this step?"""
    given: dict[str, tuple[Any, Any]] = {
        "robot": (station.robot, release and release.robot),
        "limits": (station.limits_sha256 or "not known", release and release.limits_sha256),
        "cameras": (", ".join(sorted(station.cameras)), release and ", ".join(release.cameras)),
        "control step": (f"{station.control_dt_s!r} s", release and f"{release.control_dt_s!r} s"),
    }
    if release is None:
        return [Check(name, None, str(here), "what the release names") for name, (here, _) in given.items()]
    return [
        Check(name, here == named, f"{here} here", f"{named}, which the release names")
        for name, (here, named) in given.items()
    ]


def _age(release: ReleaseStatement | None, policy: StationPolicy | None, now: datetime) -> Check:
    if release is None or policy is None:
        return Check("release age", None, "unknown", "at most what the station allows")
    age = now - release.begins
    expected = f"at most {policy.max_release_days:g} days, which the station allows"
    found = f"issued at {release.issued_at}, {max(age, timedelta()) / timedelta(days=1):.1f} days ago"
    return Check("release age", age <= timedelta(days=policy.max_release_days), found, expected)


def _regression(
    report: Mapping[str, Any] | DropGateRuntimeError | None, policy: StationPolicy | None, robot: str
) -> Check:
    if policy is None:
        return Check("simulation regression", None, "unknown", "what the station requires")
    if not policy.require_regression:
        can = robot in SIMULATED_ROBOTS
        found = f"not required by the station, {'although' if can else 'because no'} simulation of {robot!r} is there"
        return Check("simulation regression", not can, found, "require_regression true where the robot is simulated")
    checked = had("simulation regression", report)
    if checked.ok is False and robot not in SIMULATED_ROBOTS:
        hint = f"or require_regression false in the station policy: no simulation of {robot!r} is there"
        return replace(checked, expected=f"a pass, {hint}")
    return checked


def _facts(
    artifact: Artifact | DropGateRuntimeError,
    signed: Signed | DropGateRuntimeError | None,
    gate: GateReport | DropGateRuntimeError | None,
    policy: StationPolicy | None,
) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if isinstance(artifact, Artifact):
        manifest = artifact.manifest
        facts |= {"artifact": artifact.root.name, "artifact_id": manifest.artifact_id, "policy_id": manifest.policy_id}
        facts["gate_sha256"] = None if manifest.gate is None else manifest.gate.report_sha256
    if isinstance(signed, Signed):
        facts["builder"] = None if signed.builder is None else signed.builder.label
        facts["releaser"] = None if signed.releaser is None else signed.releaser.label
        if signed.release is not None:
            facts |= {"release": signed.release.serial, "expires_at": signed.release.expires_at}
    if isinstance(gate, GateReport):
        facts["panels"] = {
            name: {"lower": r.lower, "alpha": r.alpha, "pairs": r.pairs, "baseline_rate": r.baseline_rate}
            for name, r in gate.panels.items()
        }
    if policy is not None:
        facts["station_policy_sha256"] = policy.sha256
    return facts


def _cased(prompt: PromptSpec, sentences: Iterable[str]) -> set[str]:
    """As the policy reads them: where it lowers case, case does not matter."""
    return {sentence.lower() if prompt.lowercase else sentence for sentence in sentences}


def _some(sentences: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, sentences[:5]))
    return shown if len(sentences) <= 5 else f"{shown} and {len(sentences) - 5} more"
