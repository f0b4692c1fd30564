# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime behind `Backend`: the only importer of onnxruntime.

A provider that cannot start is silently replaced by the CPU in ONNX Runtime, so the session's own list is checked and a
replacement is refused: a robot that is ten times slower than what was gated is another robot.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.backends.base import Tensor, check_tensors, zeros
from runtime.contract.graph import GraphSpec, TensorSpec
from runtime.errors import INSTALL_ONNX, BackendError

CPU = "CPUExecutionProvider"
_DTYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}


class OnnxRuntimeBackend:
    """Runs `policy.onnx`. `threads` None leaves ONNX Runtime's own choice; `provider` must be first in the session."""

    name = "onnxruntime"

    def __init__(self, *, threads: int | None = None, provider: str | None = None) -> None:
        if threads is not None and threads < 1:
            raise BackendError(
                f"onnxruntime threads: found {threads}, expected at least 1, or None for the engine's own choice"
            )
        self._threads = threads
        self._provider = provider or CPU
        self._session: Any = None
        self._graph: GraphSpec | None = None

    def load(self, model: Path, graph: GraphSpec) -> None:
        """Open the graph and check provider, names, dtypes and shapes; BackendError says what differs."""
        ort = _onnxruntime()
        available = list(ort.get_available_providers())
        if self._provider not in available:
            raise BackendError(
                f"onnxruntime provider: found none called {self._provider!r}, available: {available}; run: "
                f"{INSTALL_ONNX}"
            )
        try:
            session = ort.InferenceSession(str(model), sess_options=self._options(ort), providers=[self._provider])
        except _failures(ort) as error:
            raise BackendError(
                f"{model}: onnxruntime {ort.__version__} cannot load it with {self._provider}: {error}"
            ) from error
        first = list(session.get_providers())
        if not first or first[0] != self._provider:
            raise BackendError(
                f"{model}: requested provider {self._provider}, the session chose {first}; fix the provider's libraries"
            )
        _check_signature(session.get_inputs(), graph.inputs, f"{model} inputs")
        _check_signature(session.get_outputs(), graph.outputs, f"{model} outputs")
        self._session, self._graph = session, graph

    def _options(self, ort: Any) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.load_model_format", "ONNX")  # what was checked, not guessed by name
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        if self._provider != CPU:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def warm_up(self) -> None:
        """Run once on zeros; what comes out is thrown away."""
        self.infer(zeros(self._loaded().inputs))

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; BackendError if a tensor differs from the spec or the engine fails."""
        graph = self._loaded()
        check_tensors(inputs, graph.inputs, "onnxruntime inputs")
        names = [spec.name for spec in graph.outputs]
        ort = _onnxruntime()
        try:
            answers = self._session.run(names, dict(inputs))
        except _failures(ort) as error:
            raise BackendError(f"onnxruntime {ort.__version__} failed to run the graph: {error}") from error
        outputs = dict(zip(names, answers, strict=True))
        check_tensors(outputs, graph.outputs, "onnxruntime outputs")
        return outputs

    def close(self) -> None:
        """Drop the session."""
        self._session, self._graph = None, None

    def _loaded(self) -> GraphSpec:
        if self._graph is None:
            raise BackendError("onnxruntime backend: found no graph, expected load() first (or it was closed)")
        return self._graph


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(f"backend 'onnxruntime' is not importable ({error}); run: {INSTALL_ONNX}") from error
    return onnxruntime


def _failures(ort: Any) -> tuple[type[Exception], ...]:
    """ONNX Runtime's error classes, which share no base but Exception, and what its binding raises itself."""
    state = ort.capi.onnxruntime_pybind11_state
    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)


def _check_signature(found: list[Any], expected: tuple[TensorSpec, ...], where: str) -> None:
    signature = {node.name: (node.type, tuple(node.shape)) for node in found}
    if set(signature) != {spec.name for spec in expected}:
        raise BackendError(f"{where}: found {sorted(signature)}, expected {sorted(spec.name for spec in expected)}")
    for spec in expected:
        kind, shape = signature[spec.name]
        fits = len(shape) == len(spec.shape) and all(
            not isinstance(size, int) or size == wanted for size, wanted in zip(shape, spec.shape, strict=True)
        )
        if kind != _DTYPES[spec.dtype.value] or not fits:
            raise BackendError(
                f"{where}[{spec.name}]: found {kind} {shape}, expected {_DTYPES[spec.dtype.value]} {spec.shape}"
            )
