# SPDX-License-Identifier: Apache-2.0
"""Real engines without a GPU: TensorRT-RTX builds the small artifact's graph in a tenth of a second."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import artifact_factory
import pytest

from runtime.backends.engine_cache import EngineRecord, Proof
from runtime.backends.engine_key import EngineKey, StationFacts, engine_key
from runtime.backends.tensorrt_build import BuildSettings, build, parse
from runtime.backends.tensorrt_library import TENSORRT_RTX, library
from runtime.inference.engine_build import Builder, Prove

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed (Linux x86_64 only). Next: make install-dev",
)
STATION = StationFacts(
    library="tensorrt", library_version="10.16.1.11", cuda_runtime="13.0", cuda_driver="13.0",
    kernel_driver="580.95.05", gpu="NVIDIA RTX 4000 SFF Ada Generation", sm="8.9", sm_count=48, system="Linux",
    machine="x86_64",
)  # fmt: skip
PROOF = Proof(samples=2, worst=2e-6, worst_dim="dx", tolerance=1e-4, execution="CUDA graph")


def key(folder: Path, station: StationFacts = STATION, settings: BuildSettings | None = None) -> EngineKey:
    """The key of the small graph, written to `folder` if it is not there."""
    model = folder / "policy.onnx"
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model.write_bytes(artifact_factory.onnx_bytes())
    return engine_key(model, artifact_factory.policy_spec().graph, station, settings or BuildSettings())


@functools.cache
def plan() -> bytes:
    """A real serialised engine; built once per process."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.onnx"
        path.write_bytes(artifact_factory.onnx_bytes())
        return build(parse(library(TENSORRT_RTX), path), BuildSettings()).plan


def record(of: EngineKey, content: bytes) -> EngineRecord:
    """What a build would have written."""
    return EngineRecord(of, hashlib.sha256(content).hexdigest(), len(content), PROOF, "jazzy-x86_64", 41, 0.1)


def builder(prove: Prove | None = None, station: StationFacts = STATION) -> Builder:
    """TensorRT-RTX's parser and builder under a station's facts; `prove` stands for the GPU that is not here."""
    rtx = library(TENSORRT_RTX)
    here = replace(station, library=TENSORRT_RTX, library_version=rtx.__version__)
    return Builder(rtx, here, "unlisted", prove or (lambda artifact, content: PROOF))
