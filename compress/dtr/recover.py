# SPDX-License-Identifier: Apache-2.0
"""Recovery: fine-tune a pruned policy with its own action loss (arXiv 2606.27755, stage 2), and towards its teacher.

Compute matching follows the paper: a smaller policy may take steps / (its share of the FLOPs) steps for the same cost.
The run lives in a folder and resumes bit for bit after a kill; the report is `recovery.json` there.

Several processes (`scale.world`, `torchrun --nproc-per-node 4 -m compress recover RECIPE`) take equal parts of every
batch; all of them call `recover` with the same arguments and end with the same policy, the first one writes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.atomic import write_json
from compress.costs import flops_share
from compress.data.frames import FrameSource, FrameStore
from compress.dtr.freeze import frozen
from compress.dtr.heal import Healed, heal
from compress.dtr.lora import adapters
from compress.dtr.spec import RecoverSpec
from compress.dtr.teacher import distilled_loss
from compress.models.base import Batch, VlaModel
from compress.probing import device_of, quiet
from compress.scale.place import place_of, waiting
from compress.scale.precision import held_in
from compress.scale.share import require_even
from compress.scale.world import current
from compress.scores import Progress
from compress.training import BatchSource, LossFn, OnStep, Trainer, TrainSettings, action_loss

REPORT = "recovery.json"
HELD_OUT_FRAMES = 256
HEAL_FROM, HEAL_BATCHES = 1 << 20, 16  # batches that no training step will see in this order


class RecoverError(ValueError):
    """Recovery cannot be set up; the message says what is missing."""


@dataclass(frozen=True)
class RecoveryReport:
    """What one recovery did.

    Attributes:
        spec: the settings.
        steps: optimizer steps taken; `spec["steps"]`, or more if compute-matched.
        flops_share: of the pruned policy, 1.0 where nothing was removed; `None` if it was not needed and not known.
        action_error_before, action_error_after: mean absolute error per action dimension on held-out episodes, in the
            action's own units.
        loss_before, loss_after: the family's loss on the same frames.
        loss_healed: the same after the closed-form refit, before any step; `None` where nothing was healed.
        healed: what the refit did at each cut.
        held_out_frames: how many.
        curve: rows of step, loss, lr.
        data_digest: of the training batches.
        identity_before, identity_after, teacher_identity: of the models.
        resumed_at: the step at which this process took over an earlier one's checkpoint, 0 for a fresh run.
        wall_s: of this process.
        hardware: where.
    """

    spec: dict[str, Any]
    steps: int
    flops_share: float | None
    action_error_before: tuple[float, ...]
    action_error_after: tuple[float, ...]
    loss_before: float
    loss_healed: float | None
    healed: tuple[dict[str, Any], ...]
    loss_after: float
    held_out_frames: int
    curve: tuple[dict[str, float], ...]
    data_digest: str
    identity_before: str
    identity_after: str
    teacher_identity: str | None
    resumed_at: int
    wall_s: float
    hardware: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def recover(
    model: VlaModel,
    demos: FrameStore,
    spec: RecoverSpec,
    folder: Path,
    teacher: VlaModel | None = None,
    progress: Progress | None = None,
) -> RecoveryReport:
    """Fine-tune on all episodes but the held-out ones.

    Args:
        model: pruned, on its device; recovered in place.
        demos: demonstrations.
        spec: how.
        folder: of this run; a killed run is resumed from it.
        teacher: the whole policy, on the same device; needed if `spec.taught`.
        progress: called with step, steps in all and the loss as text.

    Raises:
        RecoverError: no teacher to distil from, or nothing to train or measure on.
        compress.training.TrainingError: NaN loss, or a checkpoint of another run in `folder`.
    """
    horizon = int(model.specs()["action"].horizon)
    training, testing = demos.split(spec.held_out, spec.seed)
    if len(training) < spec.batch_size or not len(testing):
        raise RecoverError(
            f"{len(training)} frames to train on and {len(testing)} held out, expected at least "
            f"{spec.batch_size} and 1: add episodes or lower batch_size"
        )
    source = FrameSource(demos, model, horizon, spec.batch_size, spec.seed, training)
    chosen = testing[np.linspace(0, len(testing) - 1, min(HELD_OUT_FRAMES, len(testing))).astype(int)]
    samples = demos.samples(chosen.tolist(), horizon)
    held_out = [model.collate(samples[at : at + spec.batch_size]) for at in range(0, len(samples), spec.batch_size)]
    truth = np.stack([sample.actions for sample in samples])
    return recover_on(model, source, held_out, truth, spec, folder, teacher, progress)


def recover_on(
    model: VlaModel, source: BatchSource, held_out: Sequence[Batch], truth: np.ndarray, spec: RecoverSpec, folder: Path,
    teacher: VlaModel | None = None, progress: Progress | None = None,
) -> RecoveryReport:  # fmt: skip
    """The same with any source of batches; `truth` holds the held-out actions in physical units, (N, H, A)."""
    if spec.taught and teacher is None:
        raise RecoverError(
            f"heal, distill and features ({spec.heal}, {spec.distill}, {spec.features}) need a teacher: give the "
            "unpruned policy, or set them to 0"
        )
    world = current()
    require_even(spec.batch_size, world)
    start, identity = time.perf_counter(), model.identity()
    share = flops_share(model, held_out[0], teacher) if spec.compute_matched else None
    steps = spec.steps if share is None else math.ceil(spec.steps / share)
    taught_by = teacher.identity() if teacher is not None and spec.taught else None
    error_before, loss_before = action_error(model, held_out, truth)
    healed: tuple[Healed, ...] = ()
    if teacher is not None and spec.heal:
        healed = heal(model, teacher, [source.batch(HEAL_FROM + number) for number in range(HEAL_BATCHES)])
    loss_healed = action_error(model, held_out, truth)[1] if healed else None
    loss_fn: LossFn = action_loss
    if teacher is not None and (spec.distill or spec.features):
        loss_fn = distilled_loss(teacher, spec.distill, spec.features)
    lora = adapters(model.module, spec.lora_rank, spec.seed) if spec.method == "lora" else nullcontext()
    device, cut_up = device_of(model.module), not world.alone and spec.spreading == "fsdp"
    with lora, waiting(model, cut_up), frozen(model, spec.freeze), held_in(model.module, spec.param_dtype):
        place = place_of(model, world, spec.spreading, device, spec.bf16)
        tag = json.dumps([identity, taught_by, spec.decisive()], sort_keys=True)
        trainer = Trainer(model, source, _settings(spec, steps), folder, tag, place)
        trainer.resume()
        resumed_at = trainer.step
        curve = trainer.run(loss_fn, _reporter(progress, steps))
        model.module.eval()
    error_after, loss_after = action_error(model, held_out, truth)
    report = RecoveryReport(
        spec=asdict(spec),
        steps=steps,
        flops_share=share,
        action_error_before=error_before,
        action_error_after=error_after,
        loss_before=loss_before,
        loss_healed=loss_healed,
        healed=tuple(asdict(cut) for cut in healed),
        loss_after=loss_after,
        held_out_frames=len(truth),
        curve=tuple(curve),
        data_digest=source.digest(),
        identity_before=identity,
        identity_after=model.identity(),
        teacher_identity=taught_by,
        resumed_at=resumed_at,
        wall_s=time.perf_counter() - start,
        hardware=_hardware(device, world.size),
    )
    if world.first:
        write_json(folder / REPORT, report.to_json())
    return report


def _hardware(device: torch.device, processes: int) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return name if processes == 1 else f"{processes} x {name}"


@torch.no_grad()
def action_error(model: VlaModel, batches: Sequence[Batch], truth: np.ndarray) -> tuple[tuple[float, ...], float]:
    """Mean absolute chunk error per action dimension (A,) over real steps, and the mean loss.

    Args:
        model: left as it was.
        batches: N samples.
        truth: (N, H, A), in physical units.
    """
    with quiet(model.module):
        found = np.concatenate([model.chunk(batch.to(device_of(model.module))).cpu().numpy() for batch in batches])
        losses = torch.cat([model.loss(batch.to(device_of(model.module))).cpu() for batch in batches])
    real = ~np.concatenate([batch.pad.cpu().numpy() for batch in batches])
    return tuple(map(float, np.abs(found - truth)[real].mean(axis=0))), float(losses.mean())


def _settings(spec: RecoverSpec, steps: int) -> TrainSettings:
    return TrainSettings(
        steps=steps,
        lr=spec.lr,
        warmup=spec.warmup,
        schedule=spec.schedule,
        weight_decay=spec.weight_decay,
        clip=spec.clip,
        ema=spec.ema,
        seed=spec.seed,
        bf16=spec.bf16,
        checkpoint_s=spec.checkpoint_s,
        log_every=spec.log_every,
        activation_checkpointing=spec.activation_checkpointing,
    )


def _reporter(progress: Progress | None, steps: int) -> OnStep | None:
    if progress is None:
        return None
    return lambda step, loss, _lr: progress(step, steps, f"loss {loss:.4f}")
