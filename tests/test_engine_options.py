# SPDX-License-Identifier: Apache-2.0
"""What a station may say about its engine, what ONNX Runtime is told, and which engine may answer a robot."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from artifact_factory import (
    TASK,
    artifact_files,
    expected_actions,
    judge,
    observation,
    onnx_bytes,
    policy_spec,
    write_draft,
)
from hypothesis import given
from hypothesis import strategies as st
from worker_factory import dead, heard, ready

from runtime.__main__ import main
from runtime.backends.base import zeros
from runtime.backends.onnxruntime_backend import DeviceBinding, OnnxRuntimeBackend
from runtime.backends.openvino_backend import OpenVinoBackend
from runtime.backends.ort_options import (
    CPU,
    CUDA,
    LEVELS,
    TENSORRT,
    OrtOptions,
    model_digest,
    parse_options,
    private_folder,
    provider_chain,
)
from runtime.backends.registry import create_backend
from runtime.backends.threads import cores, engine_threads
from runtime.clock import FakeClock
from runtime.contract.artifact import Artifact
from runtime.contract.conventions import FileRole, Verdict
from runtime.contract.graph import ACTIONS, STATE
from runtime.contract.write import ArtifactFile
from runtime.errors import BackendError
from runtime.inference.golden import dump_golden
from runtime.inference.messages import Answer
from runtime.inference.policy import Policy
from runtime.inference.proven import load_proven
from runtime.inference.worker_client import PolicyWorker
from runtime.inference.worker_process import WorkerOptions

GRAPH = policy_spec().graph
AZURE = "AzureExecutionProvider"  # ships in the CPU wheel, starts, and has no kernel for any of our nodes


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "policy.onnx"
    path.write_bytes(onnx_bytes())
    return path


def promoted(folder: Path, shift: float = 0.0) -> Artifact:
    """A promoted artifact whose golden actions are off by `shift` commands."""
    samples = [observation(seed) for seed in (1, 2)]
    actions = np.stack([expected_actions(sample) for sample in samples]) + shift
    golden = ArtifactFile(FileRole.GOLDEN, dump_golden(samples, actions.astype(np.float32)))
    draft = write_draft(folder / "draft", files={**artifact_files(), "golden.safetensors": golden})
    return judge(draft, folder / "promoted", Verdict.PROMOTE)


def test_no_option_is_the_default() -> None:
    assert parse_options("") == OrtOptions()


@given(
    st.builds(
        OrtOptions,
        optimisation=st.sampled_from(sorted(LEVELS)),
        spinning=st.booleans(),
        device_id=st.integers(0, 15),
        cuda_graph=st.booleans(),
        cache=st.sampled_from([None, Path("/var/cache/engines")]),
        allow_cpu_fallback=st.booleans(),
    )
)
def test_options_are_read_back_from_their_text(options: OrtOptions) -> None:
    said = {name: getattr(options, name) for name in options.__dataclass_fields__}
    said |= {name: "on" if value else "off" for name, value in said.items() if isinstance(value, bool)}
    text = ",".join(f"{name}={value}" for name, value in said.items() if value is not None)
    assert parse_options(text) == options


WRONG = {
    "fp16": r"found 'fp16', expected each of \['allow_cpu_fallback'.* at most once",
    "spinning,spinning=off": "found 'spinning=off', expected each of",
    "spinning=1": "option spinning: found '1', expected on or off",
    "device_id=-1": "option device_id: found '-1', expected a whole number",
    "cache": "option cache: found nothing after it",
    "optimisation=99": r"optimisation: found '99', available: \['all', 'extended', 'basic', 'off'\]",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_option_is_named(text: str) -> None:
    with pytest.raises(BackendError, match=WRONG[text]):
        create_backend(f"onnxruntime:{text}")


def test_cuda_gets_its_device_and_no_tf32(model: Path) -> None:
    chain = provider_chain(CUDA, OrtOptions(device_id=2), model)
    assert chain == [(CUDA, {"device_id": "2", "enable_cuda_graph": "1", "use_tf32": "0"})]
    assert provider_chain(CUDA, OrtOptions(cuda_graph=False), model)[0][1]["enable_cuda_graph"] == "0"


def test_tensorrt_keeps_engines_by_weights_and_never_lowers_precision(model: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.onnx.data").write_bytes(b"weights")
    options = OrtOptions(cache=tmp_path / "cache")
    (first, told), (second, _) = provider_chain(TENSORRT, options, model)
    assert (first, second) == (TENSORRT, CUDA)
    assert not [name for name in told if any(kind in name for kind in ("fp16", "bf16", "int8"))]
    assert told["trt_engine_cache_path"] == told["trt_timing_cache_path"]
    assert (told["trt_engine_cache_enable"], told["trt_timing_cache_enable"]) == ("1", "1")
    (tmp_path / "policy.onnx.data").write_bytes(b"Weights")
    assert provider_chain(TENSORRT, options, model)[0][1]["trt_engine_cache_path"] != told["trt_engine_cache_path"]


def test_digest_covers_graph_and_weights(model: Path) -> None:
    alone = model_digest(model)
    (model.parent / "policy.onnx.data").write_bytes(b"weights")
    both = model_digest(model)
    model.write_bytes(onnx_bytes() + b"\n")
    assert len({alone, both, model_digest(model)}) == 3


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_cache_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(BackendError, match=r"expected a folder of user .* nobody else may write to.* chmod 700"):
        private_folder(folder)


def test_cache_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(BackendError, match="expected a folder of user"):
        private_folder(tmp_path / "link")


def test_new_cache_is_ours_alone(tmp_path: Path) -> None:
    assert private_folder(tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_cpu_is_never_behind_a_device_unless_it_was_said(model: Path) -> None:
    assert [name for name, _ in provider_chain(CUDA, OrtOptions(), model)] == [CUDA]
    assert [name for name, _ in provider_chain(CUDA, OrtOptions(allow_cpu_fallback=True), model)] == [CUDA, CPU]
    assert [name for name, _ in provider_chain(CPU, OrtOptions(allow_cpu_fallback=True), model)] == [CPU]


@pytest.mark.skipif(AZURE not in onnxruntime.get_available_providers(), reason="this onnxruntime has the CPU alone")
def test_nodes_that_fall_back_to_the_cpu_are_refused_unless_allowed(model: Path) -> None:
    with pytest.raises(BackendError, match="fallback to CPU EP has been explicitly disabled"):
        OnnxRuntimeBackend(provider=AZURE).load(model, GRAPH)
    engine = OnnxRuntimeBackend(provider=AZURE, options=OrtOptions(allow_cpu_fallback=True))
    engine.load(model, GRAPH)
    assert engine.infer(zeros(GRAPH.inputs))[ACTIONS].shape == (1, 8, 7)
    assert "nodes may fall back to the CPU" in engine.description


def test_session_is_told_neither_to_retry_nor_to_replace_its_provider(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's own session opens again on the CPU when a provider fails, and again when a run fails."""
    seen: dict[str, object] = {}
    real = onnxruntime.InferenceSession

    class Watched(real):
        def __init__(self, *args, **kwargs) -> None:
            seen.update(kwargs)
            super().__init__(*args, **kwargs)

        def disable_fallback(self) -> None:
            seen["disabled"] = True
            super().disable_fallback()

    monkeypatch.setattr(onnxruntime, "InferenceSession", Watched)
    OnnxRuntimeBackend().load(model, GRAPH)
    assert (seen["enable_fallback"], seen["disabled"]) == (0, True)


