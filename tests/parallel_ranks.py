# SPDX-License-Identifier: Apache-2.0
"""What the processes of test_parallel.py do: every scenario in the same pair of processes, for starting one is slow."""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from algorithm_factory import batches, demos, policy
from family_cases import case, samples_for

from compress import cli
from compress.baselines import SCORERS
from compress.data.frames import FrameSource
from compress.dtr.drop import drop
from compress.dtr.recover import recover
from compress.dtr.spec import RecoverSpec
from compress.gateprobe import probe_together
from compress.models.base import Batch, VlaModel
from compress.models.reference import ReferenceVla
from compress.plan import PlanSpec, make_plan
from compress.scale.place import place_of
from compress.scale.share import share_of
from compress.scale.world import World, current, joined
from compress.training import Trainer, TrainSettings

STEPS = 6
SPEC = RecoverSpec(steps=STEPS, batch_size=4, lr=3e-3, warmup=1, ema=0.5, bf16=False, log_every=1, checkpoint_s=1e9)
SETTINGS = TrainSettings(
    steps=STEPS, lr=3e-3, warmup=1, ema=0.5, weight_decay=0.1, bf16=False, log_every=1, checkpoint_s=1e9
)
RECOVERIES = {
    "full": replace(SPEC, method="full"),
    "lora": replace(SPEC, method="lora", lora_rank=4),
    "full_ddp": replace(SPEC, method="full", parallel="ddp", heal=True, distill=0.5, features=0.3),
    "lora_fsdp": replace(SPEC, method="lora", lora_rank=4, parallel="fsdp", activation_checkpointing=True),
}
FAMILIES = ("pi0", "smolvla", "openvla_oft")


class Shelf:
    """Batches of a family's random samples, by step."""

    def __init__(self, model: VlaModel) -> None:
        made = samples_for(model, 8)
        self.held = [model.collate(made[:4]), model.collate(made[4:])]

    def batch(self, step: int) -> Batch:
        return self.held[step % 2]

    def digest(self) -> str:
        return "shelf"


def pruned() -> ReferenceVla:
    model = policy(depth=3, vision_depth=1)
    drop(model, make_plan(SCORERS["uniform"](model, [], "language", "block"), PlanSpec(drop=1)))
    return model


def scores() -> list[dict[str, Any]]:
    """Of two stacks, in five batches of unequal size."""
    model = policy(depth=3, vision_depth=2)
    found = probe_together(model, batches(model, 9, 2), (("language", "block"), ("vision.siglip", "attention")))
    return [{**asdict(item), "wall_s": 0.0} for item in found]


def recovered(name: str, folder: Path) -> dict[str, Any]:
    """The report of a recovery, and a number that stands for the weights."""
    model = pruned()
    spec = RECOVERIES[name]
    report = recover(model, demos(), spec, folder / name, policy(depth=3, vision_depth=1) if spec.taught else None)
    return {**report.to_json(), "weights": size(model)}


def size(model: VlaModel) -> float:
    """A number that depends on every weight."""
    total = 0.0
    for number, (_, value) in enumerate(sorted(model.module.state_dict().items()), start=1):
        total += float((value.double() * torch.linspace(-1, 2, value.numel()).reshape(value.shape)).sum()) / number
    return total


def trained(family: str, parallel: str, folder: Path, until: int | None = None, remat: bool = False) -> dict[str, Any]:
    """The losses of a training of a family's tiny policy, taken up from `folder`."""
    torch.manual_seed(0)
    model = policy(depth=2, vision_depth=1) if family == "reference" else case(family).make(0)
    source: Any = FrameSource(demos(), model, 4, 4, 0) if family == "reference" else Shelf(model)
    if family != "reference":
        until = 2
    place = place_of(model, current(), parallel, torch.device("cpu"), False)
    trainer = Trainer(model, source, replace(SETTINGS, activation_checkpointing=remat), folder, family, place)
    trainer.resume()
    start = trainer.step
    rows = trainer.run(until=until)
    return {"start": start, "losses": [row["loss"] for row in rows], "weights": size(model)}


def shares() -> dict[str, Any]:
    """Which samples this process gets, of both kinds of source."""
    model, world = policy(depth=1, vision_depth=1), current()
    frames: Any = FrameSource(demos(), model, 4, 4, 0)
    return {
        kind: [list(share_of(source, world).batch(step).sample_ids) for step in (0, 1, 40)]
        for kind, source in (("frames", frames), ("rows", Shelf(model)))
    }


def failing(world: World) -> str:
    """What a process hears when the last one fails."""

    def work() -> int:
        if world.rank == world.size - 1:
            raise ValueError("my camera broke")
        return world.rank

    try:
        world.together(work, "probing")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def verb(recipe: Path) -> str:
    """`compress recover RECIPE` as torchrun would start it; what it answers."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            code = cli.main(["recover", str(recipe), "--json", "--quiet"])
        except SystemExit as end:
            code = int(end.code or 0)
    return f"{code} {said.getvalue()}"


def main(rank: int, size_: int, ports: tuple[int, int], root: Path) -> None:
    """One process: run all, leave the results in `rank<r>.json`."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size_)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[0])}
    torch.set_num_threads(1)
    result: dict[str, Any] = {"verb": verb(root / "recipe.yaml")}
    os.environ["MASTER_PORT"] = str(ports[1])
    with joined(collective_s=60.0) as world:
        result["shares"] = shares()
        result["scores"] = scores()
        result["failing"] = failing(world)
        for name in RECOVERIES:
            result[name] = recovered(name, root)
        for family in FAMILIES:
            result[f"{family}_fsdp"] = trained(family, "fsdp", root / f"{family}_fsdp", remat=True)
        result["pi0_ddp"] = trained("pi0", "ddp", root / "pi0_ddp")
        result["half_fsdp"] = trained("reference", "fsdp", root / "two_then_one", until=3)
        result["half_ddp"] = trained("reference", "ddp", root / "ddp_then_fsdp", until=3)
        result["rest_fsdp"] = trained("reference", "fsdp", root / "ddp_then_fsdp")
        result["rest_of_one"] = trained("reference", "fsdp", root / "one_then_two")
        result["left"] = sorted(path.name for path in (root / "ddp_then_fsdp").iterdir())
    (root / f"rank{rank}.json").write_text(json.dumps(result))
