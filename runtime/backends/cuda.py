# SPDX-License-Identifier: Apache-2.0
"""The CUDA calls that running an engine takes: the only importer of `cuda.bindings`. Everything else stays numpy.

Chosen: cuda-bindings, NVIDIA's own, which needs no toolkit. Rejected: pycuda (compiles at install, one context per
thread by hand) and torch (two gigabytes on the robot for four calls).
"""

from __future__ import annotations

import ctypes
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.tensorrt_targets import install_command
from runtime.errors import BackendError

DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class DeviceFacts:
    """The GPU and the software under it; versions as `13.0`, `kernel_driver` as the module says, or `unknown`."""

    gpu: str
    sm: str
    sm_count: int
    cuda_runtime: str
    cuda_driver: str
    kernel_driver: str


class Cuda:
    """One device, its calls checked: each raises BackendError with CUDA's own words. Addresses are integers."""

    def __init__(self, device: int = 0) -> None:
        self._rt = _bindings()
        (count,) = self._call("cudaGetDeviceCount")
        if device >= count:
            raise BackendError(f"CUDA: found {count} devices, expected one with number {device}")
        self._call("cudaSetDevice", device)
        self._device = device

    def facts(self) -> DeviceFacts:
        """What an engine depends on."""
        (properties,) = self._call("cudaGetDeviceProperties", self._device)
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        (runtime,), (driver,) = self._call("cudaRuntimeGetVersion"), self._call("cudaDriverGetVersion")
        return DeviceFacts(
            gpu=name.strip("\0 "),
            sm=f"{properties.major}.{properties.minor}",
            sm_count=int(properties.multiProcessorCount),
            cuda_runtime=_dotted(runtime),
            cuda_driver=_dotted(driver),
            kernel_driver=kernel_driver(),
        )

    def stream(self) -> Any:
        """A stream that does not wait for the default one; capture needs such a stream."""
        (stream,) = self._call("cudaStreamCreateWithFlags", self._rt.cudaStreamNonBlocking)
        return stream

    def destroy_stream(self, stream: Any) -> None:
        """Free a stream."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: Any) -> None:
        """Wait until the stream is empty; errors of what ran in it come out here."""
        self._call("cudaStreamSynchronize", stream)

    def device_memory(self, size: int) -> int:
        """Address of `size` bytes [at least 1] on the device."""
        (address,) = self._call("cudaMalloc", max(1, size))
        return int(address)

    def free_device(self, address: int) -> None:
        """Free device memory."""
        self._call("cudaFree", address)

    def host_memory(self, size: int) -> int:
        """Address of `size` bytes [at least 1] of page-locked host memory, which copies need to be asynchronous."""
        (address,) = self._call("cudaHostAlloc", max(1, size), self._rt.cudaHostAllocDefault)
        return int(address)

    def free_host(self, address: int) -> None:
        """Free page-locked memory; no array over it may be used afterwards."""
        self._call("cudaFreeHost", address)

    def upload(self, device: int, host: int, size: int, stream: Any) -> None:
        """Copy host -> device in the stream."""
        self._call("cudaMemcpyAsync", device, host, size, self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def download(self, host: int, device: int, size: int, stream: Any) -> None:
        """Copy device -> host in the stream."""
        self._call("cudaMemcpyAsync", host, device, size, self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def begin_capture(self, stream: Any) -> None:
        """Record what enters the stream from this thread instead of running it."""
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:
        """The recorded work, ready to launch; BackendError if something in it cannot be recorded."""
        (graph,) = self._call("cudaStreamEndCapture", stream)
        try:
            (executable,) = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        return executable

    def abandon_capture(self, stream: Any) -> None:
        """Leave a capture that went wrong; the stream can be used again."""
        answer = self._rt.cudaStreamEndCapture(stream)
        if len(answer) > 1 and answer[1] is not None and int(answer[1]):
            self._rt.cudaGraphDestroy(answer[1])
        self._rt.cudaGetLastError()  # otherwise the next call reports the capture's error

    def launch(self, executable: Any, stream: Any) -> None:
        """Run recorded work."""
        self._call("cudaGraphLaunch", executable, stream)

    def destroy_graph(self, executable: Any) -> None:
        """Free recorded work."""
        self._call("cudaGraphExecDestroy", executable)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        code, *answers = getattr(self._rt, name)(*arguments)
        if int(code) != 0:
            _, text = self._rt.cudaGetErrorString(code)
            words = text.decode() if isinstance(text, bytes) else str(text)
            raise BackendError(f"CUDA: {name} failed: {code.name}: {words}{_advice(code.name)}")
        return tuple(answers)


def array_at(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A numpy array over host memory that somebody else owns."""
    raw = (ctypes.c_uint8 * (int(np.prod(shape)) * dtype.itemsize)).from_address(address)
    array: NDArray[Any] = np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
    return array


def kernel_driver() -> str:
    """Version of the NVIDIA kernel module, or `unknown`."""
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", DRIVER_FILE.read_text())
    except OSError:
        return "unknown"
    return found[1] if found else "unknown"


def system() -> tuple[str, str]:
    """Operating system and architecture."""
    return platform.system(), platform.machine()


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _advice(code: str) -> str:
    if code in ("cudaErrorInsufficientDriver", "cudaErrorNoDevice"):
        return ". Next: nvidia-smi, which has to list the GPU, then install a driver that is new enough"
    return ""


def _bindings() -> Any:
    try:
        from cuda.bindings import runtime
    except (ImportError, OSError) as error:
        raise BackendError(f"cuda.bindings is not importable ({error}); run: {install_command()}") from error
    return runtime