def test_session_options_are_those_of_the_station() -> None:
    told = OnnxRuntimeBackend(threads=3, options=OrtOptions("basic", spinning=True))._options(onnxruntime)
    assert told.intra_op_num_threads == 3
    assert told.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert told.use_deterministic_compute
    assert told.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    quiet = OnnxRuntimeBackend()._options(onnxruntime)
    assert quiet.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert quiet.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


def test_optimised_graph_is_the_same_every_time(model: Path, tmp_path: Path) -> None:
    written = []
    for name in ("first", "second"):
        options = OnnxRuntimeBackend(threads=1)._options(onnxruntime)
        options.optimized_model_filepath = str(tmp_path / name)
        onnxruntime.InferenceSession(str(model), options, providers=[CPU])
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_one_core_is_left_to_the_controller() -> None:
    here = len(os.sched_getaffinity(0))
    assert (cores(), engine_threads(), engine_threads(5)) == (here, max(1, here - 1), 5)
    for engine in (OnnxRuntimeBackend(), OnnxRuntimeBackend(threads=1)):
        assert f"{engine._threads} of {here} cores" in engine.description


def test_bound_buffers_answer_as_the_session_does(model: Path) -> None:
    """The path of a GPU, on the CPU: the same numbers, and answers that the next call does not change."""
    session = onnxruntime.InferenceSession(str(model), providers=[CPU])
    binding = DeviceBinding(onnxruntime, session, GRAPH, "cpu", 0)
    tensors = zeros(GRAPH.inputs)
    answers = []
    for value in (1.0, 2.0):
        tensors[STATE] = np.full((1, 8), value, np.float32)
        answers.append(binding.run(tensors)[ACTIONS])
        np.testing.assert_array_equal(answers[-1], session.run(None, tensors)[0])
    assert not np.array_equal(*answers)


