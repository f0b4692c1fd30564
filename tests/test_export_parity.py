# SPDX-License-Identifier: Apache-2.0
"""Parity refuses a wrong graph, also where cosine similarity would let it pass, and accepts a right one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import export_factory as tiny
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from compress.export import parity
from compress.export.errors import ParityError
from compress.export.exact import cpu_copy, forward_float32, forward_float64
from compress.models.reference import ReferenceVla
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.contract.graph import ATTENTION_MASK, INPUT_IDS

Edit = Callable[[onnx.ModelProto], None]


def observations(count: int = 8) -> dict[str, parity.Inputs]:
    model = tiny.model()
    return parity.observations([(s.sample_id, model.collate([s]).inputs) for s in tiny.samples(count)])


def check(
    graph: Path, model: ReferenceVla | None = None, seen: dict[str, parity.Inputs] | None = None
) -> parity.ParityReport:
    model = model or tiny.model()
    action, norm = model.specs()["action"], model.normalizers.action
    return parity.check(model.stages()[0], graph, tiny.exported().spec, seen or observations(), action, norm)


def edited(folder: Path, edit: Edit) -> Path:
    """A copy of the exported graph with one defect, weights inside."""
    graph = onnx.load(str(tiny.exported().path))
    edit(graph)
    onnx.save(graph, str(folder / "policy.onnx"))
    return folder / "policy.onnx"


def ignore_padding(graph: onnx.ModelProto) -> None:
    ones = numpy_helper.from_array(np.ones((1, tiny.config().max_tokens), np.int64), "all_seen")
    graph.graph.initializer.append(ones)
    users = [node for node in graph.graph.node if ATTENTION_MASK in node.input]
    assert users
    for node in users:
        node.input[:] = ["all_seen" if name == ATTENTION_MASK else name for name in node.input]


def invert_mask(graph: onnx.ModelProto) -> None:
    (node,) = [node for node in graph.graph.node if node.op_type == "Not"]
    node.op_type = "Identity"


def output(graph: Path, inputs: parity.Inputs) -> np.ndarray:
    engine = OnnxRuntimeBackend(threads=1)
    engine.load(graph, tiny.exported().spec)
    return engine.infer({name: value.numpy() for name, value in inputs.items()})["actions"].ravel().astype(np.float64)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def report() -> parity.ParityReport:
    return check(tiny.exported().path)


def test_exported_graph_is_as_exact_as_torch(report: parity.ParityReport) -> None:
    assert report.passed
    assert report.graph <= report.limit == max(4 * report.torch_float32, 1e-6)
    assert 1e-9 < report.torch_float32 < 1e-5


def test_report_is_json_with_units_per_dimension(report: parity.ParityReport) -> None:
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    units = {dim["name"]: dim["unit"] for dim in data["dims"]}
    assert units["dx"] == "m"
    assert units["drz"] == "rad"
    assert len(data["observations"]) >= parity.MIN_OBSERVATIONS
    assert len(data["padded_lengths"]) >= 3


def test_one_changed_weight_is_refused_although_cosine_is_perfect(tmp_path: Path) -> None:
    made = tiny.exported()
    for path in (made.path, made.data):
        shutil.copy(path, tmp_path)
    tensors = onnx.load(str(made.path), load_external_data=False).graph.initializer
    big = max(
        (t for t in tensors if t.external_data and t.data_type == onnx.TensorProto.FLOAT and "embed" not in t.name),
        key=lambda t: int(np.prod(t.dims)),
    )
    place = {entry.key: entry.value for entry in big.external_data}
    count = int(np.prod(big.dims))
    with (tmp_path / made.data.name).open("r+b") as stream:
        weights = np.memmap(stream, np.float32, "r+", int(place["offset"]), (count,))
        weights[count // 2] += 0.05
        weights.flush()
    inputs = observations()["random/0"]
    assert cosine(output(tmp_path / made.path.name, inputs), output(made.path, inputs)) > 0.9999
    with pytest.raises(ParityError, match="does not compute what the model computes"):
        check(tmp_path / made.path.name)


@pytest.mark.parametrize("edit", [ignore_padding, invert_mask])
def test_wrong_padding_mask_is_refused(tmp_path: Path, edit: Edit) -> None:
    with pytest.raises(ParityError, match="does not compute"):
        check(edited(tmp_path, edit))


def test_ignored_mask_is_invisible_without_padding(tmp_path: Path) -> None:
    """Why observations must differ in prompt length: on full prompts this defect does not exist."""
    graph = edited(tmp_path, ignore_padding)
    full = {name: inputs for name, inputs in observations().items() if name.endswith("no-padding")}
    assert full
    for inputs in full.values():
        np.testing.assert_array_equal(output(graph, inputs), output(tiny.exported().path, inputs))


def test_graph_of_other_weights_is_refused() -> None:
    with pytest.raises(ParityError, match="does not compute"):
        check(tiny.exported().path, tiny.model(seed=1))


def test_nan_in_the_graph_is_refused(tmp_path: Path) -> None:
    def poison(graph: onnx.ModelProto) -> None:
        (bias,) = [t for t in graph.graph.initializer if t.name == "head.3.bias"]
        bias.CopyFrom(numpy_helper.from_array(np.full(7, np.nan, np.float32), bias.name))

    with pytest.raises(ParityError, match="the graph answers NaN"):
        check(edited(tmp_path, poison))


def test_engine_failure_is_a_parity_error(tmp_path: Path) -> None:
    (tmp_path / "policy.onnx").write_bytes(b"not a graph")
    with pytest.raises(ParityError, match="cannot run the exported graph"):
        check(tmp_path / "policy.onnx")


def test_too_few_observations_prove_nothing() -> None:
    few = dict(list(observations().items())[:7])
    with pytest.raises(ParityError, match="found 7 observations"):
        check(tiny.exported().path, seen=few)


def test_equal_prompt_lengths_prove_nothing() -> None:
    one = observations()["random/0"]
    with pytest.raises(ParityError, match="two lengths or more"):
        check(tiny.exported().path, seen={f"copy/{i}": one for i in range(8)})


def test_variants_cover_both_ends_of_padding() -> None:
    inputs = observations()["random/0"]
    made = parity.variants(inputs, "v")
    assert int(made["v+one-token"][ATTENTION_MASK].sum()) == 1
    assert bool(made["v+no-padding"][ATTENTION_MASK].all())
    noisy = made["v+noise-in-padding"]
    real = inputs[ATTENTION_MASK].bool()
    assert torch.equal(noisy[INPUT_IDS][real], inputs[INPUT_IDS][real])
    assert not torch.equal(noisy[INPUT_IDS], inputs[INPUT_IDS])


def test_what_stands_in_the_padding_does_not_matter_to_the_model() -> None:
    seen = observations()
    module = cpu_copy(tiny.model().module, torch.float32)
    clean, noisy = (
        forward_float32(module, list(seen[name].values())) for name in ("random/0", "random/0+noise-in-padding")
    )
    torch.testing.assert_close(clean, noisy, rtol=0, atol=1e-6)


class Downcasting(nn.Module):
    """Does what transformers' norms do: computes in float32 whatever it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = x.to(torch.float32).softmax(-1, dtype=torch.float32) + x.float()
        return low.type_as(x) + torch.zeros(x.shape, dtype=torch.float32)


def test_float64_reference_lifts_casts_inside_the_model() -> None:
    x = torch.linspace(0, 1, 7).unsqueeze(0)
    truth = np.exp(x.double().numpy())
    truth = truth / truth.sum() + x.double().numpy()
    naive = Downcasting().double()(x.double()).numpy()
    assert parity.relative_l2(naive, truth) > 1e-9
    assert parity.relative_l2(forward_float64(Downcasting().double(), [x]).numpy(), truth) < 1e-14


def test_float64_reference_restores_the_default_type() -> None:
    before = torch.get_default_dtype()
    forward_float64(Downcasting(), [torch.ones(1, 2)])
    assert torch.get_default_dtype() is before
