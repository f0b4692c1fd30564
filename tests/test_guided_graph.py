# SPDX-License-Identifier: Apache-2.0
"""A guided graph pulls its answer towards the previous chunk as arXiv 2506.07339 says, by the exact Jacobian; told
nothing it answers bit for bit what a graph without guidance does."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import flow_factory as tiny
import numpy as np
import onnx
import pytest
import torch
from export_factory import model as reference_model
from family_cases import case, samples_for
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from compress.export import convertible, parity
from compress.export.answers import engine_for, graph_answers
from compress.export.draft import ExportReport, export_draft
from compress.export.errors import ExportError, ParityError
from compress.export.exact import cpu_copy, forward_float64
from compress.export.golden_chunks import golden_chunks
from compress.export.guided import guided, with_previous
from compress.export.onnx_export import ExportedGraph, export_stage
from compress.export.options import GraphOptions
from compress.export.proofs import PARITY_FILE
from compress.models.base import ExportStage, VlaModel
from compress.models.flow import FlowSampler
from compress.models.guidance import BETA
from runtime.contract.artifact import read_artifact
from runtime.contract.conventions import Precision
from runtime.contract.graph import PREVIOUS_ACTIONS, PREVIOUS_WEIGHTS, graph_for
from runtime.contract.guidance import Guidance
from runtime.contract.normalization import Normalization
from runtime.inference.golden import load_golden
from runtime.inference.policy import Policy

ACTION, NORM = tiny.IO.action, tiny.IO.normalizers.action
SHA = "0" * 64
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed (Linux x86_64 only). Next: make install-dev",
)
GUIDED = GraphOptions(guided=True)


def stage() -> ExportStage:
    return guided(tiny.stage(), ACTION)


def observations() -> dict[str, dict[str, Tensor]]:
    return with_previous(tiny.observations(), ACTION)


def told(wanted: bool) -> dict[str, dict[str, Tensor]]:
    return {name: inputs for name, inputs in observations().items() if name.endswith("+guided") is wanted}


def check(graph: ExportedGraph, seen: dict[str, Any], path: Path | None = None) -> parity.ParityReport:
    norm = tiny.IO.normalizers.action
    return parity.check(stage(), path or graph.path, graph.spec, seen, ACTION, norm, options=graph.options)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    return export_stage(stage(), tmp_path_factory.mktemp("guided"), options=GUIDED)


def by_the_paper(sampler: FlowSampler, inputs: dict[str, Tensor], beta: float) -> Tensor:
    """Equations 2 to 4 with the Jacobian as a matrix, in float64, for a network whose time runs from 1 to 0."""
    network = cast(nn.Module, cpu_copy(sampler, torch.float64)).network
    *seen, previous, weights = (v.double() if v.is_floating_point() else v for v in inputs.values())
    context, x = network.observe(*seen), sampler.start.double()[None]
    size, dims = x[0].numel(), previous.shape[2]
    weight, target = torch.zeros_like(x), torch.zeros_like(x)
    weight[..., :dims], target[..., :dims] = weights[..., None], previous
    for step in range(sampler.steps):
        t = step / sampler.steps
        row = (sampler.tables[0][step : step + 1].double(),)

        def velocity(x: Tensor, row: tuple[Tensor] = row) -> Tensor:
            return network.advance(x, row, context, 1.0) - x  # towards actions

        def guess(x: Tensor, t: float = t, velocity: Any = velocity) -> Tensor:
            return x + (1.0 - t) * velocity(x)

        jacobian = torch.autograd.functional.jacobian(guess, x).reshape(size, size)
        error = weight * (target - guess(x))
        r2 = (1.0 - t) ** 2 / (t**2 + (1.0 - t) ** 2)
        pull = beta if t == 0.0 else min(beta, (1.0 - t) / (t * r2))
        x = x + (velocity(x) + pull * (jacobian.T @ error.reshape(size)).reshape(x.shape)) / sampler.steps
    return x[:, : sampler.horizon, : sampler.action_dim]


@torch.no_grad()
@pytest.mark.parametrize("number", [0, 3, 7])
def test_guidance_is_that_of_the_paper(number: int) -> None:
    inputs = list(told(True).values())[number]
    sampler = tiny.stage().module
    assert isinstance(sampler, FlowSampler)
    with torch.enable_grad():
        wanted = by_the_paper(sampler, inputs, BETA).detach()
    found = forward_float64(cpu_copy(stage().module, torch.float64), list(inputs.values()))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)  # tables are float32
    free = forward_float64(cpu_copy(sampler, torch.float64), list(inputs.values())[:4])
    assert (found - free).abs().max() > 0.1


def test_graph_is_torchs_backward_pass_with_and_without_weights(graph: ExportedGraph) -> None:
    """The gate of every export: float64 autograd is the truth, four times torch's own error the limit."""
    report = check(graph, observations())
    assert report.passed
    assert sum(name.endswith("+guided") for name in report.observations) == len(report.observations) // 2


