# SPDX-License-Identifier: Apache-2.0
"""A closed list of tasks: the token table holds its rows only, other tokens become NaN, other sentences are refused."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import export_factory as tiny
import numpy as np
import onnx
import pytest
import torch
from family_cases import INSTRUCTIONS, NAMES, case, samples_for, tokenizer_json
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compress.export.closed_tasks import close, token_ids
from compress.export.draft import export_draft
from compress.export.errors import ExportError
from compress.export.trims import TrimSpec, trimmed
from compress.models.closed_table import ClosedTable, sharing_copy
from compress.models.pi05 import PROMPT, PROMPT_PADDED
from runtime.contract.artifact import load_manifest
from runtime.contract.codec import decode, encode
from runtime.contract.graph import ATTENTION_MASK, INPUT_IDS
from runtime.contract.spec import PromptSpec
from runtime.errors import ContractError, ObservationError, PolicyOutputError
from runtime.inference.policy import Policy
from runtime.inference.tokenizer import PromptTokenizer

TASKS = tiny.INSTRUCTIONS
OTHER = "open the bottom drawer"


@functools.cache
def closed(name: str) -> tuple[Any, Any, torch.nn.Module]:
    model = case(name).make(0)
    spec = TrimSpec(names=(), tasks=INSTRUCTIONS)
    small = trimmed(model.stages()[0], model.specs(), model.side_files()["tokenizer.json"], spec)
    return model, small, small.stage.module


@pytest.mark.parametrize("name", NAMES)
def test_prompts_of_the_list_give_the_same_bits(name: str) -> None:
    model, small, module = closed(name)
    (saved,) = small.saved
    gone = saved.before.bytes - saved.after.bytes
    (table,) = [found for found in module.modules() if isinstance(found, ClosedTable)]
    whole = table.row_of.numel() * table.weight.shape[1] * 4
    assert gone == whole - table.weight.numel() * 4 > 0
    stage = model.stages()[0]
    with torch.no_grad():
        for sample in samples_for(model, 3):
            inputs = [model.collate([sample]).inputs[key] for key in stage.example_inputs]
            assert torch.equal(module(*inputs), stage.module(*inputs))


@pytest.mark.parametrize("name", NAMES)
def test_a_token_outside_the_list_makes_every_action_nan(name: str) -> None:
    model, small, module = closed(name)
    (table,) = [found for found in module.modules() if isinstance(found, ClosedTable)]
    inputs = dict(model.collate(samples_for(model, 1)).inputs)
    ids = inputs[INPUT_IDS].clone()
    last = int(inputs[ATTENTION_MASK].sum()) - 1
    ids[0, last] = int((table.row_of < 0).nonzero()[-1])
    inputs[INPUT_IDS] = ids
    with torch.no_grad():
        assert module(*(inputs[key] for key in small.stage.example_inputs)).isnan().all()


@pytest.mark.parametrize("template", [PROMPT, PROMPT_PADDED])
@settings(max_examples=60, deadline=None)
@given(state=hnp.arrays(np.float64, 8, elements=st.floats(-1.3, 1.3)), task=st.sampled_from(INSTRUCTIONS))
def test_every_state_finds_its_tokens(template: str, state: np.ndarray, task: str) -> None:
    spec = PromptSpec(template=template, max_tokens=256, pad_id=0, lowercase=True, tasks=INSTRUCTIONS)
    ids, _ = PromptTokenizer(tokenizer_json(), spec).encode(task, state)
    assert set(ids.ravel().tolist()) <= kept_for(template)


KEPT: dict[str, set[int]] = {}


def kept_for(template: str) -> set[int]:
    spec = PromptSpec(template=template, max_tokens=256, pad_id=0, lowercase=True, tasks=INSTRUCTIONS)
    if template not in KEPT:
        KEPT[template] = token_ids(tokenizer_json(), spec, 8)
    return KEPT[template]


def test_state_bins_are_all_kept_and_words_are_not() -> None:
    reader = PromptTokenizer(tokenizer_json(), PromptSpec("{instruction}", 256, 0, lowercase=True))
    numbers = {n for n, text in enumerate(reader.texts()) if text.strip().isdigit()}
    assert numbers
    assert numbers <= kept_for(PROMPT)
    assert len(kept_for(PROMPT)) < len(reader.texts()) / 2


def test_only_the_list_is_admitted() -> None:
    spec = PromptSpec("{instruction}", 16, 0, lowercase=True, tasks=TASKS)
    reader = PromptTokenizer(tokenizer_json(), spec)
    assert reader.encode(TASKS[0].upper())[0].any()  # lowered before it is compared
    with pytest.raises(ObservationError, match=r"closed list of tasks: \['open the top drawer'"):
        reader.encode(OTHER)
    exact = PromptSpec("{instruction}", 16, 0, lowercase=False, tasks=TASKS)
    assert not exact.admits(TASKS[0].upper())
    assert PromptSpec("{instruction}", 16, 0, lowercase=False).admits(OTHER)


def test_a_prompt_without_a_list_is_written_as_before() -> None:
    open_spec = PromptSpec("{instruction}", 16, 0, lowercase=True)
    assert "tasks" not in encode(open_spec)
    assert decode(PromptSpec, encode(open_spec), "prompt") == open_spec
    listed = PromptSpec("{instruction}", 16, 0, lowercase=True, tasks=TASKS)
    assert decode(PromptSpec, encode(listed), "prompt") == listed
    for wrong in ((), (" ",), ("Go", "go")):
        with pytest.raises(ContractError, match=r"PromptSpec\.tasks"):
            PromptSpec("{instruction}", 16, 0, lowercase=True, tasks=wrong)


def test_a_network_that_reads_no_prompt_is_refused() -> None:
    stage = case("reference").make(0).stages()[0]

    class Blind(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(4, 2)

        def forward(self, *_: torch.Tensor) -> torch.Tensor:
            return self.table.weight

    with pytest.raises(ExportError, match=r"expected exactly one token table of \['table'\]"):
        close(stage, Blind(), {0})


def test_a_token_beyond_the_table_is_refused() -> None:
    stage = case("reference").make(0).stages()[0]
    with pytest.raises(ExportError, match="token 512 is outside the table"):
        close(stage, sharing_copy(stage.module), {512})


def test_samples_of_other_tasks_are_refused_before_anything_is_exported(tmp_path: Path) -> None:
    model = tiny.model(1)
    with pytest.raises(ExportError, match=r"golden samples say \['close the top drawer', 'push the plate"):
        export_draft(model, tiny.samples(), tmp_path / "d", tiny.lineage(model), trims=TrimSpec(tasks=TASKS[:3]))
    assert not (tmp_path / "d").exists()


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("closed") / "draft"
    model = tiny.model(1)
    lines: list[str] = []
    report = export_draft(model, tiny.samples(), folder, tiny.lineage(model), lines.append, trims=TrimSpec(tasks=TASKS))
    assert report.parity.passed  # the closed graph, against the open policy in float64
    assert [line.split(":")[0] for line in lines if line.startswith("trim ")] == ["trim rows", "trim tasks", "trim kv"]
    return folder


def test_artifact_says_its_tasks_and_what_was_saved(draft: Path) -> None:
    assert load_manifest(draft)[0].policy.prompt.tasks == TASKS
    found = json.loads((draft / "evidence/trims.json").read_text())
    rows, tasks, kv = found["trims"]
    assert (rows["name"], tasks["name"], kv["name"]) == ("rows", "tasks", "kv")
    assert found["asked"] == {"trims": ["rows", "kv"], "tasks": list(TASKS)}
    assert tasks["after"]["bytes"] < tasks["before"]["bytes"]
    assert kv["after"]["flops"] == tasks["after"]["flops"]  # counted in the graph and in torch
    table = next(
        i for i in onnx.load(str(draft / "policy.onnx")).graph.initializer
        if len(i.dims) == 2 and i.dims[1] == 32 and i.dims[0] == int(tasks["what"][0].split()[1])
    )  # fmt: skip
    assert table.dims[0] < 512


def test_the_robot_refuses_what_is_not_in_the_list(draft: Path) -> None:
    model = tiny.model(1)
    sample = tiny.samples()[0]
    seen = {**sample.images, "state": sample.state}
    with Policy.load(draft, threads=1, allow_unsealed=True) as policy:
        wanted = model.chunk(model.collate([sample]))[0].numpy()
        assert np.abs(policy.infer(seen, sample.instruction, 0.0).values - wanted).max() < 1e-4
        with pytest.raises(ObservationError, match="closed list of tasks"):
            policy.infer(seen, OTHER, 0.0)


def test_a_foreign_token_never_becomes_a_command(draft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptSpec, "admits", lambda *_: True)  # as if the first lock were broken
    sample = tiny.samples()[0]
    with Policy.load(draft, threads=1, allow_unsealed=True) as policy, pytest.raises(PolicyOutputError):
        policy.infer({**sample.images, "state": sample.state}, OTHER, 0.0)
