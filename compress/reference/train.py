# SPDX-License-Identifier: Apache-2.0
"""Train the reference policy from demonstrations: behaviour cloning with its own L1 chunk loss."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.atomic import write_json
from compress.data.frames import FrameArrays, FrameSource
from compress.models.reference import ReferenceVla
from compress.models.reference_config import ReferenceConfig
from compress.reference.tokenizer import build
from compress.training import Trainer, TrainSettings
from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import Normalization, Normalizers

MIN_STATE_SPREAD = 0.02  # half-range floor: 2 cm, 0.02 rad; still joints must not be blown up to full scale
MIN_ACTION_SPREAD = 0.25  # a quarter of a full command


@dataclass(frozen=True)
class ReferenceRun:
    """What one training run produced.

    Attributes:
        checkpoint: the folder of the trained policy (float16).
        held_out_l1: mean absolute error per action dimension on held-out episodes, in commands.
        final_loss: mean of the last tenth of the loss curve.
    """

    checkpoint: Path
    held_out_l1: tuple[float, ...]
    final_loss: float


def fit_normalizers(states: np.ndarray, actions: np.ndarray) -> Normalizers:
    """q01/q99 of the demonstrations, widened to a least spread; the gripper command passes through unchanged."""

    def fit(values: np.ndarray, least: float, mask: np.ndarray) -> Normalization:
        low, high = np.quantile(values.astype(np.float64), [0.01, 0.99], axis=0)
        middle, half = (low + high) / 2, np.maximum((high - low) / 2, least)
        return Normalization.of(NormMethod.Q01_Q99, middle - half, middle + half, mask)

    moving = np.ones(actions.shape[1], dtype=bool)
    moving[-1] = False
    return Normalizers(
        fit(states, MIN_STATE_SPREAD, np.ones(states.shape[1], dtype=bool)), fit(actions, MIN_ACTION_SPREAD, moving)
    )


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_reference(
    arrays: FrameArrays,
    folder: Path,
    config: ReferenceConfig,
    settings: TrainSettings,
    batch_size: int = 32,
    held_out: float = 0.04,
    initial: Path | None = None,
    until: int | None = None,
    on_step: Callable[[int, float, float], None] | None = None,
) -> ReferenceRun:
    """Train, resumable in `folder`, and write `folder/weights` (float16) with `training.json`.

    Args:
        arrays: demonstrations.
        folder: of the run.
        config: architecture.
        settings: of the loop.
        batch_size: samples per step.
        held_out: share of episodes kept for the held-out error.
        initial: start from the weights of this checkpoint folder.
        until: end after this step of the schedule.
        on_step: called with step, loss, learning rate.
    """
    build(folder / "tokenizer.json", config.vocab_size)
    if initial is None:
        normalizers = fit_normalizers(arrays.states, arrays.actions)
        model = ReferenceVla(config, normalizers, (folder / "tokenizer.json").read_bytes(), settings.seed)
    else:
        model = ReferenceVla.load(initial)
    start = model.identity()
    training, testing = arrays.split(held_out, settings.seed)
    source = FrameSource(arrays, model, config.horizon, batch_size, settings.seed, training)
    model.module.to(device())
    rows = Trainer(model, source, settings, folder, tag=start).run(on_step=on_step, until=until)
    model.module.to("cpu")
    error = held_out_error(model, arrays, testing)
    tail = rows[-max(1, len(rows) // 10) :]
    run = ReferenceRun(folder / "weights", tuple(float(e) for e in error), float(np.mean([r["loss"] for r in tail])))
    model.save(run.checkpoint, half=True)
    write_json(
        run.checkpoint / "training.json", _log(run, arrays, config, settings, batch_size, len(training), rows, start)
    )
    return run


@torch.no_grad()
def held_out_error(model: ReferenceVla, arrays: FrameArrays, frames: np.ndarray, limit: int = 512) -> np.ndarray:
    """Mean absolute error per action dimension over real steps, (A,), in commands."""
    horizon = model.config.horizon
    chosen = frames[:: max(1, len(frames) // limit)]
    total, count = np.zeros(model.config.action_dim), 0
    for at in range(0, len(chosen), 32):
        samples = [arrays.sample(int(i), horizon) for i in chosen[at : at + 32]]
        found = model.chunk(model.collate(samples)).numpy()
        wanted, real = np.stack([s.actions for s in samples]), ~np.stack([s.pad for s in samples])
        total += np.abs(found - wanted)[real].sum(axis=0)
        count += int(real.sum())
    return total / max(1, count)


def _log(
    run: ReferenceRun, arrays: FrameArrays, config: ReferenceConfig, settings: TrainSettings, batch: int, frames: int,
    rows: list[dict[str, float]], start: str,
) -> dict[str, Any]:  # fmt: skip
    return {
        "data": {
            "digest": arrays.digest,
            "episodes": len(arrays.names),
            "frames": len(arrays),
            "trained_on": frames,
            "instructions": list(arrays.instructions),
        },
        "config": config.to_dict(),
        "settings": {**asdict(settings), "batch_size": batch},
        "initial_identity": start,
        "identity": ReferenceVla.load(run.checkpoint).identity(),
        "held_out_l1": list(run.held_out_l1),
        "final_loss": run.final_loss,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, {device().type}",
        "torch": torch.__version__,
        "curve": rows,
    }
