# SPDX-License-Identifier: Apache-2.0
"""`export.trims` and `export.tasks`: what a recipe may say, whose sentences they become, which frames fit them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.export.errors import ExportError
from compress.export.trims import ALWAYS, TrimSpec
from compress.recipe import Recipe, parse_recipe
from compress.recipe_sections import ExportSection
from compress.settings import SettingsError
from compress.stages.tasks import admitted_frames, closed_prompt
from runtime.contract.spec import PromptSpec

PROMPT = PromptSpec("{instruction}", 16, 0, lowercase=True)
SENTENCES = ("put the red block in the left tray", "turn on the stove", "open the top drawer")


def recipe(**export: Any) -> Recipe:
    return parse_recipe({"name": "x", "export": export}, Path("/base"))


class Store:
    """Three episodes of two, three and one frame."""

    episode = np.array([0, 0, 1, 1, 1, 2])
    instructions = SENTENCES

    def sample(self, index: int, horizon: int) -> Any:
        class Found:
            instruction = SENTENCES[int(self.episode[index])]

        del horizon
        return Found


def test_what_is_always_exact_is_on_and_the_list_is_open() -> None:
    assert ExportSection().trims == ALWAYS == TrimSpec().names
    assert ExportSection().tasks == ()
    assert closed_prompt(recipe(), PROMPT) is PROMPT
    again = parse_recipe(recipe(trims=[], tasks=["a", "b"]).to_plain(), Path("/base")).export
    assert (again.trims, again.tasks) == ((), ("a", "b"))
    assert parse_recipe(recipe(tasks="gate").to_plain(), Path("/base")).export.tasks == "gate"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"trims": ["row"]}, r"`export.trims\[0\]` is 'row', expected one of: rows, kv; did you mean 'rows'"),
        ({"tasks": [" "]}, r"`export.tasks` is \[' '\], expected instructions, none of them empty"),
        ({"tasks": "all"}, r"`export.tasks` is 'all', expected one of: gate"),
    ],
)
def test_what_a_recipe_may_not_say(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        recipe(**wrong)


def test_an_unknown_trim_is_refused() -> None:
    with pytest.raises(ExportError, match=r"found \['columns'\], expected some of \['rows', 'kv'\]"):
        TrimSpec(names=("rows", "columns"))


@pytest.mark.sim
def test_sentences_of_the_gate_are_taken_and_missed_ones_named() -> None:
    closed = closed_prompt(recipe(tasks="gate"), PROMPT)
    assert closed.tasks is not None
    assert set(closed.tasks) == {
        f"put the {c} block in the {s} tray" for c in ("red", "blue") for s in ("left", "right")
    }
    more = closed_prompt(recipe(tasks=[*(task.upper() for task in closed.tasks), "wave"]), PROMPT)
    assert more.admits("put the red block in the left tray")
    assert more.admits("wave")
    with pytest.raises(SettingsError, match=r"lacks \['put the blue block.*write `tasks: gate`"):
        closed_prompt(recipe(tasks=[task for task in closed.tasks if "blue" not in task]), PROMPT)


def test_frames_of_other_tasks_are_left_out() -> None:
    def listed(*tasks: str) -> PromptSpec:
        return PromptSpec("{instruction}", 16, 0, lowercase=True, tasks=tasks)

    data: Any = Store()
    assert admitted_frames(data, PROMPT) is None
    assert admitted_frames(data, listed(*SENTENCES)) is None
    assert admitted_frames(data, listed(SENTENCES[0].upper(), SENTENCES[2])) == [0, 1, 5]
    with pytest.raises(SettingsError, match="none of their frames can prove the export"):
        admitted_frames(data, listed("wave"))
