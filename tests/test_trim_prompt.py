# SPDX-License-Identifier: Apache-2.0
"""One task: the prompt is a constant of the graph, its padding is not computed, every other prompt becomes NaN."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import export_factory as tiny
import numpy as np
import onnx
import pytest
import torch
from family_cases import INSTRUCTIONS, NAMES, case, samples_for
from torch import Tensor

from compress.export import parity
from compress.export.draft import export_draft
from compress.export.exact import cpu_copy, forward_float32, forward_float64
from compress.export.onnx_export import export_stage
from compress.export.trims import Trimmed, TrimSpec, trimmed
from compress.models.pi05 import PROMPT
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.contract.graph import ACTIONS, ATTENTION_MASK, INPUT_IDS
from runtime.contract.spec import PromptSpec
from runtime.errors import ObservationError, PolicyOutputError
from runtime.inference.policy import Policy

TASK = INSTRUCTIONS[0]
FOLDED = [name for name in NAMES if name != "pi05"]  # its prompt carries the state


@functools.cache
def told(name: str) -> tuple[Any, Trimmed]:
    model = case(name).make(0)
    specs, tokenizer = model.specs(), model.side_files()["tokenizer.json"]
    return model, trimmed(model.stages()[0], specs, tokenizer, TrimSpec(names=(), tasks=(TASK,)))


def seen(model: Any, count: int = 3) -> list[dict[str, Tensor]]:
    samples = [replace(sample, instruction=TASK) for sample in samples_for(model, count)]
    return [{k: model.collate([s]).inputs[k] for k in model.stages()[0].example_inputs} for s in samples]


@pytest.mark.parametrize("name", FOLDED)
def test_without_padding_the_network_says_the_same(name: str) -> None:
    model, small = told(name)
    saved = small.saved[-1]
    assert saved.name == "prompt"
    assert saved.what[0].endswith("of padding go")
    assert saved.after.flops < saved.before.flops  # type: ignore[operator]
    truth, mine = (cpu_copy(stage.module, torch.float64) for stage in (model.stages()[0], small.stage))
    own, single = (cpu_copy(stage.module, torch.float32) for stage in (model.stages()[0], small.stage))
    for inputs in seen(model):
        values = list(inputs.values())
        wanted = forward_float64(truth, values)
        assert (forward_float64(mine, values) - wanted).norm() <= 1e-12 * wanted.norm()
        limit = 4.0 * (forward_float32(own, values).double() - wanted).norm() + 1e-6 * wanted.norm()
        assert (forward_float32(single, values).double() - wanted).norm() <= limit


@pytest.mark.parametrize("name", FOLDED)
def test_any_other_prompt_makes_every_action_nan(name: str) -> None:
    model, small = told(name)
    (inputs,) = seen(model, 1)
    last = int(inputs[ATTENTION_MASK].sum()) - 1
    word, length, below = (dict(inputs) for _ in range(3))
    word[INPUT_IDS] = inputs[INPUT_IDS].clone()
    word[INPUT_IDS][0, last] = inputs[INPUT_IDS][0, last - 1]  # of the list, at another place
    length[ATTENTION_MASK] = inputs[ATTENTION_MASK].clone()
    length[ATTENTION_MASK][0, last] = 0
    below[INPUT_IDS] = inputs[INPUT_IDS].clone()
    below[INPUT_IDS][0, last + 1 :] = inputs[INPUT_IDS][0, last]  # padding is nobody's business
    with torch.no_grad():
        assert small.stage.module(*word.values()).isnan().all()
        assert small.stage.module(*length.values()).isnan().all()
        assert not small.stage.module(*below.values()).isnan().any()


def test_a_prompt_that_carries_the_state_is_left() -> None:
    _, small = told("pi05")
    assert "{state" in PROMPT
    assert not small.told
    assert small.saved[-1].describe() == "trim prompt: nothing to do"


def test_two_tasks_are_left() -> None:
    model, _ = told("reference")
    specs, tokenizer = model.specs(), model.side_files()["tokenizer.json"]
    small = trimmed(model.stages()[0], specs, tokenizer, TrimSpec(tasks=INSTRUCTIONS[:2]))
    assert not small.told
    assert [saved.name for saved in small.saved] == ["rows", "tasks"]


def test_a_loop_starts_from_nan_for_another_prompt(tmp_path: Path) -> None:
    model, small = told("pi0")
    graph = export_stage(small.stage, tmp_path, rewrite=small.rewrite)
    collated = [(str(number), inputs) for number, inputs in enumerate(seen(model, 8))]
    observations = parity.observations(collated, told=True)
    assert {int(inputs[ATTENTION_MASK].sum()) for inputs in observations.values()} == {
        int(collated[0][1][ATTENTION_MASK].sum())
    }
    norm = model.io.normalizers.action
    report = parity.check(
        model.stages()[0], graph.path, graph.spec, observations, model.specs()["action"], norm, told=True
    )
    assert report.passed
    engine = OnnxRuntimeBackend(threads=1)
    engine.load(graph.path, graph.spec)
    other = parity.variants(collated[0][1], "other")["other+one-token"]
    assert np.isnan(engine.infer({name: value.numpy() for name, value in other.items()})[ACTIONS]).all()
    engine.close()


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, model = tmp_path_factory.mktemp("told") / "draft", tiny.model(1)
    samples = [replace(sample, instruction=tiny.INSTRUCTIONS[0]) for sample in tiny.samples()]
    trims = TrimSpec(tasks=tiny.INSTRUCTIONS[:1])
    report = export_draft(model, samples, folder, tiny.lineage(model), trims=trims)
    assert report.parity.passed  # against the policy that reads any prompt, in float64
    assert len(report.parity.padded_lengths) == 1
    return folder


def test_the_graph_holds_the_prompt_and_no_table(draft: Path) -> None:
    graph = onnx.load(str(draft / "policy.onnx")).graph
    assert {value.name for value in graph.input} == {"pixels", "input_ids", "attention_mask", "state"}
    assert not any(i.name.startswith("told_network") for i in graph.initializer)
    assert not any(tuple(i.dims) == (512,) for i in graph.initializer)  # where each token's row is
    readers = {node.op_type for node in graph.node if {"input_ids", "attention_mask"} & set(node.input)}
    assert readers <= {"Equal", "Slice"}
    found = {row["name"]: row for row in json.loads((draft / "evidence/trims.json").read_text())["trims"]}
    assert found["prompt"]["after"]["flops"] < found["prompt"]["before"]["flops"]


def test_the_robot_runs_its_one_task_and_no_other(draft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sample = tiny.model(1), replace(tiny.samples()[0], instruction=tiny.INSTRUCTIONS[0])
    view = {**sample.images, "state": sample.state}
    with Policy.load(draft, threads=1, allow_unsealed=True) as policy:
        wanted = model.chunk(model.collate([sample]))[0].numpy()
        assert np.abs(policy.infer(view, sample.instruction, 0.0).values - wanted).max() < 1e-4
        with pytest.raises(ObservationError, match="closed list of tasks"):
            policy.infer(view, tiny.INSTRUCTIONS[1], 0.0)
        monkeypatch.setattr(PromptSpec, "admits", lambda *_: True)  # as if the first lock were broken
        with pytest.raises(PolicyOutputError):
            policy.infer(view, tiny.INSTRUCTIONS[1], 0.0)
