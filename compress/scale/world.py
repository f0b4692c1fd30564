# SPDX-License-Identifier: Apache-2.0
"""Which of how many processes this one is, and how they talk: torchrun's environment, gloo on CPUs, NCCL on GPUs.

Without torchrun there is one process, and everything here answers for itself without torch.distributed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

Value = TypeVar("Value")
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
COLLECTIVE_S = 1800.0  # a process that does not come within this time is taken for dead
WAITING_S = 7 * 86400.0  # the others wait while the first one works alone


class WorldError(RuntimeError):
    """Processes that cannot find each other, or one that failed; the message names it."""


@dataclass(frozen=True)
class World:
    """This process among all of them.

    Attributes:
        rank: 0 to `size` - 1; 0 is the one that writes.
        size: how many.
        control: a group on CPUs in which a long wait is no failure; None where there is one process.
    """

    rank: int = 0
    size: int = 1
    control: ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this process locks, reports and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1

    def said_by_first(self, value: Any) -> Any:
        """The first process's `value`, in every process (all must call)."""
        if self.alone:
            return value
        import torch.distributed as dist

        held = [value]
        dist.broadcast_object_list(held, src=0, group=self.control)
        return held[0]

    def gathered(self, value: Value) -> list[Value]:
        """Everybody's `value`, by rank, in every process (all must call)."""
        if self.alone:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.control)
        return found

    def together(self, work: Callable[[], Value], what: str) -> list[Value]:
        """Do `work` in every process and gather the results by rank.

        Raises:
            Exception: what failed here, or a WorldError that says what failed elsewhere: no process waits for another
                one that will not come.
        """
        if self.alone:
            return [work()]
        failure: Exception | None = None
        result: Value | None = None
        try:
            result = work()
        except Exception as error:
            failure = error
        said = "" if failure is None else f"{type(failure).__name__}: {failure}"
        found = self.gathered((said, result))
        if failure is not None:
            raise failure
        for rank, (text, _) in enumerate(found):
            if text:
                raise WorldError(f"{what}: process {rank} of {self.size} failed: {text}")
        return [value for _, value in found]  # type: ignore[misc]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a detached tensor over the processes; itself where there is one."""
        if self.alone:
            return value
        import torch.distributed as dist

        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def barrier(self) -> None:
        """Wait for all."""
        self.gathered(None)


def launched() -> bool:
    """Whether torchrun (or something that sets the same variables) started several processes; needs no torch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def current() -> World:
    """The world that is joined; one process where none is."""
    return _joined[-1] if _joined else World()


@contextmanager
def joined(collective_s: float = COLLECTIVE_S) -> Iterator[World]:
    """Meet the other processes that torchrun started; leave them on the way out.

    Args:
        collective_s: seconds after which a process that does not answer in a computation is taken for dead.

    Raises:
        WorldError: the environment is not torchrun's, or there are more processes than GPUs.
    """
    import torch
    import torch.distributed as dist

    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise WorldError(
            f"{', '.join(missing)} not set in the environment: start with "
            "`torchrun --nproc-per-node N -m compress VERB RECIPE`"
        )
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    backend = "gloo"
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise WorldError(
                f"process {local} of this machine finds {torch.cuda.device_count()} GPUs: lower --nproc-per-node"
            )
        torch.cuda.set_device(local)  # from here on `cuda` means this process's own
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=timedelta(seconds=collective_s))
    control = dist.new_group(backend="gloo", timeout=timedelta(seconds=WAITING_S))
    _joined.append(World(rank, size, control))
    try:
        yield _joined[-1]
    finally:
        _joined.pop()
    dist.destroy_process_group()  # not after an error: others may never come, and the process is about to end


_joined: list[World] = []
