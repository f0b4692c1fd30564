# SPDX-License-Identifier: Apache-2.0
"""Draft + evidence + verdict -> the final artifact directory, read back and verified.

The verdict is taken from `gate.json` itself, whose digest goes into the manifest, and only if it is about this very
policy. A held artifact is sealed as held: it can be studied, and the runtime refuses it for motion. Signatures are made
over the finished manifest and go into `signatures/`, which nothing here touches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from compress.export.bom import BOM_FILE, bom
from compress.export.bom_evidence import data_sets, metrics
from runtime.contract import check
from runtime.contract.artifact import Artifact, read_artifact, verify_artifact
from runtime.contract.conventions import FileRole, Verdict
from runtime.contract.manifest import FileEntry, GateSummary, parse_json
from runtime.contract.verify import file_digest
from runtime.contract.write import ArtifactFile, extend_artifact
from runtime.errors import ContractError

EVIDENCE = "evidence/"
GATE, EPISODES, PLAN, PARITY = "gate.json", "episodes.parquet", "plan.json", "parity.json"
FOR_PROMOTION = ("bench.json", EPISODES, GATE, PLAN, "probe.json", "recovery.json")
RECIPE_FILE, REPORT_FILE = "recipe.yaml", "report.html"
PARQUET_MAGIC = b"PAR1"
Source = tuple[FileRole, Path]


class SealError(ValueError):
    """Draft, evidence and verdict do not belong together; nothing was written."""


class GateOutcome(Protocol):
    """What the gate returned (`compress.gate.report.GateReport`)."""

    @property
    def verdict(self) -> str:
        """`promote`, `hold` or `error`."""
        ...

    @property
    def reason(self) -> str:
        """One sentence."""
        ...


@dataclass(frozen=True)
class _Judged:
    verdict: Verdict
    reason: str
    policy_id: str


def seal(
    draft: Path,
    evidence: Mapping[str, Path],
    gate_report: GateOutcome | None,
    out: Path,
    *,
    recipe: Path | None = None,
    report: Path | None = None,
) -> Path:
    """Write the final artifact to `out` and verify what was written.

    Args:
        draft: from `export_draft`; stays as it is.
        evidence: file name below `evidence/` -> file, for instance `{"gate.json": ..., "probe.json": ...}`. A promoted
            artifact needs all of `FOR_PROMOTION`, a held one only `gate.json`.
        gate_report: what the gate returned, compared with its `gate.json`; None takes `gate.json` alone.
        out: an older artifact there is replaced; anything else is refused.
        recipe: the resolved recipe, sealed as `recipe.yaml`.
        report: the self-contained HTML report, sealed as `report.html`.

    Returns:
        `out`.

    Raises:
        SealError: evidence is missing, damaged, or about another policy, plan or recipe.
        ArtifactError: the draft is damaged, or `out` holds something else.
        OSError: the disk is full or not writable; `out` is as it was.
    """
    artifact = read_artifact(draft)
    if artifact.manifest.gate is not None:
        raise SealError(f"{draft}: is sealed already ({artifact.manifest.gate.verdict.value}); seal its draft")
    judged = _judged(evidence, gate_report, artifact)
    files = _files(evidence, recipe, report, artifact)
    _bound(artifact, evidence, recipe, judged.verdict)
    gate = GateSummary(
        judged.verdict, judged.reason, artifact.manifest.policy_id, EVIDENCE + GATE, file_digest(evidence[GATE])
    )
    others = [entry for entry in artifact.manifest.files if entry.role is FileRole.EVIDENCE and entry.path not in files]
    listed = [*others, *(_entry(path, role, source) for path, (role, source) in files.items())]
    content = {path: ArtifactFile(role, source) for path, (role, source) in files.items()}
    bill = bom(artifact.manifest, gate, listed, data_sets(evidence), metrics(evidence))
    content[BOM_FILE] = ArtifactFile(FileRole.BOM, bill)
    sealed = extend_artifact(artifact, out, content, gate)
    again = read_artifact(out)
    verify_artifact(out).raise_if_bad(out)
    if (
        again.manifest.artifact_id != sealed.manifest.artifact_id
        or again.manifest.policy_id != artifact.manifest.policy_id
    ):
        raise SealError(f"{out}: reads back as another artifact than was written; is another process writing there?")
    return out


def _entry(path: str, role: FileRole, source: Path) -> FileEntry:
    return FileEntry(path, source.stat().st_size, file_digest(source), role)


def _judged(evidence: Mapping[str, Path], gate_report: GateOutcome | None, artifact: Artifact) -> _Judged:
    if GATE not in evidence:
        raise SealError(
            f"evidence: found {sorted(evidence)}, expected {GATE}: without a verdict there is only a draft; "
            "run: compress gate"
        )
    data = _json(evidence[GATE])
    verdict, reason = data.get("verdict"), data.get("reason")
    if verdict not in [member.value for member in Verdict] or not isinstance(reason, str) or not reason:
        raise SealError(
            f"{evidence[GATE]}: verdict {verdict!r} ({reason!r}) cannot be sealed, "
            "expected promote or hold; run: compress gate"
        )
    if gate_report is not None:
        told = (getattr(gate_report.verdict, "value", gate_report.verdict), gate_report.reason)
        if told != (verdict, reason):
            raise SealError(
                f"{evidence[GATE]}: says {(verdict, reason)}, the gate returned {told}; the file is from another run"
            )
    about = str(((data.get("arms") or {}).get("candidate") or {}).get("policy_id") or "")
    expected = artifact.manifest.policy_id
    if about != expected and (about or verdict == Verdict.PROMOTE.value):
        raise SealError(
            f"{evidence[GATE]}: is about policy {about or 'unknown'}, the draft is {expected}; "
            "run the gate on this draft"
        )
    return _Judged(Verdict(verdict), reason, expected)


def _files(
    evidence: Mapping[str, Path], recipe: Path | None, report: Path | None, artifact: Artifact
) -> dict[str, Source]:
    files: dict[str, Source] = {}
    present = {entry.path: entry for entry in artifact.manifest.files}
    for name, path in sorted(evidence.items()):
        inside = EVIDENCE + name
        try:
            check.relative_path(inside, "evidence")
        except ContractError as error:
            raise SealError(str(error)) from error
        _readable(name, path)
        if inside in present and file_digest(path) != present[inside].sha256:
            raise SealError(
                f"{path}: the draft already holds another {inside}; evidence of two exports cannot be mixed"
            )
        files[inside] = (FileRole.EVIDENCE, path)
    for name, role, given in ((RECIPE_FILE, FileRole.RECIPE, recipe), (REPORT_FILE, FileRole.REPORT, report)):
        if given is not None:
            _readable(name, given)
            files[name] = (role, given)
    return files


def _readable(name: str, path: Path) -> None:
    """The file is there, not empty, and of the kind that its name promises."""
    if not path.is_file() or path.stat().st_size == 0:
        raise SealError(f"{name}: {path} is missing or empty; run the stage that writes it")
    if name.endswith(".json"):
        _json(path)
    if name.endswith(".parquet"):
        with path.open("rb") as stream:
            head = stream.read(4)
            stream.seek(max(4, path.stat().st_size - 4))
            tail = stream.read(4)
        if head != PARQUET_MAGIC or tail != PARQUET_MAGIC:
            raise SealError(f"{path}: is not a whole parquet file; run the gate again")


def _json(path: Path) -> dict[str, Any]:
    try:
        data = parse_json(path.read_bytes(), str(path))
    except (ContractError, OSError) as error:
        raise SealError(f"{error}; run the stage that writes it") from error
    if not isinstance(data, dict | list):
        raise SealError(f"{path}: found {type(data).__name__}, expected a JSON object or list")
    return data if isinstance(data, dict) else {"items": data}


def _bound(artifact: Artifact, evidence: Mapping[str, Path], recipe: Path | None, verdict: Verdict) -> None:
    """Evidence and lineage name the same parity result, plan and recipe."""
    parity = parse_json(artifact.read_bytes(EVIDENCE + PARITY), EVIDENCE + PARITY)
    if parity.get("passed") is not True:
        raise SealError(f"{EVIDENCE}{PARITY}: the draft did not pass parity; run: compress export")
    missing = [name for name in FOR_PROMOTION if name not in evidence]
    if verdict is Verdict.PROMOTE and missing:
        raise SealError(
            f"evidence: {missing} missing, a promoted artifact carries {list(FOR_PROMOTION)}; "
            "run the stages that write them"
        )
    lineage = artifact.manifest.lineage
    for label, path, expected in (
        ("plan", evidence.get(PLAN), lineage.plan.sha256),
        ("recipe", recipe, lineage.recipe_sha256),
    ):
        if path is not None and file_digest(path) != expected:
            raise SealError(
                f"{path}: is not the {label} that the draft was made with (sha256 {expected}); export again"
            )
