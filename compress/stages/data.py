# SPDX-License-Identifier: Apache-2.0
"""Demonstrations: the ones named in the recipe, or new ones by the scripted expert, made once per machine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import digests
from compress.atomic import write_json
from compress.data import fingerprint
from compress.receipt import version
from compress.recipe import Recipe
from compress.recipe_sections import DataSection, GenerateSection
from compress.run_dir import Result
from compress.run_lock import locked
from compress.settings import to_plain
from compress.stages.context import Context, sections

if TYPE_CHECKING:
    from compress.data.frames import FrameStore
    from compress.data.mapping import FrameMap
    from compress.models.base import VlaModel

INDEX, DIGESTS = "demos.json", "digests.json"


def settings(recipe: Recipe) -> dict[str, Any]:
    """The whole section."""
    return sections(recipe, "data")


def files(recipe: Recipe) -> Mapping[str, Path]:
    """The user's own files, if there are any."""
    return {} if recipe.data.path is None else {"demos": recipe.data.path}


def cache_folder() -> Path:
    """Where generated demonstrations are kept."""
    return fingerprint.cache_root() / "demos"


def run(ctx: Context) -> Result:
    """Check every file and write `demos.json`: where the demonstrations are and what they hold."""
    made, chosen = ctx.recipe.data.generate, ctx.recipe.data.path
    folder = _generate(ctx, made) if made is not None else chosen
    if folder is None:
        raise ValueError("the recipe names no demonstrations: set `data.path` or `data.generate`")
    return _mapped(ctx, folder) if ctx.recipe.data.mapped else _as_they_are(ctx, folder)


def load(ctx: Context, model: VlaModel) -> FrameStore:
    """The demonstrations of this run: LIBERO's own files in memory, mapped data sets frame by frame from disk.

    Raises:
        compress.data.mapping.MappingError: they do not fit the policy; says what to write in the recipe.
    """
    from compress.data.fit import check_fit
    from compress.data.formats import open_reader
    from compress.data.frame_files import FrameFiles
    from compress.data.libero_hdf5 import open_demos

    index, contents, specs = json.loads((ctx.of("data") / INDEX).read_text()), None, model.specs()
    demos: FrameStore
    if ctx.recipe.data.mapped:
        reader = open_reader(ctx.recipe.data.format, Path(index["root"]), checked=False)  # the data stage did
        names = [dim.name for dim in specs["action"].dims]
        demos = FrameFiles(reader, frame_map(ctx.recipe.data), index["digest"], action_names=names)
        contents = demos.contents
    else:
        demos = open_demos([Path(path) for path in index["files"]]).load_arrays()
    cameras = {image.key: (image.height, image.width) for image in specs["observation"].images}
    check_fit(demos, cameras, specs["observation"].state.dim, specs["action"].dim, contents)
    return demos


def frame_map(section: DataSection) -> FrameMap:
    """The section's mapping; what it leaves out of LIBERO's own layout is filled in."""
    from compress.data.demo_checks import ACTIONS, CAMERAS, STATE_PARTS
    from compress.data.mapping import Column, FrameMap

    libero = section.format == "libero_hdf5"
    given = (section.action,) if isinstance(section.action, str) else section.action
    state = section.state if section.state is not None else (tuple(STATE_PARTS) if libero else ())
    action = given if given is not None else ((ACTIONS,) if libero else ())
    size = section.image_size
    return FrameMap(
        cameras=dict(section.cameras) or (dict(CAMERAS) if libero else {}),
        state=tuple(map(Column.parse, state)),
        action=tuple(map(Column.parse, action)),
        image_size=(size, size) if isinstance(size, int) else None if size is None else (size[0], size[1]),
        rotate_180=libero if section.rotate_180 is None else section.rotate_180,
        instruction_key=section.instruction_key,
        instruction=section.instruction,
        padding="still" if libero else "hold",
        action_values=section.action_values,
    )


def _as_they_are(ctx: Context, folder: Path) -> Result:
    """LIBERO's own files."""
    from compress.data.libero_hdf5 import open_demos

    demos = open_demos(folder)
    used = sorted({episode.path for episode in demos.episodes})
    facts = {
        "episodes": len(demos.episodes),
        "frames": len(demos),
        "instructions": list(demos.instructions),
        "digest": demos.digest,
    }
    write_json(ctx.folder / INDEX, {"files": [str(path.absolute()) for path in used], **facts})
    promised = [ctx.folder / INDEX, *(used if ctx.recipe.data.generate is not None else [])]
    return Result(promised, facts, identity=demos.digest)


def _mapped(ctx: Context, folder: Path) -> Result:
    """A data set through the recipe's mapping."""
    from compress.data.formats import open_reader
    from compress.data.frame_files import FrameFiles

    section = ctx.recipe.data
    wanted = frame_map(section)
    digest = digests.of_value([section.format, fingerprint.of_path(folder), wanted.to_plain()])
    stored = replace(wanted, action_values={})  # the policy's names are known where a policy is (`load`)
    demos = FrameFiles(open_reader(section.format, folder), stored, digest)
    facts = {
        "episodes": len(demos.names),
        "frames": len(demos),
        "frames_per_second": demos.contents.fps,
        "sentences": len(demos.instructions),
        "digest": digest,
    }
    demos.samples([0, len(demos) - 1], 1)  # pictures can be read at all
    demos.close()
    where = {"format": section.format, "root": str(folder.absolute()), "instructions": list(demos.instructions)}
    where["action_values"] = to_plain(section.action_values)
    write_json(ctx.folder / INDEX, {**where, **facts})
    return Result([ctx.folder / INDEX], facts, identity=digest)


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
