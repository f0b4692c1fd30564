# SPDX-License-Identifier: Apache-2.0
"""One suite for every engine, then what is particular to each."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from artifact_factory import onnx_bytes, policy_spec
from tensorrt_double import OnDouble

from runtime.backends.base import Backend, check_finite, zeros
from runtime.backends.fake_backend import FakeBackend, Fault, Step
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.backends.registry import BACKENDS, create_backend
from runtime.clock import FakeClock, MonotonicClock
from runtime.contract.graph import ACTIONS, STATE, GraphSpec
from runtime.errors import BackendError, PolicyOutputError

GRAPH = policy_spec().graph
CPU_FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "policy.onnx"
    path.write_bytes(onnx_bytes())
    return path


@pytest.fixture(params=[*sorted(BACKENDS), "openvino:bf16", "onnxruntime:optimisation=off,spinning"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "tensorrt":  # the real backend over a double; on a GPU: test_tensorrt_gpu.py
        return OnDouble()
    if request.param.startswith("openvino"):
        pytest.importorskip("openvino", reason="needs the extra openvino")
    if request.param.endswith("bf16") and "bf16" not in CPU_FLAGS:
        pytest.skip("this processor has no bfloat16 instructions: OpenVINO computes in float32, and that is refused")
    return create_backend(request.param)


def test_answer_has_declared_name_type_and_shape(backend: Backend, model: Path) -> None:
    backend.load(model, GRAPH)
    backend.warm_up()
    outputs = backend.infer(zeros(GRAPH.inputs))
    assert [(name, t.dtype, t.shape) for name, t in outputs.items()] == [(ACTIONS, np.float32, (1, 8, 7))]


def test_two_fresh_engines_agree_exactly(backend: Backend, model: Path) -> None:
    other = copy.deepcopy(backend)  # not loaded yet: options alone
    answers = []
    for engine in (backend, other):
        engine.load(model, GRAPH)
        answers.append(engine.infer(zeros(GRAPH.inputs))[ACTIONS])
    np.testing.assert_array_equal(*answers)


def test_work_before_load_or_after_close_is_refused(backend: Backend, model: Path) -> None:
    with pytest.raises(BackendError, match=r"expected load\(\) first"):
        backend.warm_up()
    backend.load(model, GRAPH)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match=r"expected load\(\) first"):
        backend.infer(zeros(GRAPH.inputs))


WRONG_INPUTS = {
    "missing": (lambda t: t.pop(STATE), r"inputs: found tensors \['attention_mask', 'input_ids', 'pixels'\], expected"),
    "extra": (lambda t: t.update(noise=np.zeros(1)), r"inputs: found tensors .*'noise'"),
    "dtype": (lambda t: t.update(state=np.zeros((1, 8))), r"inputs\[state\]: found float64 \(1, 8\), expected float32"),
    "shape": (
        lambda t: t.update(state=np.zeros((1, 7), np.float32)),
        r"found float32 \(1, 7\), expected float32 \(1, 8\)",
    ),
}


@pytest.mark.parametrize("name", WRONG_INPUTS)
def test_wrong_input_is_named(backend: Backend, model: Path, name: str) -> None:
    spoil, message = WRONG_INPUTS[name]
    backend.load(model, GRAPH)
    tensors = zeros(GRAPH.inputs)
    spoil(tensors)
    with pytest.raises(BackendError, match=message):
        backend.infer(tensors)


def test_unknown_engine_lists_what_there_is() -> None:
    with pytest.raises(BackendError, match=r"backend: found 'caffe', available: \['fake', 'onnxruntime'"):
        create_backend("caffe")


def test_onnxruntime_computes_the_graph(model: Path) -> None:
    engine = OnnxRuntimeBackend(threads=1)
    engine.load(model, GRAPH)
    tensors = zeros(GRAPH.inputs)
    tensors[STATE][0] = np.arange(8)
    tensors["input_ids"][0, :3] = (4, 5, 1000)
    tensors["attention_mask"][0, :2] = 1
    expected = 0.1 * np.arange(1, 9)[:, None] * np.arange(7) + 0.009
    np.testing.assert_allclose(engine.infer(tensors)[ACTIONS][0], expected, rtol=1e-6)


def test_onnxruntime_sets_its_thread_count() -> None:
    import onnxruntime

    assert OnnxRuntimeBackend(threads=2)._options(onnxruntime).intra_op_num_threads == 2


@pytest.mark.parametrize("threads", [0, -1])
def test_onnxruntime_refuses_no_threads(threads: int) -> None:
    with pytest.raises(BackendError, match=r"threads: found .*, expected at least 1"):
        OnnxRuntimeBackend(threads=threads)


def test_onnxruntime_lists_providers_when_one_is_missing(model: Path) -> None:
    with pytest.raises(BackendError, match=r"found none called 'NoSuchProvider', available: \[.*CPUExecutionProvider"):
        OnnxRuntimeBackend(provider="NoSuchProvider").load(model, GRAPH)


def test_onnxruntime_refuses_a_silent_change_of_provider(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    real = onnxruntime.InferenceSession

    def falls_back(path, sess_options, providers, enable_fallback):
        del sess_options, providers, enable_fallback
        return real(path, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(
        BackendError, match=r"requested provider CUDAExecutionProvider, the session chose \['CPUExecution"
    ):
        OnnxRuntimeBackend(provider="CUDAExecutionProvider").load(model, GRAPH)


@pytest.mark.parametrize("content", [b"", b"not a graph", onnx_bytes()[:200]])
def test_onnxruntime_names_an_unreadable_graph(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(BackendError, match=r"broken\.onnx: onnxruntime .* cannot load it with CPUExecutionProvider"):
        OnnxRuntimeBackend().load(path, GRAPH)


def changed(kind: str, index: int, **changes) -> GraphSpec:
    tensors = list(getattr(GRAPH, kind))
    tensors[index] = dataclasses.replace(tensors[index], **changes)
    return dataclasses.replace(GRAPH, **{kind: tuple(tensors)})


OTHER_GRAPHS = {
    "input name": (changed("inputs", 0, name="images"), r"inputs: found \[.*'pixels'.*\], expected .*'images'"),
    "input type": (changed("inputs", 1, dtype="float32"), r"inputs\[input_ids\]: found tensor\(int64\)"),
    "input shape": (
        changed("inputs", 3, shape=(1, 9)),
        r"inputs\[state\]: found tensor\(float\) \(1, 8\), expected .*\(1, 9\)",
    ),
    "input rank": (changed("inputs", 3, shape=(8,)), r"inputs\[state\]: found tensor\(float\) \(1, 8\), expected"),
    "output shape": (
        changed("outputs", 0, shape=(1, 4, 7)),
        r"outputs\[actions\]: found .*\(1, 8, 7\), expected .*\(1, 4, 7\)",
    ),
}


@pytest.mark.parametrize("name", OTHER_GRAPHS)
def test_onnxruntime_refuses_a_graph_that_is_not_the_contract(model: Path, name: str) -> None:
    graph, message = OTHER_GRAPHS[name]
    with pytest.raises(BackendError, match=message):
        OnnxRuntimeBackend().load(model, graph)


def fake(*script: Step, **options) -> tuple[FakeBackend, FakeClock]:
    clock = FakeClock()
    backend = FakeBackend(script, clock=clock, **options)
    backend.load(Path("none"), GRAPH)
    return backend, clock


def test_fake_latency_is_scripted_then_default() -> None:
    backend, clock = fake(Step(0.5), latency_s=0.02)
    times = []
    for _ in range(3):
        backend.infer(zeros(GRAPH.inputs))
        times.append(clock.now())
    assert times == pytest.approx([0.5, 0.52, 0.54])


def test_fake_stall_takes_its_time_and_then_answers() -> None:
    backend, clock = fake(Step(fault=Fault.STALL), stall_s=7.0)
    assert np.isfinite(backend.infer(zeros(GRAPH.inputs))[ACTIONS]).all()
    assert clock.now() == 7.0


def test_fake_failure_is_scripted() -> None:
    backend, _ = fake(Step(), Step(fault=Fault.RAISE))
    backend.infer(zeros(GRAPH.inputs))
    with pytest.raises(BackendError, match="scripted failure of call 2"):
        backend.infer(zeros(GRAPH.inputs))
    assert backend.infer(zeros(GRAPH.inputs))


@pytest.mark.parametrize("fault", [Fault.NAN, Fault.INFINITY])
def test_finite_check_names_the_place(fault: Fault) -> None:
    backend, _ = fake(Step(fault=fault))
    with pytest.raises(PolicyOutputError, match=r"out\[actions\]: found (nan|inf) at \[0, 7, 6\], expected finite"):
        check_finite(backend.infer(zeros(GRAPH.inputs)), "out")


def test_fake_answers_what_it_is_given() -> None:
    wanted = np.full((1, 8, 7), 0.25, dtype=np.float32)
    backend, _ = fake(outputs={ACTIONS: wanted})
    answer = backend.infer(zeros(GRAPH.inputs))[ACTIONS]
    np.testing.assert_array_equal(answer, wanted)
    assert answer is not wanted


def test_fake_refuses_outputs_that_the_graph_lacks() -> None:
    backend = FakeBackend(outputs={"logits": np.zeros(1)})
    with pytest.raises(BackendError, match=r"found \['logits'\], expected names among \['actions'\]"):
        backend.load(Path("none"), GRAPH)


def test_fake_clock_moves_only_forward() -> None:
    clock = FakeClock(3.0)
    clock.sleep(-1.0)
    clock.advance(0.5)
    assert clock.now() == 3.5
    with pytest.raises(ValueError, match="a monotonic clock never goes back"):
        clock.advance(-0.1)


def test_monotonic_clock_sleeps_at_least_as_long_as_asked() -> None:
    clock = MonotonicClock()
    started = clock.now()
    clock.sleep(0.001)
    clock.sleep(-5.0)
    assert 0.001 <= clock.now() - started < 1.0