def test_without_weights_it_is_the_graph_without_guidance_to_the_last_bit(graph: ExportedGraph, tmp_path: Path) -> None:
    plain, engine = tiny.export(tmp_path / "plain", GraphOptions()), engine_for(Precision.FP32)
    free = graph_answers(engine, plain.path, plain.spec, tiny.observations(), 1)
    assert np.array_equal(graph_answers(engine, graph.path, graph.spec, told(False), 1), free)
    pulled = graph_answers(engine, graph.path, graph.spec, told(True), 1)
    assert (np.abs(pulled - free).max(axis=(1, 2, 3)) > 0.1).all()
    assert graph.spec == graph_for(tiny.IO.observation, ACTION, tiny.IO.prompt, guided=True)


def edited(graph: ExportedGraph, folder: Path, name: str, change: Any) -> Path:
    whole = onnx.load(str(graph.path))
    (table,) = [tensor for tensor in whole.graph.initializer if tensor.name == name]
    held = onnx.numpy_helper.to_array(table)
    table.CopyFrom(onnx.numpy_helper.from_array(change(held).astype(held.dtype), name))
    onnx.save(whole, str(folder / "policy.onnx"))
    return folder / "policy.onnx"


def test_pull_that_is_one_percent_off_is_refused_and_shows_only_where_there_are_weights(
    graph: ExportedGraph, tmp_path: Path
) -> None:
    """Why the gates run with weights too."""
    found = onnx.load(str(graph.path)).graph.initializer
    scalars = {t.name: onnx.numpy_helper.to_array(t) for t in found if list(t.dims) == [tiny.STEPS, 1]}
    (name,) = [n for n, v in scalars.items() if np.isclose(v[0, 0], BETA / tiny.STEPS)]
    path = edited(graph, tmp_path, name, lambda held: 1.01 * held)
    assert check(graph, told(False), path).passed
    with pytest.raises(ParityError, match=r"worst observation .*\+guided"):
        check(graph, observations(), path)


def test_fused_attention_differentiates_a_row_that_sees_nothing_wrongly_and_the_plain_form_does_not() -> None:
    """Why guidance wants the plain form. When the fused one is right, torch has been repaired and that can go."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 3, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    blind = torch.full((1, 1, 3, 3), torch.finfo(torch.float64).min, dtype=torch.float64)

    def slope(kind: SDPBackend | None) -> Tensor:
        x = q.clone().requires_grad_(True)
        if kind is None:  # the mask has swallowed the scores: equal weights, whatever they are
            scores = x @ k.transpose(-1, -2) / 2.0
            found = torch.softmax(scores - scores.detach(), -1) @ v
        else:
            with sdpa_kernel(kind):
                found = torch.nn.functional.scaled_dot_product_attention(x, k, v, attn_mask=blind)
        return torch.autograd.grad(found.square().sum(), x)[0]

    torch.testing.assert_close(slope(SDPBackend.MATH), slope(None))
    torch.testing.assert_close(slope(SDPBackend.FLASH_ATTENTION), 3.0 * slope(None))


def test_norms_have_one_output_as_tensorrt_wants_it(graph: ExportedGraph) -> None:
    """The backward pass reads mean and deviation; they are computed beside the norm."""
    whole = onnx.load(str(graph.path), load_external_data=False).graph
    (loop,) = [node for node in whole.node if node.op_type == "Loop"]
    norms = [node for node in loop.attribute[0].g.node if node.op_type == "LayerNormalization"]
    assert len(norms) == 2
    assert all(len(node.output) == 1 for node in norms)


@needs_rtx
def test_tensorrts_builder_takes_the_backward_pass(graph: ExportedGraph) -> None:
    assert convertible.check(graph.path, "require", Precision.FP32).status == convertible.CONVERTS


@pytest.mark.slow
@needs_rtx
def test_half_precision_multiplies_nothing_in_float32(tmp_path: Path) -> None:
    """Attention in its plain form would, both ways, if torch were let; the builder's check names such a product."""
    made = export_stage(stage(), tmp_path, options=replace(GUIDED, precision=Precision.FP16))
    assert convertible.check(made.path, "require", Precision.FP16).status == convertible.CONVERTS


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_backward_pass_in_half_precision_passes_at_twice_torchs_own_error(precision: Precision, tmp_path: Path) -> None:
    made = export_stage(stage(), tmp_path, options=replace(GUIDED, precision=precision))
    assert check(made, observations()).passed


