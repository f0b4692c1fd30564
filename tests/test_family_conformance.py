# SPDX-License-Identifier: Apache-2.0
"""What every model family must show before its adapter can be trusted, on tiny policies of the real classes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_cases import NAMES, FamilyCase, case, samples_for
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compress.costs import count_flops, measure
from compress.dtr.drop import DropError, drop
from compress.dtr.heal import heal
from compress.dtr.teacher import answer, distilled_loss, heard
from compress.export.convertible import CONVERTS, NOT_CHECKED
from compress.export.draft import export_draft
from compress.export.proofs import CONVERTIBLE_FILE
from compress.gateprobe import gate_derivatives, probe
from compress.models.base import Batch, BlockGroup, ModelError, VlaModel
from compress.models.registry import load_model
from compress.models.surgery import ZeroAttention, ZeroMlp, ZeroProjection
from compress.plan import Plan, PlanSpec, make_plan
from compress.probing import find_group, quiet
from compress.training import Trainer, TrainSettings, action_loss

PARTS = ("block", "attention", "mlp")
STACKS = [(name, group.role) for name in NAMES for group in case(name).make(0).groups]
STACK_IDS = [f"{name}-{role}" for name, role in STACKS]
families = pytest.mark.parametrize("name", NAMES)
stacks = pytest.mark.parametrize(("name", "role"), STACKS, ids=STACK_IDS)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Equal sums whatever runs beside this."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch_of(model: VlaModel, count: int = 3) -> Batch:
    return model.collate(samples_for(model, count))


def library(found: Callable[..., Any] | None, name: str) -> Callable[..., Any]:
    if found is None:
        pytest.skip(f"{name}: {case(name).why_no_library}")
    return found


@contextmanager
def gated(model: VlaModel, group: BlockGroup, index: int, part: str, alpha: float) -> Iterator[None]:
    """A real gate: alpha times what a writer writes; for a whole block, the stream plus alpha times what it adds."""
    block = group.stack(model.module)[index]
    module = block if part == "block" else block.get_submodule(getattr(group, part))

    def gate(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        value = output[0] if isinstance(output, tuple) else output
        if part == "block":
            entered = args[0] if args else kwargs["hidden_states"]
            value = entered + alpha * (value - entered)
        else:
            value = alpha * value
        return (value, *output[1:]) if isinstance(output, tuple) else value

    handle = module.register_forward_hook(gate, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def plan_of(model: VlaModel, role: str, dropped: tuple[int, ...], part: str = "block", form: str = "auto") -> Plan:
    depth = len(find_group(model, role).stack(model.module))
    kept = tuple(i for i in range(depth) if i not in dropped)
    return Plan(role, part, depth, kept, dropped, "by hand", "0" * 64, model.identity(), {"drop": 1}, form=form)


def units(group: BlockGroup, depth: int, size: int) -> list[tuple[int, ...]]:
    """What may leave at once: whole units without pinned blocks, or single blocks where slots stay."""
    every = [tuple(range(start, start + size)) for start in range(0, depth, size)]
    return [unit for unit in every if size == 1 != group.unit or not set(unit) & group.pinned]


def droppable(group: BlockGroup, depth: int) -> tuple[int, ...]:
    """One whole unit in the middle that is not pinned."""
    free = units(group, depth, group.unit)
    return free[len(free) // 2]


@families
def test_loss_is_the_librarys_own(name: str) -> None:
    model = case(name).make(0)
    wanted = library(case(name).library_loss, name)
    batch = batch_of(model)
    with torch.no_grad():
        torch.testing.assert_close(model.loss(batch, 5), wanted(model, batch, 5), rtol=1e-5, atol=1e-6)


@families
def test_chunk_is_the_librarys_own(name: str) -> None:
    model = case(name).make(0)
    wanted = library(case(name).library_chunk, name)
    batch = batch_of(model)
    with torch.no_grad():
        normalised = wanted(model, batch, 5)
        scale, offset = (torch.from_numpy(getattr(normalizer_of(model), n)).float() for n in ("scale", "offset"))
        torch.testing.assert_close(model.chunk(batch, 5), normalised.float() * scale + offset, rtol=1e-5, atol=1e-5)


def normalizer_of(model: VlaModel) -> Any:
    from compress.export.policy_files import normalization_ref
    from runtime.contract.graph import NORMALIZATION_FILE
    from runtime.contract.normalization import Normalizers

    data = model.side_files()[NORMALIZATION_FILE]
    ref = normalization_ref(data)
    return Normalizers.from_bytes(data, ref.state, ref.action).action


@families
def test_loss_belongs_to_the_sample_and_its_seed(name: str) -> None:
    """Alone or in company, now or later: the same loss; and it is one number per sample."""
    model = case(name).make(0)
    samples = samples_for(model, 3)
    with torch.no_grad():
        together = model.loss(model.collate(samples), 7)
        alone = torch.cat([model.loss(model.collate([sample]), 7) for sample in samples])
        again = model.loss(model.collate(samples), 7)
    assert together.shape == (3,)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert torch.equal(together, again)


@families
def test_the_head_says_what_the_loss_judges(name: str) -> None:
    """Moving what the head returns moves the loss; a teacher is heard there."""
    model = case(name).make(0)
    batch = batch_of(model)
    with torch.no_grad(), heard(model) as said:
        loss = model.loss(batch, 3)
    found = answer(said, batch, "policy")
    assert found.shape[:2] == batch.actions.shape[:2]
    assert found.shape[2] >= batch.actions.shape[2]
    head = model.module.get_submodule(model.head)
    handle = head.register_forward_hook(lambda _module, _args, output: output + 0.5)
    with torch.no_grad():
        moved = model.loss(batch, 3)
    handle.remove()
    assert not torch.isclose(moved, loss, rtol=1e-3).any()


@families
def test_a_teacher_can_be_followed_and_cuts_be_healed(name: str) -> None:
    """Answers and streams of the whole policy pull the pruned one, and the refit brings it nearer."""
    teacher, model = case(name).make(0), case(name).make(0)
    group = model.groups[0]
    drop(model, plan_of(model, group.role, droppable(group, len(group.stack(model.module))), form="stub"))
    batches = [model.collate(samples_for(model, 3, seed)) for seed in (1, 2, 3, 4)]
    loss = distilled_loss(teacher, 1.0, 1.0)(model, batches[0], 0)
    loss.backward()
    with torch.no_grad():
        own = model.loss(batches[0], 0).mean()
    assert float(loss.detach()) > float(own)
    found = heal(model, teacher, batches)
    assert found
    assert all(cut.error_after <= cut.error_before for cut in found)
    assert any(cut.error_after < cut.error_before for cut in found)


@families
def test_padded_steps_carry_no_loss(name: str) -> None:
    model = case(name).make(0)
    sample = samples_for(model, 1)[0]
    pad, wild = sample.pad.copy(), sample.actions.copy()
    pad[-2:], wild[-2:] = True, wild[-2:] + 0.05
    with torch.no_grad():
        losses = [
            float(model.loss(model.collate([replace(sample, actions=a, pad=pad)]), 1)) for a in (sample.actions, wild)
        ]
        unpadded = [float(model.loss(model.collate([replace(sample, actions=a)]), 1)) for a in (sample.actions, wild)]
    if case(name).padding_is_seen:
        assert losses[0] != pytest.approx(unpadded[0], abs=1e-6)
    else:
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert unpadded[0] != pytest.approx(unpadded[1], abs=1e-6)


@families
def test_every_input_reaches_the_chunk(name: str) -> None:
    model = case(name).make(0)
    sample = samples_for(model, 1)[0]
    cameras = list(sample.images)
    turned = {c: np.ascontiguousarray(sample.images[c][::-1]) for c in cameras}
    variants = [replace(sample, images={**sample.images, c: turned[c]}) for c in cameras]
    variants += [replace(sample, state=sample.state + 0.3), replace(sample, instruction="close the lower door")]
    base = model.chunk(model.collate([sample]))
    for variant in variants:
        assert not torch.equal(base, model.chunk(model.collate([variant])))


@stacks
@pytest.mark.parametrize("part", PARTS)
def test_probe_is_the_finite_difference_of_a_real_gate(name: str, role: str, part: str) -> None:
    model = case(name).make(1)
    group, batch, step = find_group(model, role), batch_of(model, 2), 1e-2
    with quiet(model.module):
        ((derivative, _),) = gate_derivatives(model, [(group, part)], batch)
        for index in range(derivative.shape[1]):
            sides = []
            for alpha in (1.0 - step, 1.0 + step):
                with gated(model, group, index, part, alpha):
                    sides.append(model.loss(batch).double())
            slope = (sides[1] - sides[0]) / (2 * step)
            torch.testing.assert_close(derivative[:, index].double(), slope, rtol=0.03, atol=5e-5)


@stacks
@pytest.mark.parametrize("form", ["stub", "compact"])
def test_gate_of_zero_is_the_physical_cut(name: str, role: str, form: str) -> None:
    """For the loss and for the chunk, which may take different paths through the network."""
    model = case(name).make(1)
    group, batch = find_group(model, role), batch_of(model)
    if form == "compact" and not group.compact:
        with pytest.raises(DropError, match="form `stub`"):
            drop(model, plan_of(model, role, (1,), form="compact"))
        return
    with torch.no_grad():
        whole = model.loss(batch, 2)
    for dropped in units(group, len(group.stack(model.module)), 1 if form == "stub" else group.unit):
        cut = case(name).make(1)
        with torch.no_grad(), ExitStack() as gates:
            for index in dropped:
                gates.enter_context(gated(model, group, index, "block", 0.0))
            wanted = model.loss(batch, 2), model.chunk(batch, 2)
        drop(cut, plan_of(cut, role, dropped, form=form))
        with torch.no_grad():
            torch.testing.assert_close(cut.loss(batch, 2), wanted[0], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(cut.chunk(batch, 2), wanted[1], rtol=1e-5, atol=1e-5)
        if not any((role, index, "block") in case(name).dead for index in dropped):
            assert not torch.allclose(whole, wanted[0], rtol=1e-5)


@stacks
@pytest.mark.parametrize(
    ("part", "form"), [("block", "auto"), ("block", "stub"), ("attention", "stub"), ("mlp", "stub")]
)
def test_what_was_dropped_is_gone_and_comes_back_bit_equal_from_disk(
    name: str, role: str, part: str, form: str, tmp_path: Path
) -> None:
    model = case(name).make(0)
    group = find_group(model, role)
    batch, depth = batch_of(model), len(group.stack(model.module))
    dropped = droppable(group, depth)
    before = {n: p.numel() for n, p in model.module.state_dict().items()}
    promised = promised_tensors(model, group, dropped, part, form)
    drop(model, plan_of(model, role, dropped, part, form))
    after = {n: p.numel() for n, p in model.module.state_dict().items()}
    assert sum(before.values()) - sum(after.values()) == promised > 0
    model.save(tmp_path / "pruned")
    loaded = case(name).load(tmp_path / "pruned")
    assert torch.equal(loaded.chunk(batch, 4), model.chunk(batch, 4))
    with torch.no_grad():
        assert torch.equal(loaded.loss(batch, 4), model.loss(batch, 4))
    assert loaded.identity() == model.identity()
    assert loaded.surgery[role] == model.surgery[role]


def promised_tensors(model: VlaModel, group: BlockGroup, dropped: tuple[int, ...], part: str, form: str) -> int:
    """Elements that leave: whole blocks where the list gets shorter, their writers where slots stay."""
    compact = part == "block" and form == "auto" and group.compact
    found = 0
    for index in dropped:
        block = group.stack(model.module)[index]
        attention, mlp = block.get_submodule(group.attention), block.get_submodule(group.mlp)
        leaving = [attention.q_proj, attention.o_proj] if group.shared_kv else [attention]
        modules = [block] if compact else {"block": [*leaving, mlp], "attention": leaving, "mlp": [mlp]}[part]
        found += sum(value.numel() for module in modules for value in module.state_dict().values())
    return found


@stacks
@pytest.mark.parametrize(
    ("part", "form"), [("block", "auto"), ("block", "stub"), ("attention", "stub"), ("mlp", "stub")]
)
def test_counted_costs_are_what_a_cut_leaves(name: str, role: str, part: str, form: str) -> None:
    model = case(name).make(0)
    group, batch = find_group(model, role), batch_of(model, 1)
    dropped = droppable(group, len(group.stack(model.module))) if form == "auto" and group.compact else (1,)
    costs = measure(model, batch, role, part, form=form)
    predicted = costs.left(dropped)
    drop(model, plan_of(model, role, dropped, part, form))
    assert sum(p.numel() for p in model.module.parameters()) == predicted["parameters"]
    left = count_flops(model, batch, group, part, form)[0]
    assert left / costs.total_flops == pytest.approx(predicted["flops_share"], abs=1e-6)


@stacks
def test_stubs_hold_no_weights(name: str, role: str) -> None:
    model = case(name).make(0)
    group = find_group(model, role)
    drop(model, plan_of(model, role, (1,), form="stub"))
    block = group.stack(model.module)[1]
    stubs = [m for m in block.modules() if isinstance(m, (ZeroAttention, ZeroMlp, ZeroProjection))]
    assert len(stubs) == (3 if group.shared_kv else 2)
    assert not any(list(stub.parameters()) for stub in stubs)


@families
def test_dead_blocks_score_exactly_zero_and_leave_without_loss(name: str) -> None:
    found: FamilyCase = case(name)
    if not found.dead:
        pytest.skip(f"{name}: no block of this family is dead")
    model = found.make(0)
    batch = batch_of(model)
    whole = model.chunk(batch)
    for role, index, part in found.dead:
        assert probe(model, [batch], role, part).of(index) == 0.0
        drop(model, plan_of(model, role, (index,), part, "stub"))
        assert torch.equal(model.chunk(batch), whole)


@families
def test_a_foreign_plan_is_refused(name: str) -> None:
    model, other = case(name).make(0), case(name).make(1)
    role = model.groups[0].role
    with pytest.raises(DropError, match="made for model"):
        drop(model, plan_of(other, role, (1,), form="stub"))


@families
def test_scores_become_a_plan_that_drops(name: str) -> None:
    model = case(name).make(0)
    group, batch = model.groups[0], batch_of(model)
    scores = probe(model, [batch], group.role)
    plan = make_plan(scores, PlanSpec(role=group.role, drop=group.unit))
    drop(model, plan)
    assert len(plan.dropped) == group.unit
    assert torch.isfinite(model.chunk(batch)).all()


class Always:
    """The same batch at every step."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def batch(self, step: int) -> Batch:
        return self._batch

    def digest(self) -> str:
        return "one batch"


