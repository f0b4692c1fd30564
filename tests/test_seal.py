# SPDX-License-Identifier: Apache-2.0
"""Sealing binds evidence to weights: what is missing, foreign, damaged or changed later is refused and named."""

from __future__ import annotations

import errno
import hashlib
import importlib.resources
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import export_factory as tiny
import jsonschema
import numpy as np
import onnx
import pytest
from referencing import Registry, Resource

from compress.export.bom import BOM_FILE, closure
from compress.export.bom_evidence import metrics
from compress.seal import FOR_PROMOTION, SealError, seal
from runtime.contract.artifact import Artifact, read_artifact, verify_artifact
from runtime.contract.conventions import FileRole
from runtime.contract.graph import MODEL_FILE
from runtime.contract.manifest import PackageVersion, digest, lineage_id
from runtime.contract.write import ArtifactFile, write_artifact
from runtime.errors import ArtifactError, GateRefusedError
from runtime.inference.golden import golden_parity
from runtime.inference.policy import Policy


@dataclass(frozen=True)
class Outcome:
    verdict: str
    reason: str


@dataclass(frozen=True)
class Case:
    """A draft and the evidence that belongs to it; `out` does not exist yet."""

    draft: Path
    evidence: dict[str, Path]
    recipe: Path
    report: Path
    out: Path
    root: Path

    def seal(self, gate: Outcome | None = None, **changes: Any) -> Path:
        evidence = changes.pop("evidence", self.evidence)
        given = {"recipe": self.recipe, "report": self.report, **changes}
        return seal(self.draft, evidence, gate, self.out, **given)

    def write(self, name: str, content: Any) -> Path:
        path = self.root / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    def without(self, name: str) -> dict[str, Path]:
        return {key: path for key, path in self.evidence.items() if key != name}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    made = Case(
        tmp_path / "draft", {}, tmp_path / "recipe.yaml", tmp_path / "report.html", tmp_path / "final", tmp_path
    )
    plan = made.write("plan.json", {"plans": []})
    made.recipe.write_text("model: {family: reference}\n")
    made.report.write_text("<!doctype html><title>tiny</title>")
    artifact = redraft(made.draft, plan, made.recipe)
    gate = {
        "verdict": "promote",
        "reason": "as good as before",
        "arms": {"candidate": {"policy_id": artifact.manifest.policy_id}},
    }
    for name in ("probe.json", "recovery.json", "bench.json"):
        made.evidence[name] = made.write(name, {"what": name})
    made.evidence["plan.json"] = plan
    made.evidence["gate.json"] = made.write("gate.json", gate)
    made.evidence["episodes.parquet"] = made.write("episodes.parquet", b"PAR1 rows PAR1")
    return made


def redraft(folder: Path, plan: Path, recipe: Path, **changes: ArtifactFile) -> Artifact:
    """The tiny draft with the lineage of this plan and recipe."""
    source = read_artifact(tiny.draft())
    manifest = source.manifest
    lineage = replace(
        manifest.lineage,
        recipe_sha256=hashlib.sha256(recipe.read_bytes()).hexdigest(),
        plan=replace(manifest.lineage.plan, sha256=hashlib.sha256(plan.read_bytes()).hexdigest()),
    )
    graph = onnx.load(str(source.path(MODEL_FILE)), load_external_data=False)
    graph.metadata_props[0].value = lineage_id(lineage)  # a graph of another lineage is refused
    files = {entry.path: ArtifactFile(entry.role, source.path(entry.path)) for entry in manifest.files}
    files[MODEL_FILE] = ArtifactFile(FileRole.MODEL, graph.SerializeToString(deterministic=True))
    files |= changes
    return write_artifact(
        folder,
        files,
        lineage=lineage,
        policy=manifest.policy,
        golden=manifest.golden,
        created_with=manifest.created_with,
    )


def judge(case: Case, **changes: Any) -> Path:
    """Another gate.json."""
    data = json.loads(case.evidence["gate.json"].read_text())
    return case.write("gate.json", {**data, **changes})


def test_sealed_artifact_holds_everything_and_verifies(case: Case) -> None:
    artifact = read_artifact(case.seal(Outcome("promote", "as good as before")))
    files = {entry.path: entry.role for entry in artifact.manifest.files}
    assert {f"evidence/{name}" for name in (*FOR_PROMOTION, "parity.json")} <= set(files)
    assert files[BOM_FILE] is FileRole.BOM
    assert files["report.html"] is FileRole.REPORT
    assert files["recipe.yaml"] is FileRole.RECIPE
    assert verify_artifact(case.out).ok