@torch.no_grad()
@pytest.mark.parametrize("family", ["pi0", "pi05", "smolvla", "groot_n17"])
def test_frozen_prefix_is_kept_whichever_way_the_family_counts_time(family: str) -> None:
    """Distance of frozen rows to the previous chunk, in normalised units: at most a quarter of the unguided one."""
    model = case(family).make(0)
    whole = guided(model.stages()[0], model.specs()["action"])
    seen = {s.sample_id: dict(model.collate([s]).inputs) for s in samples_for(model, 4)}
    near, far = [], []
    for name, inputs in with_previous(seen, model.specs()["action"]).items():
        if not name.endswith("+guided"):
            free = whole.module(*inputs.values())
            continue
        kept = inputs[PREVIOUS_WEIGHTS][0] == 1.0
        for answer, distances in ((free, far), (whole.module(*inputs.values()), near)):
            distances.append((answer - inputs[PREVIOUS_ACTIONS])[0, kept].square().mean().sqrt())
    assert torch.stack(near).mean() < 0.25 * torch.stack(far).mean()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["pi0", "pi05", "groot_n17"])
def test_guided_graph_of_every_family_passes_the_gate(family: str, tmp_path: Path) -> None:
    """SmolVLA's is proven by its draft below."""
    model = case(family).make(0)
    action, whole = model.specs()["action"], guided(model.stages()[0], model.specs()["action"])
    collated = [(s.sample_id, model.collate([s]).inputs) for s in samples_for(model, 8)]
    seen = with_previous(parity.observations(collated), action)
    made = export_stage(whole, tmp_path, options=GUIDED)
    norm = model.io.normalizers.action  # type: ignore[attr-defined]  # every flow adapter has its robot's side
    assert parity.check(whole, made.path, made.spec, seen, action, norm, options=GUIDED).passed


def test_what_cannot_be_guided_is_refused_before_any_work() -> None:
    oft = case("openvla_oft").make(0)
    for model in (cast(VlaModel, oft), cast(VlaModel, reference_model())):
        (plain,) = model.stages()
        with pytest.raises(ExportError, match=r"leave export\.guided out"):
            guided(plain, model.specs()["action"])
    (diffusion,) = [replace(tiny.stage(), module=_no_euler())]
    with pytest.raises(ExportError, match="Euler"):
        guided(diffusion, ACTION)
    for other in ({"sampler": "unrolled"}, {"batch": "dynamic"}):
        with pytest.raises(ExportError, match=r"guided: found sampler"):
            GraphOptions(guided=True, **other)  # type: ignore[arg-type]  # literals


def _no_euler() -> nn.Module:
    made = tiny.stage().module
    assert isinstance(made, FlowSampler)
    made.euler = False
    return made


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """SmolVLA's real modules, exported, proven and run by the robot's own code."""
    model = case("smolvla").make(0)
    lineage = {"source": {"name": "tiny", "revision": "t", "sha256": SHA}, "recipe_sha256": SHA, "plan_sha256": SHA}
    folder = tmp_path_factory.mktemp("guided") / "draft"
    return export_draft(model, samples_for(model, 8), folder, lineage, options=GUIDED)


def test_draft_says_that_it_can_be_guided_and_was_proven_guided(draft: ExportReport) -> None:
    artifact = read_artifact(draft.folder)
    assert artifact.manifest.policy.graph.guided
    proven = json.loads(artifact.read_bytes(PARITY_FILE))["observations"]
    assert sum(name.endswith("+guided") for name in proven) == len(proven) // 2
    weights = [sample.guidance.weights.max() for sample in load_golden(artifact) if sample.guidance is not None]
    assert weights == [1.0, 0.0] * 4, "a station's engine proves its backward pass too"
    assert draft.golden.ok


def test_one_golden_sample_is_guided_and_of_two_one_is_not() -> None:
    model = case("smolvla").make(0)
    action, samples = model.specs()["action"], samples_for(model, 2)
    whole, scale = guided(model.stages()[0], action), Normalization.identity(action.dim)
    one, two = (golden_chunks(model, whole, samples[:count], scale) for count in (1, 2))
    assert [said.weights.max() for said in one.guidance] == [1.0]
    assert [said.weights.max() for said in two.guidance] == [1.0, 0.0]


def test_robots_policy_keeps_a_frozen_prefix_in_commands(draft: ExportReport) -> None:
    with Policy.load(draft.folder, threads=1, allow_unsealed=True) as policy:
        for sample in load_golden(policy.artifact)[::2]:
            said = sample.guidance
            assert said is not None
            kept = said.weights == 1.0
            free, pulled = (
                policy.infer(sample.observation, sample.instruction, 0.0, guidance=given).values
                for given in (None, said)
            )
            far, near = (np.abs(values - said.commands)[kept].mean() for values in (free, pulled))
            assert near < 0.25 * far
            none = policy.infer(
                sample.observation, sample.instruction, 0.0, guidance=Guidance.none(policy.manifest.policy.action)
            )
            assert np.array_equal(none.values, free)
