# SPDX-License-Identifier: Apache-2.0
"""The numbers of an artifact's own gate report, `evidence/gate.json`: what each panel found, never what it demanded.

The bytes are those that the manifest names (digested again here). A report that contradicts itself or the manifest is
refused. Reports from before panels hold one paired test; from it only `in_distribution` can be taken, and of a passed
one no more is known than that the difference is above minus the margin it was tested with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.contract import check
from runtime.contract.artifact import Artifact
from runtime.contract.codec import conform
from runtime.contract.conventions import Verdict
from runtime.contract.loading_limits import MIB
from runtime.contract.manifest import GateSummary, parse_json
from runtime.contract.panels import PANELS, PRIMARY
from runtime.errors import ContractError, GateRefusedError

GATE_BYTES = 64 * MIB
WITH_PANELS, BEFORE_PANELS = "dropgate.gate/2", "dropgate.gate/1"
OUTCOMES = ("pass", "fail", "undecided", "not_run")
NEXT = "judge the artifact again: compress gate"


@dataclass(frozen=True)
class PanelResult:
    """One paired comparison of a candidate with its baseline.

    Attributes:
        margin, alpha: of the gate's own test; fractions.
        pairs: compared episodes, of `planned`.
        candidate, baseline: how many of them counted as success.
        lower, upper: anytime-valid bounds of the difference of rates, candidate minus baseline, each at `alpha`.

    Raises ContractError if the numbers contradict each other.
    """

    name: str
    margin: float
    alpha: float
    pairs: int
    planned: int
    outcome: str
    candidate: int
    baseline: int
    lost: int
    gained: int
    lower: float
    upper: float

    def __post_init__(self) -> None:
        conform(self)
        where = f"panel {self.name[:80]!r}"
        check.require(self.name in PANELS, "panel name", self.name[:80], f"one of {list(PANELS)}")
        check.require(self.outcome in OUTCOMES, f"{where} outcome", self.outcome[:80], f"one of {list(OUTCOMES)}")
        check.require(0.0 < self.margin < 1.0, f"{where} margin", self.margin, "a fraction above 0 and below 1")
        check.require(0.0 < self.alpha <= 0.5, f"{where} alpha", self.alpha, "a fraction above 0, at most 0.5")
        counts = (self.candidate, self.baseline, self.lost, self.gained)
        check.require(0 <= self.pairs <= self.planned, f"{where} pairs", self.pairs, f"0 to {self.planned} (planned)")
        inside = all(0 <= count <= self.pairs for count in counts) and self.lost + self.gained <= self.pairs
        check.require(inside, f"{where} counts", counts, f"each 0 to {self.pairs} (pairs)")
        gain = self.candidate - self.baseline
        check.require(gain == self.gained - self.lost, f"{where} candidate - baseline", gain, "gained - lost")
        check.require(self.lost <= self.baseline, f"{where} lost", self.lost, f"at most {self.baseline} (baseline)")
        bounds = -1.0 <= self.lower <= self.upper <= 1.0
        check.require(bounds, f"{where} difference", (self.lower, self.upper), "-1 <= lower <= upper <= 1")
        passed, above = self.outcome == "pass", self.lower > -self.margin
        check.require(
            passed == above, f"{where} outcome", (self.outcome, self.lower), f"pass when above -{self.margin}"
        )
        fits = not passed or gain > -self.margin * self.pairs
        check.require(
            fits, f"{where} candidate - baseline", gain, f"more than -{self.margin} of {self.pairs}: it passed"
        )

    @property
    def baseline_rate(self) -> float:
        """Share of the pairs in which the baseline succeeded."""
        return self.baseline / self.pairs if self.pairs else 0.0


@dataclass(frozen=True)
class GateReport:
    """The panels of a report by name, and whether they had to be derived from a report from before panels."""

    panels: Mapping[str, PanelResult]
    derived: bool


def read_gate_report(artifact: Artifact) -> GateReport:
    """The report that the manifest names.

    Raises:
        GateRefusedError: a draft, or a report that cannot be read, contradicts itself or the manifest.
        runtime.errors.ArtifactError: it changed since the artifact was verified.
    """
    summary = artifact.manifest.gate
    if summary is None:
        raise GateRefusedError(f"gate report: found none (a draft), expected one; {NEXT}")
    try:
        return parse_gate_report(artifact.read_bytes(summary.report), summary, artifact.manifest.policy_id)
    except ContractError as error:
        raise GateRefusedError(f"gate report {summary.report}: {error}; {NEXT}") from None


def parse_gate_report(data: bytes, summary: GateSummary, policy_id: str) -> GateReport:
    """Parse and compare with the manifest's summary. Raises ContractError."""
    content = parse_json(data, summary.report, GATE_BYTES)
    check.require(isinstance(content, dict), "report", type(content).__name__, "an object")
    schema = content.get("schema")
    known = (WITH_PANELS, BEFORE_PANELS)
    check.require(schema in known, "schema", _short(schema), f"one of {list(known)}")
    verdict = content.get("verdict")
    check.require(
        verdict == summary.verdict.value, "verdict", _short(verdict), f"the manifest's {summary.verdict.value}"
    )
    judged = _at(content, "arms", "candidate").get("policy_id")
    check.require(
        judged == policy_id, "arms.candidate.policy_id", _short(judged), f"{policy_id}: another policy's report"
    )
    derived = schema == BEFORE_PANELS
    results = [_from_paired(content)] if derived else _results(content)
    if summary.verdict is Verdict.PROMOTE:
        outcome = results[0].outcome
        check.require(outcome == "pass", f"{PRIMARY} outcome", outcome, "pass, as the verdict is promote")
        check.require(derived or not _vetoed(content), "vetoes", "one that speaks, or no list", "none, as it promotes")
    return GateReport({result.name: result for result in results}, derived)


