# SPDX-License-Identifier: Apache-2.0
"""A TensorRT engine that this station built, behind `Backend`. Not yet seen on a GPU: see docs/tensorrt.md.

Everything is made at load: static shapes, one device and one page-locked buffer per tensor, one stream. `warm_up` runs
once in the open, because the first call allocates, and then records copies and kernels as one CUDA graph; a call is a
copy into page-locked memory, one launch, one wait. Where an engine cannot be recorded (a loop whose condition the host
reads) it runs in the stream, and that is logged and recorded, not hidden.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.base import Tensor, check_tensors, zeros
from runtime.backends.cuda import Cuda, array_at
from runtime.backends.engine_cache import EngineCache
from runtime.backends.engine_key import engine_key
from runtime.backends.station import station_facts
from runtime.backends.tensorrt_build import BuildSettings, fits
from runtime.backends.tensorrt_library import TENSORRT, create, last_errors, library, logger
from runtime.contract.graph import GraphSpec, TensorSpec
from runtime.errors import BackendError

LOG = logging.getLogger("dropgate.tensorrt")
GRAPH, STREAM = "CUDA graph", "stream"
_DTYPES = {"FLOAT": "float32", "INT64": "int64"}


@dataclass(frozen=True, eq=False)
class _Slot:
    """One tensor's two buffers: device address, page-locked address, an array over the latter, bytes."""

    spec: TensorSpec
    device: int
    host: int
    array: NDArray[Any]
    size: int


