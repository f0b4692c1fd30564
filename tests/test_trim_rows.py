# SPDX-License-Identifier: Apache-2.0
"""The last language attention computes the rows that are read and no others; the numbers stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from family_cases import NAMES, case, samples_for
from family_openvla_oft import tiny
from trim_cases import keep, stub

from compress.costs import count_flops
from compress.export import parity
from compress.export.exact import cpu_copy, forward_float32, forward_float64
from compress.export.trims import TrimSpec, module_cost, trimmed
from compress.models.base import ModelError, VlaModel
from compress.models.closed_table import sharing_copy
from compress.models.openvla_oft_config import DiffusionShape
from compress.models.rows import NarrowBlock, Rows, narrow
from compress.trim import dead_tensors

ROWS = TrimSpec(names=("rows",))
POLICIES: dict[str, Callable[[], VlaModel]] = {
    "reference": lambda: case("reference").make(0),
    "oft": lambda: tiny(0),
    "oft-diffusion": lambda: tiny(0, diffusion=DiffusionShape(levels=10, steps=2)),
    "oft-film": lambda: tiny(0, film=True),
}
CUTS: dict[str, Callable[[VlaModel], None]] = {
    "whole": lambda model: None,
    "two-kept": lambda model: keep(model, "language", (0, 2)),
    "last-attention-gone": lambda model: stub(model, "language", (3,), "a"),
    "last-two-stubs": lambda model: stub(model, "language", (2, 3)),
    "last-mlp-gone": lambda model: stub(model, "language", (3,), "m"),
    "no-attention-left": lambda model: stub(model, "language", (0, 1, 2, 3), "a"),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def narrowed(model: VlaModel) -> torch.nn.Module:
    stage = model.stages()[0]
    found = trimmed(stage, model.specs(), model.side_files()["tokenizer.json"], ROWS)
    assert [saved.name for saved in found.saved] == ["rows"]
    return found.stage.module


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", POLICIES)
def test_error_to_float64_is_not_above_twice_the_untrimmed_one(policy: str, cut: str) -> None:
    model = POLICIES[policy]()
    CUTS[cut](model)
    stage = model.stages()[0]
    small, whole = narrowed(model), stage.module
    assert any(isinstance(found, NarrowBlock) for found in small.modules())
    double, own, less, exact = (
        cpu_copy(module, kind)
        for module, kind in (
            (whole, torch.float64), (whole, torch.float32), (small, torch.float32), (small, torch.float64),
        )
    )  # fmt: skip
    observations = parity.observations([(s.sample_id, model.collate([s]).inputs) for s in samples_for(model, 2)])
    assert len({int(seen["attention_mask"].sum()) for seen in observations.values()}) > 2  # padded, one token, full
    for name, seen in observations.items():
        inputs = [seen[key] for key in stage.example_inputs]
        truth = forward_float64(double, inputs)
        scale = truth.norm()
        assert (forward_float64(exact, inputs) - truth).norm() <= 1e-13 * scale, name
        untrimmed = (forward_float32(own, inputs) - truth).norm()
        assert (forward_float32(less, inputs) - truth).norm() <= max(2 * untrimmed, 1e-7 * scale), name


def test_what_is_saved_is_what_arithmetic_says() -> None:
    model = tiny(0)
    stage, width, mlp = model.stages()[0], 32, 64
    length = 1 + 2 * 4 + 1 + (16 - 1) + 1 + 28 + 1  # BOS, patches, state, prompt, suffix, slots, stop
    unread = length - 28
    per_row = 2 * width * width + 3 * width * mlp  # queries, output, gate, up and down
    scores = 2 * length * width  # products with keys and with values
    before, after = (module_cost(module, stage.example_inputs) for module in (stage.module, narrowed(model)))
    assert before.flops is not None
    assert after.flops is not None
    assert before.flops - after.flops == 2 * unread * (per_row + scores)
    assert before.bytes == after.bytes
    batch = model.collate(samples_for(model, 1))
    assert before.flops == count_flops(model, batch, model.groups[0])[0]  # the meta device counts as a CPU does


def test_policy_itself_stays_as_it_was_and_shares_its_weights() -> None:
    model = case("reference").make(0)
    stage, before = model.stages()[0], model.identity()
    batch = model.collate(samples_for(model, 2))
    wanted = model.chunk(batch)
    small = narrowed(model)
    assert model.identity() == before
    assert torch.equal(model.chunk(batch), wanted)
    assert not any(isinstance(found, NarrowBlock) for found in stage.module.modules())
    assert {p.data_ptr() for p in small.parameters()} == {p.data_ptr() for p in stage.module.parameters()}


def test_a_change_in_a_row_that_is_read_is_seen() -> None:
    model = case("reference").make(0)
    stage = model.stages()[0]
    wrong = sharing_copy(stage.module)
    wrong.read_rows = Rows("language", -5, -1)
    list(narrow(wrong))
    inputs = [value for value in model.collate(samples_for(model, 1)).inputs.values()]
    with torch.no_grad():
        assert not torch.allclose(wrong(*inputs), stage.module(*inputs), rtol=1e-3)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("reference", "openvla_oft")])
def test_stacks_that_are_read_whole_are_left_alone(name: str) -> None:
    model = case(name).make(0)
    found = trimmed(model.stages()[0], model.specs(), model.side_files()["tokenizer.json"], ROWS)
    assert found.saved[0].what == ()
    assert found.saved[0].before == found.saved[0].after
    assert found.saved[0].before.flops
    assert found.saved[0].describe() == "trim rows: nothing to do"


@pytest.mark.parametrize("name", NAMES)
def test_no_vision_block_is_computed_and_thrown_away(name: str) -> None:
    model = case(name).make(0)
    dead = dead_tensors(model, [model.collate(samples_for(model, 2))])
    towers = tuple(group.blocks for group in model.groups if group.role.startswith("vision."))
    assert towers
    assert not [found for found in dead if found.startswith(towers)]


def test_a_stack_of_another_kind_is_refused() -> None:
    odd = torch.nn.Module()
    odd.stack = torch.nn.Module()
    odd.stack.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    odd.read = Rows("stack", -1, None)
    with pytest.raises(ModelError, match="read reads stack, which has no `layers` of Llama's kind"):
        list(narrow(odd))
