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

from compress.atomic import folder_atomic
from compress.data.samples import Sample
from compress.export import convertible, parity
from compress.export.answers import Inputs
from compress.export.errors import ExportError, ParityError
from compress.export.golden_chunks import GoldenChunks, golden_chunks
from compress.export.guided import guided, with_previous
from compress.export.lineage import lineage_of
from compress.export.onnx_export import ExportedGraph, export_stage
from compress.export.options import GraphOptions
from compress.export.policy_files import content, golden_file, policy_spec
from compress.export.proofs import Proofs, prove
from compress.export.quantize import needed_opset
from compress.export.quantize_budget import Quantize, QuantizeReport
from compress.export.trims import Trimmed, TrimSpec, trimmed
from compress.export.versions import created_with
from compress.models.base import ExportStage, VlaModel
from runtime.contract.artifact import Artifact, load_manifest
from runtime.contract.conventions import Precision
from runtime.contract.graph import GOLDEN_FILE, LINEAGE_METADATA, MODEL_FILE, NORMALIZATION_FILE
from runtime.contract.lineage import Lineage
from runtime.contract.manifest import GoldenRef, lineage_id
from runtime.contract.normalization import Normalization, Normalizers
from runtime.contract.policy_spec import PolicySpec
from runtime.contract.write import write_artifact
from runtime.errors import DropGateRuntimeError
from runtime.inference.golden import GoldenParity, golden_parity
from runtime.inference.policy import Policy

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
        trims: as `evidence/trims.json`.
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
    trims: Mapping[str, Any]
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
    options: GraphOptions | None = None,
    trims: TrimSpec | None = None,
    quantize: Quantize | None = None,
    convertibility: convertible.Mode = "off",
) -> ExportReport:
    """Write the draft artifact of `model` to `folder`; it appears whole and proven, or not at all.

    Args:
        model: any family with one export stage, `policy`.
        golden_samples: real observations, of different prompt lengths where there are any; the artifact carries them.
            Parity also sees both ends of the list with other prompt lengths, and needs 8 observations in all.
        folder: an older artifact there is replaced; anything else is refused.
        lineage: a `Lineage`, or what `compress.export.lineage.lineage_of` takes beside the model.
        progress: called with one line per step.
        options: how the graph is written; float32, loops, batch 1 and opset 20 when None. int4 raises opset to 21.
        trims: which exact trims; `export.trims.ALWAYS` when None. Samples must be of their tasks, if those are closed.
        quantize: what becomes of the weight matrices once the float graph is proven; None leaves them.
        convertibility: whether TensorRT's builder is asked, see `compress.export.convertible.check`.

    Raises:
        ExportError: the model cannot be exported, TensorRT does not take its graph, a sample's task is not in the list,
            or `folder` holds something else.
        ParityError: the graph, or the runtime around it, answers differently from torch, or above the budget.
        OSError: the disk is full or not writable; `folder` is as it was.
    """
    started, say = time.perf_counter(), progress or (lambda _: None)
    chosen = _possible(options or GraphOptions(), quantize)
    _refuse_foreign(folder)
    stage = _single_stage(model)
    small = trimmed(stage, model.specs(), _tokenizer(model), trims)
    _refuse_strangers(small, golden_samples)
    if chosen.guided:
        stage, small.stage = (guided(each, model.specs()["action"]) for each in (stage, small.stage))
    known = lineage if isinstance(lineage, Lineage) else lineage_of(model, lineage)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.graph-", dir=folder.parent) as scratch:
        graph = _graph(small, Path(scratch), known, chosen, say)
        files = model.side_files()
        policy = policy_spec(model, graph, files, small.prompt)
        collated = [(s.sample_id, model.collate([s]).inputs) for s in golden_samples]
        observations: Mapping[str, Inputs] = parity.observations(collated, small.told)
        if chosen.guided:
            observations = with_previous(observations, policy.action)
        scale = _action_scale(policy, files)
        found = prove(stage, graph, policy, scale, observations, small, quantize, convertibility, say)
        with folder_atomic(folder) as work:
            expected = golden_chunks(model, stage, golden_samples, scale)
            artifact = _write(golden_samples, expected, policy, files, known, found, work)
            golden = _as_the_robot(artifact, say)
    return _report(folder, artifact, found, golden, time.perf_counter() - started)


