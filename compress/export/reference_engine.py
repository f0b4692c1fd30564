# SPDX-License-Identifier: Apache-2.0
"""ONNX's own reference evaluator behind `Backend`: numpy, slow, and able to run bfloat16.

ONNX Runtime 1.32 has no CPU kernels for bfloat16 (`MatMul`, `Add`, `Softmax`, `Expand`, `Where`, ... are not
implemented), so a bfloat16 graph can be judged here, or on a GPU, or not at all. Never for the robot.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from runtime.backends.base import Tensor, check_tensors
from runtime.contract.graph import GraphSpec
from runtime.errors import BackendError

LIMIT_BYTES = 64 * 2**20  # of graph and weights: minutes per observation beyond


class ReferenceEngine:
    """Runs small graphs of any precision."""

    name = "onnx"

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._session: Any = None
        self._graph: GraphSpec | None = None

    def load(self, model: Path, graph: GraphSpec) -> None:
        """Read graph and weights; BackendError if they are too large to be evaluated in numpy."""
        size = sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*"))
        if size > self._limit:
            raise BackendError(
                f"{model.name}: found {size / 2**20:.0f} MiB, the reference evaluator takes {self._limit / 2**20:.0f}; "
                "ONNX Runtime's CPU provider cannot run bfloat16, so this graph cannot be proven on this machine: "
                "export float16 or float32, or prove it where a GPU engine is"
            )
        try:
            self._session = ReferenceEvaluator(onnx.load(str(model)))
        except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
            raise BackendError(f"{model.name}: the reference evaluator cannot read it: {error}") from error
        self._graph = graph

    def warm_up(self) -> None:
        """Nothing gets faster here."""

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; BackendError if a tensor differs from the spec or an operator fails."""
        if self._graph is None:
            raise BackendError("reference evaluator: found no graph, expected load() first (or it was closed)")
        check_tensors(inputs, self._graph.inputs, "reference evaluator inputs")
        names = [spec.name for spec in self._graph.outputs]
        try:
            with np.errstate(all="ignore"):
                answers = self._session.run(names, dict(inputs))
        except (ValueError, RuntimeError, TypeError, IndexError, NotImplementedError) as error:
            raise BackendError(f"the reference evaluator failed to run the graph: {error}") from error
        outputs = dict(zip(names, answers, strict=True))
        check_tensors(outputs, self._graph.outputs, "reference evaluator outputs")
        return outputs

    def close(self) -> None:
        """Drop the graph."""
        self._session, self._graph = None, None