def test_promoted_artifact_runs_without_exceptions_to_the_rule(case: Case) -> None:
    with Policy.load(case.seal()) as policy:
        assert golden_parity(policy).ok


def test_sealing_does_not_change_the_policy(case: Case) -> None:
    draft, sealed = read_artifact(case.draft), read_artifact(case.seal())
    assert sealed.manifest.policy_id == draft.manifest.policy_id
    assert sealed.manifest.artifact_id != draft.manifest.artifact_id
    assert verify_artifact(case.draft).ok


def test_manifest_carries_the_digest_of_the_verdict(case: Case) -> None:
    gate = read_artifact(case.seal()).manifest.gate
    assert gate is not None
    assert gate.report_sha256 == hashlib.sha256((case.out / "evidence/gate.json").read_bytes()).hexdigest()


def test_same_evidence_gives_the_same_artifact(case: Case) -> None:
    first = read_artifact(case.seal()).manifest.artifact_id
    shutil.rmtree(case.out)
    assert read_artifact(case.seal()).manifest.artifact_id == first


def test_held_artifact_is_sealed_but_never_loads_for_motion(case: Case) -> None:
    judge(case, verdict="hold", reason="three tasks got worse")
    case.seal()
    with pytest.raises(GateRefusedError, match="three tasks got worse"):
        Policy.load(case.out)
    with pytest.raises(GateRefusedError, match="three tasks got worse"):
        Policy.load(case.out, allow_unsealed=True)


def test_hold_needs_no_other_evidence_than_its_verdict(case: Case) -> None:
    gate = judge(case, verdict="hold", reason="the simulator cannot start", arms={})
    case.seal(evidence={"gate.json": gate}, report=None)
    assert verify_artifact(case.out).ok


@pytest.mark.parametrize("name", FOR_PROMOTION)
def test_promotion_with_missing_evidence_is_refused(case: Case, name: str) -> None:
    with pytest.raises(SealError, match=name):
        case.seal(evidence=case.without(name))
    assert not case.out.exists()


@pytest.mark.parametrize("changes", [{"verdict": "error"}, {"verdict": "PROMOTE"}, {"verdict": None}, {"reason": ""}])
def test_anything_but_promote_or_hold_with_a_reason_is_refused(case: Case, changes: dict[str, Any]) -> None:
    judge(case, **changes)
    with pytest.raises(SealError, match="cannot be sealed"):
        case.seal()


@pytest.mark.parametrize("verdict", ["promote", "hold"])
def test_verdict_about_another_policy_is_refused(case: Case, verdict: str) -> None:
    judge(case, verdict=verdict, arms={"candidate": {"policy_id": "0" * 64}})
    with pytest.raises(SealError, match="is about policy 0000"):
        case.seal()
    assert not case.out.exists()


def test_promotion_without_a_policy_id_is_refused(case: Case) -> None:
    judge(case, arms={})
    with pytest.raises(SealError, match="is about policy unknown"):
        case.seal()


def test_gate_file_that_contradicts_the_gate_is_refused(case: Case) -> None:
    with pytest.raises(SealError, match="from another run"):
        case.seal(Outcome("hold", "as good as before"))


def test_evidence_about_another_plan_is_refused(case: Case) -> None:
    case.write("plan.json", {"plans": ["another"]})
    with pytest.raises(SealError, match="is not the plan that the draft was made with"):
        case.seal()


def test_another_recipe_is_refused(case: Case) -> None:
    case.recipe.write_text("model: {family: other}\n")
    with pytest.raises(SealError, match="is not the recipe"):
        case.seal()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("probe.json", b"", "missing or empty"),
        ("probe.json", b'{"score": NaN}', "finite"),
        ("recovery.json", b'{"loss": [0.1, ', "not JSON"),
        ("bench.json", b'{"a": 1, "a": 2}', "every name once"),
        ("episodes.parquet", b"PAR1 cut short", "not a whole parquet"),
        ("episodes.parquet", b"PAR1", "not a whole parquet"),
    ],
)
def test_damaged_evidence_is_named(case: Case, name: str, content: bytes, said: str) -> None:
    case.write(name, content)
    with pytest.raises(SealError, match=said) as caught:
        case.seal()
    assert name in str(caught.value)
    assert not case.out.exists()


@pytest.mark.parametrize("name", ["../policy.onnx", "/etc/passwd", "..", "a\\b"])
def test_evidence_cannot_leave_its_folder(case: Case, name: str) -> None:
    with pytest.raises(SealError, match="relative POSIX path"):
        case.seal(evidence={**case.evidence, name: case.evidence["probe.json"]})