def test_openvino_is_told_its_precision_and_has_no_providers() -> None:
    with pytest.raises(BackendError, match=r"precision: found 'fp8', available: \['f32', 'bf16'\]"):
        create_backend("openvino:fp8")
    with pytest.raises(BackendError, match="found provider 'CUDAExecutionProvider', expected none"):
        create_backend("openvino", provider=CUDA)


def test_openvino_without_its_library_says_what_to_install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"'openvino' is not importable .*\[openvino\]"):
        OpenVinoBackend().load(model, GRAPH)


def test_openvino_computes_the_graph_in_float32(model: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    ours, theirs = OnnxRuntimeBackend(threads=1), OpenVinoBackend(threads=1)
    tensors = zeros(GRAPH.inputs)
    tensors[STATE][0] = np.linspace(-1.0, 1.0, 8)
    answers = []
    for engine in (ours, theirs):
        engine.load(model, GRAPH)
        answers.append(engine.infer(tensors)[ACTIONS])
    np.testing.assert_allclose(*answers, atol=1e-6)
    assert "f32, 1 of" in theirs.description


def test_openvino_refuses_another_precision_than_it_was_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino", reason="needs the extra openvino")
    real = openvino.Core.compile_model

    def as_it_likes(self, path, device, settings):
        return real(self, path, device, {**settings, "INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(openvino.Core, "compile_model", as_it_likes)
    with pytest.raises(BackendError, match="requested precision bf16, openvino chose f32 on this processor"):
        OpenVinoBackend(precision="bf16").load(model, GRAPH)


@pytest.mark.parametrize("content", [b"", b"not a graph", onnx_bytes()[:200]])
def test_openvino_names_an_unreadable_graph(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(BackendError, match=r"broken\.onnx: openvino .* cannot load it"):
        OpenVinoBackend().load(path, GRAPH)


def test_engine_of_the_manifest_needs_no_further_proof(tmp_path: Path) -> None:
    policy, proof = load_proven(promoted(tmp_path, shift=1.0).root, threads=1)
    with policy:
        assert (policy.proven, proof) == (True, None)


def test_other_engine_is_refused_where_nobody_compares_it(tmp_path: Path) -> None:
    root = promoted(tmp_path).root
    with pytest.raises(BackendError, match=r"found 'openvino', the artifact was proven with \['CPUExec.* verify --run"):
        Policy.load(root, "openvino")


def test_other_engine_is_proven_with_the_golden_samples(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    policy, proof = load_proven(promoted(tmp_path).root, "openvino", threads=1)
    with policy:
        assert (policy.proven, proof.samples, proof.ok) == (False, 2, True)


def test_other_engine_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    root = promoted(tmp_path, shift=0.01).root
    with pytest.raises(BackendError, match=r"engine openvino .*: .* of the golden samples differs by 1\.0.e-02 of a"):
        load_proven(root, "openvino", threads=1)


def test_worker_answers_with_a_proven_engine_and_says_which(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    log = tmp_path / "log"
    options = WorkerOptions(backend="openvino", threads=1, log=log)
    with PolicyWorker(promoted(tmp_path), options, clock=FakeClock()) as worker:
        ready(worker)
        worker.request(observation(), TASK, 1.0)
        answer = heard(worker)
        assert isinstance(answer, Answer)
        np.testing.assert_allclose(answer.chunk.values, expected_actions(observation()), atol=1e-4)
    said = log.read_text()
    assert "2 golden samples agree, worst" in said
    assert f"CPU, f32, 1 of {cores()} cores" in said


def test_worker_does_not_start_with_an_engine_that_answers_otherwise(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    options = WorkerOptions(backend="openvino", threads=1)
    with PolicyWorker(promoted(tmp_path, shift=0.01), options, clock=FakeClock()) as worker:
        worker.start()
        assert "of the golden samples differs by" in dead(worker).died_because


def test_command_line_compares_another_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    root = promoted(tmp_path).root
    assert main(["verify", "--run", "--backend", "openvino", "--threads", "1", str(root)]) == 0
    assert "engine: openvino" in capsys.readouterr().out
    assert main(["verify", "--run", "--provider", CUDA, str(root)]) == 1
    assert "found none called 'CUDAExecutionProvider', available" in capsys.readouterr().err