class TensorRtBackend:
    """Runs the engine of a model from the station's cache.

    Args:
        cache: its folder; None is the user's own.
        plan: these bytes instead of the cache: an engine that was just built and is being proved.
        cuda_graph: record the call as one CUDA graph where that is possible.
        trt, cuda: the library and the device; None takes TensorRT and device 0.
    """

    name = "tensorrt"

    def __init__(
        self,
        *,
        cache: Path | None = None,
        plan: bytes | None = None,
        cuda_graph: bool = True,
        trt: Any = None,
        cuda: Cuda | None = None,
    ) -> None:
        self._cache, self._plan, self._wants_graph = EngineCache(cache), plan, cuda_graph
        self._trt, self._cuda = trt, cuda
        self._graph: GraphSpec | None = None
        self._runtime: Any = None  # outlives the engine
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._recorded: Any = None
        self._inputs: tuple[_Slot, ...] = ()
        self._outputs: tuple[_Slot, ...] = ()
        self.execution = ""

    def load(self, model: Path, graph: GraphSpec) -> None:
        """Find, check and open the engine and make its buffers; BackendError says what differs or is missing."""
        self.close()
        trt = self._trt or library(TENSORRT)
        cuda = self._cuda or Cuda()
        self._trt, self._cuda = trt, cuda
        plan = self._plan
        if plan is None:
            plan = self._cache.chosen(engine_key(model, graph, station_facts(trt, cuda), BuildSettings())).plan
        try:
            self._open(trt, cuda, plan, graph, model)
        except BaseException:
            self.close()
            raise

    def _open(self, trt: Any, cuda: Cuda, plan: bytes, graph: GraphSpec, model: Path) -> None:
        log = logger(trt)
        self._runtime = create(trt.Runtime, log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError(f"{model}: {trt.__name__} cannot open its engine: {last_errors(log)}")
        _check_signature(trt, self._engine, graph, f"{model}: engine")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"{model}: no memory for the engine's activations: {last_errors(log)}")
        _check_shapes(self._context, graph, f"{model}: engine")
        self._stream = cuda.stream()
        for spec in graph.inputs:
            self._inputs += (self._slot(cuda, spec),)
        for spec in graph.outputs:
            self._outputs += (self._slot(cuda, spec),)
        for slot in (*self._inputs, *self._outputs):
            if not self._context.set_tensor_address(slot.spec.name, slot.device):
                raise BackendError(f"{model}: the engine refuses a buffer for {slot.spec.name!r}: {last_errors(log)}")
        self._log, self._graph = log, graph

    def _slot(self, cuda: Cuda, spec: TensorSpec) -> _Slot:
        dtype = np.dtype(spec.dtype.value)
        size = int(np.prod(spec.shape)) * dtype.itemsize
        device = cuda.device_memory(size)
        try:
            host = cuda.host_memory(size)
        except BackendError:
            cuda.free_device(device)
            raise
        return _Slot(spec, device, host, array_at(host, spec.shape, dtype), size)

    def warm_up(self) -> None:
        """Run once on zeros in the open, then record the call; what comes out is thrown away."""
        graph, cuda = self._loaded()
        self._forget_recording()
        self.infer(zeros(graph.inputs))
        self.execution = STREAM
        if not self._wants_graph:
            return
        try:
            self._recorded = self._record(cuda)
        except BackendError as error:
            self.execution = f"{STREAM}: not recordable as a CUDA graph ({error})"
            LOG.warning("tensorrt: %s", self.execution)
            return
        self.execution = GRAPH
        self.infer(zeros(graph.inputs))

    def _record(self, cuda: Cuda) -> Any:
        cuda.begin_capture(self._stream)
        try:
            self._enqueue(cuda)
        except BackendError:
            cuda.abandon_capture(self._stream)
            raise
        return cuda.end_capture(self._stream)

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the engine; BackendError if a tensor differs from the spec, or CUDA or TensorRT fails."""
        graph, cuda = self._loaded()
        check_tensors(inputs, graph.inputs, "tensorrt inputs")
        for slot in self._inputs:
            np.copyto(slot.array, inputs[slot.spec.name], casting="no")
        if self._recorded is not None:
            cuda.launch(self._recorded, self._stream)
        else:
            self._enqueue(cuda)
        cuda.synchronize(self._stream)
        outputs = {slot.spec.name: slot.array.copy() for slot in self._outputs}
        check_tensors(outputs, graph.outputs, "tensorrt outputs")
        return outputs

    def _enqueue(self, cuda: Cuda) -> None:
        """Copies and kernels of one call, in order, into the stream."""
        for slot in self._inputs:
            cuda.upload(slot.device, slot.host, slot.size, self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise BackendError(f"tensorrt: the engine did not start: {last_errors(self._log)}")
        for slot in self._outputs:
            cuda.download(slot.host, slot.device, slot.size, self._stream)

    def close(self) -> None:
        """Free everything, in the order that CUDA wants: work, recording, context, engine, buffers, stream."""
        cuda = self._cuda
        slots, stream = (*self._inputs, *self._outputs), self._stream
        self._graph, self._inputs, self._outputs, self._stream, self.execution = None, (), (), None, ""
        if cuda is None or stream is None:
            self._drop_engine()
            return
        steps: list[Callable[[], Any]] = [lambda: cuda.synchronize(stream), self._forget_recording, self._drop_engine]
        steps += [step for slot in slots for step in _frees(cuda, slot)]
        steps.append(lambda: cuda.destroy_stream(stream))
        for step in steps:
            try:
                step()
            except BackendError as error:  # a device that failed answers every later call with the same error
                LOG.warning("tensorrt: while closing: %s", error)

    def _drop_engine(self) -> None:
        self._context = None
        self._engine = None
        self._runtime = None

    def _forget_recording(self) -> None:
        recorded, self._recorded = self._recorded, None
        if recorded is not None and self._cuda is not None:
            self._cuda.destroy_graph(recorded)

    def _loaded(self) -> tuple[GraphSpec, Cuda]:
        if self._graph is None or self._cuda is None:
            raise BackendError("tensorrt backend: found no graph, expected load() first (or it was closed)")
        return self._graph, self._cuda


def _frees(cuda: Cuda, slot: _Slot) -> list[Callable[[], Any]]:
    return [lambda: cuda.free_device(slot.device), lambda: cuda.free_host(slot.host)]


def _check_signature(trt: Any, engine: Any, graph: GraphSpec, where: str) -> None:
    """Names, directions, types and shapes are those of the graph, and every tensor lies on the device."""
    names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    expected = {spec.name for spec in (*graph.inputs, *graph.outputs)}
    if names != expected:
        raise BackendError(f"{where}: found tensors {sorted(names)}, expected {sorted(expected)}")
    sides = ((graph.inputs, trt.TensorIOMode.INPUT), (graph.outputs, trt.TensorIOMode.OUTPUT))
    for specs, mode in sides:
        for spec in specs:
            dtype = engine.get_tensor_dtype(spec.name).name
            kind, shape = _DTYPES.get(dtype, dtype), tuple(engine.get_tensor_shape(spec.name))
            right = engine.get_tensor_mode(spec.name) == mode and kind == spec.dtype.value and fits(shape, spec.shape)
            if not right:
                raise BackendError(
                    f"{where}[{spec.name}]: found {engine.get_tensor_mode(spec.name).name} {kind} {shape}, "
                    f"expected {mode.name} {spec.dtype.value} {spec.shape}"
                )
            if engine.get_tensor_location(spec.name) != trt.TensorLocation.DEVICE:
                raise BackendError(f"{where}[{spec.name}]: wants host memory, expected data on the device")


def _check_shapes(context: Any, graph: GraphSpec, where: str) -> None:
    """Fix the inputs that the graph left open, once; then the outputs have to be as large as their buffers."""
    for spec in graph.inputs:
        if tuple(context.get_tensor_shape(spec.name)) != spec.shape and not context.set_input_shape(
            spec.name, spec.shape
        ):
            raise BackendError(f"{where}[{spec.name}]: was not built for {spec.shape}; run: python -m runtime build")
    for spec in graph.outputs:
        found = tuple(context.get_tensor_shape(spec.name))
        if found != spec.shape:
            raise BackendError(f"{where}[{spec.name}]: found {found}, expected {spec.shape}")
