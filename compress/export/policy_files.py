# SPDX-License-Identifier: Apache-2.0
"""The files and specs of an artifact that follow from a model, its graph and its golden samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.samples import Sample
from compress.export.errors import ExportError
from compress.export.golden_chunks import GoldenChunks
from compress.export.onnx_export import ExportedGraph
from compress.export.parity import ParityReport
from compress.models.base import VlaModel
from runtime.contract.action import ActionSpec
from runtime.contract.conventions import ColourOrder, FileRole, Layout, NormMethod, Precision
from runtime.contract.graph import GOLDEN_FILE, MODEL_FILE, NORMALIZATION_FILE, graph_for
from runtime.contract.normalization import STATISTICS, Normalization
from runtime.contract.policy_spec import EngineConstraints, NormalizationRef, PolicySpec
from runtime.contract.spec import ImageSpec, ObservationSpec, PromptSpec
from runtime.contract.tensors import parse_tensors
from runtime.contract.write import ArtifactFile
from runtime.inference.golden import dump_golden

GOLDEN_TOLERANCE = 1e-4  # of one command, times the largest normalisation scale where that is above one
COARSEST = 0.05  # of the widest normalisation scale: above it a tolerance is none
PROVIDERS = ("CPUExecutionProvider",)


def policy_spec(
    model: VlaModel, graph: ExportedGraph, files: Mapping[str, bytes], prompt: PromptSpec | None = None
) -> PolicySpec:
    """The policy's specs, with the exported graph checked against what they imply; `prompt` instead of its own.

    Raises:
        ExportError: a side file is missing, or a graph tensor has another name, type or shape than the specs imply.
    """
    specs = model.specs()
    specs["prompt"] = prompt or specs["prompt"]
    needed = {specs["prompt"].tokenizer_file, NORMALIZATION_FILE}
    if not needed <= set(files):
        raise ExportError(f"side files: found {sorted(files)}, expected {sorted(needed)}; see VlaModel.side_files")
    wanted = graph_for(specs["observation"], specs["action"], specs["prompt"], guided=graph.options.guided)
    if graph.spec != wanted:
        found, expected = (
            [(t.name, t.dtype.value, t.shape) for t in (*s.inputs, *s.outputs)] for s in (graph.spec, wanted)
        )
        raise ExportError(
            f"exported graph {graph.path.name}: found {found}, expected by the specs {expected}; fix VlaModel.stages"
        )
    return PolicySpec(
        observation=specs["observation"],
        action=specs["action"],
        prompt=specs["prompt"],
        normalization=normalization_ref(files[NORMALIZATION_FILE]),
        graph=wanted,
        engine=EngineConstraints(opset=graph.opset, providers=PROVIDERS, precision=graph.options.precision),
    )


def normalization_ref(data: bytes) -> NormalizationRef:
    """The methods of a `normalization.safetensors`, which its tensor names state (`state.q01`, `action.mean`...)."""
    names = set(parse_tensors(data, NORMALIZATION_FILE))

    def method(part: str) -> NormMethod:
        found = [kind for kind, statistics in STATISTICS.items() if {f"{part}.{s}" for s in statistics} <= names]
        if len(found) != 1:
            raise ExportError(
                f"{NORMALIZATION_FILE}: found tensors {sorted(names)}, expected the statistics of one method for {part}"
            )
        return found[0]

    return NormalizationRef(method("state"), method("action"))


def content(
    graph: ExportedGraph, policy: PolicySpec, files: Mapping[str, bytes], golden: bytes
) -> dict[str, ArtifactFile]:
    """What the artifact holds beside evidence, by path."""
    return {
        MODEL_FILE: ArtifactFile(FileRole.MODEL, graph.path),
        graph.data.name: ArtifactFile(FileRole.MODEL_DATA, graph.data),
        policy.prompt.tokenizer_file: ArtifactFile(FileRole.TOKENIZER, files[policy.prompt.tokenizer_file]),
        NORMALIZATION_FILE: ArtifactFile(FileRole.NORMALIZATION, files[NORMALIZATION_FILE]),
        GOLDEN_FILE: ArtifactFile(FileRole.GOLDEN, golden),
    }


def golden_file(samples: Sequence[Sample], spec: ObservationSpec, expected: GoldenChunks) -> bytes:
    """`golden.safetensors`: the samples as the robot would see them, and torch's commands with what guided them."""
    return dump_golden([observation_of(sample, spec) for sample in samples], expected.commands, expected.guidance)


def observation_of(sample: Sample, spec: ObservationSpec) -> dict[str, NDArray[Any]]:
    """A sample (RGB, H x W x 3) in the layout and colour order that the spec asks for."""
    images = {image.key: _as_spec(sample.images[image.key], image) for image in spec.images}
    return {**images, spec.state.key: sample.state}


def _as_spec(image: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    ordered = image[..., ::-1] if spec.colour_order is ColourOrder.BGR else image
    return np.ascontiguousarray(ordered.transpose(2, 0, 1) if spec.layout is Layout.CHW else ordered)


def golden_tolerance(action: ActionSpec, normalization: Normalization, report: ParityReport) -> float:
    """Largest difference in command units that a sound engine may show.

    In float32 it is a constant. Below, it follows from what was measured: the gate's ratio times the largest error of
    torch itself at that precision, over all observations and dimensions.

    Raises:
        ExportError: that would let a twentieth of the policy's range pass, so golden samples would prove nothing.
    """
    widest = float(normalization.scale.max())
    exact = GOLDEN_TOLERANCE * max(1.0, widest)
    if report.precision == Precision.FP32.value:
        return exact
    errors = [dim.torch_own / spec.scale for dim, spec in zip(report.dims, action.dims, strict=True)]
    measured = report.ratio * max(errors)
    if measured > COARSEST * widest:
        raise ExportError(
            f"precision {report.precision}: torch itself is off by {max(errors):.1e} of a command, so golden samples "
            f"would have to allow {measured:.1e}; expected at most {COARSEST * widest:.1e}, {COARSEST:.0%} of the "
            "policy's range. Set export.precision to fp32"
        )
    return max(exact, measured)
