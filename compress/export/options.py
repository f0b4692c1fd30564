# SPDX-License-Identifier: Apache-2.0
"""How a policy is written as a graph: precision, form of its sampler, batch, operator set; validated once, here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compress.export.errors import ExportError
from compress.recipe_sections import ExportSection
from runtime.contract.conventions import Precision

OPSET = 20
OPSETS = (18, 19, 20, 21, 22)  # 23 and later emit Attention
PRECISIONS = (Precision.FP32, Precision.FP16, Precision.BF16)
SamplerForm = Literal["loop", "unrolled"]
BatchForm = Literal["fixed", "dynamic"]


@dataclass(frozen=True)
class GraphOptions:
    """What a graph is to look like. Raises ExportError.

    Attributes:
        precision: of weights and arithmetic; inputs and outputs stay float32 and int64. What torch computes in float32
            in a smaller precision (norms, softmax, rotary angles, features of time), the graph does too.
        sampler: of flow policies: steps in an ONNX `Loop`, or each step with nodes of its own.
        batch: `fixed` is 1, as the robot asks; `dynamic` leaves the first axis open under the name `batch`.
        opset: of the standard operators; 20 is the one that every engine here takes.
        guided: a flow policy takes the previous chunk and weights too (`compress.models.guidance`); looped, batch 1.
    """

    precision: Precision = Precision.FP32
    sampler: SamplerForm = "loop"
    batch: BatchForm = "fixed"
    opset: int = OPSET
    guided: bool = False

    def __post_init__(self) -> None:
        choices: tuple[tuple[str, object, tuple[object, ...]], ...] = (
            ("precision", self.precision, PRECISIONS),
            ("sampler", self.sampler, ("loop", "unrolled")),
            ("batch", self.batch, ("fixed", "dynamic")),
        )
        for name, found, allowed in choices:
            if found not in allowed:
                shown = [getattr(value, "value", value) for value in allowed]
                raise ExportError(f"{name}: found {getattr(found, 'value', found)!r}, expected one of {shown}")
        if self.opset not in OPSETS:
            raise ExportError(
                f"opset: found {self.opset}, expected one of {list(OPSETS)}; {OPSET} is the one that every engine "
                "here takes"
            )
        if self.guided and (self.sampler, self.batch) != ("loop", "fixed"):
            raise ExportError(
                f"guided: found sampler {self.sampler!r} with batch {self.batch!r}, expected 'loop' and 'fixed': the "
                "backward pass is written out for one step and one observation"
            )

    @classmethod
    def of(cls, section: ExportSection) -> GraphOptions:
        """What a recipe asks for."""
        return cls(Precision(section.precision), section.sampler, section.batch, section.opset, section.guided)

    @property
    def dynamic(self) -> bool:
        """Whether the batch is open."""
        return self.batch == "dynamic"
