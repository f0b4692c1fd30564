# SPDX-License-Identifier: Apache-2.0
"""What the robustness axes do to a scene, as one picture: a row per axis, a column per stored state, both cameras.

    python benchmarks/panel_sheet.py docs/panels.png
    python benchmarks/panel_sheet.py goal.png --suite libero_goal --task 8 --libero-assets ASSETS

The first row is the scene itself. Axes are at their default strengths; `--scale 2` doubles them where that is allowed.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from compress.atomic import write_atomic
from compress.sim.envs import TaskEnv, open_suite
from compress.sim.perturb.registry import AXES, perturbation

LABEL_HEIGHT, COLOURS = 16, 160


def main() -> None:
    """Draw and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--suite", default="dropgate_tabletop")
    parser.add_argument("--task", type=int, default=0)
    parser.add_argument("--states", type=int, default=3)
    parser.add_argument("--size", type=int, default=112, help="pixels of an image")
    parser.add_argument("--scale", type=float, default=1.0, help="of the default strengths")
    parser.add_argument("--libero-assets", type=Path)
    options = parser.parse_args()
    suite = open_suite(options.suite, options.libero_assets)
    with TaskEnv(suite, options.task, image_size=options.size) as env:
        rows = [row(env, axis, options.states, options.scale) for axis in (None, *AXES)]
    half = (len(rows) + 1) // 2
    columns = [np.concatenate(part) for part in (rows[:half], rows[half:])]
    picture = Image.fromarray(np.concatenate(columns, axis=1)).quantize(COLOURS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    write_atomic(options.out, lambda stream: stream.write(buffer.getvalue()))
    print(f"{options.out}: {len(buffer.getvalue()) / 1e3:.0f} kB, {picture.width} x {picture.height}")


def row(env: TaskEnv, axis: str | None, states: int, scale: float) -> np.ndarray:
    """One axis on some states, agent camera and wrist camera side by side, under a label: uint8 (h, w, 3)."""
    cells, sentence, strength = [], env.task.language, 0.0
    for state in range(states):
        change = None
        if axis is not None:
            kind = AXES[axis]
            strength = kind.default if axis == "language" else min(kind.default * scale, kind.highest)
            change = perturbation(axis, env.task.index, state, 0, strength)
            sentence = change.sentence(env.task.language)
        seen = env.reset(state, 0, change=change)
        cells += [seen["agentview"], seen["wrist"]]
    images = np.concatenate(cells, axis=1)
    said = "the scene itself" if axis is None else f"{axis} {strength:g} ({AXES[axis].unit})"
    if sentence != env.task.language or axis is None:
        said += f': "{sentence}"'
    label = Image.new("RGB", (images.shape[1], LABEL_HEIGHT), "white")
    ImageDraw.Draw(label).text((3, 2), said, fill="black")
    return np.concatenate([np.asarray(label), images])


if __name__ == "__main__":
    main()
