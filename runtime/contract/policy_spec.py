# SPDX-License-Identifier: Apache-2.0
"""What the robot has to know to run a policy: specs, prompt, normalisation, graph and engine, checked against each
other."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.contract import check
from runtime.contract.action import ActionSpec
from runtime.contract.codec import conform
from runtime.contract.conventions import NormMethod, Precision
from runtime.contract.graph import NORMALIZATION_FILE, GraphSpec, graph_for
from runtime.contract.spec import ObservationSpec, PromptSpec
from runtime.errors import ContractError


@dataclass(frozen=True)
class NormalizationRef:
    """Which file holds the statistics and how each part uses them. Raises ContractError."""

    state: NormMethod
    action: NormMethod
    file: str = NORMALIZATION_FILE

    def __post_init__(self) -> None:
        conform(self)
        check.relative_path(self.file, "NormalizationRef.file")


@dataclass(frozen=True)
class EngineConstraints:
    """What an engine must offer: ONNX opset, execution providers that passed parity (preferred first), batch,
    precision."""

    opset: int
    providers: tuple[str, ...]
    batch: int = 1
    precision: Precision = Precision.FP32

    def __post_init__(self) -> None:
        conform(self)
        check.positive(self.opset, "EngineConstraints.opset")
        check.require(
            self.batch == 1, "EngineConstraints.batch", self.batch, "1: the runtime asks one question at a time"
        )
        check.require(len(self.providers) > 0, "EngineConstraints.providers", self.providers, "at least one provider")
        check.unique(self.providers, "EngineConstraints.providers")


@dataclass(frozen=True)
class PolicySpec:
    """Everything that gives the graph's numbers their meaning. Raises ContractError if the parts disagree."""

    observation: ObservationSpec
    action: ActionSpec
    prompt: PromptSpec
    normalization: NormalizationRef
    graph: GraphSpec
    engine: EngineConstraints

    def __post_init__(self) -> None:
        conform(self)
        expected = graph_for(self.observation, self.action, self.prompt, self.graph.file, self.graph.guided)
        for kind in ("inputs", "outputs"):
            found_tensors, expected_tensors = getattr(self.graph, kind), getattr(expected, kind)
            if found_tensors != expected_tensors:
                found = [(t.name, t.dtype.value, t.shape) for t in found_tensors]
                wanted = [(t.name, t.dtype.value, t.shape) for t in expected_tensors]
                raise ContractError(f"PolicySpec.graph.{kind}: found {found}, expected by the specs {wanted}")

    @property
    def guided(self) -> ActionSpec | None:
        """What guidance consists of, where the graph takes the previous chunk; None where it does not."""
        return self.action if self.graph.guided else None
