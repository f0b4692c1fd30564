# SPDX-License-Identifier: Apache-2.0
"""A model becomes a draft artifact: exported, proven against torch, and run once by the very code that the robot runs.

A draft has no gate verdict. The runtime refuses it unless asked with `allow_unsealed`; only the gate and benches ask.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.atomic import folder_atomic
from compress.data.samples import Sample
from compress.export import parity
from compress.export.errors import ExportError, ParityError
from compress.export.lineage import lineage_of
from compress.export.onnx_export import OPSET, ExportedGraph, export_stage
from compress.export.policy_files import content, golden_file, golden_tolerance, policy_spec
from compress.export.quantize import needed_opset
from compress.export.quantize_budget import Quantize, QuantizeReport, quantize_within
from compress.export.versions import created_with
from compress.models.base import ExportStage, VlaModel
from runtime.contract.artifact import Artifact, load_manifest
from runtime.contract.conventions import FileRole, Precision
from runtime.contract.graph import GOLDEN_FILE, LINEAGE_METADATA, MODEL_FILE, NORMALIZATION_FILE
from runtime.contract.lineage import Lineage
from runtime.contract.manifest import GoldenRef, canonical_json, lineage_id
from runtime.contract.normalization import Normalizers
from runtime.contract.write import ArtifactFile, write_artifact
from runtime.errors import DropGateRuntimeError
from runtime.inference.golden import GoldenParity, golden_parity
from runtime.inference.policy import Policy

PARITY_FILE = "evidence/parity.json"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportReport:
    """What `export_draft` made.

    Attributes:
        folder: the draft artifact.
        policy_id, artifact_id: from its manifest.
        parity: float graph against float64 torch.
        quantized: what quantising it cost; None if that was not asked for.
        golden: the runtime's answers against `model.chunk`, in command units.
        nodes, parameters_bytes: size of the graph.
        export_s, wall_s: seconds, of the graph alone and of everything.
    """

    folder: Path
    policy_id: str
    artifact_id: str
    parity: parity.ParityReport
    golden: GoldenParity
    nodes: int
    parameters_bytes: int
    export_s: float
    wall_s: float
    quantized: QuantizeReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data; the folder by name only."""
        return {**asdict(self), "folder": self.folder.name}


def export_draft(
    model: VlaModel,
    golden_samples: Sequence[Sample],
    folder: Path,
    lineage: Lineage | Mapping[str, Any],
    progress: Progress | None = None,
    *,
    opset: int = OPSET,
    quantize: Quantize | None = None,
) -> ExportReport:
    """Write the draft artifact of `model` to `folder`; it appears whole and proven, or not at all.

    Args:
        model: any family with one export stage, `policy`.
        golden_samples: real observations, of different prompt lengths where there are any; the artifact carries them.
            Parity also sees both ends of the list with other prompt lengths, and needs 8 observations in all.
        folder: an older artifact there is replaced; anything else is refused.
        lineage: a `Lineage`, or what `compress.export.lineage.lineage_of` takes beside the model.
        progress: called with one line per step.
        opset: of the ONNX graph; int4 raises it to 21.
        quantize: what becomes of the weight matrices once the float graph is proven; None leaves them.

    Raises:
        ExportError: the model cannot be exported, or `folder` holds something else.
        ParityError: the graph, or the runtime around it, answers differently from torch, or above the budget.
        OSError: the disk is full or not writable; `folder` is as it was.
    """
    started, say = time.perf_counter(), progress or (lambda _: None)
    _refuse_foreign(folder)
    stage = _single_stage(model)
    known = lineage if isinstance(lineage, Lineage) else lineage_of(model, lineage)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.graph-", dir=folder.parent) as scratch:
        say("exporting to ONNX")
        wanted = needed_opset(quantize.kind if quantize else None, opset)
        graph = export_stage(stage, Path(scratch), {LINEAGE_METADATA: lineage_id(known)}, opset=wanted)
        say(f"exported {graph.nodes} nodes in {graph.export_s:.1f} s")
        with folder_atomic(folder) as work:
            artifact, report, cost = _assemble(model, stage, golden_samples, graph, known, work, say, quantize)
            golden = _prove(artifact)
    say(
        f"the runtime agrees with torch on {golden.samples} golden samples, "
        f"worst {max(golden.max_abs.values()):.1e} of a command"
    )
    return ExportReport(
        folder=folder,
        policy_id=artifact.manifest.policy_id,
        artifact_id=artifact.manifest.artifact_id,
        parity=report,
        golden=golden,
        nodes=graph.nodes,
        parameters_bytes=cost.bytes_after if cost else graph.parameters_bytes,
        export_s=graph.export_s,
        wall_s=time.perf_counter() - started,
        quantized=cost,
    )


