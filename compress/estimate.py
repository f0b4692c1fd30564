# SPDX-License-Identifier: Apache-2.0
"""Will it fit, and how long will it take: memory and time of a recipe's stages, before any weight is read.

Sizes come from the headers of the safetensors files. Per sample, a block of width D and MLP width F keeps, in bytes per
token (measured by counting what autograd saves in transformers' Llama and SigLIP blocks; attention fused):

    kept for              gated MLP        plain MLP
    training, bfloat16    36 D +  8 F      24 D + 4 F
    training, float32     42 D + 16 F      32 D + 8 F
    probing,  float32     26 D + 12 F      24 D + 4 F     (weights frozen; half of it in bfloat16)

With activation checkpointing a block keeps its input (4 D), and one block at a time has all of the above. A trained
number costs its weight, a gradient, two moments and, with `ema`, an average; one in float32 that computes in bfloat16
has a copy. Good to about a third: allocators, workspaces and what lies outside the stacks are an eighth on top.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from compress.checkpoint_size import Sizes, Stack, sizes
from compress.dtr.spec import RecoverSpec
from compress.models.registry import checkpoint_path
from compress.plan_spec import PlanSpec
from compress.recipe import Recipe
from compress.scores import roles_of

PASSES = {"gateprobe": 2, "cosine": 1, "taylor": 3, "fisher": 3}  # in forward passes; loo: half the depth
BESIDE, ATTAINED = 1.125, 0.4  # memory beside what is counted; share of a big matmul's rate that training attains
CLOSE, FULL = 0.8, 0.95  # of the memory that is free
GIB = 1 << 30


@dataclass(frozen=True)
class Memory:
    """Bytes in one process."""

    weights: float
    gradients: float = 0.0
    optimizer: float = 0.0
    average: float = 0.0
    copies: float = 0.0
    teacher: float = 0.0
    activations: float = 0.0

    @property
    def total(self) -> float:
        """With what cannot be counted."""
        return BESIDE * sum(asdict(self).values())


@dataclass(frozen=True)
class Device:
    """Where it will run: name, free bytes, and operations per second of a big matrix product."""

    name: str
    memory: float
    flops: float


def pruned(whole: Sizes, plans: tuple[PlanSpec, ...]) -> Sizes:
    """After the cuts whose amount is known beforehand; a budget in other units counts as no cut."""
    stacks = []
    for stack in whole.stacks:
        blocks = stack.blocks
        for plan in plans:
            if _of(stack, plan.role):
                name, value = plan.amount
                left = {"keep": value, "drop": stack.blocks - value, "keep_fraction": stack.blocks * value}
                gone = stack.blocks - left.get(name, stack.blocks)
                blocks -= gone * (1.0 if plan.part == "block" else 0.5)
        stacks.append(replace(stack, blocks=max(blocks, 0.0)))
    lost = sum((a.blocks - b.blocks) * a.matrices for a, b in zip(whole.stacks, stacks, strict=True))
    return Sizes(whole.parameters - lost, whole.bytes - lost * whole.width, whole.width, tuple(stacks))


def _of(stack: Stack, role: str) -> bool:
    kinds = [name.partition(".")[::2] for name in roles_of(role)]
    return any(
        stack.kind == kind and (not tower or tower[:4] in stack.name or "vis" in stack.name) for kind, tower in kinds
    )


def activations(stack: Stack, training: bool, width: int) -> float:
    """Bytes per block and sample, computing in numbers of `width` bytes; the table above."""
    d, f = stack.width, stack.inner
    if not training:
        per_token = (26 * d + 12 * f if stack.gated else 24 * d + 4 * f) * width / 4
    elif width == 4:
        per_token = 42 * d + 16 * f if stack.gated else 32 * d + 8 * f
    else:
        per_token = 36 * d + 8 * f if stack.gated else 24 * d + 4 * f
    return per_token * stack.tokens


def probing(whole: Sizes, batch_size: int) -> Memory:
    """Weights once, no gradients of them, and the activations of one batch."""
    kept = sum(stack.blocks * activations(stack, False, whole.width) for stack in whole.stacks)
    return Memory(weights=whole.bytes, activations=batch_size * kept)


def recovering(small: Sizes, whole: Sizes, spec: RecoverSpec, processes: int = 1) -> Memory:
    """One process's share of a recovery; `fsdp` divides what is trained and held, and every batch is divided."""
    cold = [stack for stack in small.stacks if any(_of(stack, role) for role in spec.freeze)]
    frozen = sum(stack.blocks * stack.matrices for stack in cold)
    own = small.width
    if spec.method == "lora":
        adapters = spec.lora_rank * sum(s.blocks * s.sides for s in small.stacks if s not in cold)
        trained, frozen, master = adapters, small.parameters, 4
    else:
        trained, master = small.parameters - frozen, 4 if spec.param_dtype == "bfloat16" else own
    held = min(own, 2) if spec.param_dtype == "bfloat16" else own
    part = processes if spec.spreading == "fsdp" else 1
    copies = 2.0 * (trained * (master == 4) + frozen * (held == 4)) if spec.bf16 else 0.0
    warm = [stack for stack in small.stacks if stack not in cold]
    width = 2 if spec.bf16 or own == 2 else 4
    full = sum(stack.blocks * activations(stack, True, width) for stack in warm)
    if spec.activation_checkpointing:
        peak = max((activations(stack, True, width) for stack in warm), default=0.0)
        full = peak + sum(stack.blocks * stack.tokens * stack.width * 4.0 for stack in warm)
    return Memory(
        weights=(trained * master + frozen * held) / part,
        gradients=trained * master / part,
        optimizer=2 * trained * master / part,
        average=trained * master / part if spec.ema else 0.0,
        copies=copies / part,
        teacher=whole.bytes if spec.taught or spec.compute_matched else 0.0,
        activations=spec.batch_size / processes * full,
    )


