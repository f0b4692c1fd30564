# SPDX-License-Identifier: Apache-2.0
"""What an engine depends on, all of it: a plan is used only where every one of these is what it was at the build.

A serialised plan is bound to the TensorRT that wrote it and to the GPU that its kernels were timed on; the rest is here
because the builder's choice, and so the numbers, depend on it. No plugin is ever loaded, so there is none in the key.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.backends.tensorrt_build import BuildSettings
from runtime.contract import check
from runtime.contract.artifact import load_manifest
from runtime.contract.codec import conform, encode
from runtime.contract.conventions import FileRole
from runtime.contract.graph import GraphSpec, TensorSpec
from runtime.contract.manifest import MANIFEST_FILE, digest
from runtime.contract.verify import file_digest
from runtime.errors import BackendError

BUILDER = 1  # raised when `tensorrt_build` asks the builder for something else
AS_WRITTEN = "as written in the graph"


@dataclass(frozen=True)
class StationFacts:
    """The machine that builds and runs: full library version, CUDA and driver, GPU, system."""

    library: str
    library_version: str
    cuda_runtime: str
    cuda_driver: str
    kernel_driver: str
    gpu: str
    sm: str
    sm_count: int
    system: str
    machine: str

    def __post_init__(self) -> None:
        conform(self)


@dataclass(frozen=True)
class ModelFile:
    """Name and SHA-256 of the graph or of weights beside it."""

    name: str
    sha256: str

    def __post_init__(self) -> None:
        conform(self)
        check.relative_path(self.name, "ModelFile.name")
        check.sha256(self.sha256, f"ModelFile[{self.name}].sha256")


@dataclass(frozen=True)
class EngineKey:
    """Identity of one engine. `flags` are those of `settings` by name; tensors are the static profile."""

    model: tuple[ModelFile, ...]
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    station: StationFacts
    settings: BuildSettings
    flags: tuple[str, ...]
    builder: int = BUILDER

    def __post_init__(self) -> None:
        conform(self)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it: the name of the cache entry."""
        return digest(encode(self))

    @property
    def slot(self) -> str:
        """SHA-256 of all but the settings: what a backend asks with, which takes the settings that were built last."""
        return digest({key: value for key, value in encode(self).items() if key not in ("settings", "flags")})


def engine_key(model: Path, graph: GraphSpec, station: StationFacts, settings: BuildSettings) -> EngineKey:
    """The key of an engine for `model` on `station`.

    Beside an artifact's manifest, files and digests are the manifest's, which `read_artifact` has compared with the
    disk; a graph elsewhere is digested together with `<name>.data`.
    """
    files, precision = _of_artifact(model) if (model.parent / MANIFEST_FILE).is_file() else (_bare(model), AS_WRITTEN)
    return EngineKey(files, precision, graph.inputs, graph.outputs, station, settings, settings.flags)


def _of_artifact(model: Path) -> tuple[tuple[ModelFile, ...], str]:
    manifest, _ = load_manifest(model.parent)
    roles = (FileRole.MODEL, FileRole.MODEL_DATA)
    files = tuple(ModelFile(entry.path, entry.sha256) for entry in manifest.files if entry.role in roles)
    if model.name not in [file.name for file in files]:
        raise BackendError(f"{model}: not a model of its artifact, available: {[file.name for file in files]}")
    return files, manifest.policy.engine.precision.value


def _bare(model: Path) -> tuple[ModelFile, ...]:
    beside = [model, model.with_name(f"{model.name}.data")]
    if not model.is_file():
        raise BackendError(f"{model}: no such file, expected an ONNX graph")
    return tuple(ModelFile(path.name, file_digest(path)) for path in beside if path.is_file())


def differences(found: EngineKey, wanted: EngineKey) -> list[str]:
    """Fields of the station that differ, `driver 570.1 -> 580.2`, for the message that explains a missing engine."""
    then, now = encode(found.station), encode(wanted.station)
    return [f"{name} {then[name]} -> {now[name]}" for name in then if then[name] != now[name]]
