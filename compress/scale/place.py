# SPDX-License-Identifier: Apache-2.0
"""Where the parameters lie while they are trained: whole in one process, whole in each (DDP), or in parts (FSDP2).

    process      parameters, gradients, optimizer and average       gradients meet
    Alone        all here                                           -
    Replicated   all in every process                               all-reduced in buckets during the backward pass
    Sharded      a part each; a block is whole while it computes    reduce-scattered block by block

A policy's loss is no `forward` of its network (it reads embeddings and calls towers one by one), so the loss itself is
what torch's wrappers are put around: `Objective`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compress.models.base import VlaModel
from compress.scale.sealed import seal
from compress.scale.world import World


class Place(Protocol):
    """What a trainer has to know of it."""

    @property
    def world(self) -> World:
        """The processes that train together."""
        ...

    @property
    def model(self) -> VlaModel:
        """The policy whose parameters are trained; its loss is computed inside `loss` only."""
        ...

    def loss(self, compute: Callable[[], Tensor]) -> Tensor:
        """`compute()`, so that its backward pass leaves the mean gradient of all processes."""
        ...

    def clip(self, parameters: Iterable[Tensor], limit: float) -> float:
        """Shrink the gradients to a norm of `limit` over all of them; returns the norm before."""
        ...

    def settle(self) -> None:
        """Training is over: the policy that was given has the trained weights, whole, in every process."""
        ...


class Objective(nn.Module):
    """A network under a module whose `forward` computes whatever it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        """A scalar loss."""
        return compute()


class Alone:
    """One process."""

    world = World()

    def __init__(self, model: VlaModel) -> None:
        self.model = model

    def loss(self, compute: Callable[[], Tensor]) -> Tensor:
        """As it is."""
        return compute()

    def clip(self, parameters: Iterable[Tensor], limit: float) -> float:
        """torch's own."""
        return float(nn.utils.clip_grad_norm_(list(parameters), limit))

    def settle(self) -> None:
        """Nothing to do."""


class Replicated:
    """Distributed data parallel: for few trained parameters (LoRA), or policies that fit several times over."""

    def __init__(self, model: VlaModel, world: World) -> None:
        """Every process starts from the first one's weights."""
        from torch.nn.parallel import DistributedDataParallel

        self.model, self.world = model, world
        self._objective = DistributedDataParallel(
            Objective(model.module),
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            static_graph=True,  # a last language block that only gives keys and values has dead weights
        )

    def loss(self, compute: Callable[[], Tensor]) -> Tensor:
        """Through DDP."""
        found: Tensor = self._objective(compute)
        return found

    def clip(self, parameters: Iterable[Tensor], limit: float) -> float:
        """The gradients are the same everywhere, and so is their norm."""
        return float(nn.utils.clip_grad_norm_(list(parameters), limit))

    def settle(self) -> None:
        """The policy that was given is the one that was trained."""


class Sharded:
    """Fully sharded data parallel: a twin of the policy is cut up, and the policy itself waits on the CPU."""

    def __init__(self, model: VlaModel, world: World, device: torch.device, bf16: bool = False) -> None:
        """Cut every block up by itself, and the rest as one.

        Where another stack reads a block's keys and values, gradients reach the block on ways that FSDP does not watch
        (its backward all-gather would not happen), so such a block stays whole between its two passes.

        Args:
            model: on the CPU, and it stays there: no device has to hold it whole.
            world: all processes.
            device: of this process.
            bf16: gather parameters in bfloat16 on a GPU; gradients are reduced in float32.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        self.world, self._whole = world, model
        _follow_first(model.module)
        views = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.module.parameters()}
        self.model: VlaModel = copy.deepcopy(model, dict(views))  # the same numbers until they are cut up
        mesh = init_device_mesh(device.type, (world.size,))
        policy = MixedPrecisionPolicy()
        if bf16 and device.type == "cuda":
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for group in self.model.groups:
            for block in group.stack(self.model.module):
                if next(block.parameters(), None) is not None:
                    fully_shard(block, mesh=mesh, reshard_after_forward=not group.shared_kv, mp_policy=policy)
                    seal(block)
        self._objective: Any = fully_shard(Objective(self.model.module), mesh=mesh, mp_policy=policy)

    def loss(self, compute: Callable[[], Tensor]) -> Tensor:
        """Through FSDP."""
        found: Tensor = self._objective(compute)
        return found

    def clip(self, parameters: Iterable[Tensor], limit: float) -> float:
        """The norm is of all parts together."""
        from torch.distributed.tensor import DTensor

        held = [parameter for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in held if parameter.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        nn.utils.clip_grads_with_norm_(held, limit, norm)
        return float(norm)

    @torch.no_grad()
    def settle(self) -> None:
        """Gather what was trained, tensor by tensor."""
        from torch.distributed.tensor import DTensor

        mine = dict(self._whole.module.named_parameters())
        for name, parameter in self.model.module.named_parameters():
            if parameter.requires_grad:
                value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
                mine[name].copy_(value)


@contextmanager
def waiting(model: VlaModel, wanted: bool) -> Iterator[None]:
    """While open, the policy is on the CPU; afterwards where it was."""
    device = next(model.module.parameters()).device
    if wanted:
        model.module.to("cpu")
    try:
        yield
    finally:
        model.module.to(device)


def place_of(model: VlaModel, world: World, parallel: str, device: torch.device, bf16: bool) -> Place:
    """The place that a recipe asks for: `ddp` or `fsdp` (then `model` is `waiting`); one process is always `Alone`."""
    if world.alone:
        return Alone(model)
    return Sharded(model, world, device, bf16) if parallel == "fsdp" else Replicated(model, world)


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor, on the same memory; a whole one is its own part."""
    part: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return part


def spread(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is held: on its device, and cut up if it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    here = value.to(like.device, like.dtype)
    if not isinstance(like, DTensor):
        return here
    return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def _follow_first(module: nn.Module) -> None:
    """Take over the first process's parameters (DDP does this by itself)."""
    import torch.distributed as dist

    for parameter in module.parameters():
        dist.broadcast(parameter.data, src=0)
