# SPDX-License-Identifier: Apache-2.0
"""The training loop: killed runs resume bit for bit, foreign and damaged checkpoints are refused, NaN never trains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from algorithm_factory import demos, policy

from compress.data.frames import FrameSource
from compress.models.base import Batch, VlaModel
from compress.models.reference import ReferenceVla
from compress.training import CHECKPOINT, LOG, Trainer, TrainingError, TrainSettings, action_loss

SETTINGS = TrainSettings(steps=6, lr=3e-3, warmup=2, ema=0.9, bf16=False, checkpoint_s=0.0, log_every=2)


def trainer(
    folder: Path, settings: TrainSettings = SETTINGS, tag: str = "", seed: int = 0
) -> tuple[ReferenceVla, Trainer]:
    model = policy(depth=2, seed=seed, vision_depth=1)
    return model, Trainer(model, FrameSource(demos(), model, 4, 2, 0), settings, folder, tag)


def weights(model: VlaModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_after(step: int, how: type[BaseException]) -> Any:
    def on_step(done: int, _loss: float, _lr: float) -> None:
        if done == step:
            raise how

    return on_step


class PlannedStop(Exception):
    """Ends a run from inside."""


def child(folder: Path) -> None:
    """What the killed process runs: die by SIGKILL after step 4, whose checkpoint has been written after step 3."""

    def die(step: int, _loss: float, _lr: float) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    trainer(folder)[1].run(on_step=die)


def test_run_killed_by_sigkill_resumes_bit_for_bit(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model, run = trainer(tmp_path / "straight")
    rows = run.run()
    code = f"import pathlib, test_training; test_training.child(pathlib.Path({str(tmp_path / 'killed')!r}))"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert ended.returncode == -signal.SIGKILL
    (tmp_path / "killed" / f".{CHECKPOINT}.half.tmp").write_bytes(b"torn write")
    resumed, again = trainer(tmp_path / "killed")
    again.resume()
    assert again.step == 3
    assert again.run() == rows
    assert same(weights(resumed), weights(model))
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == [CHECKPOINT, LOG]


def test_finished_run_resumes_to_the_same_weights_without_a_step(tmp_path: Path) -> None:
    model, run = trainer(tmp_path)
    run.run()
    again, second = trainer(tmp_path)
    second.run(on_step=stop_after(7, PlannedStop))
    assert same(weights(again), weights(model))


def test_training_learns_and_logs_the_curve(tmp_path: Path) -> None:
    model, run = trainer(tmp_path, replace(SETTINGS, steps=12))
    seen, before = [run.source.batch(step) for step in range(12)], weights(model)
    first = sum(float(model.loss(batch).detach().mean()) for batch in seen)
    rows = run.run()
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    assert sum(float(model.loss(batch).detach().mean()) for batch in seen) < first
    assert [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()] == rows
    assert not same(weights(model), before)


def test_ctrl_c_keeps_a_checkpoint(tmp_path: Path) -> None:
    _, run = trainer(tmp_path, replace(SETTINGS, checkpoint_s=1e9))
    with pytest.raises(KeyboardInterrupt):
        run.run(on_step=stop_after(2, KeyboardInterrupt))
    _, again = trainer(tmp_path, replace(SETTINGS, checkpoint_s=1e9))
    again.resume()
    assert again.step == 2


def test_ctrl_c_in_mid_update_waits_for_its_end(tmp_path: Path) -> None:
    _, run = trainer(tmp_path, replace(SETTINGS, checkpoint_s=1e9))
    update = run.optimizer.step
    seen: list[int] = []

    def interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        seen.append(run.step)
        return update(*args)

    run.optimizer.step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert seen == [0]
    assert run.step == 1


@pytest.mark.parametrize("change", ["tag", "lr", "data", "model"])
def test_checkpoint_of_another_run_is_refused(tmp_path: Path, change: str) -> None:
    model, run = trainer(tmp_path, tag="one")
    with pytest.raises(PlannedStop):
        run.run(on_step=stop_after(2, PlannedStop))
    if change == "tag":
        _, other = trainer(tmp_path, tag="two")
    elif change == "lr":
        _, other = trainer(tmp_path, replace(SETTINGS, lr=1e-3), tag="one")
    elif change == "data":
        other = Trainer(model, FrameSource(demos(5), model, 4, 3, 0), SETTINGS, tmp_path, "one")
    else:
        _, other = trainer(tmp_path, tag=policy(depth=2, seed=1, vision_depth=1).identity(), seed=1)
    with pytest.raises(TrainingError, match="belongs to another model, data set or recipe"):
        other.run()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_checkpoint_is_refused(tmp_path: Path, share: float) -> None:
    _, run = trainer(tmp_path)
    with pytest.raises(PlannedStop):
        run.run(on_step=stop_after(2, PlannedStop))
    path = tmp_path / CHECKPOINT
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(TrainingError, match=r"checkpoint\.pt cannot be read, it is truncated or damaged.*delete it"):
        trainer(tmp_path)[1].run()


def test_checkpoint_without_its_parts_is_refused(tmp_path: Path) -> None:
    torch.save({"key": "k", "step": 3}, tmp_path / CHECKPOINT)
    with pytest.raises(TrainingError, match=r"is not a training checkpoint .no average, optimizer, rows, weights."):
        trainer(tmp_path)[1].run()


def test_nan_batch_stops_the_run_and_names_the_samples(tmp_path: Path) -> None:
    model, run = trainer(tmp_path)
    fourth = run.source.batch(3)

    def poisoned(policy_: VlaModel, batch: Batch, step: int) -> torch.Tensor:
        return action_loss(policy_, batch, step) * (torch.nan if step == 3 else 1.0)

    with pytest.raises(TrainingError, match="loss is nan at step 3") as caught:
        run.run(poisoned)
    assert all(name in str(caught.value) for name in fourth.sample_ids)
    assert str(tmp_path / CHECKPOINT) in str(caught.value)
    again = trainer(tmp_path)[1]
    again.resume()
    assert again.step == 3
    assert all(torch.isfinite(value).all() for value in weights(model).values())


def test_nan_gradient_of_a_finite_loss_never_reaches_the_weights(tmp_path: Path) -> None:
    model, run = trainer(tmp_path)

    def hidden(policy_: VlaModel, batch: Batch, step: int) -> torch.Tensor:
        loss = action_loss(policy_, batch, step)
        return loss + (torch.sqrt(loss - loss.detach()) if step == 2 else 0.0)  # value 0, derivative infinite

    with pytest.raises(TrainingError, match=r"gradient norm is (nan|inf) at step 2"):
        run.run(hidden)
    assert all(torch.isfinite(value).all() for value in weights(model).values())


def test_first_step_failure_says_that_there_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint was written yet"):
        trainer(tmp_path)[1].run(lambda model, batch, step: action_loss(model, batch, step) * torch.inf)


def test_averaged_weights_are_what_is_left_in_the_model(tmp_path: Path) -> None:
    model, run = trainer(tmp_path)
    run.run()
    assert all(torch.equal(run.average[name], p) for name, p in model.module.named_parameters())
    raw = torch.load(tmp_path / CHECKPOINT, weights_only=True)["weights"]
    assert not torch.equal(raw["placeholders"], model.module.get_parameter("placeholders"))


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"steps": -1}, {"lr": 0.0}, {"lr": float("nan")}, {"ema": 1.0}, {"warmup": -1}):
        with pytest.raises(TrainingError, match="expected >= 0, > 0"):
            replace(SETTINGS, **wrong)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="expected one of: cosine, constant"):
        replace(SETTINGS, schedule="linear")


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    curve = TrainSettings(steps=10, lr=1.0, warmup=4)
    assert [curve.lr_at(s) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert curve.lr_at(10) == pytest.approx(0.0)
    assert TrainSettings(steps=10, lr=1.0, warmup=0, schedule="constant").lr_at(9) == 1.0


def test_nothing_trainable_is_refused(tmp_path: Path) -> None:
    model = policy(depth=1, vision_depth=1)
    model.module.requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing to train"):
        Trainer(model, FrameSource(demos(), model, 4, 2, 0), SETTINGS, tmp_path)
