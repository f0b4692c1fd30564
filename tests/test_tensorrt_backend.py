# SPDX-License-Identifier: Apache-2.0
"""The TensorRT backend's own logic over a double, and its CUDA calls against NVIDIA's real bindings.

What a GPU alone can show is in test_tensorrt_gpu.py.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifact_factory import artifact_files, onnx_bytes, policy_spec, write_draft
from engine_factory import needs_rtx, plan, record
from tensorrt_double import HostDevice, OnDouble, Trt

from runtime.backends import cuda
from runtime.backends.base import zeros
from runtime.backends.engine_cache import EngineCache
from runtime.backends.engine_key import engine_key
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.backends.station import station_facts
from runtime.backends.tensorrt_backend import GRAPH, TensorRtBackend
from runtime.backends.tensorrt_build import BuildSettings, build, parse
from runtime.backends.tensorrt_library import TENSORRT_RTX, library
from runtime.contract.artifact import Artifact
from runtime.contract.conventions import FileRole
from runtime.contract.graph import ACTIONS, STATE
from runtime.contract.write import ArtifactFile
from runtime.errors import ArtifactError, BackendError
from runtime.inference.golden import golden_parity
from runtime.inference.policy import Policy

SPEC = policy_spec().graph


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "policy.onnx"
    path.write_bytes(onnx_bytes())
    return path


def inputs(seed: int) -> dict[str, np.ndarray]:
    made, rng = zeros(SPEC.inputs), np.random.default_rng(seed)
    made[STATE][...] = rng.normal(size=made[STATE].shape)
    made["pixels"][...] = rng.normal(size=made["pixels"].shape)
    made["input_ids"][0, :4], made["attention_mask"][0, :3] = (3, 4, 5, 6), 1
    return made


def loaded(model: Path, **options: object) -> OnDouble:
    backend = OnDouble(**options)
    backend.load(model, SPEC)
    backend.warm_up()
    return backend


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_each_call_answers_its_own_inputs(model: Path, cuda_graph: bool) -> None:
    backend, oracle = loaded(model, cuda_graph=cuda_graph), OnnxRuntimeBackend(threads=1)
    oracle.load(model, SPEC)
    answers = [backend.infer(inputs(seed))[ACTIONS] for seed in range(4)]
    for seed, answer in enumerate(answers):  # compared after the last call: an answer is a copy, not the buffer
        np.testing.assert_array_equal(answer, oracle.infer(inputs(seed))[ACTIONS])


def test_recorded_call_is_one_launch_and_one_wait(model: Path) -> None:
    backend = loaded(model)
    assert backend.execution == GRAPH
    backend.device.calls.clear()
    backend.infer(inputs(0))
    assert backend.device.calls == ["launch", "synchronize"]


def test_unrecorded_call_copies_runs_and_copies_back(model: Path) -> None:
    backend = loaded(model, cuda_graph=False)
    backend.device.calls.clear()
    backend.infer(inputs(0))
    assert backend.device.calls == ["upload"] * 4 + ["download", "synchronize"]


def test_nothing_is_allocated_after_load(model: Path) -> None:
    backend = loaded(model)
    held = set(backend.device.held)
    for seed in range(3):
        backend.infer(inputs(seed))
    assert set(backend.device.held) == held


@pytest.mark.parametrize("call", ["begin_capture", "end_capture"])
def test_engine_that_cannot_be_recorded_runs_in_the_stream_and_says_so(model: Path, call: str) -> None:
    backend = loaded(model, fails=(call,))
    assert backend.execution == f"stream: not recordable as a CUDA graph (CUDA: {call} failed: scripted)"
    backend.device.calls.clear()
    assert np.isfinite(backend.infer(inputs(0))[ACTIONS]).all()
    assert "launch" not in backend.device.calls


def test_engine_that_refuses_only_while_recording_is_abandoned_cleanly(model: Path) -> None:
    backend = OnDouble()
    backend.load(model, SPEC)
    begin = backend.device.begin_capture

    def begin_and_break(stream):
        begin(stream)
        backend.trt.starts = False

    backend.device.begin_capture = begin_and_break
    backend.warm_up()
    backend.trt.starts = True
    assert "abandon_capture" in backend.device.calls
    assert backend.execution.startswith("stream: not recordable as a CUDA graph (tensorrt: the engine did not start")
    assert np.isfinite(backend.infer(inputs(0))[ACTIONS]).all()


def test_second_warm_up_records_anew_and_leaks_nothing(model: Path) -> None:
    backend = loaded(model)
    held = len(backend.device.held)
    backend.warm_up()
    assert (backend.execution, len(backend.device.held)) == (GRAPH, held)


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_close_gives_everything_back(model: Path, cuda_graph: bool) -> None:
    backend = loaded(model, cuda_graph=cuda_graph)
    backend.close()
    backend.close()
    gc.collect()
    assert backend.device.held == {}


def test_close_frees_the_rest_when_the_device_fails(model: Path) -> None:
    backend = loaded(model)
    backend.device.fails = {"synchronize", "free_device"}
    backend.close()
    assert backend.device.calls[-1] == "destroy_stream"
    assert backend.device.calls.count("free_host") == len(SPEC.inputs) + len(SPEC.outputs)


@pytest.mark.parametrize("call", ["stream", "device_memory", "host_memory"])
def test_load_that_fails_gives_everything_back(model: Path, call: str) -> None:
    backend = OnDouble(fails=(call,))
    with pytest.raises(BackendError, match=f"{call} failed"):
        backend.load(model, SPEC)
    assert backend.device.held == {}
    with pytest.raises(BackendError, match=r"expected load\(\) first"):
        backend.infer(inputs(0))


def test_second_load_gives_the_first_back(model: Path) -> None:
    backend = loaded(model)
    held = len(backend.device.held)
    backend.load(model, SPEC)
    backend.warm_up()
    assert len(backend.device.held) == held


def test_plan_that_tensorrt_refuses_is_an_error_with_its_words(model: Path) -> None:
    with pytest.raises(BackendError, match="tensorrt cannot open its engine: error: magic tag does not match"):
        OnDouble(plan=b"not a plan").load(model, SPEC)


def test_engine_that_does_not_start_is_an_error(model: Path) -> None:
    backend = loaded(model, cuda_graph=False)
    backend.trt.starts = False
    with pytest.raises(BackendError, match="the engine did not start"):
        backend.infer(inputs(0))


def test_engine_without_memory_is_an_error(model: Path) -> None:
    backend = OnDouble()
    backend.trt.has_memory = False
    with pytest.raises(BackendError, match="no memory for the engine's activations"):
        backend.load(model, SPEC)


def other(kind: str, index: int, **changes: object) -> object:
    tensors = list(getattr(SPEC, kind))
    tensors[index] = replace(tensors[index], **changes)
    return replace(SPEC, **{kind: tuple(tensors)})


OTHER_GRAPHS = {
    "name": (other("inputs", 0, name="images"), r"engine: found tensors \[.*'pixels'.*\], expected .*'images'"),
    "type": (other("inputs", 1, dtype="float32"), r"engine\[input_ids\]: found INPUT int64 \(1, 10\), expected INPUT"),
    "shape": (
        other("outputs", 0, shape=(1, 4, 7)),
        r"engine\[actions\]: found OUTPUT .*\(1, 8, 7\), expected .*\(1, 4",
    ),
}


@pytest.mark.parametrize("name", OTHER_GRAPHS)
def test_engine_of_another_signature_is_refused(model: Path, name: str) -> None:
    graph, message = OTHER_GRAPHS[name]
    backend = OnDouble()
    with pytest.raises(BackendError, match=message):
        backend.load(model, graph)
    assert backend.device.held == {}


def open_batch() -> bytes:
    """The small graph with an open batch, as an export for other uses may have it."""
    graph = onnx.load_from_string(onnx_bytes())
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return graph.SerializeToString()


def test_open_batch_is_fixed_once_and_answers(model: Path) -> None:
    backend, oracle = loaded(model, plan=open_batch()), OnnxRuntimeBackend(threads=1)
    oracle.load(model, SPEC)
    np.testing.assert_array_equal(backend.infer(inputs(1))[ACTIONS], oracle.infer(inputs(1))[ACTIONS])


def test_engine_built_for_another_batch_is_refused(model: Path) -> None:
    backend = OnDouble(plan=open_batch())
    backend.trt.batch = 4
    with pytest.raises(BackendError, match=r"engine\[pixels\]: was not built for \(1, 2, 3, 16, 12\)"):
        backend.load(model, SPEC)


@needs_rtx
def test_builder_fixes_what_a_graph_leaves_open(tmp_path: Path) -> None:
    path = tmp_path / "open.onnx"
    path.write_bytes(open_batch())
    parsed = parse(library(TENSORRT_RTX), path)
    assert build(parsed, BuildSettings(), shapes={tensor.name: tensor.shape for tensor in SPEC.inputs}).plan
    assert build(parse(library(TENSORRT_RTX), path), BuildSettings()).plan
    with pytest.raises(BackendError, match=r"input 'state' is \(-1, 8\), expected \(1, 9\)"):
        build(parse(library(TENSORRT_RTX), path), BuildSettings(), shapes={"state": (1, 9)})


def test_half_precision_at_the_rim_is_refused(model: Path) -> None:
    backend = OnDouble()
    backend.trt.dtypes = {"actions": "HALF"}
    with pytest.raises(BackendError, match=r"engine\[actions\]: found OUTPUT HALF"):
        backend.load(model, SPEC)


def test_tensor_on_the_host_is_refused(model: Path) -> None:
    backend = OnDouble()
    backend.trt.on_host = ("input_ids",)
    with pytest.raises(BackendError, match=r"engine\[input_ids\]: wants host memory"):
        backend.load(model, SPEC)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_draft(tmp_path / "draft")


def cached(artifact: Artifact, folder: Path) -> TensorRtBackend:
    """A backend whose cache holds an engine for this artifact on the double's station."""
    device = HostDevice()
    trt, store = Trt(device), EngineCache(folder)
    key = engine_key(artifact.path("policy.onnx"), SPEC, station_facts(trt, device), BuildSettings())
    store.publish(onnx_bytes(), record(key, onnx_bytes()))
    return TensorRtBackend(cache=folder, trt=trt, cuda=device)


