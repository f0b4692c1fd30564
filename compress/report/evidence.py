# SPDX-License-Identifier: Apache-2.0
"""Where the evidence lies in a run folder, an artifact directory or a gate folder, and what is in it.

A file that is missing is None and is said on the page; a file that is there and cannot be read is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.receipt import Receipt
from compress.report.errors import ReportError
from runtime.contract.artifact import load_manifest, read_artifact
from runtime.contract.manifest import MANIFEST_FILE, Manifest, parse_json
from runtime.errors import DropGateRuntimeError

NAMES = ("probe", "plan", "recovery", "parity", "bench", "gate")
STAGE_OF = {
    "probe": "probe",
    "plan": "plan",
    "recovery": "recover",
    "parity": "export",
    "bench": "export",
    "gate": "gate",
}
IN_ARTIFACT = {name: f"evidence/{name}.json" for name in NAMES} | {"recipe": "recipe.yaml"}
IN_RUN = {
    "probe": "probe/probe.json",
    "plan": "plan/plan.json",
    "recovery": "recover/recovery.json",
    "parity": "export/candidate/evidence/parity.json",
    "bench": "export/bench.json",
    "gate": "gate/gate.json",
    "recipe": "export/recipe.yaml",
}
IN_GATE = {"gate": "gate.json"}
STAGES = ("data", "probe", "plan", "drop", "recover", "export", "gate")


@dataclass(frozen=True)
class Evidence:
    """Everything that the page is made from.

    Attributes:
        kind: `artifact`, `run` or `gate`.
        paths: name -> file, whether it is there or not.
        data: name in NAMES -> its JSON content; absent if the file is missing.
        recipe: text of the resolved recipe.
        manifest: of the artifact, or of a run's candidate draft.
        receipts: of a run's stages, in order.
    """

    kind: str
    paths: Mapping[str, Path]
    data: Mapping[str, Mapping[str, Any]]
    recipe: str | None = None
    manifest: Manifest | None = None
    receipts: tuple[Receipt, ...] = field(default=())

    @property
    def missing(self) -> tuple[str, ...]:
        """Evidence files that are not there."""
        return tuple(name for name in NAMES if name not in self.data)


def collect(source: Path) -> Evidence:
    """Read all evidence below `source`.

    Raises:
        ReportError: no run, artifact or gate folder, or a damaged file.
    """
    kind, layout = _layout(source)
    paths = {name: source / inside for name, inside in layout.items()}
    data = {name: _read(path, STAGE_OF[name]) for name, path in paths.items() if name in NAMES and path.is_file()}
    recipe = paths.get("recipe")
    text = _text(recipe) if recipe is not None and recipe.is_file() else None
    receipts = [Receipt.read(source / stage) for stage in STAGES] if kind == "run" else []
    return Evidence(kind, paths, data, text, _manifest(source, kind), tuple(r for r in receipts if r is not None))


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


def _manifest(source: Path, kind: str) -> Manifest | None:
    draft = source / "export" / "candidate"
    try:
        if kind == "artifact":
            return read_artifact(source).manifest
        return load_manifest(draft)[0] if (draft / MANIFEST_FILE).is_file() else None
    except (DropGateRuntimeError, OSError) as error:
        raise ReportError(f"{source if kind == 'artifact' else draft}: {error}") from error


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