def choices(recipe: Recipe) -> dict[str, RecoverSpec]:
    """The recipe's recovery as full fine-tuning, with stacks frozen (its own, or the vision towers), and as LoRA."""
    spec, cuts_vision = recipe.recover, any(plan.role.startswith("vision") for plan in recipe.plan)
    cold = spec.freeze or (() if cuts_vision else ("vision",))
    found = {"full": replace(spec, method="full", freeze=()), "lora": replace(spec, method="lora")}
    return {**found, "frozen": replace(spec, method="full", freeze=cold)} if cold else found


def smaller(spec: RecoverSpec) -> list[tuple[str, RecoverSpec]]:
    """Ever smaller forms of a recovery, each with the settings that make it."""
    again = "activation_checkpointing: true"
    lora = f"method: lora, param_dtype: bfloat16, {again}"
    thin = replace(spec, method="lora", bf16=True, param_dtype="bfloat16", activation_checkpointing=True)
    alone = replace(thin, batch_size=1, heal=False, distill=0.0, features=0.0, compute_matched=False)
    return [
        (again, replace(spec, activation_checkpointing=True)),
        (f"{again}, batch_size: 1", replace(spec, activation_checkpointing=True, batch_size=1)),
        (lora, thin),
        (f"{lora}, batch_size: 1", replace(thin, batch_size=1)),
        (f"{lora}, batch_size: 1, and heal, distill, features and compute_matched off (no teacher)", alone),
    ]


def estimate(recipe: Recipe, device: Device, processes: int = 1) -> dict[str, Any]:
    """Plain numbers of a recipe on a device: sizes, memory, hours, what is `close`, and `refusals` in words.

    Raises:
        compress.checkpoint_size.SizeError: the checkpoint's size cannot be told.
        compress.models.registry.UnknownFamilyError: there is no checkpoint.
    """
    family = recipe.model.family
    whole = sizes(checkpoint_path(family, recipe.model.checkpoint), family)
    small, spec = pruned(whole, recipe.plan), recipe.recover
    probe, own = probing(whole, recipe.probe.batch_size), recovering(small, whole, spec, processes)
    table = [
        {"method": name, "activation_checkpointing": again,
         **_plain(recovering(small, whole, replace(choice, activation_checkpointing=again), processes))}
        for name, choice in choices(recipe).items() for again in (False, True)
    ]  # fmt: skip
    return {
        "model": {
            "parameters": round(whole.parameters),
            "bytes": round(whole.bytes),
            "flops_per_sample": whole.forward_flops,
            "stacks": [asdict(stack) for stack in whole.stacks],
        },
        "pruned": {"parameters": round(small.parameters), "bytes": round(small.bytes)},
        "device": asdict(device),
        "processes": processes,
        "probe": _plain(probe),
        "recover": _plain(own),
        "choices": table,
        "hours": _hours(recipe, whole, small, device, processes),
        "close": [n for n, m in (("probe", probe), ("recover", own)) if CLOSE < m.total / device.memory <= FULL],
        "refusals": _refusals(recipe, probe, own, small, whole, device, processes),
    }


def _plain(memory: Memory) -> dict[str, float]:
    return {**{name: round(value) for name, value in asdict(memory).items()}, "total": round(memory.total)}


def _refusals(
    recipe: Recipe, probe: Memory, own: Memory, small: Sizes, whole: Sizes, device: Device, processes: int
) -> list[str]:
    found, limit = [], FULL * device.memory
    if probe.total > limit:
        least = probing(whole, 1)
        advice = "set probe.batch_size to 1" if least.total <= limit else "even probe.batch_size 1 needs " + _gib(least)
        found.append(f"the probe needs {_gib(probe)}, {device.memory / GIB:.1f} GiB are free: {advice}")
    if own.total > limit:
        needs = [(said, recovering(small, whole, tried, processes)) for said, tried in smaller(recipe.recover)]
        fits = next((f"set in `recover` {said}: {_gib(need)}" for said, need in needs if need.total <= limit), "")
        least = needs[-1][1]
        advice = (
            fits or f"even the smallest choice (LoRA on bfloat16, batch 1) needs {_gib(least)}: use a bigger device"
        )
        found.append(f"the recovery needs {_gib(own)}, {device.memory / GIB:.1f} GiB are free: {advice}")
    return found


def _hours(recipe: Recipe, whole: Sizes, small: Sizes, device: Device, processes: int) -> dict[str, float]:
    spec, rate = recipe.recover, device.flops * ATTAINED * processes * 3600.0
    depth = max((stack.blocks for stack in whole.stacks), default=1.0)
    passes = sum(PASSES.get(m, depth / 2 if m == "loo" else 0.0) for m in {recipe.probe.metric, *recipe.probe.compare})
    probe = recipe.probe.samples * whole.forward_flops * passes * len(recipe.plan)
    share = small.forward_flops / max(whole.forward_flops, 1.0) if spec.compute_matched else 1.0
    cold = sum(2.0 * s.matrices * s.blocks * s.tokens for s in small.stacks if any(_of(s, r) for r in spec.freeze))
    warm = small.forward_flops - cold
    each = cold + warm * ((2.1 if spec.method == "lora" else 3.0) + spec.activation_checkpointing)
    each += whole.forward_flops if spec.distill or spec.features else 0.0
    return {"probe": probe / rate, "recover": spec.steps / share * spec.batch_size * each / rate}


def _gib(memory: Memory) -> str:
    return f"{memory.total / GIB:.1f} GiB"
