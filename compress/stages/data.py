# SPDX-License-Identifier: Apache-2.0
"""Demonstrations: the ones named in the recipe, or new ones by the scripted expert, made once per machine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import digests
from compress.atomic import write_json
from compress.receipt import version
from compress.recipe import Recipe
from compress.recipe_sections import GenerateSection
from compress.run_dir import Result
from compress.run_lock import locked
from compress.settings import to_plain
from compress.stages.context import Context, sections

if TYPE_CHECKING:
    from compress.data.frames import FrameArrays

INDEX, DIGESTS = "demos.json", "digests.json"


def settings(recipe: Recipe) -> dict[str, Any]:
    """The whole section."""
    return sections(recipe, "data")


def files(recipe: Recipe) -> Mapping[str, Path]:
    """The user's own files, if there are any."""
    return {} if recipe.data.path is None else {"demos": recipe.data.path}


def cache_folder() -> Path:
    """Where generated demonstrations are kept, `DROPGATE_CACHE` or `~/.cache/dropgate`."""
    given = os.environ.get("DROPGATE_CACHE", "")
    base = os.environ.get("XDG_CACHE_HOME", "") or "~/.cache"
    return Path(given or f"{base}/dropgate").expanduser() / "demos"


def run(ctx: Context) -> Result:
    """Check every file and write `demos.json`: where the demonstrations are and what they hold."""
    from compress.data.libero_hdf5 import open_demos

    made, chosen = ctx.recipe.data.generate, ctx.recipe.data.path
    folder = _generate(ctx, made) if made is not None else chosen
    if folder is None:
        raise ValueError("the recipe names no demonstrations: set `data.path` or `data.generate`")
    demos = open_demos(folder)
    used = sorted({episode.path for episode in demos.episodes})
    facts = {
        "episodes": len(demos.episodes),
        "frames": len(demos),
        "instructions": list(demos.instructions),
        "digest": demos.digest,
    }
    write_json(ctx.folder / INDEX, {"files": [str(path.absolute()) for path in used], **facts})
    promised = [ctx.folder / INDEX, *(used if made is not None else [])]
    return Result(promised, facts, identity=demos.digest)


def load(ctx: Context) -> FrameArrays:
    """The demonstrations of this run, in memory."""
    from compress.data.libero_hdf5 import open_demos

    index = json.loads((ctx.of("data") / INDEX).read_text())
    return open_demos([Path(path) for path in index["files"]]).load_arrays()


def _generate(ctx: Context, made: GenerateSection) -> Path:
    from compress.sim.demos import write_demos

    folder = cache_folder() / digests.of_value([version(), to_plain(made)])[:16]
    ctx.say(f"demonstrations of {made.suite}, {made.episodes_per_task} per task, in {folder}")
    with locked(folder, "it makes the same demonstrations, wait for it to end"):
        _remove_damaged(folder)
        write_demos(
            folder,
            suite=made.suite,
            workers=max(1, os.cpu_count() or 1),
            assets=ctx.recipe.gate.libero_assets,
            progress=ctx.indented,
            episodes_per_task=made.episodes_per_task,
            seed=made.seed,
            noise=made.noise,
            image_size=made.image_size,
        )
        write_json(folder / DIGESTS, {path.name: digests.of_file(path) for path in sorted(folder.glob("*.hdf5"))})
    return folder


def _remove_damaged(folder: Path) -> None:
    """Cached files that are not what was generated leave, so that they are generated again."""
    try:
        known = json.loads((folder / DIGESTS).read_text())
    except (OSError, ValueError):
        return
    for name, digest in known.items():
        if (folder / name).is_file() and digests.of_file(folder / name) != digest:
            (folder / name).unlink()
