# SPDX-License-Identifier: Apache-2.0
"""The verdict in one sentence, what was compared, and what speaks against trusting it; then who is who."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compress.report.errors import reading
from compress.report.evidence import STAGE_OF, Evidence
from compress.report.view_blocks import Ranking

NO_GATE = "no gate evidence: this artifact must not move an arm"


@dataclass(frozen=True)
class Head:
    """`word` is PROMOTE, HOLD or NO VERDICT; `doubts` are sentences."""

    word: str
    reason: str
    compared: str
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One row of the identity table; a digest is shown short, its full form as title."""

    name: str
    value: str
    digest: str = ""


def head(evidence: Evidence, ranking: Ranking) -> Head:
    """From the evidence as it is; nothing is judged again."""
    word, reason = _verdict(evidence)
    return Head(word, reason, _compared(evidence, ranking), tuple(_doubts(evidence, ranking)))


def _verdict(evidence: Evidence) -> tuple[str, str]:
    data = evidence.data.get("gate")
    sealed = evidence.manifest.gate if evidence.manifest is not None else None
    if data is None:
        return "NO VERDICT", NO_GATE
    with reading(evidence.paths["gate"], "gate"):
        about, verdict, reason = _candidate(evidence), data["verdict"], str(data["reason"])
        if verdict not in ("promote", "hold"):
            raise ValueError(f"verdict is {verdict!r}, expected promote or hold")
    if evidence.manifest is not None and about and about != evidence.manifest.policy_id:
        found = f"the gate evidence is about policy {about[:12]}, this one is {evidence.manifest.policy_id[:12]}"
        return "NO VERDICT", f"{found}: it must not move an arm"
    if sealed is not None and sealed.verdict.value != verdict:
        found = f"the manifest says {sealed.verdict.value}, the gate evidence says {verdict}"
        return "NO VERDICT", f"{found}: this artifact must not move an arm"
    return verdict.upper(), reason


def _candidate(evidence: Evidence) -> str:
    arms = evidence.data["gate"]["arms"]
    return str(arms["candidate"]["policy_id"]) if "candidate" in arms else ""


def _compared(evidence: Evidence, ranking: Ranking) -> str:
    data = evidence.data.get("gate")
    kept = ", ".join(f"{plan.role} {plan.part}s {len(plan.kept)} of {plan.depth}" for plan in ranking.plans)
    made = f" ({kept} kept)" if kept else ""
    if data is None:
        return f"Nothing was compared. The candidate{made} has not been asked to do anything."
    with reading(evidence.paths["gate"], "gate"):
        spec, paired = data["spec"], data["paired"]
        known = {name: str(arm["policy_id"])[:12] for name, arm in data["arms"].items()}
        scenes = f"{paired['pairs']} paired scenes" if paired else "no paired scenes"
        return (
            f"Compared: candidate {known.get('candidate', 'unknown')}{made} with baseline "
            f"{known.get('baseline', 'unknown')} on {scenes} of {spec['suite']}, "
            f"{data['episodes']} episodes in all, "
            f"accepted loss under {100 * spec['margin']:g} points, alpha {spec['alpha']:g}."
        )


def _doubts(evidence: Evidence, ranking: Ranking) -> list[str]:
    doubts = [f"{name}.json is missing (compress {STAGE_OF[name]} writes it)." for name in evidence.missing]
    gate, parity, manifest = evidence.data.get("gate"), evidence.data.get("parity"), evidence.manifest
    if evidence.kind == "artifact" and manifest is not None and manifest.gate is None:
        doubts.append("This is a draft: no verdict is sealed into its manifest, and the runtime refuses it for motion.")
    if parity is not None and parity.get("passed") is not True:
        doubts.append("The exported graph did not pass parity with its model.")
    if gate is not None:
        with reading(evidence.paths["gate"], "gate"):
            crashed = [(arm, count) for arm, count in sorted(gate["crashes"].items()) if count]
            doubts += [f"{count} episodes of the {arm} ended by a crash, not by the policy." for arm, count in crashed]
            doubts += [f"{warning}." for warning in gate.get("warnings") or ()]
            lost = [strip["caption"] for strip in gate["filmstrips"] if not strip["reproduced"]]
            doubts += [f"{len(lost)} filmstrips did not reproduce the episode's result."] if lost else []
    digests = {item.digest() for item in ranking.scores}
    for plan in ranking.plans:
        if digests and plan.scores_digest not in digests:
            doubts.append(f"The plan of {plan.role} was made from other scores than probe.json holds.")
        if plan.close_call:
            doubts.append(f"The cut of {plan.role} runs through a tie: another choice of blocks was as good.")
    return doubts


def identity(evidence: Evidence, ranking: Ranking) -> tuple[Fact, ...]:
    """Names and digests, as far as they are known."""
    manifest, facts = evidence.manifest, []
    if manifest is not None:
        source = manifest.lineage.source
        facts += [Fact("artifact", "", manifest.artifact_id)] if evidence.kind == "artifact" else []
        facts += [
            Fact("policy (specs and executed files)", "", manifest.policy_id),
            Fact("family", manifest.lineage.family),
            Fact("source model", f"{source.name}, revision {source.revision}", source.sha256),
            Fact("recipe", "", manifest.lineage.recipe_sha256),
            Fact("plan", "", manifest.lineage.plan.sha256),
        ]
    if "gate" in evidence.data:
        with reading(evidence.paths["gate"], "gate"):
            data = evidence.data["gate"]
            arms = sorted(data["arms"].items(), reverse=True)
            facts += [Fact(f"{name} in the gate", "", str(arm["policy_id"])) for name, arm in arms]
            facts += [Fact("gate plan", "", str(data["plan_digest"]))]
    if "recovery" in evidence.data:
        with reading(evidence.paths["recovery"], "recover"):
            facts.append(Fact("recovery data", "", str(evidence.data["recovery"]["data_digest"])))
    facts += [Fact(f"scores of {item.subject.role}", item.metric, item.digest()) for item in ranking.scores]
    return tuple(fact for fact in facts if fact.value or fact.digest)


def surroundings(evidence: Evidence) -> tuple[tuple[str, str], ...]:
    """Versions and hardware, by who recorded them."""
    rows = []
    if evidence.manifest is not None:
        rows.append(("exported with", _listed({p.name: p.version for p in evidence.manifest.created_with})))
    rows += [(f"stage {done.stage}, {done.seconds:.1f} s", _listed(done.versions)) for done in evidence.receipts]
    for name, label in (("bench", "latency measured with"), ("gate", "gate run with")):
        if name in evidence.data:
            with reading(evidence.paths[name], STAGE_OF[name]):
                rows.append((label, _listed(evidence.data[name]["versions"])))
    if "gate" in evidence.data:
        with reading(evidence.paths["gate"], "gate"):
            rows.append(("gate hardware", str(evidence.data["gate"]["hardware"])))
    if "recovery" in evidence.data:
        with reading(evidence.paths["recovery"], "recover"):
            rows.append(("recovery hardware", str(evidence.data["recovery"]["hardware"])))
    return tuple(rows)


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
