# SPDX-License-Identifier: Apache-2.0
"""Where two chunks of a policy with two ways to do the task meet: replaced, blended, guided; and what guidance costs.

    PYTHONPATH=.:tests python benchmarks/rtc.py [--train N] [--chunks N] [--seed N] [--doubt X] [--json FILE]

A tiny SmolVLA (real modules, horizon 16, 5 steps) learns in some minutes to go past something, left or right. Both
are right; a number in its state, drawn anew for every observation, is a hint (`--doubt 1`: a weak one, 0: it
decides). So the policy goes over from one way to the other all the time, which is what real-time chunking (arXiv
2506.07339) is made for. It is exported with `guided`, and the robot's own `Policy` and `Blender` run it in virtual
time: a question every 8 rows, the answer 3 rows later. No simulator, no arm: what is measured is the stream of
commands, in normalised units (the two ways are 1.2 apart).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from family_cases import tiny_io
from family_smolvla import TINY
from numpy.typing import NDArray
from torch import Tensor

from compress.data.samples import Sample
from compress.export.bench import interleave
from compress.export.draft import export_draft
from compress.export.guided import guided
from compress.export.options import GraphOptions
from compress.export.work import count
from compress.models.guidance import GuidedSampler
from compress.models.smolvla import SmolVla
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import NormMethod
from runtime.contract.guidance import Guidance
from runtime.contract.spec import INSTRUCTION_FIELD
from runtime.control.blend import Blend, Blender, Kind
from runtime.inference import machine
from runtime.inference.policy import Policy

HORIZON, STEPS, EVERY, DELAY = 16, 5, 8, 3
SIDE, AHEAD, CUE, TASK = 0.6, 0.5, 5, "open the top drawer"
ARMS = {
    "replace": Blend(Kind.REPLACE), "overlap": Blend(Kind.OVERLAP), "ensemble": Blend(Kind.ENSEMBLE),
    "guided, replaced": Blend(Kind.RTC), "rtc (guided, overlap)": Blend(Kind.RTC),
}  # fmt: skip
SHA = "0" * 64


class NoJacobian(GuidedSampler):
    """With the identity in place of the Jacobian: no backward pass. Never exported, only measured."""

    def step(self, chunk: Tensor, rows: tuple[Tensor, ...], context: tuple[Tensor, ...]) -> Tensor:
        *own, left, pull = rows
        wanted, share, *seen = context
        ahead = self.sampler.step(chunk, tuple(own), tuple(seen))
        return ahead + pull * share * (wanted - (chunk + left * (ahead - chunk)))


def demonstration(model: SmolVla, draw: np.random.Generator, number: int = 0, doubt: float = 0.0) -> Sample:
    """Left or right, as the hint says or, with `doubt`, often enough not; held through the chunk, a little unsteady."""
    image, state = model.io.observation.images[0], draw.normal(0, 0.5, 8).astype(np.float32)
    state[CUE] = draw.normal()
    way = np.zeros((HORIZON, 7), np.float32)
    way[:, 0], way[:, 1] = np.sign(state[CUE] + doubt * draw.normal()) * SIDE, AHEAD
    way += draw.normal(0, 0.02, way.shape).astype(np.float32)
    grey = np.full((image.height, image.width, 3), 128, np.uint8)
    return Sample(
        images=dict.fromkeys(model.io.cameras, grey), state=state, actions=model.io.normalizers.action.invert(way),
        pad=np.zeros(HORIZON, bool), instruction=TASK, sample_id=f"way/{number}",
    )  # fmt: skip


def trained(steps: int, seed: int, doubt: float) -> tuple[SmolVla, float]:
    """The policy and its last losses' mean."""
    io = tiny_io(template=f"{INSTRUCTION_FIELD}\n", method=NormMethod.MEAN_STD, horizon=HORIZON)
    model = SmolVla(dataclasses.replace(TINY, horizon=HORIZON, steps=STEPS), io, seed)
    draw, losses = np.random.default_rng(seed), []
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=2e-3)
    pace = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        batch = model.collate([demonstration(model, draw, 32 * step + n, doubt) for n in range(32)])
        loss = model.loss(batch, step).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pace.step()
        losses.append(float(loss.detach()))
    model.module.eval()
    return model, float(np.mean(losses[-20:]))


@dataclasses.dataclass(frozen=True)
class Stream:
    """What was commanded, normalised (T, 7), in which rows a new chunk was put to use, and distances of new chunks to
    the old one over the rows that were frozen."""

    commands: NDArray[np.float64]
    seams: NDArray[np.int64]
    frozen: NDArray[np.float64]

    def row(self) -> dict[str, float]:
        """The table's numbers."""
        jumps = np.linalg.norm(np.diff(self.commands, axis=0), axis=1)
        side = np.abs(self.commands[:, 0])
        return {
            "frozen_rms": float(np.sqrt(np.mean(np.square(self.frozen)))),
            "seam_mean": float(jumps[self.seams - 1].mean()),
            "seam_max": float(jumps[self.seams - 1].max()),
            "any_p99": float(np.quantile(jumps, 0.99)),
            "changes": int((np.diff(np.sign(self.commands[:, 0])) != 0).sum()),
            "between": float((side < SIDE / 2).mean()),
        }


