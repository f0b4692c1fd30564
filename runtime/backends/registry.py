# SPDX-License-Identifier: Apache-2.0
"""Name -> engine: the only place where an engine is chosen. Each is imported when it is asked for, not before."""

from __future__ import annotations

from collections.abc import Callable

from runtime.backends.base import Backend
from runtime.errors import BackendError


def _onnxruntime(threads: int | None, provider: str | None, detail: str) -> Backend:
    from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
    from runtime.backends.ort_options import parse_options

    return OnnxRuntimeBackend(threads=threads, provider=provider, options=parse_options(detail))


def _openvino(threads: int | None, provider: str | None, detail: str) -> Backend:
    from runtime.backends.openvino_backend import OpenVinoBackend

    if provider is not None:
        raise BackendError(
            f"backend 'openvino': found provider {provider!r}, expected none: providers are onnxruntime's"
        )
    return OpenVinoBackend(threads=threads, precision=detail or "f32")


def _fake(threads: int | None, provider: str | None, detail: str) -> Backend:
    from runtime.backends.fake_backend import FakeBackend, parse_script

    return FakeBackend(parse_script(detail))


def _tensorrt(threads: int | None, provider: str | None, detail: str) -> Backend:
    from pathlib import Path

    from runtime.backends.tensorrt_backend import TensorRtBackend

    return TensorRtBackend(cache=Path(detail) if detail else None)


BACKENDS: dict[str, Callable[[int | None, str | None, str], Backend]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "fake": _fake,
}


def create_backend(name: str, *, threads: int | None = None, provider: str | None = None) -> Backend:
    """A new engine of that name; BackendError lists the names there are.

    What follows a colon is the engine's own: options (`onnxruntime:device_id=1`, see `ort_options`), a precision
    (`openvino:bf16`), another cache folder of engines (`tensorrt:DIR`; threads are no matter of a GPU), or a script of
    faults (`fake:SCRIPT`, see `fake_backend.parse_script`).
    """
    kind, _, detail = name.partition(":")
    if kind not in BACKENDS:
        raise BackendError(f"backend: found {name!r}, available: {sorted(BACKENDS)}")
    return BACKENDS[kind](threads, provider, detail)
