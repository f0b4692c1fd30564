# SPDX-License-Identifier: Apache-2.0
"""Artifact -> proven engine in this station's cache: verify, copy, build, prove with the golden samples, keep.

An engine that was built and then disagrees with the golden outputs is thrown away: it has no entry, and a robot that
asks for it is told to build.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.backends.cuda import Cuda
from runtime.backends.engine_cache import Engine, EngineCache, EngineRecord, Proof
from runtime.backends.engine_key import EngineKey, StationFacts, engine_key
from runtime.backends.private_files import STAGING
from runtime.backends.shipped_engines import refuse_shipped_engines
from runtime.backends.station import station_facts
from runtime.backends.tensorrt_backend import TensorRtBackend
from runtime.backends.tensorrt_build import BuildSettings, Built, build, parse
from runtime.backends.tensorrt_library import TENSORRT, library
from runtime.backends.tensorrt_targets import check_version
from runtime.contract.artifact import Artifact, SignatureVerifier, read_artifact
from runtime.errors import BackendError
from runtime.inference.golden import golden_parity
from runtime.inference.policy import Policy

BLOCK = 1 << 20
Prove = Callable[[Artifact, bytes], Proof]
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Builder:
    """What builds on this station, asked once: the library, the machine, and how an engine is proved on it.

    Attributes:
        trt: the TensorRT module.
        station: goes into every key.
        target: row of the version table, for the record.
        prove: runs the golden samples through a plan.
    """

    trt: Any
    station: StationFacts
    target: str
    prove: Prove


def this_station(*, any_version: bool = False) -> Builder:
    """TensorRT and the GPU at hand; BackendError names what is missing and the command that installs it."""
    trt, cuda = library(TENSORRT), Cuda()
    station = station_facts(trt, cuda)
    return Builder(trt, station, check_version(station.library_version, any_version), prove_on_gpu)


def build_engine(
    directory: str | Path,
    cache: EngineCache,
    builder: Builder,
    settings: BuildSettings,
    say: Say,
    *,
    verifier: SignatureVerifier | None = None,
) -> tuple[Engine, bool]:
    """The proven engine of an artifact, and whether it was built now (True) or was there (False).

    Raises ArtifactError (not intact, or it brings an engine), BackendError (TensorRT refuses the graph, or the engine
    disagrees with the golden outputs), OSError (disk full); then the cache holds no entry of this key.
    """
    artifact = read_artifact(directory, verifier=verifier)
    refuse_shipped_engines(artifact.root, artifact.manifest)
    graph = artifact.manifest.policy.graph
    key = engine_key(artifact.path(graph.file), graph, builder.station, settings)
    with cache.building(say):
        there = _usable(cache, key, say)
        if there is not None:
            cache.choose(key)
            return there, False
        return _build(artifact, key, cache, builder, say), True


def _usable(cache: EngineCache, key: EngineKey, say: Say) -> Engine | None:
    try:
        return cache.find(key)
    except BackendError as error:
        say(f"{error}; removing it and building again")
        cache.discard(key)
        return None


def _build(artifact: Artifact, key: EngineKey, cache: EngineCache, builder: Builder, say: Say) -> Engine:
    built, layers = _built(artifact, key, cache, builder, say)
    say(f"built {len(built.plan)} bytes in {built.seconds:.1f} s; running the golden samples")
    proof = builder.prove(artifact, built.plan)
    if not proof.passed:
        raise BackendError(
            f"{artifact.root}: the engine differs from the golden outputs by {proof.worst:.2e} in {proof.worst_dim}, "
            f"expected at most {proof.tolerance:.0e}, over {proof.samples} samples; it was thrown away. Use "
            "--backend onnxruntime, and send this message to whoever exported the policy"
        )
    return cache.publish(built.plan, _record(key, built, proof, builder.target, layers))


def _built(artifact: Artifact, key: EngineKey, cache: EngineCache, builder: Builder, say: Say) -> tuple[Built, int]:
    """The plan and the number of layers; network and weights are freed with this frame, before the engine is run."""
    timing = cache.timing(key.station, say) if key.settings.timing_cache else b""
    with tempfile.TemporaryDirectory(prefix=f"{STAGING}graph-", dir=cache.root) as folder:
        model = private_copy(artifact, key, Path(folder))
        say(f"parsing {artifact.manifest.policy.graph.file} with {key.station.library} {key.station.library_version}")
        parsed = parse(builder.trt, model)
        layers = sum(1 for _ in parsed.layers())
        say(f"building {layers} layers for {key.station.gpu}, optimisation level {key.settings.optimization_level}")
        built = build(parsed, key.settings, timing, {tensor.name: tensor.shape for tensor in key.inputs})
    if built.timing:
        cache.keep_timing(key.station, built.timing)
    return built, layers


def _record(key: EngineKey, built: Built, proof: Proof, target: str, layers: int) -> EngineRecord:
    digest = hashlib.sha256(built.plan).hexdigest()
    return EngineRecord(key, digest, len(built.plan), proof, target, layers, built.seconds)


def private_copy(artifact: Artifact, key: EngineKey, folder: Path) -> Path:
    """Graph and weights alone in a folder of ours, digested while they are copied: what is parsed is what was signed.

    External weights are looked up beside the graph, so nothing else of this machine can be read in their place.
    """
    for file in key.model:
        state, target = hashlib.sha256(), folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (artifact.root / file.name).open("rb") as source, target.open("xb") as copy:
            while block := source.read(BLOCK):
                state.update(block)
                copy.write(block)
        if state.hexdigest() != file.sha256:
            raise BackendError(f"{artifact.root / file.name}: changed after it was verified; copy the artifact again")
    return folder / artifact.manifest.policy.graph.file


def prove_on_gpu(artifact: Artifact, plan: bytes) -> Proof:
    """Image bytes in, commands out, with this very plan; TF32 and recording as the robot will have them."""
    backend = TensorRtBackend(plan=plan)
    with Policy(artifact, backend) as policy:
        parity, execution = golden_parity(policy), backend.execution
    worst = max(parity.max_abs, key=lambda name: parity.max_abs[name])
    return Proof(parity.samples, parity.max_abs[worst], worst, parity.tolerance, execution)
