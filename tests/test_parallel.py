# SPDX-License-Identifier: Apache-2.0
"""Two real processes over gloo: their scores are one process's to the bit, their losses and weights to rounding."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import parallel_ranks
import pipeline_factory
import pytest
import torch
import torch.multiprocessing as mp
from algorithm_factory import demos, policy

from compress.data.frames import FrameSource
from compress.pipeline import run_recipe
from compress.recipe import load_recipe
from compress.scale.share import ShareError, share_of
from compress.scale.world import World, WorldError, current, joined, launched
from compress.verbs import together

Results = list[dict[str, Any]]
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


def recipe_in(folder: Path, **recover: Any) -> Path:
    """A recipe with its policy and demonstrations in `folder`."""
    pipeline_factory.checkpoint(folder / "policy", depth=4)
    pipeline_factory.demos(folder / "demos", episodes=2)
    content = pipeline_factory.data(folder, plan={"keep": 2})
    content["recover"] |= recover
    return pipeline_factory.write(folder / "recipe.yaml", content)


@pytest.fixture(scope="module")
def ranks(root: Path) -> Results:
    """What each of two processes found, in the order of their ranks."""
    parallel_ranks.trained("reference", "alone", root / "one_then_two", until=3)
    recipe_in(root)
    with socket.socket() as first, socket.socket() as second:
        for found in (first, second):
            found.bind(("127.0.0.1", 0))
        ports = first.getsockname()[1], second.getsockname()[1]
    mp.spawn(parallel_ranks.main, (2, ports, root), nprocs=2)  # type: ignore[no-untyped-call]
    return [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(2)]


def close(found: list[float], wanted: list[float]) -> bool:
    return found == pytest.approx(wanted, abs=TOLERANCE, rel=TOLERANCE)


def test_scores_of_two_processes_are_those_of_one_to_the_bit(ranks: Results) -> None:
    alone = json.loads(json.dumps(parallel_ranks.scores()))
    assert ranks[0]["scores"] == alone
    assert ranks[1]["scores"] == alone


def test_the_parts_of_a_batch_are_the_batch(ranks: Results) -> None:
    model = policy(depth=1, vision_depth=1)
    frames: Any = FrameSource(demos(), model, 4, 4, 0)
    for kind, source in (("frames", frames), ("rows", parallel_ranks.Shelf(model))):
        for number, step in enumerate((0, 1, 40)):
            parts = [rank["shares"][kind][number] for rank in ranks]
            assert parts[0] + parts[1] == list(source.batch(step).sample_ids)
            assert len(parts[0]) == len(parts[1])
    assert share_of(frames, World(1, 2)).digest() == frames.digest()


def test_an_error_in_one_process_is_heard_in_all(ranks: Results) -> None:
    assert ranks[0]["failing"] == "WorldError: probing: process 1 of 2 failed: ValueError: my camera broke"
    assert ranks[1]["failing"] == "ValueError: my camera broke"


@pytest.mark.parametrize("name", sorted(parallel_ranks.RECOVERIES))
def test_recovery_by_two_processes_is_that_of_one(ranks: Results, name: str, tmp_path: Path) -> None:
    alone = parallel_ranks.recovered(name, tmp_path)
    first, second = ranks[0][name], ranks[1][name]
    losses = [row["loss"] for row in alone["curve"]]
    assert first["curve"][0]["loss"] == pytest.approx(losses[0], abs=1e-6)
    assert close([row["loss"] for row in first["curve"]], losses)
    assert close([first["loss_after"], first["weights"]], [alone["loss_after"], alone["weights"]])
    assert first["weights"] != pytest.approx(parallel_ranks.size(parallel_ranks.pruned()), abs=1e-3)  # it did train
    assert first["identity_after"] == second["identity_after"] != alone["identity_before"]
    assert first["hardware"] == f"2 x {alone['hardware'].replace(f'{torch.get_num_threads()} threads', '1 threads')}"


@pytest.mark.parametrize("name", [*(f"{family}_fsdp" for family in parallel_ranks.FAMILIES), "pi0_ddp"])
def test_real_families_train_alike_in_parts(ranks: Results, name: str, tmp_path: Path) -> None:
    """Experts read keys and values of another stack's blocks, whose last block has dead weights; caches are filled."""
    alone = parallel_ranks.trained(name.rpartition("_")[0], "alone", tmp_path)
    assert close(ranks[0][name]["losses"], alone["losses"])
    assert ranks[0][name]["weights"] == pytest.approx(alone["weights"], abs=1e-4)
    assert ranks[0][name]["weights"] == ranks[1][name]["weights"]


