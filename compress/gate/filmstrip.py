# SPDX-License-Identifier: Apache-2.0
"""Filmstrips of failed pairs: both policies on the same scene again, candidate above baseline, one PNG each.

A column is one moment of both: after the same number of control steps. Who has ended stays in its last picture, faded;
the column in which it ended has a frame, green where the goal was reached and red where it was not.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.atomic import write_atomic, write_json
from compress.gate.engine import Engine
from compress.gate.episodes import STEP_S, SimulatorBroken
from compress.gate.film import Reel, read_reel
from compress.gate.film_choice import FilmedPair
from compress.gate.jobs import Job
from compress.gate.plan import GatePlan
from compress.gate.policies import UnusablePolicy
from compress.gate.rows import IN_DISTRIBUTION, EpisodeRow, RowKey

FOLDER = "filmstrips"
MOMENTS = 8
GAP = 4  # pixels between the two strips
FADED = 0.65  # of light grey in a picture after the end
REACHED, FAILED, PALE = (28, 107, 58), (163, 52, 19), 225
COLOURS = 256  # a simulator's pictures need no more, and the page stays small
POLICIES = ("candidate", "baseline")


def draw_filmstrips(
    plan: GatePlan,
    failed: Sequence[FilmedPair],
    rows: Mapping[RowKey, EpisodeRow],
    pool: Engine,
    folder: Path,
    most: int,
) -> tuple[dict[str, Any], ...]:
    """Draw the first `most` of `failed`. A simulator that fails here costs pictures, no verdict."""
    chosen = failed[:most]
    jobs = {(shown, policy): _job(plan, shown, policy, folder / FOLDER) for shown in chosen for policy in POLICIES}
    again: dict[RowKey, EpisodeRow] = {}
    try:
        missing = [job for (shown, _), job in jobs.items() if not _facts(folder, shown).exists()]
        pool.run(missing, lambda row: again.update({row.key: row}))
    except (SimulatorBroken, UnusablePolicy):
        return ()
    out = []
    for shown in chosen:
        both = [jobs[shown, policy] for policy in POLICIES]
        if not _facts(folder, shown).exists() and not _join(plan, shown, both, rows, again, folder):
            continue
        out.append(json.loads(_facts(folder, shown).read_text()))
    return tuple(out)


def _job(plan: GatePlan, shown: FilmedPair, policy: str, folder: Path) -> Job:
    film = str(folder / f"{shown.stem}_{policy}.npz")
    steps = plan.task(shown.pair.task).max_steps
    return Job.of(policy, policy, shown.pair, steps, told=shown.told, film=film, panel=shown.panel)


def _facts(folder: Path, shown: FilmedPair) -> Path:
    """What `gate.json` says of a strip; written last, so a strip that has it is whole."""
    return folder / FOLDER / f"{shown.stem}.json"


def _join(
    plan: GatePlan, shown: FilmedPair, jobs: Sequence[Job], rows: Mapping[RowKey, EpisodeRow],
    again: Mapping[RowKey, EpisodeRow], folder: Path,
) -> bool:  # fmt: skip
    """Both films become one picture and its facts; False if one was not drawn."""
    films = [Path(job.film) for job in jobs]
    played = [again.get(job.key) for job in jobs]
    if played[0] is None or played[1] is None or not all(film.exists() for film in films):
        return False
    reels = [read_reel(film) for film in films]
    successes = [row.success for row in played if row is not None]
    steps = moments(reels)
    strips = [strip(reel, steps, success) for reel, success in zip(reels, successes, strict=True)]
    _write_picture(strips, folder / FOLDER / f"{shown.stem}.png")
    same = all(row is not None and row.success == rows[row.key].success for row in played)
    ends = {policy: _end(plan, row, reel) for policy, row, reel in zip(POLICIES, played, reels, strict=True) if row}
    write_json(_facts(folder, shown), _entry(plan, shown, same, steps, ends))
    for film in films:
        film.unlink()
    return True


def _entry(
    plan: GatePlan, shown: FilmedPair, same: bool, steps: Sequence[int], ends: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    sentence = plan.task(shown.pair.task).sentence
    axis = "" if shown.panel == IN_DISTRIBUTION else f"{shown.panel.replace('_', ' ')}: "
    other = "" if shown.told == shown.pair.task else f" (told: {plan.task(shown.told).sentence})"
    caption = f"{axis}{sentence}{other}, state {shown.pair.state}: {shown.kind}"
    return {
        "file": f"{FOLDER}/{shown.stem}.png",
        "caption": caption + ("" if same else " (not reproduced)"),
        **shown.pair._asdict(),
        "panel": shown.panel,
        "sentence": sentence,
        "told": plan.task(shown.told).sentence,
        "kind": shown.kind,
        "reproduced": same,
        "times_s": [round(step * STEP_S, 3) for step in steps],
        **ends,
    }


def _end(plan: GatePlan, row: EpisodeRow, reel: Reel) -> dict[str, Any]:
    """When and why the drawn episode ended."""
    limit = plan.task(row.task).max_steps
    if row.success:
        why = "reached the goal"
    elif row.error:
        why = f"stopped by an error: {row.error}"
    else:
        stopped = f"ran out of its {limit} steps" if row.steps >= limit else "had nothing more to do"
        why = f"{stopped}; still missing: {', '.join(reel.unmet)}" if reel.unmet else stopped
    return {"success": row.success, "steps": row.steps, "end_s": round(row.steps * STEP_S, 3), "why": why}


def moments(reels: Sequence[Reel]) -> list[int]:
    """MOMENTS control steps from the start to the end of the longer one, evenly."""
    return [round(step) for step in np.linspace(0, max(int(reel.steps[-1]) for reel in reels), MOMENTS)]


def strip(reel: Reel, steps: Sequence[int], success: bool) -> np.ndarray:
    """uint8 (H, len(steps) * W, 3): at each of `steps` the nearest picture, the last one faded once it has ended."""
    end, framed, pictures = int(reel.steps[-1]), False, []
    for step in steps:
        picture = reel.frames[int(np.abs(reel.steps - step).argmin())]
        if step >= end:
            picture = reel.frames[-1]
            if framed:
                picture = ((1.0 - FADED) * picture + FADED * PALE).round().astype(np.uint8)
            else:
                picture, framed = _framed(picture, REACHED if success else FAILED), True
        pictures.append(picture)
    return np.concatenate(pictures, axis=1)


def _framed(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    width = max(1, len(picture) // 32)
    framed = np.empty_like(picture)
    framed[:] = colour
    framed[width:-width, width:-width] = picture[width:-width, width:-width]
    return framed


def _write_picture(strips: Sequence[np.ndarray], file: Path) -> None:
    from PIL import Image

    gap = np.full((GAP, strips[0].shape[1], 3), 255, dtype=np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(np.concatenate([strips[0], gap, strips[1]]))
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    write_atomic(file, lambda stream: stream.write(buffer.getvalue()))
