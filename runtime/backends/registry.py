# SPDX-License-Identifier: Apache-2.0
"""Name -> engine: the only place where an engine is chosen. Each is imported when it is asked for, not before."""

from __future__ import annotations

from collections.abc import Callable

from runtime.backends.base import Backend
from runtime.errors import BackendError


def _onnxruntime(threads: int | None, provider: str | None, detail: str) -> Backend:
    if detail:
        raise BackendError(f"backend 'onnxruntime': found {detail!r} after the colon, expected nothing")
    from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(threads=threads, provider=provider)


def _fake(threads: int | None, provider: str | None, detail: str) -> Backend:
    from runtime.backends.fake_backend import FakeBackend, parse_script

    return FakeBackend(parse_script(detail))


def _tensorrt(threads: int | None, provider: str | None, detail: str) -> Backend:
    from pathlib import Path

    from runtime.backends.tensorrt_backend import TensorRtBackend

    return TensorRtBackend(cache=Path(detail) if detail else None)


BACKENDS: dict[str, Callable[[int | None, str | None, str], Backend]] = {
    "onnxruntime": _onnxruntime,
    "tensorrt": _tensorrt,
    "fake": _fake,
}


def create_backend(name: str, *, threads: int | None = None, provider: str | None = None) -> Backend:
    """A new engine of that name; BackendError lists the names there are.

    `fake:SCRIPT` plays faults (see `runtime.backends.fake_backend.parse_script`); `tensorrt:DIR` takes the engines of
    another cache folder (threads and providers are ONNX Runtime's; it was proved when it was built).
    """
    kind, _, detail = name.partition(":")
    if kind not in BACKENDS:
        raise BackendError(f"backend: found {name!r}, available: {sorted(BACKENDS)}")
    return BACKENDS[kind](threads, provider, detail)