def test_a_run_goes_on_with_another_number_of_processes(ranks: Results, root: Path, tmp_path: Path) -> None:
    straight = parallel_ranks.trained("reference", "alone", tmp_path)
    resumed = {
        "two, then one": parallel_ranks.trained("reference", "alone", root / "two_then_one"),
        "one, then two": ranks[0]["rest_of_one"],
        "ddp, then fsdp": ranks[0]["rest_fsdp"],
    }
    for how, found in resumed.items():
        assert found["start"] == 3, how
        assert close(found["losses"], straight["losses"]), how
        assert close([found["weights"]], [straight["weights"]]), how
    assert ranks[0]["half_fsdp"]["losses"] == resumed["two, then one"]["losses"][:3]
    assert ranks[0]["left"] == ["checkpoint-000000006", "train_log.jsonl"]  # older ones are gone
    assert sorted(path.name for path in (root / "two_then_one").iterdir()) == ["checkpoint.pt", "train_log.jsonl"]


def test_damaged_parts_are_refused(ranks: Results, root: Path) -> None:
    from compress.training import TrainingError

    folder = root / "ddp_then_fsdp" / ranks[0]["left"][0]
    victim = next(iter(sorted(folder.glob("*.safetensors"))))
    kept = victim.read_bytes()
    try:
        victim.write_bytes(kept[: len(kept) // 2])
        with pytest.raises(
            TrainingError, match=r"checkpoint-000000006 cannot be read, its files are .*delete it to start over"
        ):
            parallel_ranks.trained("reference", "alone", folder.parent)
        (folder / "facts.json").write_text("{}")
        with pytest.raises(
            TrainingError, match=r"is not a training checkpoint .no adam_steps, files, key, rows, step."
        ):
            parallel_ranks.trained("reference", "alone", folder.parent)
    finally:
        victim.write_bytes(kept)


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    model = policy(depth=1, vision_depth=1)
    source: Any = FrameSource(demos(), model, 4, 4, 0)
    with pytest.raises(ShareError, match="batch_size 4 cannot be split over 3 processes: set batch_size to 3 or 6"):
        share_of(source, World(0, 3)).batch(0)


def test_one_process_needs_no_group() -> None:
    assert not launched()
    assert current() == World(0, 1)
    assert current().together(lambda: 3, "counting") == [3]
    with pytest.raises(WorldError, match=r"RANK, .* not set in the environment: start with `torchrun"), joined():
        pass


def test_other_verbs_refuse_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for until, verb in ((None, "run"), ("export", "export")):
        with pytest.raises(WorldError, match=f"start `compress {verb}` without torchrun"):
            together.run(None, until, (), None)  # type: ignore[arg-type]


def test_the_verb_answers_once_and_writes_once(ranks: Results) -> None:
    code, _, said = ranks[0]["verb"].partition(" ")
    assert (code, ranks[1]["verb"]) == ("0", "0 ")  # the other process says nothing
    answer = json.loads(said)
    assert answer["done"] == ["data", "trim", "probe", "plan", "drop", "recover"]
    folder = Path(answer["folder"])
    report = json.loads((folder / "recover" / "recovery.json").read_text())
    assert report["hardware"].startswith("2 x ")
    assert not (folder / "recover" / "work").exists()
    assert run_recipe(load_recipe(folder.parent / "recipe.yaml"), "recover").done == ()  # one process agrees


@pytest.mark.slow
def test_a_process_that_dies_ends_all_and_is_named(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, steps=100_000, checkpoint_s=0.1)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    where = str(Path(__file__).parent.parent)
    started = subprocess.Popen(
        [*command, "-m", "compress", "recover", str(recipe)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": where},
        stderr=subprocess.PIPE, text=True, cwd=where,
    )  # fmt: skip
    work = tmp_path / "run" / "recover" / "work"
    try:
        until = time.monotonic() + 120
        while not list(work.glob("checkpoint-*")) and time.monotonic() < until and started.poll() is None:
            time.sleep(0.2)  # another process's progress on disk
        found = subprocess.run(["ps", "--ppid", str(started.pid), "-o", "pid="], capture_output=True, check=True)
        second = [pid for pid in found.stdout.split() if b"\0RANK=1\0" in environment_of(int(pid))]
        os.kill(int(second[0]), signal.SIGKILL)
        _, errors = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode != 0
    said = " ".join(errors.split())
    assert "one of them" in said
    assert "start the same command again" in said
    assert list(work.glob("checkpoint-*"))


def environment_of(process: int) -> bytes:
    return b"\0" + Path(f"/proc/{process}/environ").read_bytes()