@families
def test_recovery_lowers_the_loss(name: str, tmp_path: Path) -> None:
    model = case(name).make(0)
    batch = batch_of(model, 4)
    drop(
        model,
        plan_of(model, model.groups[0].role, droppable(model.groups[0], len(model.groups[0].stack(model.module)))),
    )
    with torch.no_grad():
        before = float(model.loss(batch, 0).mean())
    fixed: Callable[[VlaModel, Batch, int], Tensor] = lambda m, b, _step: action_loss(m, b, 0)  # noqa: E731
    settings = TrainSettings(steps=12, lr=1e-3, warmup=2, ema=0.0, bf16=False)
    Trainer(model, Always(batch), settings, tmp_path / "run", tag="conformance").run(fixed)
    with torch.no_grad():
        assert float(model.loss(batch, 0).mean()) < 0.95 * before


@families
def test_the_artifact_answers_like_torch(name: str, tmp_path: Path) -> None:
    """Pruned, exported to ONNX, loaded by the robot's runtime from image bytes: the same commands (proved inside)."""
    model = case(name).make(0)
    group = model.groups[0]
    drop(model, plan_of(model, group.role, droppable(group, len(group.stack(model.module)))))
    lineage = {
        "source": {"name": name, "revision": "test", "sha256": "0" * 64},
        "recipe_sha256": "1" * 64,
        "plan_sha256": "2" * 64,
    }
    report = export_draft(model, samples_for(model, 8), tmp_path / "draft", lineage, convertibility="auto")
    assert report.golden.samples == 8
    assert report.golden.ok
    converts = json.loads((tmp_path / "draft" / CONVERTIBLE_FILE).read_text())
    assert converts["status"] == (CONVERTS if importlib.util.find_spec("tensorrt_rtx") else NOT_CHECKED)