def _report(folder: Path, artifact: Artifact, found: Proofs, golden: GoldenParity, wall_s: float) -> ExportReport:
    return ExportReport(
        folder=folder,
        policy_id=artifact.manifest.policy_id,
        artifact_id=artifact.manifest.artifact_id,
        parity=found.parity,
        golden=golden,
        nodes=found.graph.nodes,
        parameters_bytes=found.graph.parameters_bytes,
        export_s=found.graph.export_s,
        wall_s=wall_s,
        trims=found.trims.to_json(),
        quantized=found.quantized,
    )


def _action_scale(policy: PolicySpec, files: Mapping[str, bytes]) -> Normalization:
    ref = policy.normalization
    return Normalizers.from_bytes(files[NORMALIZATION_FILE], ref.state, ref.action).action


def _graph(small: Trimmed, folder: Path, lineage: Lineage, options: GraphOptions, say: Progress) -> ExportedGraph:
    """Export the trimmed stage."""
    say("exporting to ONNX")
    metadata = {LINEAGE_METADATA: lineage_id(lineage)}
    graph = export_stage(small.stage, folder, metadata, options=options, rewrite=small.rewrite)
    say(f"exported {graph.nodes} nodes in {graph.export_s:.1f} s")
    for saved in small.saved:
        say(saved.describe())
    return graph


def _write(
    samples: Sequence[Sample],
    chunks: GoldenChunks,
    policy: PolicySpec,
    files: Mapping[str, bytes],
    lineage: Lineage,
    found: Proofs,
    work: Path,
) -> Artifact:
    """The artifact of the graph that was proven."""
    shipped = replace(policy, engine=replace(policy.engine, precision=found.precision))
    golden = golden_file(samples, policy.observation, chunks)
    return write_artifact(
        work,
        {**content(found.graph, shipped, files, golden), **found.files()},
        lineage=lineage,
        policy=shipped,
        golden=GoldenRef(GOLDEN_FILE, tuple(s.instruction for s in samples), found.tolerance),
        created_with=created_with(),
    )


def _as_the_robot(artifact: Artifact, say: Progress) -> GoldenParity:
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
    say(
        f"the runtime agrees with torch on {found.samples} golden samples, "
        f"worst {max(found.max_abs.values()):.1e} of a command"
    )
    return found


def _possible(options: GraphOptions, quantize: Quantize | None) -> GraphOptions:
    """The options with the operator set that fewer bits need; refused where nothing could be proven here."""
    if options.precision is Precision.BF16:
        raise ExportError(
            "precision bf16: ONNX Runtime has no bfloat16 kernels on a CPU, so the robot's own code cannot run this "
            "policy here and nothing would be proven. Set export.precision to fp16 or fp32; the graph alone, for an "
            "engine that is built on the station, is what compress.export.onnx_export.export_stage writes"
        )
    if quantize is None:
        return options
    if options.precision is not Precision.FP32:
        raise ExportError(
            f"quantize {quantize.kind}: found export.precision {options.precision.value}, expected fp32: fewer bits "
            "are made of float32 weights"
        )
    return replace(options, opset=needed_opset(quantize.kind, options.opset))


def _single_stage(model: VlaModel) -> ExportStage:
    stages = model.stages()
    if len(stages) != 1 or f"{stages[0].name}.onnx" != MODEL_FILE:
        found = [stage.name for stage in stages]
        raise ExportError(
            f"{model.family}: found export stages {found}, expected one named 'policy'; "
            "join the stages in VlaModel.stages"
        )
    return stages[0]


def _tokenizer(model: VlaModel) -> bytes:
    name, files = model.specs()["prompt"].tokenizer_file, model.side_files()
    if name not in files:
        raise ExportError(f"side files: found {sorted(files)}, expected {name}; see VlaModel.side_files")
    return files[name]


def _refuse_strangers(small: Trimmed, samples: Sequence[Sample]) -> None:
    strange = sorted({s.instruction for s in samples if not small.prompt.admits(s.instruction)})
    if strange:
        raise ExportError(
            f"tasks: golden samples say {strange}, which the closed list lacks: {list(small.prompt.tasks or ())}; "
            "add them to export.tasks, or give other samples"
        )


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        load_manifest(folder)
    except (DropGateRuntimeError, OSError) as error:
        raise ExportError(
            f"{folder}: will not be overwritten, because it is not an artifact ({error}); give another folder"
        ) from error
