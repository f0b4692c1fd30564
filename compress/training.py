# SPDX-License-Identifier: Apache-2.0
"""One training loop for the reference policy and for recovery: AdamW, warm-up, EMA, resumable bit for bit.

Every batch is a function of (seed, step) alone and the model has no dropout, so a run is described by its step number,
weights and optimizer state: a resumed run computes what the uninterrupted run would have computed. Where the
parameters lie, and how many processes share a batch, is the business of `compress.scale`; a checkpoint of several
processes can be taken up by another number of them (equal then to rounding, not to the bit).
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from compress.atomic import write_atomic
from compress.models.base import Batch, VlaModel
from compress.scale.blocks import checkpointed
from compress.scale.keeper import CHECKPOINT as CHECKPOINT
from compress.scale.keeper import Keeper, KeepError
from compress.scale.place import Alone, Place, local
from compress.scale.share import share_of

LOG = "train_log.jsonl"
WITHOUT_EFFECT = ("checkpoint_s", "activation_checkpointing")  # settings that leave the result as it is


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says why and what to do."""


class BatchSource(Protocol):
    """Batches by number."""

    def batch(self, step: int) -> Batch:
        """The batch of `step`: always the same one."""
        ...

    def digest(self) -> str:
        """sha256 of everything the batches are made from."""
        ...


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        steps: optimizer steps in all.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        schedule: `cosine` (to zero) or `constant`.
        weight_decay: AdamW, on matrices only.
        clip: gradient norm limit.
        ema: decay of the averaged weights that are returned; 0 turns averaging off.
        seed: of the loss noise.
        bf16: compute in bfloat16 where the device has it; weights stay float32.
        checkpoint_s: seconds between checkpoints; what a SIGKILL costs at most.
        log_every: steps between rows of the loss curve.
        activation_checkpointing: compute activations inside blocks twice instead of keeping them (`scale.blocks`).
    """

    steps: int
    lr: float = 5e-4
    warmup: int = 100
    schedule: str = "cosine"
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    bf16: bool = True
    checkpoint_s: float = 30.0
    log_every: int = 10
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.lr > 0.0 or not 0.0 <= self.ema < 1.0 or self.warmup < 0:
            found = f"steps {self.steps}, lr {self.lr}, ema {self.ema}, warmup {self.warmup}"
            raise TrainingError(f"{found}: expected >= 0, > 0, [0, 1), >= 0")
        if self.schedule not in ("cosine", "constant"):
            raise TrainingError(f"schedule is {self.schedule!r}, expected one of: cosine, constant")

    def lr_at(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * done))


LossFn = Callable[[VlaModel, Batch, int], Tensor]
OnStep = Callable[[int, float, float], None]


def action_loss(model: VlaModel, batch: Batch, step: int) -> Tensor:
    """The family's own loss, averaged over the batch."""
    return model.loss(batch, noise_seed=step).mean()


