# SPDX-License-Identifier: Apache-2.0
"""What a stage is given: the recipe, its own folder, the folders of the stages before it, and a place to report to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.models.registry import checkpoint_path
from compress.progress import Indented, Progress
from compress.recipe import Recipe
from compress.run_dir import RunDir
from compress.settings import to_plain

DoneTotalText = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Context:
    """One stage at work.

    Attributes:
        recipe: resolved.
        run: the run folder.
        name: of the stage.
        progress: where it reports to.
    """

    recipe: Recipe
    run: RunDir
    name: str
    progress: Progress

    @property
    def folder(self) -> Path:
        """Where its outputs go."""
        return self.run.stage(self.name)

    @property
    def work(self) -> Path:
        """Where it keeps its own progress for a resumption; removed when it is done."""
        return self.run.work(self.name)

    def of(self, stage: str) -> Path:
        """The folder of an earlier stage."""
        return self.run.stage(stage)

    def say(self, text: str) -> None:
        """One line, indented below the stage's own."""
        self.indented.say(text)

    @property
    def indented(self) -> Progress:
        """For functions that report by themselves."""
        return Indented(self.progress)

    @contextmanager
    def bar(self, label: str, total: int = 0) -> Iterator[DoneTotalText]:
        """A bar behind the callback that the algorithms take: done, total, text."""
        with self.progress.bar(label, total) as view:
            yield lambda done, whole, text: view.update(done, whole or total, "" if text == label else text)


def sections(recipe: Recipe, *names: str) -> dict[str, Any]:
    """Whole sections of the recipe as plain data, by name."""
    return {name: to_plain(getattr(recipe, name)) for name in names}


def stacks(recipe: Recipe) -> list[list[str]]:
    """Which parts of which stacks a run is about, without the amounts."""
    return [[item.role, item.part] for item in recipe.plan]


def source_model(recipe: Recipe) -> Mapping[str, Path]:
    """The checkpoint that everything starts from, as an input."""
    return {"model": checkpoint_path(recipe.model.family, recipe.model.checkpoint)}


def nothing(recipe: Recipe) -> Mapping[str, Path]:
    """For stages that read only what earlier stages wrote."""
    del recipe
    return {}
