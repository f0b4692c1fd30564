# SPDX-License-Identifier: Apache-2.0
"""Where the evidence lies in a run folder, an artifact directory or a gate folder, and what is in it.

A file that is missing is None and is said on the page; a file that is there and cannot be read is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from compress.receipt import Receipt
from compress.report.errors import ReportError
from compress.report.signed_state import NO_ARTIFACT, SignedState, signed_state
from runtime.contract.artifact import Artifact, load_manifest, read_artifact
from runtime.contract.manifest import MANIFEST_FILE, Manifest, parse_json
from runtime.errors import DropGateRuntimeError

NAMES = ("probe", "plan", "recovery", "parity", "bench", "gate")
MORE = ("trim", "trims", "convertible")  # said in their own place where they are missing: older artifacts have none
STAGE_OF = {
    "probe": "probe",
    "plan": "plan",
    "recovery": "recover",
    "parity": "export",
    "bench": "export",
    "gate": "gate",
    "trim": "trim",
    "trims": "export",
    "convertible": "export",
    "floor": "bench",
}
IN_ARTIFACT = {name: f"evidence/{name}.json" for name in (*NAMES, *MORE)} | {"recipe": "recipe.yaml"}
IN_RUN = {
    "probe": "probe/probe.json",
    "plan": "plan/plan.json",
    "recovery": "recover/recovery.json",
    "parity": "export/candidate/evidence/parity.json",
    "bench": "export/bench.json",
    "gate": "gate/gate.json",
    "recipe": "export/recipe.yaml",
    "trim": "trim/trim.json",
    "trims": "export/candidate/evidence/trims.json",
    "convertible": "export/candidate/evidence/convertible.json",
}
IN_GATE = {"gate": "gate.json"}
STAGES = ("data", "probe", "plan", "drop", "recover", "export", "gate")


@dataclass(frozen=True)
class Evidence:
    """Everything that the page is made from.

    Attributes:
        kind: `artifact`, `run` or `gate`.
        paths: name -> file, whether it is there or not.
        data: name in NAMES or MORE, or `floor` -> its JSON content; absent if the file is missing.
        recipe: text of the resolved recipe.
        manifest: of the artifact, or of a run's candidate draft.
        receipts: of a run's stages, in order.
        signed: where an artifact's signatures stand.
    """

    kind: str
    paths: Mapping[str, Path]
    data: Mapping[str, Mapping[str, Any]]
    recipe: str | None = None
    manifest: Manifest | None = None
    receipts: tuple[Receipt, ...] = field(default=())
    signed: SignedState = field(default=SignedState(NO_ARTIFACT))

    @property
    def missing(self) -> tuple[str, ...]:
        """Evidence files that are not there."""
        return tuple(name for name in NAMES if name not in self.data)

    @property
    def policy_id(self) -> str:
        """Of the candidate, as the manifest or else the gate says; empty if neither is there."""
        if self.manifest is not None:
            return self.manifest.policy_id
        arms = self.data.get("gate", {}).get("arms", {})
        return str(arms["candidate"]["policy_id"]) if "candidate" in arms else ""


def collect(
    source: Path, bench: Path | None = None, trust: Path | None = None, now: datetime | None = None
) -> Evidence:
    """Read all evidence below `source`.

    Args:
        source: a run, an artifact or a gate folder.
        bench: a `bench.json` of `compress bench`, which knows the machine's floor.
        trust: a station's trust store, against which an artifact's signatures are checked at `now` (UTC).

    Raises:
        ReportError: no run, artifact or gate folder, or a damaged file.
        TrustError: the trust store cannot be used.
    """
    kind, layout = _layout(source)
    paths = {name: source / inside for name, inside in layout.items()}
    read = {name: path for name, path in paths.items() if name in (*NAMES, *MORE) and path.is_file()}
    if bench is not None:
        paths["floor"] = read["floor"] = bench
    data = {name: _read(path, STAGE_OF[name]) for name, path in read.items()}
    recipe = paths.get("recipe")
    text = _text(recipe) if recipe is not None and recipe.is_file() else None
    receipts = [Receipt.read(source / stage) for stage in STAGES] if kind == "run" else []
    artifact = _artifact(source) if kind == "artifact" else None
    manifest = artifact.manifest if artifact is not None else _draft(source)
    signed = signed_state(artifact, trust, now)
    return Evidence(kind, paths, data, text, manifest, tuple(r for r in receipts if r is not None), signed)


def _layout(source: Path) -> tuple[str, Mapping[str, str]]:
    if (source / MANIFEST_FILE).is_file():
        return "artifact", IN_ARTIFACT
    if any((source / stage / name).is_file() for stage in STAGES for name in ("receipt.json", "started.json")):
        return "run", IN_RUN
    if any((source / inside).is_file() for inside in IN_RUN.values()):
        return "run", IN_RUN
    if (source / IN_GATE["gate"]).is_file():
        return "gate", IN_GATE
    there = sorted(entry.name for entry in source.iterdir()) if source.is_dir() else "no such folder"
    raise ReportError(
        f"{source}: found {there}, expected a run folder, an artifact directory or a gate folder; "
        "make one with: compress run RECIPE"
    )


def _artifact(source: Path) -> Artifact:
    try:
        return read_artifact(source)
    except (DropGateRuntimeError, OSError) as error:
        raise ReportError(f"{source}: {error}") from error


def _draft(source: Path) -> Manifest | None:
    draft = source / "export" / "candidate"
    try:
        return load_manifest(draft)[0] if (draft / MANIFEST_FILE).is_file() else None
    except (DropGateRuntimeError, OSError) as error:
        raise ReportError(f"{draft}: {error}") from error


def _read(path: Path, stage: str) -> Mapping[str, Any]:
    try:
        data = parse_json(path.read_bytes(), str(path))
    except (DropGateRuntimeError, OSError) as error:
        raise ReportError(f"{error}; run: compress {stage}") from error
    if not isinstance(data, dict):
        raise ReportError(f"{path}: found {type(data).__name__}, expected a JSON object; run: compress {stage}")
    return data


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: is damaged ({error}); run: compress export") from error
