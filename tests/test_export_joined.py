# SPDX-License-Identifier: Apache-2.0
"""SmolVLA's real modules as a joined graph: prefix, one step and the whole are compared apart, and what a rewrite may
break is refused although cosine similarity is high."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from family_cases import case, samples_for
from onnx import numpy_helper
from torch import nn

from compress.export import parity
from compress.export.errors import ParityError
from compress.export.exact import cpu_copy, forward_float64
from compress.export.onnx_export import ExportedGraph, export_stage
from compress.models.base import ExportStage, VlaModel
from compress.models.flow import FlowSampler
from runtime.contract.graph import ATTENTION_MASK

Edit = Callable[[onnx.ModelProto], None]


class Joined(NamedTuple):
    model: VlaModel
    stage: ExportStage
    graph: ExportedGraph
    observations: dict[str, parity.Inputs]

    def check(self, path: Path | None = None) -> parity.ParityReport:
        action = self.model.specs()["action"]
        norm = self.model.io.normalizers.action  # type: ignore[attr-defined]  # every flow adapter has its robot's side
        return parity.check(self.stage, path or self.graph.path, self.graph.spec, self.observations, action, norm)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Joined:
    model = case("smolvla").make(0)
    (stage,) = model.stages()
    collated = [(s.sample_id, model.collate([s]).inputs) for s in samples_for(model, 8)]
    return Joined(model, stage, export_stage(stage, tmp_path_factory.mktemp("joined")), parity.observations(collated))


def edited(joined: Joined, folder: Path, edit: Edit) -> Path:
    """A copy with one defect, weights inside."""
    graph = onnx.load(str(joined.graph.path))
    edit(graph)
    onnx.save(graph, str(folder / "policy.onnx"))
    return folder / "policy.onnx"


def ask(path: Path, inputs: parity.Inputs, names: list[str] | None = None) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(names, {name: v.numpy() for name, v in inputs.items()})]


def test_whole_policy_passes(joined: Joined) -> None:
    report = joined.check()
    assert report.passed
    assert report.graph <= report.limit == max(4 * report.torch_own, 1e-6)
    assert len(report.padded_lengths) >= 3


class Prefix(nn.Module):
    """What the steps read, one after the other."""

    def __init__(self, sampler: FlowSampler) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        _, context = self.sampler.begin(*inputs)
        return torch.cat([value.flatten().to(inputs[0].dtype) for value in context])


class OneStep(Prefix):
    """The chunk after the first step."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        chunk, context = self.sampler.begin(*inputs)
        return self.sampler.step(chunk, tuple(table[:1] for table in self.sampler.tables), context)


def own_and_truth(module: nn.Module, inputs: parity.Inputs) -> tuple[np.ndarray, np.ndarray]:
    tensors = list(inputs.values())
    with torch.no_grad():
        own = cpu_copy(module, torch.float32)(*tensors).double().numpy()
    return own, forward_float64(cpu_copy(module, torch.float64), tensors).numpy()


def test_keys_and_values_of_the_prefix_are_those_of_torch(joined: Joined, tmp_path: Path) -> None:
    assert isinstance(joined.stage.module, FlowSampler)
    layers = 2 * len(joined.model.groups[0].stack(joined.model.module))
    names = [f"context{number}" for number in range(1 + layers)]

    def show(graph: onnx.ModelProto) -> None:
        graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)

    path = edited(joined, tmp_path, show)
    for inputs in joined.observations.values():
        found = np.concatenate([value.ravel().astype(np.float64) for value in ask(path, inputs, names)])
        own, truth = own_and_truth(Prefix(joined.stage.module), inputs)
        assert parity.relative_l2(found, truth) <= max(4 * parity.relative_l2(own, truth), 1e-6)


def test_one_step_is_that_of_torch(joined: Joined, tmp_path: Path) -> None:
    assert isinstance(joined.stage.module, FlowSampler)

    def stop_after_one(graph: onnx.ModelProto) -> None:
        (count,) = [tensor for tensor in graph.graph.initializer if tensor.name == "steps"]
        count.CopyFrom(numpy_helper.from_array(np.array(1, np.int64), count.name))
        graph.graph.output.append(onnx.ValueInfoProto(name="last_chunk"))

    path = edited(joined, tmp_path, stop_after_one)
    for inputs in joined.observations.values():
        (found,) = ask(path, inputs, ["last_chunk"])
        own, truth = own_and_truth(OneStep(joined.stage.module), inputs)
        assert parity.relative_l2(found.astype(np.float64), truth) <= max(4 * parity.relative_l2(own, truth), 1e-6)


def ignore_padding(graph: onnx.ModelProto) -> None:
    """Every token of the prompt counts as real, in masks and positions."""
    (mask,) = [value for value in graph.graph.input if value.name == ATTENTION_MASK]
    shape = [axis.dim_value for axis in mask.type.tensor_type.shape.dim]
    swap(graph, ATTENTION_MASK, np.ones(shape, np.int64))


def drop_attention_bias(graph: onnx.ModelProto) -> None:
    """What a fusion did to a real graph: the language blocks of the prefix see padding, and the state."""
    (bias,) = [node for node in graph.graph.node if node.op_type == "Where" and not node.name.startswith("step.")]
    swap(graph, bias.output[0], np.zeros(shape_of(graph, bias.output[0]), np.float32))


def forget_positions(graph: onnx.ModelProto) -> None:
    """Positions of the prefix count places, padding included, instead of real tokens."""
    (count,) = [node for node in graph.graph.node if node.op_type == "CumSum"]
    length = shape_of(graph, count.output[0])[1]
    swap(graph, count.output[0], np.arange(1, length + 1)[None])


def shape_of(graph: onnx.ModelProto, name: str) -> list[int]:
    (value,) = [value for value in onnx.shape_inference.infer_shapes(graph).graph.value_info if value.name == name]
    return [axis.dim_value for axis in value.type.tensor_type.shape.dim]


def swap(graph: onnx.ModelProto, name: str, constant: np.ndarray) -> None:
    """Whoever reads `name` reads `constant` instead."""
    graph.graph.initializer.append(numpy_helper.from_array(constant, "planted"))
    users = [node for node in graph.graph.node if name in node.input]
    assert users
    for node in users:
        node.input[:] = ["planted" if read == name else read for read in node.input]


def shift_weight(graph: onnx.ModelProto) -> None:
    """One matrix inside the loop is off by a thousandth."""
    (loop,) = [node for node in graph.graph.node if node.op_type == "Loop"]
    read = {name for node in loop.attribute[0].g.node if node.op_type == "MatMul" for name in node.input}
    weight = max((t for t in graph.graph.initializer if t.name in read), key=lambda t: int(np.prod(t.dims)))
    weight.CopyFrom(numpy_helper.from_array(np.float32(1.001) * numpy_helper.to_array(weight), weight.name))


def test_ignored_padding_is_refused(joined: Joined, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="does not compute"):
        joined.check(edited(joined, tmp_path, ignore_padding))


@pytest.mark.parametrize("edit", [drop_attention_bias, forget_positions, shift_weight])
def test_broken_rewrite_is_refused_although_cosine_is_high(joined: Joined, tmp_path: Path, edit: Edit) -> None:
    path = edited(joined, tmp_path, edit)
    for inputs in joined.observations.values():
        (wrong,), (right,) = ask(path, inputs), ask(joined.graph.path, inputs)
        assert (wrong * right).sum() > 0.995 * np.linalg.norm(wrong) * np.linalg.norm(right)
    with pytest.raises(ParityError, match="does not compute"):
        joined.check(path)