@families
def test_damaged_weights_never_load(name: str, tmp_path: Path) -> None:
    model = case(name).make(0)
    model.save(tmp_path / "whole")
    file = "model.safetensors"
    weights = load_file(tmp_path / "whole" / file)
    largest = max(weights, key=lambda key: weights[key].numel())
    damages = {
        "missing": {k: v for k, v in weights.items() if k != largest},
        "extra": {**weights, "stray.weight": torch.zeros(2)},
        "reshaped": {**weights, largest: weights[largest].reshape(-1)},
        "not finite": {**weights, largest: torch.full_like(weights[largest], float("nan"))},
    }
    for what, damaged in damages.items():
        folder = tmp_path / what
        folder.mkdir()
        for path in (tmp_path / "whole").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        save_file(damaged, folder / file)
        with pytest.raises(ModelError):
            case(name).load(folder)


@families
def test_weights_of_another_depth_never_load(name: str, tmp_path: Path) -> None:
    """Pruned weights under the whole model's header: the fault that gave random weights elsewhere."""
    model = case(name).make(0)
    model.save(tmp_path / "whole")
    drop(
        model,
        plan_of(model, model.groups[0].role, droppable(model.groups[0], len(model.groups[0].stack(model.module)))),
    )
    model.save(tmp_path / "pruned")
    (tmp_path / "whole" / "model.safetensors").write_bytes((tmp_path / "pruned" / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"tensors|expects"):
        case(name).load(tmp_path / "whole")


@families
def test_the_registry_loads_it(name: str, tmp_path: Path) -> None:
    model = case(name).make(0)
    model.save(tmp_path / "model")
    assert load_model(model.family, tmp_path / "model").identity() == model.identity()
    assert model.family == name


@families
def test_identity_sees_shuffled_layers(name: str, tmp_path: Path) -> None:
    model = case(name).make(0)
    before = model.identity()
    stack = model.groups[0].stack(model.module)
    first, second = stack[0].state_dict(), {k: v.clone() for k, v in stack[1].state_dict().items()}
    if {k: v.shape for k, v in first.items()} != {k: v.shape for k, v in second.items()}:
        pytest.skip(f"{name}: neighbouring blocks have different shapes")
    stack[1].load_state_dict(first)
    stack[0].load_state_dict(second)
    assert model.identity() != before


@families
def test_stock_loader_reads_what_was_compacted(name: str, tmp_path: Path) -> None:
    found = case(name)
    model = found.make(0)
    if found.stock_chunk is None:
        assert model.stock_config() is None
        pytest.skip(f"{name}: {found.why_no_library or 'no stock class can express a pruned network of this family'}")
    group = next(g for g in model.groups if g.compact)
    drop(model, plan_of(model, group.role, droppable(group, len(group.stack(model.module)))))
    config = model.stock_config()
    assert config is not None
    json.dumps(config)
    batch = batch_of(model)
    model.save_stock(tmp_path / "stock")  # type: ignore[attr-defined]
    scale, offset = (torch.from_numpy(getattr(normalizer_of(model), n)).float() for n in ("scale", "offset"))
    wanted = found.stock_chunk(tmp_path / "stock", batch).float() * scale + offset
    torch.testing.assert_close(model.chunk(batch), wanted, rtol=1e-5, atol=1e-5)
