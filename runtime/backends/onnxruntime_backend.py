# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime behind `Backend`: the only importer of onnxruntime.

A provider that cannot start is silently replaced by the CPU in ONNX Runtime, at three places: when it is registered, in
the Python session's own retry, and after a failed run. All three are closed here: a robot that is ten times slower than
what was gated is another robot.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends.base import Tensor, check_tensors, zeros
from runtime.backends.ort_options import CPU, CUDA, LEVELS, TENSORRT, OrtOptions, provider_chain
from runtime.backends.threads import cores, engine_threads
from runtime.contract.graph import GraphSpec, TensorSpec
from runtime.errors import INSTALL_ONNX, BackendError

DEVICES = {CUDA: "cuda", TENSORRT: "cuda"}  # where tensors live, for providers that are not the CPU
INSTALL_GPU = (
    "in an environment of its own (worker.python): pip install onnxruntime-gpu, with the CUDA and cuDNN that it was "
    "built for and, for TensorRT, tensorrt-cu13==10.16.1.11"
)
_DTYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}


class OnnxRuntimeBackend:
    """Runs `policy.onnx`. `threads` None takes all cores but one; `provider` must be first in the session."""

    name = "onnxruntime"

    def __init__(
        self, *, threads: int | None = None, provider: str | None = None, options: OrtOptions | None = None
    ) -> None:
        self._threads = engine_threads(threads)
        self._provider = provider or CPU
        self._chosen = options or OrtOptions()
        self._session: Any = None
        self._binding: DeviceBinding | None = None
        self._graph: GraphSpec | None = None

    @property
    def description(self) -> str:
        """What runs and how many cores it takes, for people."""
        chosen = self._chosen
        parts = [
            f"onnxruntime {_onnxruntime().__version__}",
            self._provider,
            f"{self._threads} of {cores()} cores",
            f"optimisation {chosen.optimisation}",
            f"spinning {'on' if chosen.spinning else 'off'}",
        ]
        return ", ".join([*parts, "nodes may fall back to the CPU"] if chosen.allow_cpu_fallback else parts)

    def load(self, model: Path, graph: GraphSpec) -> None:
        """Open the graph and check provider, names, dtypes and shapes; BackendError says what differs."""
        ort = _onnxruntime()
        available = list(ort.get_available_providers())
        if self._provider not in available:
            install = INSTALL_GPU if self._provider in DEVICES else INSTALL_ONNX
            raise BackendError(
                f"onnxruntime provider: found none called {self._provider!r}, available: {available}; run: {install}"
            )
        session = self._open(ort, model)
        first = list(session.get_providers())
        if not first or first[0] != self._provider:
            raise BackendError(
                f"{model}: requested provider {self._provider}, the session chose {first}; fix the provider's "
                f"libraries ({INSTALL_GPU}), or ask for {CPU}"
            )
        _check_signature(session.get_inputs(), graph.inputs, f"{model} inputs")
        _check_signature(session.get_outputs(), graph.outputs, f"{model} outputs")
        if self._provider in DEVICES:
            self._binding = DeviceBinding(ort, session, graph, DEVICES[self._provider], self._chosen.device_id)
        self._session, self._graph = session, graph

    def _open(self, ort: Any, model: Path) -> Any:
        chain = provider_chain(self._provider, self._chosen, model)
        try:
            session = _session(ort, model, self._options(ort), chain)
        except _failures(ort) as error:
            raise BackendError(
                f"{model}: onnxruntime {ort.__version__} cannot load it with {self._provider}: {error}"
                f"{self._why(ort, model, chain)}"
            ) from error
        return session

    def _why(self, ort: Any, model: Path, chain: list[tuple[str, dict[str, str]]]) -> str:
        """What a failed load with a device was about: its libraries, or nodes that only the CPU can run."""
        if self._provider not in DEVICES or self._chosen.allow_cpu_fallback:
            return ""
        try:
            found = list(_session(ort, model, self._options(ort, fallback=True), chain).get_providers())
        except _failures(ort):
            return f". The provider cannot start here; fix its libraries: {INSTALL_GPU}"
        if found[:1] == [self._provider]:
            return (
                ". The provider started, but some nodes have no kernel in it and would run on the CPU; export a graph "
                "without them, or say so on purpose: onnxruntime:allow_cpu_fallback"
            )
        return f". The provider did not start, the session would have used {found}; fix its libraries: {INSTALL_GPU}"

    def _options(self, ort: Any, *, fallback: bool = False) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.load_model_format", "ONNX")  # what was checked, not guessed by name
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[self._chosen.optimisation])
        options.use_deterministic_compute = True
        options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._chosen.spinning else "0")
        if self._provider != CPU and not fallback and not self._chosen.allow_cpu_fallback:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def warm_up(self) -> None:
        """Run on zeros until nothing is lazy any more; what comes out is thrown away."""
        for _ in range(3 if self._binding is not None else 1):  # a CUDA graph is recorded by the runs before its first
            self.infer(zeros(self._loaded().inputs))

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; BackendError if a tensor differs from the spec or the engine fails."""
        graph = self._loaded()
        check_tensors(inputs, graph.inputs, "onnxruntime inputs")
        ort = _onnxruntime()
        try:
            if self._binding is not None:
                outputs = self._binding.run(inputs)
            else:
                names = [spec.name for spec in graph.outputs]
                outputs = dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except _failures(ort) as error:
            raise BackendError(f"onnxruntime {ort.__version__} failed to run the graph: {error}") from error
        check_tensors(outputs, graph.outputs, "onnxruntime outputs")
        return outputs

    def close(self) -> None:
        """Drop the session."""
        self._binding = None
        self._session, self._graph = None, None

    def _loaded(self) -> GraphSpec:
        if self._graph is None:
            raise BackendError("onnxruntime backend: found no graph, expected load() first (or it was closed)")
        return self._graph


class DeviceBinding:
    """Inputs and outputs at fixed places on a device, made once: nothing is allocated in a call.

    Worth nothing on a CPU (0.93 times as fast, measured); on a GPU it is what a CUDA graph needs.
    """

    def __init__(self, ort: Any, session: Any, graph: GraphSpec, device: str, device_id: int) -> None:
        def place(spec: TensorSpec) -> Any:
            dtype = np.dtype(spec.dtype.value)
            return ort.OrtValue.ortvalue_from_shape_and_type(list(spec.shape), dtype, device, device_id)

        self._session, self._binding = session, session.io_binding()
        self._inputs = {spec.name: place(spec) for spec in graph.inputs}
        self._outputs = {spec.name: place(spec) for spec in graph.outputs}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy in, run, copy out; the answers are the caller's own."""
        for name, value in self._inputs.items():
            value.update_inplace(np.ascontiguousarray(inputs[name]))
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}


def _session(ort: Any, model: Path, options: Any, chain: list[tuple[str, dict[str, str]]]) -> Any:
    """A session that neither replaces a provider that failed to start, nor one that fails later."""
    session = ort.InferenceSession(str(model), sess_options=options, providers=chain, enable_fallback=0)
    session.disable_fallback()
    return session


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
