# SPDX-License-Identifier: Apache-2.0
"""A flow policy is one graph with a loop: everything once, the same numbers, the same bytes, in every precision."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import flow_factory as tiny
import numpy as np
import onnx
import pytest
import torch
from flow_factory import Defect
from torch import Tensor, nn

from compress.export import parity
from compress.export.draft import export_draft
from compress.export.errors import ExportError, ParityError
from compress.export.exact import cpu_copy
from compress.export.onnx_export import ExportedGraph, export_stage
from compress.export.options import GraphOptions
from compress.export.policy_files import GOLDEN_TOLERANCE, golden_tolerance
from compress.export.reference_engine import ReferenceEngine
from compress.models.base import ExportStage
from compress.models.flow import FlowSampler
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.contract.conventions import Precision
from runtime.contract.graph import graph_for

FP16, BF16 = GraphOptions(precision=Precision.FP16), GraphOptions(precision=Precision.BF16)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    return tiny.export(tmp_path_factory.mktemp("loop") / "fp32", GraphOptions())


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    return tiny.export(tmp_path_factory.mktemp("loop") / "fp16", FP16)


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    return tiny.export(tmp_path_factory.mktemp("loop") / "bf16", BF16)


@pytest.fixture(scope="module")
def unrolled(tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    return tiny.export(tmp_path_factory.mktemp("unrolled") / "fp32", GraphOptions(sampler="unrolled"))


def read(graph: ExportedGraph) -> onnx.GraphProto:
    return onnx.load(str(graph.path), load_external_data=False).graph


def body_of(graph: onnx.GraphProto) -> tuple[onnx.NodeProto, onnx.GraphProto]:
    (node,) = [node for node in graph.node if node.op_type == "Loop"]
    (attribute,) = node.attribute
    return node, attribute.g


def digests(graph: ExportedGraph) -> tuple[str, ...]:
    return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in (graph.path, graph.data))


def weights() -> int:
    return sum(parameter.numel() for parameter in tiny.stage().module.parameters())


def test_signature_is_that_of_the_contract(loop: ExportedGraph, half: ExportedGraph, brain: ExportedGraph) -> None:
    wanted = graph_for(tiny.IO.observation, tiny.IO.action, tiny.IO.prompt)
    assert loop.spec == half.spec == brain.spec == wanted


def test_loop_has_a_constant_count_and_an_explicit_condition(loop: ExportedGraph) -> None:
    graph = onnx.load(str(loop.path)).graph
    node, _ = body_of(graph)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert constants[node.input[0]] == tiny.STEPS
    assert constants[node.input[1]].item() is True


def test_body_holds_only_what_changes_between_steps(loop: ExportedGraph) -> None:
    """Masks, and whatever else follows from the observation alone, are computed once."""
    _, body = body_of(read(loop))
    changing = {value.name for value in body.input}
    for node in body.node:
        assert changing & set(node.input), f"{node.name} computes the same in every step"
        changing |= set(node.output)
    assert "Where" not in {node.op_type for node in body.node}


def test_what_follows_from_time_alone_is_a_table(loop: ExportedGraph) -> None:
    """The matrix that only the time goes through is gone; what it gives at each step is there."""
    held: dict[tuple[int, ...], list[np.ndarray]] = {}
    for tensor in onnx.load(str(loop.path)).graph.initializer:
        held.setdefault(tuple(tensor.dims), []).append(onnx.numpy_helper.to_array(tensor))
    sampler = tiny.stage().module
    assert isinstance(sampler, FlowSampler)
    layer = sampler.get_submodule("network.time")
    weight = layer.get_parameter("weight").detach().numpy()
    assert not any(np.array_equal(found, w) for w in (weight, weight.T) for found in held.get(weight.shape, []))
    (table,) = held[(tiny.STEPS, 1, tiny.WIDTH)]
    with torch.no_grad():
        np.testing.assert_allclose(table[:, 0], layer(sampler.tables[0]).numpy(), rtol=0, atol=1e-5)


def test_names_in_the_body_shadow_nothing(loop: ExportedGraph) -> None:
    graph = read(loop)
    _, body = body_of(graph)
    outer = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    inner = {name for node in body.node for name in node.output} | {value.name for value in body.input}
    assert not outer & inner


@pytest.mark.parametrize("form", ["loop", "unrolled"])
def test_every_weight_exists_once(form: str, request: pytest.FixtureRequest) -> None:
    made: ExportedGraph = request.getfixturevalue(form)
    assert made.parameters_bytes < 1.1 * 4 * weights()
    held = [t for t in onnx.load(str(made.path)).graph.initializer if len(t.dims) == 2]
    assert len({(tuple(t.dims), onnx.numpy_helper.to_array(t).tobytes()) for t in held}) == len(held)


def test_both_forms_pass_the_gate_and_the_loop_is_smaller(loop: ExportedGraph, unrolled: ExportedGraph) -> None:
    assert tiny.check(loop).passed
    assert tiny.check(unrolled).passed
    assert loop.nodes < 0.6 * unrolled.nodes


def test_no_path_and_no_stack_trace_is_inside(loop: ExportedGraph, half: ExportedGraph, repo: Path) -> None:
    for made in (loop, half):
        content = made.path.read_bytes() + made.data.read_bytes()
        for trace in (str(repo), sys.prefix, ".py", "site-packages", "stack_trace", str(made.path.parent)):
            assert trace.encode() not in content, f"{trace} leaked into the graph"


@pytest.mark.parametrize("name", ["loop", "half"])
def test_repeated_export_gives_the_same_bytes(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made: ExportedGraph = request.getfixturevalue(name)
    assert digests(tiny.export(tmp_path / "again", made.options)) == digests(made)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loop", "half"])
def test_another_process_writes_the_same_bytes(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, repo: Path
) -> None:
    made: ExportedGraph = request.getfixturevalue(name)
    code = (
        "import sys, pathlib; sys.path[:0] = sys.argv[1:3]; import flow_factory as tiny;"
        "from compress.export.options import GraphOptions; from runtime.contract.conventions import Precision;"
        "tiny.export(pathlib.Path(sys.argv[3]), GraphOptions(precision=Precision(sys.argv[4])))"
    )
    arguments = [str(repo), str(repo / "tests"), str(tmp_path / "other"), made.options.precision.value]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    other = replace(made, path=tmp_path / "other/policy.onnx", data=tmp_path / "other/policy.onnx.data")
    assert digests(other) == digests(made)


def test_frequencies_that_the_graph_computes_are_refused(tmp_path: Path) -> None:
    """Torch has them in float64, an engine evaluates them less exactly: 1e-3 would pass, four times torch does not."""
    made = tiny.export(tmp_path / "time", GraphOptions(), Defect.TIME_IN_GRAPH)
    with pytest.raises(ParityError, match="does not compute") as refused:
        tiny.check(made, Defect.TIME_IN_GRAPH)
    lenient = tiny.check(made, Defect.TIME_IN_GRAPH, ratio=1e6)
    assert lenient.graph < 1e-3
    assert lenient.graph > 4 * lenient.torch_own
    assert f"{lenient.graph:.2e}" in str(refused.value)


def test_half_precision_passes_at_twice_torchs_own_error(half: ExportedGraph, loop: ExportedGraph) -> None:
    report = tiny.check(half)
    assert report.limit == pytest.approx(2 * report.torch_own)
    assert (report.precision, report.ratio) == ("fp16", 2.0)
    assert report.torch_own > 100 * report.torch_float32
    assert half.parameters_bytes < 0.55 * loop.parameters_bytes


def test_half_precision_is_no_float32(half: ExportedGraph) -> None:
    with pytest.raises(ParityError, match="torch fp32"):
        tiny.check(half, options=GraphOptions())


def test_weights_of_another_model_are_refused_in_half_precision(half: ExportedGraph, tmp_path: Path) -> None:
    graph = onnx.load(str(half.path))
    weight = next(t for t in graph.graph.initializer if len(t.dims) == 2 and t.data_type == onnx.TensorProto.FLOAT16)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.05, weight.name))
    onnx.save(graph, str(tmp_path / "policy.onnx"))
    with pytest.raises(ParityError, match="torch fp16"):
        tiny.check(replace(half, path=tmp_path / "policy.onnx"))


def test_bfloat16_is_judged_by_the_reference_evaluator(brain: ExportedGraph) -> None:
    report = tiny.check(brain)
    assert report.passed
    assert report.engine.startswith("onnx ")
    assert report.precision == "bf16"


def test_onnxruntime_cannot_run_bfloat16_on_a_cpu(brain: ExportedGraph) -> None:
    """Why another engine judges; when this fails, ONNX Runtime has learned it and the other can go."""
    with pytest.raises(ParityError, match=r"NOT_IMPLEMENTED|NotImplemented|Could not find an implementation"):
        tiny.check(brain, backend=OnnxRuntimeBackend(threads=1))


def test_bfloat16_graph_that_is_too_large_to_judge_is_refused(brain: ExportedGraph) -> None:
    with pytest.raises(ParityError, match="export float16 or float32, or prove it where a GPU engine is"):
        tiny.check(brain, backend=ReferenceEngine(limit_bytes=1000))


def test_bfloat16_draft_is_refused_before_any_work(tmp_path: Path) -> None:
    import export_factory

    model = export_factory.model()
    with pytest.raises(ExportError, match=r"no bfloat16 kernels on a CPU.*fp16 or fp32"):
        export_draft(model, [], tmp_path / "draft", export_factory.lineage(model), options=BF16)
    assert not list(tmp_path.iterdir())


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_convolution_in_bfloat16_is_written_in_types_that_onnx_defines(tmp_path: Path) -> None:
    """Below opset 22 `Conv` has no bfloat16: it is computed in float32 and rounded, which is what torch does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, x = Patches().eval(), torch.randn(1, 3, 8, 8)
    made = export_stage(ExportStage("toy", module, {"x": x}, ("y",)), tmp_path, options=BF16)
    (conv,) = [node for node in read(made).node if node.op_type == "Conv"]
    casts = {node.output[0] for node in read(made).node if node.op_type == "Cast"}
    assert set(conv.input) <= casts
    engine = ReferenceEngine()
    engine.load(made.path, made.spec)
    with torch.no_grad():
        wanted = cpu_copy(module, torch.bfloat16)(x.bfloat16()).float()
    torch.testing.assert_close(torch.from_numpy(engine.infer({"x": x.numpy()})["y"]), wanted, rtol=8e-3, atol=1e-3)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    return tiny.export(tmp_path_factory.mktemp("wide") / "fp32", GraphOptions(batch="dynamic"))


