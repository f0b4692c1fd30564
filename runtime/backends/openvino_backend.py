# SPDX-License-Identifier: Apache-2.0
"""OpenVINO behind `Backend`, on the CPU: the only importer of openvino. `openvino` is float32, `openvino:bf16` is not.

Left alone, OpenVINO computes in bfloat16 wherever the processor can, and says so nowhere: here the precision is always
stated, and compared with what the compiled graph says. bfloat16 has three digits: what it does to the actions is
measured by `compress.export.engine_error`, and before a robot moves by the golden samples on the robot's own machine
(`runtime.inference.proven`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends.base import Tensor, check_tensors, zeros
from runtime.backends.threads import cores, engine_threads
from runtime.contract.graph import GraphSpec, TensorSpec
from runtime.errors import BackendError

DEVICE = "CPU"
PRECISIONS = ("f32", "bf16")
INSTALL_OPENVINO = 'pip install -e ".[openvino]" in the DropGate checkout'


class OpenVinoBackend:
    """Runs `policy.onnx`. `threads` None takes all cores but one; `precision` of the arithmetic, f32 or bf16."""

    name = "openvino"

    def __init__(self, *, threads: int | None = None, precision: str = "f32") -> None:
        if precision not in PRECISIONS:
            raise BackendError(f"openvino precision: found {precision!r}, available: {list(PRECISIONS)}")
        self._threads, self._precision = engine_threads(threads), precision
        self._request: Any = None
        self._graph: GraphSpec | None = None

    @property
    def description(self) -> str:
        """What runs and how many cores it takes, for people."""
        version = str(_openvino().__version__).partition("-")[0]
        return f"openvino {version}, {DEVICE}, {self._precision}, {self._threads} of {cores()} cores"

    def load(self, model: Path, graph: GraphSpec) -> None:
        """Open the graph and check precision, names, dtypes and shapes; BackendError says what differs."""
        openvino = _openvino()
        try:
            compiled = openvino.Core().compile_model(str(model), DEVICE, self._settings())
        except (RuntimeError, TypeError, ValueError) as error:
            raise BackendError(f"{model}: openvino {openvino.__version__} cannot load it: {error}") from error
        found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if found != self._precision:
            raise BackendError(
                f"{model}: requested precision {self._precision}, openvino chose {found} on this processor"
            )
        _check_signature(compiled.inputs, graph.inputs, f"{model} inputs")
        _check_signature(compiled.outputs, graph.outputs, f"{model} outputs")
        self._request, self._graph = compiled.create_infer_request(), graph

    def _settings(self) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the controller's core is not ours to choose
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # inputs of compressed weights stay float
        }

    def warm_up(self) -> None:
        """Run once on zeros; what comes out is thrown away."""
        self.infer(zeros(self._loaded().inputs))

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; BackendError if a tensor differs from the spec or the engine fails."""
        graph = self._loaded()
        check_tensors(inputs, graph.inputs, "openvino inputs")
        try:
            self._request.infer({name: np.ascontiguousarray(tensor) for name, tensor in inputs.items()})
            outputs = {spec.name: np.array(self._request.get_tensor(spec.name).data) for spec in graph.outputs}
        except RuntimeError as error:
            raise BackendError(f"openvino {_openvino().__version__} failed to run the graph: {error}") from error
        check_tensors(outputs, graph.outputs, "openvino outputs")
        return outputs

    def close(self) -> None:
        """Drop the compiled graph."""
        self._request, self._graph = None, None

    def _loaded(self) -> GraphSpec:
        if self._graph is None:
            raise BackendError("openvino backend: found no graph, expected load() first (or it was closed)")
        return self._graph


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise BackendError(f"backend 'openvino' is not importable ({error}); run: {INSTALL_OPENVINO}") from error
    return openvino


def _check_signature(found: list[Any], expected: tuple[TensorSpec, ...], where: str) -> None:
    signature = {port.get_any_name(): port for port in found}
    if set(signature) != {spec.name for spec in expected}:
        raise BackendError(f"{where}: found {sorted(signature)}, expected {sorted(spec.name for spec in expected)}")
    for spec in expected:
        port = signature[spec.name]
        shape = tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
        fits = len(shape) == len(spec.shape) and all(
            size is None or size == wanted for size, wanted in zip(shape, spec.shape, strict=True)
        )
        kind = port.get_element_type().to_dtype().name
        if kind != spec.dtype.value or not fits:
            raise BackendError(f"{where}[{spec.name}]: found {kind} {shape}, expected {spec.dtype.value} {spec.shape}")