def drive(policy: Policy, model: SmolVla, name: str, chunks: int, seed: int) -> Stream:
    """Virtual time, one row at a time; the same observations for every arm."""
    spec, norm = policy.manifest.policy.action, policy._action_norm
    blender, draw = Blender(spec, ARMS[name]), np.random.default_rng(seed)
    coming: tuple[int, ActionChunk] | None = None
    use: ActionChunk | None = None
    said, seams, frozen = [], [], []
    for row in range(chunks * EVERY):
        now = row * spec.dt_s
        if coming is not None and row == coming[0]:
            chunk, old = coming[1], use
            met = blender.meet(chunk, now)
            use = chunk if name == "guided, replaced" else met
            blender.keep(chunk, use)
            coming = None
            if old is not None:
                seams.append(len(said))
                frozen += [chunk.values - old_rows(old, chunk)]
                frozen[-1] = _normalised(norm.scale, frozen[-1][: DELAY + 2])
        if row % EVERY == 0:
            sample = demonstration(model, draw)
            told: Guidance | None = blender.guidance(now, now)
            seen = {**sample.images, model.io.observation.state.key: sample.state}
            coming = row + DELAY, policy.infer(seen, TASK, now, guidance=told)
        if use is not None:
            command = use.value_at(now + 1e-4)
            assert command is not None  # 16 rows, a new chunk after 11
            said.append(norm.apply(command))
    return Stream(np.stack(said).astype(float), np.array(seams), np.concatenate(frozen))


def old_rows(old: ActionChunk, new: ActionChunk) -> NDArray[np.float32]:
    """What the chunk in use says for the rows of the new one; its last row where it is over."""
    first = round((new.stamp_s - old.stamp_s) / old.dt_s)
    return old.values[np.minimum(first + np.arange(new.horizon), old.horizon - 1)]


def _normalised(scale: NDArray[np.float64], difference: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.linalg.norm(difference / scale, axis=1)


@torch.no_grad()
def jacobians(model: SmolVla, chunks: int, seed: int) -> dict[str, float]:
    """The exact guidance and the one without a Jacobian, on the same questions: RMS distances over all rows."""
    (plain,) = model.stages()
    exact, without = guided(plain, model.specs()["action"]).module, NoJacobian(plain.module).eval()  # type: ignore[arg-type]
    draw, apart, kept = np.random.default_rng(seed), [], {"exact": [], "identity": []}
    weights = torch.zeros(1, HORIZON)
    weights[0] = torch.tensor([1.0] * 5 + [0.5, 0.25, 0.1] + [0.0] * 8)
    for _ in range(chunks):
        batch = model.collate([demonstration(model, draw)])
        previous = torch.zeros(1, HORIZON, 7)
        previous[..., 0], previous[..., 1] = SIDE * float(draw.choice([-1.0, 1.0])), AHEAD
        given = (*batch.inputs.values(), previous, weights)
        answers = {"exact": exact(*given), "identity": without(*given)}
        apart.append(float((answers["exact"] - answers["identity"]).square().mean()))
        for name, found in answers.items():
            kept[name].append(float((found - previous)[0, :5].square().sum(-1).mean()))
    root = {f"frozen_rms_{name}": float(np.sqrt(np.mean(values))) for name, values in kept.items()}
    return {"rms_apart": float(np.sqrt(np.mean(apart))), **root}


def exported(model: SmolVla, folder: Path, options: GraphOptions) -> Path:
    draw = np.random.default_rng(99)
    samples = [dataclasses.replace(demonstration(model, draw, n), sample_id=f"golden/{n}") for n in range(8)]
    samples[0] = dataclasses.replace(samples[0], instruction="turn on the stove")  # parity wants two lengths
    source = {"name": "rtc-bench", "revision": "random", "sha256": model.identity()}
    lineage = {"source": source, "recipe_sha256": SHA, "plan_sha256": SHA}
    return export_draft(model, samples, folder, lineage, options=options).folder


def cost(plain: Path, able: Path, model: SmolVla) -> dict[str, Any]:
    """Time, operations and bytes, guided to plain; both in turns on one thread."""
    seen = demonstration(model, np.random.default_rng(5))
    inputs = {**seen.images, model.io.observation.state.key: seen.state}
    with (
        Policy.load(plain, threads=1, allow_unsealed=True) as a,
        Policy.load(able, threads=1, allow_unsealed=True) as b,
    ):
        calls = {"plain": lambda i: a.infer(inputs, TASK, 0.0), "guided": lambda i: b.infer(inputs, TASK, 0.0)}
        _, times = interleave(calls, 200)  # CPU time: other jobs do not count
    flops = {name: count(folder / "policy.onnx").flops for name, folder in (("plain", plain), ("guided", able))}
    size = {n: (f / "policy.onnx.data").stat().st_size for n, f in (("plain", plain), ("guided", able))}
    return {
        "time_ratio": float(np.median(np.asarray(times["guided"]) / np.asarray(times["plain"]))),
        "flops_ratio": flops["guided"] / flops["plain"], "weights_ratio": size["guided"] / size["plain"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=2500)
    parser.add_argument("--chunks", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--doubt", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    began = time.monotonic()
    model, loss = trained(given.train, given.seed, given.doubt)
    print(f"trained {given.train} steps in {time.monotonic() - began:.0f} s, loss {loss:.4f}")
    with tempfile.TemporaryDirectory() as scratch:
        plain = exported(model, Path(scratch) / "plain", GraphOptions())
        able = exported(model, Path(scratch) / "guided", GraphOptions(guided=True))
        with Policy.load(able, threads=1, allow_unsealed=True) as policy:
            rows = {name: drive(policy, model, name, given.chunks, given.seed + 1).row() for name in ARMS}
        found = {
            "machine": machine.facts(), "loss": loss, "rows": rows, "cost": cost(plain, able, model),
            "jacobian": jacobians(model, 100, given.seed + 2),
        }  # fmt: skip
    for name, row in rows.items():
        print(f"{name:24s}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    print(found["cost"], found["jacobian"], sep="\n")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