def test_policy_runs_the_cached_engine_of_its_artifact(artifact: Artifact, tmp_path: Path) -> None:
    with Policy(artifact, cached(artifact, tmp_path / "engines")) as policy:
        assert golden_parity(policy).ok


def test_engine_built_under_another_driver_is_not_used(artifact: Artifact, tmp_path: Path) -> None:
    backend = cached(artifact, tmp_path / "engines")
    facts = backend._cuda.facts()
    backend._cuda.facts = lambda: replace(facts, kernel_driver="590.1.1")
    with pytest.raises(BackendError, match=r"kernel_driver 580\.95\.05 -> 590\.1\.1\); run: python -m runtime build"):
        backend.load(artifact.path("policy.onnx"), SPEC)


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_artifact_that_brings_an_engine_is_not_loaded(tmp_path: Path, engine: str) -> None:
    files = {**artifact_files(), "policy.plan": ArtifactFile(FileRole.EVIDENCE, b"ftrt" * 9)}
    brought = write_draft(tmp_path / "brought", files=files)
    with pytest.raises(ArtifactError, match=r"policy\.plan: is a serialised engine"):
        Policy.load(brought.root, engine, allow_unsealed=True, allow_unproven=True)


@needs_rtx
def test_every_tensorrt_name_that_is_used_exists() -> None:
    """In TensorRT-RTX, whose Python API is TensorRT's; the names were also found in the bindings of TensorRT 10.3.0,
    10.16.1 and 11.4.0."""
    trt = library(TENSORRT_RTX)
    used = {
        trt.Runtime: ["deserialize_cuda_engine"],
        trt.ICudaEngine: [
            "num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype", "get_tensor_shape",
            "get_tensor_location", "create_execution_context",
        ],
        trt.IExecutionContext: ["set_tensor_address", "set_input_shape", "get_tensor_shape", "execute_async_v3"],
        trt.TensorIOMode: ["INPUT", "OUTPUT"],
        trt.TensorLocation: ["DEVICE"],
    }  # fmt: skip
    assert [(kind, name) for kind, names in used.items() for name in names if not hasattr(kind, name)] == []