def test_parity_of_another_export_is_refused(case: Case) -> None:
    other = case.write("parity.json", {"passed": True})
    with pytest.raises(SealError, match=r"already holds another evidence/parity\.json"):
        case.seal(evidence={**case.evidence, "parity.json": other})


def test_draft_that_failed_parity_is_refused(case: Case) -> None:
    shutil.rmtree(case.draft)
    failed = ArtifactFile(FileRole.EVIDENCE, b'{"passed": false}')
    redraft(case.draft, case.evidence["plan.json"], case.recipe, **{"evidence/parity.json": failed})
    with pytest.raises(SealError, match="did not pass parity"):
        case.seal()


def test_sealed_artifact_is_not_sealed_again(case: Case) -> None:
    case.seal()
    with pytest.raises(SealError, match="is sealed already"):
        seal(case.out, case.evidence, None, case.root / "again")


def test_changed_draft_is_not_sealed(case: Case) -> None:
    flip(case.draft / "policy.onnx.data")
    with pytest.raises(ArtifactError, match=r"policy\.onnx\.data"):
        case.seal()


@pytest.mark.parametrize(
    "name", ["evidence/probe.json", "evidence/episodes.parquet", "policy.onnx.data", BOM_FILE, "report.html"]
)
def test_one_flipped_byte_is_found_and_named(case: Case, name: str) -> None:
    case.seal()
    flip(case.out / name)
    assert verify_artifact(case.out).changed == (name,)
    with pytest.raises(ArtifactError, match=name):
        Policy.load(case.out)


def flip(path: Path) -> None:
    """Change one bit in the middle, size unchanged."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_full_disk_leaves_no_half_artifact(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write is the first that finds no room."""
    calls, real = [0], os.fsync

    def count(descriptor: int) -> None:
        calls[0] += 1
        real(descriptor)

    monkeypatch.setattr(os, "fsync", count)
    case.seal()
    writes = calls[0]
    assert writes > 10
    before = read_artifact(case.out).manifest.artifact_id
    case.write("report.html", b"<!doctype html><title>newer</title>")
    around = sorted(path.name for path in case.root.iterdir())
    for full_at in range(1, writes, 4):  # the last sync comes after the renaming
        calls[0] = 0
        monkeypatch.setattr(os, "fsync", lambda d, limit=full_at: no_space_from(limit, calls, d, real))
        with pytest.raises(OSError, match="No space left"):
            case.seal()
        assert sorted(path.name for path in case.root.iterdir()) == around
        assert read_artifact(case.out).manifest.artifact_id == before


def no_space_from(limit: int, calls: list[int], descriptor: int, real: Any) -> None:
    calls[0] += 1
    if calls[0] >= limit:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real(descriptor)


def bill(case: Case) -> dict[str, Any]:
    case.seal()
    return json.loads((case.out / BOM_FILE).read_text())


def test_bill_lists_software_with_versions(case: Case) -> None:
    made = bill(case)
    libraries = {c["name"]: c["version"] for c in made["components"] if c["type"] == "library"}
    assert libraries["numpy"] == np.__version__
    assert {"torch", "onnxruntime", "sympy"} <= set(libraries), "sympy comes with torch: the closure is listed"


def test_bill_names_the_model_by_its_digests(case: Case) -> None:
    model = bill(case)["metadata"]["component"]
    digests = {part["name"]: part["hashes"][0]["content"] for part in model["components"]}
    for name in ("policy.onnx", "policy.onnx.data", "tokenizer.json", "normalization.safetensors"):
        assert digests[name] == hashlib.sha256((case.out / name).read_bytes()).hexdigest()
    assert model["type"] == "machine-learning-model"
    assert model["pedigree"]["ancestors"][0]["hashes"][0]["content"] == tiny.model().identity()


def cyclonedx_errors(made: dict[str, Any]) -> list[str]:
    """What the published schema of CycloneDX 1.6 (as its own library ships it) says of a bill."""
    folder = importlib.resources.files("cyclonedx.schema") / "_res"
    names = {"bom-1.6": "", "spdx": "http://cyclonedx.org/schema/spdx.schema.json",
             "jsf-0.82": "http://cyclonedx.org/schema/jsf-0.82.schema.json"}  # fmt: skip
    schemas = {name: json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text("utf-8")) for name in names}
    registry: Registry[Any] = Registry().with_resources(
        [(uri or schemas[name]["$id"], Resource.from_contents(schemas[name])) for name, uri in names.items()]
    )
    validator = jsonschema.Draft7Validator(schemas["bom-1.6"], registry=registry)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(made)]