def _assemble(
    model: VlaModel,
    stage: ExportStage,
    samples: Sequence[Sample],
    graph: ExportedGraph,
    lineage: Lineage,
    work: Path,
    say: Progress,
    quantize: Quantize | None,
) -> tuple[Artifact, parity.ParityReport, QuantizeReport | None]:
    files = model.side_files()
    policy = policy_spec(model, graph, files)
    ref = policy.normalization
    normalizers = Normalizers.from_bytes(files[NORMALIZATION_FILE], ref.state, ref.action)
    observations = parity.observations([(s.sample_id, model.collate([s]).inputs) for s in samples])
    say(f"comparing {len(observations)} observations with torch in float64")
    report = parity.check(stage, graph.path, graph.spec, observations, policy.action, normalizers.action)
    say(report.describe())
    facts, tolerance, cost = report.to_json(), golden_tolerance(normalizers), None
    if quantize is not None:
        graph, cost = quantize_within(graph, quantize, observations, policy.action, normalizers.action, say)
        policy = replace(policy, engine=replace(policy.engine, precision=Precision(quantize.kind)))
        facts, tolerance = {**facts, "quantize": cost.to_json()}, quantize.budget
    golden = golden_file(samples, policy.observation, _torch_chunks(model, samples))
    evidence = {PARITY_FILE: ArtifactFile(FileRole.EVIDENCE, canonical_json(facts))}
    artifact = write_artifact(
        work,
        {**content(graph, policy, files, golden), **evidence},
        lineage=lineage,
        policy=policy,
        golden=GoldenRef(GOLDEN_FILE, tuple(s.instruction for s in samples), tolerance),
        created_with=created_with(),
    )
    return artifact, report, cost


def _prove(artifact: Artifact) -> GoldenParity:
    """Load the artifact as the robot does and compare its answers, image bytes in, commands out."""
    with Policy.load(artifact.root, threads=1, allow_unsealed=True) as policy:
        found = golden_parity(policy)
    if not found.ok:
        worst = max(found.max_abs, key=lambda name: found.max_abs[name])
        raise ParityError(
            f"runtime: {worst} differs from torch by {found.max_abs[worst]:.2e} of a command, "
            f"expected at most {found.tolerance:.0e}. The graph itself passed, so the model's own preprocessing and "
            "its specs disagree: compare collate() with specs()"
        )
    return found


def _torch_chunks(model: VlaModel, samples: Sequence[Sample]) -> NDArray[np.float32]:
    """`model.chunk` of each sample alone, (N, H, A), in evaluation mode."""
    module, device = model.module, next(model.module.parameters()).device
    training = module.training
    module.eval()
    try:
        chunks = [model.chunk(model.collate([sample]).to(device)) for sample in samples]
    finally:
        module.train(training)
    return torch.cat(chunks).cpu().numpy().astype(np.float32)


def _single_stage(model: VlaModel) -> ExportStage:
    stages = model.stages()
    if len(stages) != 1 or f"{stages[0].name}.onnx" != MODEL_FILE:
        found = [stage.name for stage in stages]
        raise ExportError(
            f"{model.family}: found export stages {found}, expected one named 'policy'; "
            "join the stages in VlaModel.stages"
        )
    return stages[0]


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        load_manifest(folder)
    except (DropGateRuntimeError, OSError) as error:
        raise ExportError(
            f"{folder}: will not be overwritten, because it is not an artifact ({error}); give another folder"
        ) from error
