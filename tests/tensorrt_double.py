# SPDX-License-Identifier: Apache-2.0
"""A device and a TensorRT runtime without a GPU, so that the backend's own logic runs here: what it allocates, in which
order it works, what it does when a call fails. It proves nothing about CUDA or TensorRT.

The "device" is other host memory; a stream keeps its work and does it in `synchronize`, so that a missing wait shows as
a wrong answer. An engine's plan is an ONNX graph, and ONNX Runtime computes it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import onnxruntime

from runtime.backends.cuda import DeviceFacts, array_at
from runtime.backends.tensorrt_backend import TensorRtBackend
from runtime.errors import BackendError

Work = Callable[[], None]
ONNX_TYPES = {"tensor(float)": ("FLOAT", np.float32), "tensor(int64)": ("INT64", np.int64)}


class Stream:
    """Work in order; `int()` is its handle."""

    def __init__(self) -> None:
        self.work: list[Work] = []
        self.recording: list[Work] | None = None

    def __int__(self) -> int:
        return id(self)

    def add(self, work: Work) -> None:
        (self.work if self.recording is None else self.recording).append(work)


class HostDevice:
    """`Cuda` over host memory. `fails` names calls that raise; `held` is what has not been given back."""

    def __init__(self, fails: tuple[str, ...] = ()) -> None:
        self.fails, self.held, self.calls = set(fails), {}, []
        self.streams: dict[int, Stream] = {}

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise BackendError(f"CUDA: {name} failed: scripted")

    def facts(self) -> DeviceFacts:
        return DeviceFacts("double", "8.9", 48, "13.0", "13.0", "580.95.05")

    def stream(self) -> Stream:
        self._note("stream")
        made = Stream()
        self.streams[int(made)] = made
        self.held[int(made)] = made
        return made

    def destroy_stream(self, stream: Stream) -> None:
        self._note("destroy_stream")
        del self.held[int(stream)], self.streams[int(stream)]

    def synchronize(self, stream: Stream) -> None:
        self._note("synchronize")
        while stream.work:
            stream.work.pop(0)()

    def _memory(self, size: int) -> int:
        made = (ctypes.c_uint8 * max(1, size))(*([0xA5] * max(1, size)))
        self.held[ctypes.addressof(made)] = made
        return ctypes.addressof(made)

    def device_memory(self, size: int) -> int:
        self._note("device_memory")
        return self._memory(size)

    def host_memory(self, size: int) -> int:
        self._note("host_memory")
        return self._memory(size)

    def free_device(self, address: int) -> None:
        self._note("free_device")
        del self.held[address]

    def free_host(self, address: int) -> None:
        self._note("free_host")
        del self.held[address]

    def upload(self, device: int, host: int, size: int, stream: Stream) -> None:
        self._note("upload")
        stream.add(lambda: ctypes.memmove(device, host, size))

    def download(self, host: int, device: int, size: int, stream: Stream) -> None:
        self._note("download")
        stream.add(lambda: ctypes.memmove(host, device, size))

    def begin_capture(self, stream: Stream) -> None:
        self._note("begin_capture")
        stream.recording = []

    def end_capture(self, stream: Stream) -> list[Work]:
        recorded, stream.recording = stream.recording, None
        self._note("end_capture")
        self.held[id(recorded)] = recorded
        return recorded

    def abandon_capture(self, stream: Stream) -> None:
        self._note("abandon_capture")
        stream.recording = None

    def launch(self, recorded: list[Work], stream: Stream) -> None:
        self._note("launch")
        stream.work.extend(recorded)

    def destroy_graph(self, recorded: list[Work]) -> None:
        self._note("destroy_graph")
        del self.held[id(recorded)]


class TensorIOMode(Enum):
    INPUT, OUTPUT = 1, 2


class TensorLocation(Enum):
    DEVICE, HOST = 0, 1


class Severity(Enum):
    INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = Severity


class Kind:
    """An element type, of which only the name is read."""

    def __init__(self, name: str) -> None:
        self.name = name


class Engine:
    """An engine over an ONNX session."""

    def __init__(self, session: onnxruntime.InferenceSession, trt: Trt) -> None:
        self.session, self.trt = session, trt
        self.nodes = {node.name: node for node in (*session.get_inputs(), *session.get_outputs())}
        self.inputs = [node.name for node in session.get_inputs()]
        self.num_io_tensors = len(self.nodes)

    def get_tensor_name(self, index: int) -> str:
        return list(self.nodes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Kind:
        return Kind(self.trt.dtypes.get(name) or ONNX_TYPES[self.nodes[name].type][0])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.nodes[name].shape)

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self.trt.on_host else TensorLocation.DEVICE

    def create_execution_context(self) -> Context | None:
        return Context(self) if self.trt.has_memory else None


class Context:
    """Computes on what lies at the addresses when its turn comes."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses, self.shapes = engine, {}, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return self.engine.trt.batch in (None, shape[0])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """An open first size is the batch that was set, as in the graphs here."""
        found = self.shapes.get(name, self.engine.get_tensor_shape(name))
        batch = next(iter(self.shapes.values()), (-1,))[0]
        return tuple(batch if size == -1 else size for size in found)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.nodes

    def execute_async_v3(self, handle: int) -> bool:
        if not self.engine.trt.starts:
            return False
        self.engine.trt.device.streams[handle].add(self._compute)
        return True

    def _array(self, name: str) -> np.ndarray:
        node = self.engine.nodes[name]
        return array_at(self.addresses[name], self.get_tensor_shape(name), np.dtype(ONNX_TYPES[node.type][1]))

    def _compute(self) -> None:
        names = [name for name in self.engine.nodes if name not in self.engine.inputs]
        answers = self.engine.session.run(names, {name: self._array(name).copy() for name in self.engine.inputs})
        for name, answer in zip(names, answers, strict=True):
            self._array(name)[...] = answer


class Trt:
    """The module: what of it running an engine touches. Its faults are its attributes."""

    __name__, __version__ = "tensorrt", "10.16.1.11"
    ILogger, TensorIOMode, TensorLocation = ILogger, TensorIOMode, TensorLocation

    def __init__(self, device: HostDevice) -> None:
        self.device, self.has_memory, self.starts = device, True, True
        self.on_host: tuple[str, ...] = ()
        self.batch: int | None = None  # of the profile; None takes any
        self.dtypes: dict[str, str] = {}

    def Runtime(self, log: Any) -> Any:  # noqa: N802 TensorRT's own name
        trt = self

        class Runtime:
            def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
                if plan == b"not a plan":
                    log.log(ILogger.ERROR, "magic tag does not match")
                    return None
                return Engine(onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"]), trt)

        return Runtime()


class OnDouble(TensorRtBackend):
    """The real backend over the double, with the small artifact's graph as its engine; for the conformance suite."""

    def __init__(self, plan: bytes | None = None, fails: tuple[str, ...] = (), **options: Any) -> None:
        from artifact_factory import onnx_bytes

        self.device = HostDevice(fails)
        self.trt = Trt(self.device)
        super().__init__(plan=plan or onnx_bytes(), trt=self.trt, cuda=self.device, **options)
