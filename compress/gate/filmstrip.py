# SPDX-License-Identifier: Apache-2.0
"""Filmstrips of failed pairs: both policies on the same scene again, candidate above baseline, one PNG each."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compress.atomic import write_atomic
from compress.gate.engine import Engine
from compress.gate.episodes import SimulatorBroken
from compress.gate.jobs import Job
from compress.gate.judge import Judgement
from compress.gate.plan import GatePlan, Pair
from compress.gate.policies import UnusablePolicy
from compress.gate.rows import EpisodeRow, RowKey

FOLDER = "filmstrips"
GAP = 4  # pixels between the two strips
ORDER = {(False, True): "lost", (True, False): "gained", (False, False): "neither"}


def draw_filmstrips(
    plan: GatePlan,
    judgement: Judgement | None,
    rows: Mapping[RowKey, EpisodeRow],
    pool: Engine,
    folder: Path,
    most: int,
) -> tuple[dict[str, Any], ...]:
    """Draw at most `most` failed pairs, lost ones first. A simulator that fails here costs pictures, no verdict."""
    chosen = failed_pairs(judgement)[:most]
    jobs = {
        (pair, arm): Job.of(
            arm, arm, pair, plan.task(pair.task).max_steps, film=str(folder / FOLDER / f"{_stem(pair)}_{arm}.png")
        )
        for pair, _ in chosen
        for arm in ("candidate", "baseline")
    }
    again: dict[RowKey, EpisodeRow] = {}
    try:
        missing = [job for (pair, _), job in jobs.items() if not (folder / FOLDER / f"{_stem(pair)}.png").exists()]
        pool.run(missing, lambda row: again.update({row.key: row}))
    except (SimulatorBroken, UnusablePolicy):
        return ()
    out = []
    for pair, result in chosen:
        file = folder / FOLDER / f"{_stem(pair)}.png"
        both = [jobs[pair, arm] for arm in ("candidate", "baseline")]
        if not file.exists() and not _join([Path(job.film) for job in both], file):
            continue
        same = all(again[job.key].success == rows[job.key].success for job in both if job.key in again)
        caption = f"{plan.task(pair.task).sentence}, state {pair.state}: {ORDER[result]}" + (
            "" if same else " (not reproduced)"
        )
        out.append(
            {
                "file": f"{FOLDER}/{file.name}",
                "caption": caption,
                **pair._asdict(),
                "kind": ORDER[result],
                "reproduced": same,
            }
        )
    return tuple(out)


def failed_pairs(judgement: Judgement | None) -> list[tuple[Pair, tuple[bool, bool]]]:
    """Pairs that at least one policy failed: lost, then gained, then neither; each in the plan's order."""
    if judgement is None:
        return []
    ranked = list(ORDER)
    failed = [item for item in zip(judgement.pairs, judgement.results, strict=True) if item[1] in ORDER]
    return sorted(failed, key=lambda item: ranked.index(item[1]))


def _join(strips: list[Path], file: Path) -> bool:
    if not all(strip.exists() for strip in strips):
        return False
    from PIL import Image

    pictures = []
    for strip in strips:
        with Image.open(strip) as image:
            pictures.append(np.asarray(image.convert("RGB")))
    gap = np.full((GAP, pictures[0].shape[1], 3), 255, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([pictures[0], gap, pictures[1]])).save(buffer, format="PNG")
    write_atomic(file, lambda stream: stream.write(buffer.getvalue()))
    for strip in strips:
        strip.unlink()
    return True


def _stem(pair: Pair) -> str:
    return f"task{pair.task}_state{pair.state}"
