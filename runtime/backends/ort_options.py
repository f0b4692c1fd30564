# SPDX-License-Identifier: Apache-2.0
"""What a station may say about ONNX Runtime, in one text: `onnxruntime:device_id=1,cuda_graph=off`.

Precision is not among it: it is in the ONNX. No provider is ever told to compute in less than the graph says, so TF32
is off and TensorRT gets no fp16 or int8 flag.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from runtime.errors import BackendError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}
SWITCH = {"": True, "on": True, "off": False}
_BLOCK = 1 << 20


@dataclass(frozen=True)
class OrtOptions:
    """Options of the engine, each with its default. Raises BackendError.

    Attributes:
        optimisation: of the graph when it is loaded; one of `LEVELS`.
        spinning: idle threads burn their cores instead of sleeping; for a machine that does nothing else.
        device_id: which GPU.
        cuda_graph: record the kernels once and replay them; shapes are static here, so nothing forbids it.
        cache: folder for TensorRT's engines and timings; None is `~/.cache/dropgate/ort-tensorrt`.
        allow_cpu_fallback: nodes that the provider cannot run may run on the CPU. The provider itself must still start.
    """

    optimisation: str = "all"
    spinning: bool = False
    device_id: int = 0
    cuda_graph: bool = True
    cache: Path | None = None
    allow_cpu_fallback: bool = False

    def __post_init__(self) -> None:
        if self.optimisation not in LEVELS:
            raise BackendError(f"onnxruntime optimisation: found {self.optimisation!r}, available: {list(LEVELS)}")
        if self.device_id < 0:
            raise BackendError(f"onnxruntime device_id: found {self.device_id}, expected 0 or above")


def parse_options(text: str) -> OrtOptions:
    """Options from `name=value,name=value`; a switch is `on` when it stands alone. BackendError names what is wrong."""
    given: dict[str, Any] = {}
    kinds = {field.name: field.type for field in fields(OrtOptions)}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = item.partition("=")
        if name not in kinds or name in given:
            raise BackendError(f"onnxruntime option: found {item!r}, expected each of {sorted(kinds)} at most once")
        given[name] = _value(name, value, str(kinds[name]))
    return OrtOptions(**given)


def _value(name: str, value: str, kind: str) -> Any:
    if kind == "bool":
        if value not in SWITCH:
            raise BackendError(f"onnxruntime option {name}: found {value!r}, expected on or off")
        return SWITCH[value]
    if kind == "int":
        if not value.isascii() or not value.isdigit():
            raise BackendError(f"onnxruntime option {name}: found {value!r}, expected a whole number")
        return int(value)
    if not value:
        raise BackendError(f"onnxruntime option {name}: found nothing after it, expected {name}=VALUE")
    return Path(value) if "Path" in kind else value


def provider_chain(provider: str, options: OrtOptions, model: Path) -> list[tuple[str, dict[str, str]]]:
    """Providers with their options, in order of preference. TensorRT is backed by CUDA; the CPU only where allowed.

    Raises:
        BackendError: the cache folder belongs to somebody else, or others may write to it.
    """
    chain: list[tuple[str, dict[str, str]]] = []
    if provider == TENSORRT:
        chain.append((TENSORRT, _tensorrt(options, model)))
    if provider in (TENSORRT, CUDA):
        # one CUDA graph holds the whole run: where two providers share it, TensorRT records its own part
        graph = options.cuda_graph and provider == CUDA
        chain.append((CUDA, {"device_id": str(options.device_id), "enable_cuda_graph": _flag(graph), "use_tf32": "0"}))
    if not chain:
        chain.append((provider, {}))
    if options.allow_cpu_fallback and provider != CPU:
        chain.append((CPU, {}))
    return chain


def _tensorrt(options: OrtOptions, model: Path) -> dict[str, str]:
    # ONNX Runtime does not look at the weights when it takes an engine from its cache, so each graph has its own folder
    folder = private_folder((options.cache or _default_cache()) / model_digest(model)[:32])
    return {
        "device_id": str(options.device_id),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_cuda_graph_enable": _flag(options.cuda_graph),
    }


def _flag(value: bool) -> str:
    return "1" if value else "0"


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dropgate" / "ort-tensorrt"


def model_digest(model: Path) -> str:
    """SHA-256 over a graph and the weight files beside it (`policy.onnx`, `policy.onnx.data`)."""
    state = hashlib.sha256()
    for path in sorted(p for p in model.parent.glob(f"{model.name}*") if p.is_file()):
        state.update(f"{path.name}:{path.stat().st_size}\n".encode())
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                state.update(block)
    return state.hexdigest()


def private_folder(folder: Path) -> Path:
    """The folder, made if it is not there; BackendError unless it is ours and nobody else may write to it.

    A serialized engine is executed: one from outside the station must never be taken from here.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise BackendError(f"TensorRT cache {folder}: {error}; name a folder that can be written: cache=DIR") from error
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or shared:
        raise BackendError(
            f"TensorRT cache {folder}: found mode {stat.filemode(found.st_mode)} of user {found.st_uid}, expected a "
            f"folder of user {os.geteuid()} that nobody else may write to, because an engine is executed. Run: "
            f"chmod 700 {folder}"
        )
    return folder
