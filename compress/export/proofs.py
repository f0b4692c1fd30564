# SPDX-License-Identifier: Apache-2.0
"""What a draft proves of its graph before anybody runs it: parity, the cost of fewer bits, convertibility, its work.

In this order, because each speaks of the file that the one before left: parity of the float graph with torch in
float64, then quantisation within its budget, then whether TensorRT's builder takes the file that ships.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from compress.export import convertible, parity
from compress.export.onnx_export import ExportedGraph
from compress.export.policy_files import golden_tolerance
from compress.export.quantize_budget import Quantize, QuantizeReport, quantize_within
from compress.export.trims import Trimmed
from compress.export.work import count
from compress.models.base import ExportStage
from runtime.contract.conventions import FileRole, Precision
from runtime.contract.manifest import canonical_json
from runtime.contract.normalization import Normalization
from runtime.contract.policy_spec import PolicySpec
from runtime.contract.write import ArtifactFile
from runtime.inference.roofline import WORK_FILE

PARITY_FILE, CONVERTIBLE_FILE, TRIMS_FILE = (f"evidence/{name}.json" for name in ("parity", "convertible", "trims"))


@dataclass(frozen=True)
class Proofs:
    """What was found.

    Attributes:
        graph: that ships; its files are the quantised ones where that was asked for.
        precision: of its weights.
        parity: of the float graph.
        quantized: what fewer bits cost; None where the weights are as they were.
        converts: TensorRT's answer to the graph that ships.
        trims: what was left out of the network exactly.
        tolerance: largest difference [commands] that a robot's golden check allows.
    """

    graph: ExportedGraph
    precision: Precision
    parity: parity.ParityReport
    quantized: QuantizeReport | None
    converts: convertible.Convertibility
    trims: Trimmed
    tolerance: float

    def files(self) -> dict[str, ArtifactFile]:
        """Evidence, by path."""
        fewer = {} if self.quantized is None else {"quantize": self.quantized.to_json()}
        found: dict[str, Any] = {
            PARITY_FILE: {**self.parity.to_json(), "golden_tolerance": self.tolerance, **fewer},
            TRIMS_FILE: self.trims.to_json(),
            CONVERTIBLE_FILE: self.converts.to_json(),
            WORK_FILE: count(self.graph.path).to_json(),
        }
        return {path: ArtifactFile(FileRole.EVIDENCE, canonical_json(data)) for path, data in found.items()}


def prove(
    stage: ExportStage,
    graph: ExportedGraph,
    policy: PolicySpec,
    normalization: Normalization,
    observations: Mapping[str, Mapping[str, Tensor]],
    trims: Trimmed,
    quantize: Quantize | None,
    convertibility: convertible.Mode,
    say: Callable[[str], None],
) -> Proofs:
    """Prove the graph, or refuse it.

    Args:
        stage: the model's own, untrimmed.
        graph: float, just exported; its files are replaced where fewer bits are asked for.
        policy, normalization: turn errors into commands and units.
        observations: id -> stage inputs, batch 1.
        trims: done to `graph`.
        quantize, convertibility: see `compress.export.draft.export_draft`.
        say: called with one line per proof.

    Raises:
        ParityError: it answers differently from torch, or fewer bits cost more than their budget.
        ExportError: it cannot be quantised, or TensorRT does not take it.
    """
    say(f"comparing {len(observations)} observations with torch in float64")
    report = parity.check(
        stage, graph.path, graph.spec, observations, policy.action, normalization, options=graph.options,
        told=trims.told,
    )  # fmt: skip
    say(report.describe())
    precision, tolerance = graph.options.precision, golden_tolerance(policy.action, normalization, report)
    cost: QuantizeReport | None = None
    if quantize is not None:
        graph, cost = quantize_within(graph, quantize, observations, policy.action, normalization, say)
        precision, tolerance = Precision(quantize.kind), quantize.budget
    converts = convertible.check(graph.path, convertibility, precision)
    say(converts.describe())
    return Proofs(graph, precision, report, cost, converts, trims, tolerance)
