# SPDX-License-Identifier: Apache-2.0
"""What saves memory changes nothing else: gradients through checkpointed blocks, frozen weights in bfloat16, probes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from algorithm_factory import batches, demos, policy
from family_cases import NAMES, case, samples_for
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from compress.dtr.recover import recover
from compress.dtr.spec import RecoverSpec
from compress.dtr.teacher import distilled_loss
from compress.gateprobe import gate_derivatives
from compress.models.base import Batch, BlockGroup, Surgery, VlaModel
from compress.models.surgery import operate
from compress.probing import quiet
from compress.scale.blocks import checkpointed, units
from compress.scale.precision import held_in
from compress.settings import SettingsError, from_plain

SPEC = RecoverSpec(steps=4, batch_size=4, lr=3e-3, warmup=1, ema=0.5, bf16=False, log_every=1, checkpoint_s=1e9)


@contextmanager
def kept(module: nn.Module) -> Iterator[dict[int, int]]:
    """While open, bytes that autograd keeps for the backward pass by storage, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def stubbed(model: VlaModel, group: BlockGroup, index: int) -> None:
    """Silence both writers of a block; its slot stays."""
    depth = len(group.stack(model.module))
    operate(model.module, group, Surgery.none(depth), Surgery(depth, tuple(range(depth)), (index,), (index,)))


def gradients(model: VlaModel, batch: Batch, wanted: bool) -> tuple[dict[str, Tensor], int]:
    model.module.zero_grad(set_to_none=True)
    with checkpointed(model, wanted), kept(model.module) as found:
        loss = model.loss(batch, 3).mean()
        held = sum(found.values())
        loss.backward()
    return {n: p.grad.clone() for n, p in model.module.named_parameters() if p.grad is not None}, held


@pytest.mark.parametrize("name", NAMES)
def test_checkpointed_blocks_give_the_same_gradients(name: str) -> None:
    model = case(name).make(0)
    stubbed(model, model.groups[0], 1)
    batch = model.collate(samples_for(model, 3))
    plain, much = gradients(model, batch, False)
    again, little = gradients(model, batch, True)
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[key], again[key]) for key in plain)
    assert little < 0.75 * much
    assert all("forward" not in unit.__dict__ for unit in units(model))


def test_distilled_streams_are_read_through_checkpointed_blocks() -> None:
    teacher, student = policy(depth=3, vision_depth=1), policy(depth=3, vision_depth=1, seed=1)
    stubbed(student, student.groups[0], 1)
    student.record_surgery({"language": Surgery(3, (0, 1, 2), (1,), (1,))})
    batch, found = batches(student, 3, 3)[0], []
    for wanted in (False, True):
        student.module.zero_grad(set_to_none=True)
        with checkpointed(student, wanted):
            distilled_loss(teacher, 0.5, features=1.0)(student, batch, 0).backward()
        found.append({n: p.grad.clone() for n, p in student.module.named_parameters() if p.grad is not None})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_recovery_with_checkpointing_ends_in_the_same_bits(tmp_path: Path, method: str) -> None:
    spec, ends = replace(SPEC, method=method), []
    for wanted in (False, True):
        model = policy(depth=2, vision_depth=1)
        report = recover(model, demos(), replace(spec, activation_checkpointing=wanted), tmp_path / str(wanted))
        ends.append((report.identity_after, report.curve))
    assert ends[0] == ends[1]


def test_a_run_may_go_on_with_checkpointing(tmp_path: Path) -> None:
    """It is not another run: the checkpoint fits."""
    model = policy(depth=2, vision_depth=1)
    recover(model, demos(), SPEC, tmp_path)
    again = recover(policy(depth=2, vision_depth=1), demos(), replace(SPEC, activation_checkpointing=True), tmp_path)
    assert again.resumed_at == SPEC.steps
    assert again.identity_after == model.identity()


def test_frozen_matrices_are_held_in_bfloat16_and_come_back_as_they_were() -> None:
    model = policy(depth=2, vision_depth=1)
    tower = model.module.get_submodule("vision")
    tower.requires_grad_(False)
    model.module.get_submodule("head").to(torch.bfloat16)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    with held_in(model.module, "bfloat16"):
        assert {p.dtype for p in tower.parameters() if p.ndim > 1} == {torch.bfloat16}
        assert {p.dtype for p in tower.parameters() if p.ndim == 1} == {torch.float32}
        assert {p.dtype for p in model.module.parameters() if p.requires_grad} == {torch.float32}
    after = model.module.state_dict()
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())
    with held_in(model.module, "keep"):
        assert {p.dtype for p in tower.parameters()} == {torch.float32}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_recovery_beside_bfloat16_weights_learns_and_leaves_frozen_bits(tmp_path: Path, method: str) -> None:
    model = policy(depth=2, vision_depth=1)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    spec = replace(
        SPEC, steps=12, method=method, freeze=("vision.siglip",), bf16=True, param_dtype="bfloat16", lora_rank=4
    )
    report = recover(model, demos(), spec, tmp_path)
    after = model.module.state_dict()
    assert report.loss_after < report.loss_before
    assert all(torch.equal(after[n], v) for n, v in before.items() if n.startswith("vision."))
    assert {value.dtype for value in after.values()} == {torch.float32}
    assert any(not torch.equal(after[n], v) for n, v in before.items() if n.startswith("language."))


def test_bfloat16_weights_without_bfloat16_compute_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"`recover.param_dtype` is bfloat16 and `bf16` is false: set bf16 to true"):
        from_plain(RecoverSpec, {"param_dtype": "bfloat16", "bf16": False}, "recover")


class Shapes(TorchDispatchMode):
    """The shapes of all tensors that are computed while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and "mm" in func.__name__:
            self.seen.add(tuple(found.shape))
        return found


def test_a_probe_computes_nothing_as_big_as_the_weights() -> None:
    model = policy(depth=3, vision_depth=2)
    batch = batches(model, 3, 3)[0]
    inside = {tuple(p.shape) for block in model.groups[0].stack(model.module) for p in block.parameters() if p.ndim > 1}
    matrices = inside | {shape[::-1] for shape in inside}
    with Shapes() as training:
        model.loss(batch).sum().backward()
    assert training.seen & matrices  # what a weight gradient looks like
    model.module.zero_grad(set_to_none=True)
    with Shapes() as probing, quiet(model.module):
        gate_derivatives(model, [(model.groups[0], "block")], batch)
    assert not probing.seen & matrices
    assert all(p.grad is None for p in model.module.parameters())


def test_a_probe_keeps_activations_only() -> None:
    """Four times the blocks below the probed stack: not a byte more is kept."""
    held = []
    for vision in (1, 4):
        model = policy(depth=3, vision_depth=vision)
        batch = batches(model, 3, 3)[0]
        with quiet(model.module), kept(model.module) as found:
            gate_derivatives(model, [(model.groups[0], "block")], batch)
        held.append(sum(found.values()))
    assert held[0] == held[1] > 0