def _results(content: Mapping[str, Any]) -> list[PanelResult]:
    entries = content.get("panels")
    listed = isinstance(entries, list) and 0 < len(entries) <= len(PANELS)
    check.require(listed, "panels", type(entries).__name__, f"a list of 1 to {len(PANELS)} panels")
    results = [_panel(entry, f"panels[{place}]") for place, entry in enumerate(entries or ())]
    check.unique((result.name for result in results), "panels names")
    check.require(results[0].name == PRIMARY, "panels[0].name", results[0].name, repr(PRIMARY))
    return results


def _panel(entry: Any, where: str) -> PanelResult:
    """One entry of `panels`. Bounds that are null, as in a panel that was not run, say nothing: -1 to 1."""
    check.require(isinstance(entry, dict), where, type(entry).__name__, "an object")
    difference = entry.get("difference")
    bounds = difference if isinstance(difference, dict) else {}
    return _result(
        entry,
        where,
        planned=entry.get("planned"),
        lower=_bound(bounds, "lower", -1.0),
        upper=_bound(bounds, "upper", 1.0),
    )


def _from_paired(content: dict[str, Any]) -> PanelResult:
    """`in_distribution` of an old report: passing at its margin is all that is known of the difference."""
    paired = _at(content, "paired")
    check.require(bool(paired), "panels", "neither panels nor a paired test", "the panels of a gate")
    margin = paired.get("margin")
    if not isinstance(margin, float) or not 0.0 < margin < 1.0:
        raise ContractError(f"paired.margin: found {_short(margin)}, expected a fraction above 0 and below 1")
    passed = paired.get("outcome") == "pass"
    lower = math.nextafter(-margin, 0.0) if passed else -1.0
    entry = {**paired, "name": PRIMARY}
    return _result(entry, "paired", planned=paired.get("budget"), lower=lower, upper=1.0)


def _result(entry: Mapping[str, Any], where: str, *, planned: Any, lower: Any, upper: Any) -> PanelResult:
    needed = ("name", "margin", "alpha", "pairs", "outcome", "lost", "gained")
    missing = [name for name in needed if name not in entry]
    check.require(not missing, where, f"no {missing}", f"all of {list(needed)}")
    arms: dict[str, Any] = {}
    for arm in ("candidate", "baseline"):
        counted = _at(entry, arm)
        trials = counted.get("trials")
        check.require(
            trials == entry["pairs"], f"{where}.{arm}.trials", _short(trials), f"{_short(entry['pairs'])!r} (pairs)"
        )
        arms[arm] = counted.get("successes")
    try:
        return PanelResult(**{name: entry[name] for name in needed}, **arms, planned=planned, lower=lower, upper=upper)
    except ContractError as error:
        raise ContractError(f"{where}: {error}") from None


def _vetoed(content: Mapping[str, Any]) -> bool:
    """Did a suite or a task lose too much? What is no veto of the known form counts as one."""
    vetoes = content.get("vetoes")
    return not isinstance(vetoes, list) or any(_at({"veto": v}, "veto").get("vetoed") is not False for v in vetoes)


def _bound(bounds: Mapping[str, Any], name: str, unknown: float) -> Any:
    value = bounds.get(name)
    return unknown if value is None else value


def _at(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    found: Any = content
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, dict) else {}


def _short(value: object) -> object:
    return value[:80] if isinstance(value, str) else value if isinstance(value, (int, float, type(None))) else "..."