def test_open_batch_is_named_and_judged_at_both_ends(wide: ExportedGraph) -> None:
    assert {v.type.tensor_type.shape.dim[0].dim_param for v in (*read(wide).input, *read(wide).output)} == {"batch"}
    report = tiny.check(wide)
    assert report.passed
    assert report.batches == (1, len(tiny.observations()))


def test_graph_that_mixes_up_its_batch_is_refused(tmp_path: Path) -> None:
    made = tiny.export(tmp_path / "mixed", GraphOptions(batch="dynamic"), Defect.MIXES_BATCH)
    assert tiny.check(made, Defect.MIXES_BATCH, options=GraphOptions()).passed  # one by one there is nothing to mix
    with pytest.raises(ParityError, match="does not compute"):
        tiny.check(made, Defect.MIXES_BATCH)


def reports() -> Iterator[parity.ParityReport]:
    dims = tuple(parity.DimError(dim.name, dim.unit.value, 0.0, 0.0, 1e-3 * dim.scale) for dim in tiny.IO.action.dims)
    made = parity.ParityReport(
        True, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, "a", dims, ("a",), (1, 2), 2.0, 1e-6, "onnxruntime", "fp16", 0.0, 0.0, (1,)
    )
    yield made
    yield replace(made, precision="fp32")
    yield replace(made, dims=tuple(replace(dim, torch_own=1e2 * dim.torch_own) for dim in dims))


def test_golden_tolerance_follows_from_the_measured_error() -> None:
    half, single, coarse = reports()
    action, norm = tiny.IO.action, tiny.IO.normalizers.action
    assert golden_tolerance(action, norm, single) == GOLDEN_TOLERANCE * max(1.0, float(norm.scale.max()))
    assert golden_tolerance(action, norm, half) == pytest.approx(2e-3)
    with pytest.raises(ExportError, match=r"golden samples would have to allow 2\.0e-01"):
        golden_tolerance(action, norm, coarse)