def measured(case: Case) -> dict[str, Any]:
    """The bill of a case whose evidence is as the stages write it."""
    rates = {"successes": 190, "trials": 200, "rate": 0.95, "wilson95": [0.91, 0.97]}
    panel = {
        "kind": "suite", "candidate": rates, "baseline": rates, "outcome": "pass",
        "difference": {"mean": 0.005, "lower": -0.02, "upper": 0.03},
    }  # fmt: skip
    names = ("in_distribution", "robot_pose")
    judge(
        case, plan_digest="a" * 64, spec={"suite": "dropgate_tabletop"},
        panels=[*({**panel, "name": name} for name in names), {**panel, "name": "instruction_swap", "kind": "swap"}],
    )  # fmt: skip
    case.write("recovery.json", {"data_digest": "b" * 64})
    case.write("probe.json", [{"sample_ids": ["demo_0/3", "demo_1/0"]}, {"sample_ids": ["demo_0/3"]}])
    return bill(case)


def test_bill_is_valid_cyclonedx(case: Case) -> None:
    assert cyclonedx_errors(bill(case)) == []


def test_bill_with_data_and_metrics_is_valid_cyclonedx(case: Case) -> None:
    made = measured(case)
    assert cyclonedx_errors(made) == []
    made["metadata"]["component"]["modelCard"]["accuracy"] = 1
    assert cyclonedx_errors(made), "the schema is not looked at"


def test_bill_names_the_data_by_digest(case: Case) -> None:
    made = measured(case)
    refs = [entry["ref"] for entry in made["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"]]
    data = {part["bom-ref"]: part for part in made["components"]}
    found = {data[ref]["name"]: data[ref]["hashes"][0]["content"] for ref in refs}
    assert found["recovery batches"] == "b" * 64
    assert found["gate plan"] == "a" * 64
    assert found["probe samples"] == digest(["demo_0/3", "demo_1/0"])


def test_bill_carries_what_the_gate_measured(case: Case) -> None:
    card = measured(case)["metadata"]["component"]["modelCard"]
    found = {(m["type"], m["slice"]): m for m in card["quantitativeAnalysis"]["performanceMetrics"]}
    assert found[("success rate", "candidate, robot_pose")] == {
        "type": "success rate", "slice": "candidate, robot_pose", "value": "0.95",
        "confidenceInterval": {"lowerBound": "0.91", "upperBound": "0.97"},
    }  # fmt: skip
    assert found[("paired difference", "in_distribution")]["confidenceInterval"]["lowerBound"] == "-0.02"
    assert ("success under the wrong instruction", "candidate, instruction_swap") in found
    assert len(found) == 9


def test_older_gate_report_still_gives_its_metrics(case: Case) -> None:
    rates = {"successes": 9, "trials": 10, "rate": 0.9, "wilson95": [0.6, 0.98]}
    paired = {"candidate": rates, "baseline": rates, "difference": 0.0, "tango95": [-0.2, 0.2]}
    judge(case, paired=paired)
    found = metrics({"gate.json": case.evidence["gate.json"]})
    assert [(m.kind, m.slice, m.value, m.low) for m in found] == [
        ("success rate", "candidate, in_distribution", 0.9, 0.6),
        ("success rate", "baseline, in_distribution", 0.9, 0.6),
        ("paired difference", "in_distribution", 0.0, -0.2),
    ]


def test_bill_refers_only_to_what_it_lists(case: Case) -> None:
    made = bill(case)
    model = made["metadata"]["component"]
    refs = [c["bom-ref"] for c in (model, *made["components"], *model["components"], *model["pedigree"]["ancestors"])]
    assert len(refs) == len(set(refs))
    for edge in made["dependencies"]:
        assert {edge["ref"], *edge["dependsOn"]} <= set(refs)


def test_bill_has_no_clock_and_no_host(case: Case, repo: Path) -> None:
    made = bill(case)
    assert "timestamp" not in json.dumps(made)
    assert str(repo) not in json.dumps(made)
    assert made["serialNumber"].startswith("urn:uuid:")


def test_closure_keeps_the_recorded_version_of_a_package_that_changed_since() -> None:
    found = closure([PackageVersion("torch", "0.0.1"), PackageVersion("numpy", np.__version__)])
    assert found["torch"] == ("0.0.1", ())
    assert found["numpy"][0] == np.__version__
