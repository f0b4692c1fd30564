# SPDX-License-Identifier: Apache-2.0
"""TensorRT on a real GPU: build, prove, load, run. Skipped where there is none; not yet seen anywhere."""

from __future__ import annotations

import importlib.util

import export_factory as tiny
import numpy as np
import pytest
from artifact_factory import write_draft

from runtime.backends.engine_cache import EngineCache
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.backends.tensorrt_backend import GRAPH, TensorRtBackend
from runtime.backends.tensorrt_build import BuildSettings
from runtime.contract.artifact import Artifact, read_artifact
from runtime.contract.graph import ACTIONS, STATE
from runtime.errors import BackendError
from runtime.inference.engine_build import build_engine, this_station
from runtime.inference.golden import golden_parity
from runtime.inference.policy import Policy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt") is None, reason="tensorrt is not installed. Next: docs/tensorrt.md"
    ),
]


@pytest.fixture(scope="module", params=["by hand", "reference"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    if request.param == "reference":
        return read_artifact(tiny.draft())
    return write_draft(tmp_path_factory.mktemp("artifact") / "draft")


@pytest.fixture(scope="module")
def cache(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    """A cache with the artifact's engine, built once."""
    made = EngineCache(tmp_path_factory.mktemp("engines") / "cache")
    engine, fresh = build_engine(artifact.root, made, this_station(any_version=True), BuildSettings(), print)
    assert fresh
    assert engine.record.proof.passed
    return made


def random_inputs(artifact: Artifact, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {}
    for spec in artifact.manifest.policy.graph.inputs:
        dtype = np.dtype(spec.dtype.value)
        whole = rng.integers(0, 2, spec.shape) if dtype.kind == "i" else rng.normal(0, 0.5, spec.shape)
        made[spec.name] = whole.astype(dtype)
    made["attention_mask"][:, 0] = 1
    return made


def opened(artifact: Artifact, cache: EngineCache, cuda_graph: bool = True) -> TensorRtBackend:
    backend = TensorRtBackend(cache=cache.root, cuda_graph=cuda_graph)
    graph = artifact.manifest.policy.graph
    backend.load(artifact.path(graph.file), graph)
    backend.warm_up()
    return backend


def test_second_build_finds_the_first(artifact: Artifact, cache: EngineCache) -> None:
    assert not build_engine(artifact.root, cache, this_station(any_version=True), BuildSettings(), print)[1]


def test_robot_path_agrees_with_the_golden_outputs(artifact: Artifact, cache: EngineCache) -> None:
    with Policy.load(artifact.root, f"tensorrt:{cache.root}", allow_unsealed=True) as policy:
        assert golden_parity(policy).ok


def test_call_is_recorded_as_a_cuda_graph(artifact: Artifact, cache: EngineCache) -> None:
    backend = opened(artifact, cache)
    assert backend.execution == GRAPH
    backend.close()


def test_recorded_and_plain_calls_agree_with_onnxruntime(artifact: Artifact, cache: EngineCache) -> None:
    recorded, plain, oracle = opened(artifact, cache), opened(artifact, cache, False), OnnxRuntimeBackend(threads=1)
    graph = artifact.manifest.policy.graph
    oracle.load(artifact.path(graph.file), graph)
    for seed in range(8):
        given = random_inputs(artifact, seed)
        truth, first = oracle.infer(given)[ACTIONS], recorded.infer(given)[ACTIONS]
        np.testing.assert_array_equal(first, plain.infer(given)[ACTIONS])
        np.testing.assert_allclose(first, truth, rtol=0, atol=1e-4 * max(1.0, float(np.abs(truth).max())))
    for backend in (recorded, plain):
        backend.close()


def test_each_call_sees_its_own_inputs(artifact: Artifact, cache: EngineCache) -> None:
    backend, given = opened(artifact, cache), random_inputs(artifact, 0)
    before = backend.infer(given)[ACTIONS]
    given[STATE] = given[STATE] + 1.0
    assert np.abs(backend.infer(given)[ACTIONS] - before).max() > 1e-4
    backend.close()


def test_work_after_close_is_refused(artifact: Artifact, cache: EngineCache) -> None:
    backend = opened(artifact, cache)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match=r"expected load\(\) first"):
        backend.infer(random_inputs(artifact, 0))