@needs_rtx
def test_real_engine_on_a_machine_without_a_driver_is_an_error(model: Path) -> None:
    if cuda.DRIVER_FILE.exists():
        pytest.skip("this machine has an NVIDIA driver")
    device = HostDevice()
    backend = TensorRtBackend(plan=plan(), trt=library(TENSORRT_RTX), cuda=device)
    with pytest.raises(BackendError, match=r"tensorrt_rtx cannot open its engine: error: .*CUDA driver"):
        backend.load(model, SPEC)
    assert device.held == {}


has_bindings = importlib.util.find_spec("cuda") is not None
needs_bindings = pytest.mark.skipif(not has_bindings, reason="cuda-bindings is not installed. Next: make install-dev")


@needs_bindings
def test_every_cuda_name_that_is_used_exists() -> None:
    """The names that cuda.py hands to `_call`, or reads off the module, are NVIDIA's."""
    from cuda.bindings import runtime

    tree = ast.parse(Path(cuda.__file__).read_text())
    called = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_call"
    }
    read = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and "self._rt." in ast.unparse(n)}
    assert len(called) > 15
    assert [name for name in called if not hasattr(runtime, name)] == []
    for dotted in read:
        found = runtime
        for part in dotted.removeprefix("self._rt.").split("."):
            found = getattr(found, part)


@needs_bindings
def test_machine_without_a_driver_is_told_what_to_look_at() -> None:
    from cuda.bindings import runtime

    code, count = runtime.cudaGetDeviceCount()
    if int(code) == 0 and count:
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(BackendError, match=r"CUDA: cudaGetDeviceCount failed: cudaError\w+: .*Next: nvidia-smi"):
        cuda.Cuda()


def test_array_over_an_address_is_a_view() -> None:
    device = HostDevice()
    address = device.host_memory(24)
    array = cuda.array_at(address, (2, 3), np.dtype(np.float32))
    array[...] = 1.5
    np.testing.assert_array_equal(cuda.array_at(address, (6,), np.dtype(np.float32)), 1.5)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.07  Fri Mar 14 12:22:13 UTC 2025\n", "570.133.07"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n", "580.95.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n", "540.4.0"),
        ("nonsense", "unknown"),
    ],
)
def test_kernel_driver_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, version: str) -> None:
    monkeypatch.setattr(cuda, "DRIVER_FILE", tmp_path / "version")
    assert cuda.kernel_driver() == "unknown"
    (tmp_path / "version").write_text(text)
    assert cuda.kernel_driver() == version
