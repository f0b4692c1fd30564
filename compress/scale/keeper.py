# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of one training folder: a file where one process trains, a folder of parts where several do.

Whichever was written last is taken up, by one process or by several.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.atomic import write_atomic
from compress.scale import parts
from compress.scale.place import spread
from compress.scale.world import World
from compress.torch_files import load_tensors

CHECKPOINT = "checkpoint.pt"
MOMENTS = ("exp_avg", "exp_avg_sq")


class KeepError(ValueError):
    """A checkpoint that is damaged or belongs to another run."""


class Keeper:
    """Saves and restores, in place, what training changes."""

    def __init__(
        self, folder: Path, key: str, named: Mapping[str, Tensor], average: Mapping[str, Tensor],
        optimizer: torch.optim.AdamW, world: World,
    ) -> None:  # fmt: skip
        """A keeper for `folder`.

        Args:
            folder: of the run; all processes see the same one.
            key: what a checkpoint must have been written with to fit.
            named: trained tensors by name, as this process holds them.
            average: their averages, by the same names; may be empty.
            optimizer: of all tensors in `named`.
            world: the processes that train together.
        """
        self.folder, self.key, self.world = folder, key, world
        self.named, self.average, self.optimizer = named, average, optimizer

    def save(self, step: int, rows: list[dict[str, float]]) -> None:
        """Write the checkpoint of `step` atomically (all processes must call), and remove one of the other kind."""
        if self.world.alone:
            state = {
                "key": self.key,
                "step": step,
                "weights": {n: p.detach() for n, p in self.named.items()},
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
                "rows": rows,
            }
            write_atomic(self.folder / CHECKPOINT, lambda handle: torch.save(state, handle))
            parts.discard(self.folder)
            return
        moved = {n: self.optimizer.state[p] for n, p in self.named.items() if self.optimizer.state.get(p)}
        steps = {name: float(state["step"]) for name, state in moved.items()}
        facts = {"key": self.key, "step": step, "rows": rows, "adam_steps": steps}
        parts.write(self.folder, step, self._tensors(steps), facts, self.world)
        if self.world.first:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def resume(self) -> tuple[int, list[dict[str, float]]] | None:
        """Restore the last checkpoint; its step and the loss curve up to it, or None if there is none.

        Raises:
            KeepError: it is damaged, or of another run.
        """
        if self.world.first:
            for torn in self.folder.glob(f".{CHECKPOINT}.*.tmp"):  # what a kill in mid-write leaves behind
                torn.unlink(missing_ok=True)
            parts.clean(self.folder)
        self.world.barrier()
        path = self.folder / CHECKPOINT
        try:
            together = parts.newest(self.folder)
            alone = _read(path) if path.exists() else None
            if together is not None and (alone is None or together[1]["step"] > alone["step"]):
                return self._take_parts(*together)
        except parts.PartsError as error:
            raise KeepError(str(error)) from error
        return None if alone is None else self._take(alone, path)

    def last(self) -> Path | None:
        """Where the last checkpoint is."""
        path = self.folder / CHECKPOINT
        if path.exists():
            return path
        together = parts.newest(self.folder)
        return None if together is None else together[0]

    def _tensors(self, moved: Mapping[str, float]) -> dict[str, Tensor]:
        """Everything by name; the moments of those parameters that ever had a gradient."""
        found = {f"weights.{name}": parameter.detach() for name, parameter in self.named.items()}
        found |= {f"average.{name}": value for name, value in self.average.items()}
        for moment in MOMENTS:
            found |= {f"{moment}.{name}": self.optimizer.state[self.named[name]][moment] for name in moved}
        return found

    @torch.no_grad()
    def _take(self, state: dict[str, Any], path: Path) -> tuple[int, list[dict[str, float]]]:
        """What one process wrote."""
        self._require_own(path, state["key"])
        for name, value in state["weights"].items():
            self.named[name].copy_(spread(value, self.named[name]))
        for name, value in state["average"].items():
            self.average[name].copy_(spread(value, self.named[name]))
        if self.world.alone:
            self.optimizer.load_state_dict(state["optimizer"])
        else:
            numbered = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            for number, held in state["optimizer"]["state"].items():
                moments = {moment: spread(held[moment], numbered[number]) for moment in MOMENTS}
                self.optimizer.state[numbered[number]] = {"step": held["step"], **moments}
        return state["step"], state["rows"]

    @torch.no_grad()
    def _take_parts(self, path: Path, facts: dict[str, Any]) -> tuple[int, list[dict[str, float]]]:
        """What several processes wrote."""
        self._require_own(path, facts["key"])
        for name, steps in facts["adam_steps"].items():
            moments = {moment: torch.zeros_like(self.named[name]) for moment in MOMENTS}
            self.optimizer.state[self.named[name]] = {"step": torch.tensor(steps), **moments}
        parts.read(path, self._tensors(facts["adam_steps"]), self.world)
        return facts["step"], facts["rows"]

    def _require_own(self, path: Path, key: str) -> None:
        if key != self.key:
            raise KeepError(f"{path} belongs to another model, data set or recipe: use another folder, or delete it")


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = load_tensors(path)
    except Exception as error:  # torch raises several kinds for a damaged file
        raise KeepError(
            f"{path} cannot be read, it is truncated or damaged ({error}): delete it to start over"
        ) from error
    missing = sorted({"key", "step", "weights", "average", "optimizer", "rows"} - set(state))
    if missing:
        raise KeepError(f"{path} is not a training checkpoint (no {', '.join(missing)}): delete it to start over")
    return state