class Trainer:
    """The state of one run in `folder`."""

    def __init__(
        self, model: VlaModel, source: BatchSource, settings: TrainSettings, folder: Path, tag: str = "",
        place: Place | None = None,
    ) -> None:  # fmt: skip
        """Prepare to train the parameters of `model` that require gradients.

        Args:
            model: trained in place.
            source: batches.
            settings: how.
            folder: holds the checkpoint and the loss curve.
            tag: identity of what is trained (model, plan); with settings and data it decides whether a checkpoint fits.
            place: where the parameters lie, with every process calling this; in this process alone by default.
        """
        self.place: Place = place or Alone(model)
        self.model, self.settings, self.folder = self.place.model, settings, folder
        self.source = share_of(source, self.place.world)
        how = {k: v for k, v in vars(settings).items() if k not in WITHOUT_EFFECT}
        self.key = json.dumps([tag, source.digest(), how], sort_keys=True)
        self.named = {n: p for n, p in self.model.module.named_parameters() if p.requires_grad}
        if not self.named:
            raise TrainingError("no parameter requires gradients: nothing to train")
        decay = [p for p in self.named.values() if p.ndim > 1]
        plain = [p for p in self.named.values() if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.lr, betas=(0.9, 0.95))
        self.average = {n: p.detach().clone() for n, p in self.named.items()} if settings.ema else {}
        self.keeper = Keeper(folder, self.key, self.named, self.average, self.optimizer, self.place.world)
        self.step = 0
        self.rows: list[dict[str, float]] = []

    def run(
        self, loss_fn: LossFn = action_loss, on_step: OnStep | None = None, until: int | None = None
    ) -> list[dict[str, float]]:
        """Train to the last step and leave the averaged weights in the model.

        Args:
            loss_fn: scalar loss of a batch.
            on_step: called with step, loss and learning rate.
            until: end after this step although the schedule goes on; the checkpoint can be taken further.

        Returns:
            The loss curve, rows of step, loss and lr.

        Raises:
            TrainingError: the loss or its gradient became NaN or infinite (the last checkpoint stays), or the folder's
                checkpoint cannot be used.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        self.model.module.train()
        try:
            with checkpointed(self.model, self.settings.activation_checkpointing):
                last = self.settings.steps if until is None else min(until, self.settings.steps)
                self._steps(last, loss_fn, on_step)
        except KeyboardInterrupt:
            if self.place.world.alone:  # several processes were not interrupted in the same step
                self.save()
            raise
        self.save()
        with torch.no_grad():
            for name, value in self.average.items():
                self.named[name].copy_(value)
        self.place.settle()
        self.model.module.eval()
        return self.rows

    def _steps(self, last: int, loss_fn: LossFn, on_step: OnStep | None) -> None:
        saved = time.monotonic()
        while self.step < last:
            loss = self._one_step(loss_fn)
            if self.step % self.settings.log_every == 0 or self.step == last:
                self.rows.append({"step": self.step, "loss": loss, "lr": self.settings.lr_at(self.step - 1)})
            if on_step is not None:
                on_step(self.step, loss, self.settings.lr_at(self.step - 1))
            if self.place.world.said_by_first(time.monotonic() - saved > self.settings.checkpoint_s):
                self.save()
                saved = time.monotonic()

    def _one_step(self, loss_fn: LossFn) -> float:
        """One optimizer step; nothing of the state changes if it is interrupted before the update."""
        settings, device = self.settings, next(iter(self.named.values())).device
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr_at(self.step)
        batch = self.source.batch(self.step).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            loss = self.place.loss(lambda: loss_fn(self.model, batch, self.step))
        value = float(self.place.world.mean(loss.detach()))
        self._require_finite("loss", value, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = self.place.clip(self.named.values(), settings.clip)
        self._require_finite("gradient norm", norm, batch)  # a finite loss can have a NaN gradient
        with _uninterrupted():
            self.optimizer.step()
            self._follow()
            self.step += 1
        return value

    def _require_finite(self, what: str, value: float, batch: Batch) -> None:
        if not math.isfinite(value):
            path = self.keeper.last()
            last = f"the last good checkpoint is {path}" if path is not None else "no checkpoint was written yet"
            names = [name for part in self.place.world.gathered(batch.sample_ids) for name in part]
            raise TrainingError(
                f"{what} is {value} at step {self.step} (samples {', '.join(names)}): "
                f"lower `lr` ({self.settings.lr}) or check these demonstrations; {last}"
            )

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged weights; young averages forget faster."""
        if self.average:
            decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(
                list(map(local, self.average.values())), list(map(local, self.named.values())), 1.0 - decay
            )

    def save(self) -> None:
        """Write the checkpoint and the loss curve, atomically; several processes write theirs together."""
        self.keeper.save(self.step, self.rows)
        if self.place.world.first:
            text = "".join(json.dumps(row) + "\n" for row in self.rows)
            write_atomic(self.folder / LOG, lambda handle: handle.write(text.encode()))

    def resume(self) -> None:
        """Take up the folder's checkpoint, if there is one; `run` does this too.

        Raises:
            TrainingError: it is damaged, or of another model, data set or settings.
        """
        try:
            found = self.keeper.resume()
        except KeepError as error:
            raise TrainingError(str(error)) from error
        if found is not None:
            self.step, self.rows = found


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C while weights, averages and the step counter move together."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        raise KeyboardInterrupt
