# SPDX-License-Identifier: Apache-2.0
"""Given lists of blocks, by hand or published: what they are, how they become plans, and the recipes that use them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import family_pi05
import pipeline_factory
import pytest
from family_cases import case
from test_plan import costs, scores

from compress import cli
from compress.dtr.drop import drop
from compress.models.registry import FAMILIES, load_model
from compress.pipeline import run_recipe
from compress.plan import PlanError, PlanSpec, load_plans, make_plan, save_plans
from compress.probing import find_group, subject_of
from compress.published import PublishedPlan, Result, preset, presets
from compress.recipe import RecipeError, load_recipe, parse_recipe, require_paths
from compress.report.view_blocks import Ranking, stacks
from compress.scores import Subject
from compress.settings import SettingsError, from_plain

REPO = Path(__file__).resolve().parent.parent
GATEPROBE = "dtr-pi05-libero-gateprobe-drop9"
FAMILY_RECIPES = sorted(set(FAMILIES) - {"reference"})


def stack(
    depth: int, unit: int = 1, pinned: tuple[int, ...] = (), part: str = "block", role: str = "language"
) -> Subject:
    return Subject(role, part, depth, tuple(range(depth)), unit, pinned, "a" * 64)


@pytest.mark.parametrize("name", presets())
def test_a_published_plan_is_what_its_name_and_card_say(name: str) -> None:
    found = preset(name)
    assert name.startswith(f"dtr-{found.family.replace('_', '-')}-")
    assert found.family in FAMILIES
    for text in (name, found.card):
        for number in re.findall(r"[Dd]rop(\d+)", text):
            assert len(found.drop) == int(number)
    assert sorted([*found.keep, *found.drop]) == list(range(found.depth))
    assert "arXiv 2606.27755" in found.source
    assert found.results
    assert all(0 < result.success <= 100 for result in found.results)


def test_published_lists_and_numbers() -> None:
    assert preset(GATEPROBE).drop == (7, *range(10, 18))
    assert preset(GATEPROBE).results[0].text() == "LIBERO 94 % (full 91.7 %)"
    assert preset("dtr-pi05-libero-uniform-drop9").keep == tuple(range(0, 18, 2))
    assert preset("dtr-openvla-oft-libero-uniform-drop16").keep == tuple(range(0, 32, 2))
    fisher = preset("dtr-pi05-libero-fisher-drop9")
    assert set(preset(GATEPROBE).keep) ^ set(fisher.keep) == {7, 9}  # one block apart
    assert len(presets()) == 12


def test_their_depths_are_those_of_the_published_network() -> None:
    model = family_pi05.narrow(0)
    for found in presets().values():
        if found.family == "pi05":
            assert len(find_group(model, found.role).stack(model.module)) == found.depth
    plan = make_plan(subject_of(model, "language", "block"), PlanSpec(preset=GATEPROBE))
    drop(model, plan)
    assert model.surgery["language"].without_mlp == preset(GATEPROBE).drop


@pytest.mark.parametrize("keep", [[], [2, 1], [0, 0], [0, 18], [-1]])
def test_an_edited_list_must_still_be_one(keep: list[int]) -> None:
    with pytest.raises(SettingsError, match=r"`x.keep` is .*expected ascending indices below 18"):
        from_plain(PublishedPlan, {"family": "pi05", "depth": 18, "keep": keep, "source": "", "results": []}, "x")


def test_a_result_says_its_budget() -> None:
    assert Result("LIBERO", 92.6, 91.7, "30K steps").text() == "LIBERO 92.6 % (full 91.7 %; 30K steps)"
    assert Result("Hard", 14.0).text() == "Hard 14 %"


def test_a_given_list_needs_no_scores() -> None:
    plan = make_plan(stack(4), PlanSpec(keep_blocks=(3, 0)), costs(4))
    assert (plan.kept, plan.dropped, plan.metric, plan.scores_digest) == ((0, 3), (1, 2), "given", "")
    assert plan.predicted == {"parameters": 800, "flops_share": 0.8, "latency_ms": 15.0}
    assert (plan.ranked, plan.rule) == (False, {"keep": 2})
    assert "[#--#]  keep 2 of 4 blocks as given; drop [1, 2]; 800 parameters" in plan.map_text()
    with pytest.raises(PlanError, match="keep of language needs scores: probe it, or give keep_blocks or a preset"):
        make_plan(stack(4), PlanSpec(keep=2))


def test_scores_beside_a_given_list_are_kept_and_decide_nothing(tmp_path: Path) -> None:
    ranked = scores(9.0, 1.0, 1.0, 5.0, ties=((1, 2),))
    plan = make_plan(ranked, PlanSpec(keep_blocks=(1, 3)))
    assert (plan.dropped, plan.scores_digest, plan.close_call) == ((0, 2), ranked.digest(), ())
    save_plans(tmp_path / "plan.json", [plan])
    assert load_plans(tmp_path / "plan.json") == (plan,)
    words = stacks(Ranking((plan,), (ranked,)))[0].notes
    assert "The list was given; scores did not decide." in words
    assert (
        "The list was given; scores did not decide."
        not in stacks(Ranking((make_plan(ranked, PlanSpec(keep=2)),), (ranked,)))[0].notes
    )


def test_a_preset_is_named_in_the_plan() -> None:
    plan = make_plan(stack(18), PlanSpec(preset=GATEPROBE))
    assert (plan.kept, plan.metric, plan.ranked) == (preset(GATEPROBE).keep, f"given by {GATEPROBE}", False)
    assert f"keep 9 of 18 blocks as given by {GATEPROBE}" in plan.map_text()


@pytest.mark.parametrize(
    ("subject", "spec", "message"),
    [
        (stack(12), {"preset": GATEPROBE}, f"preset {GATEPROBE} is for 18 blocks, language has 12"),
        (stack(4), {"keep_blocks": (0, 4)}, r"keep_blocks keeps blocks \[4\], but language has 4: 0 to 3"),
        (stack(4, pinned=(1,)), {"keep_blocks": (0, 2)}, r"drops pinned blocks \[1\] of language and tears \[\]"),
        (stack(4, unit=2), {"keep_blocks": (0, 2, 3)}, r"pinned blocks \[\] of language and tears \[0\] .* units of 2"),
        (stack(4, unit=2), {"keep_blocks": (0, 2, 3), "form": "compact"}, "form: stub, which takes any block"),
        (stack(4, part="mlp"), {"keep_blocks": (0,)}, "the scores are of language/mlp, the plan wants language/block"),
    ],
)
def test_a_list_that_the_stack_does_not_allow_is_refused(subject: Subject, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_plan(subject, PlanSpec(**spec))


def test_a_block_that_left_before_cannot_be_kept() -> None:
    with pytest.raises(PlanError, match=r"keeps blocks \[1\], which left before; language holds \[0, 4, 5\]"):
        make_plan(scores(3.0, 1.0, 2.0, blocks=(0, 4, 5)), PlanSpec(keep_blocks=(0, 1)))
    assert make_plan(scores(3.0, 1.0, 2.0, blocks=(0, 4, 5)), PlanSpec(keep_blocks=(0, 5))).dropped == (4,)


def test_a_stub_and_a_part_may_be_any_list() -> None:
    torn = stack(4, unit=2, pinned=(1,))
    assert make_plan(torn, PlanSpec(keep_blocks=(0, 2), form="stub")).dropped == (1, 3)
    part = stack(4, unit=2, pinned=(1,), part="mlp")
    assert make_plan(part, PlanSpec(part="mlp", keep_blocks=(0, 2))).dropped == (1, 3)
    assert make_plan(stack(4, unit=2), PlanSpec(keep_blocks=(2, 3))).dropped == (0, 1)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"keep_blocks": []}, r"keep_blocks is \[\], expected different block indices, at least one"),
        ({"keep_blocks": [1, 1]}, r"keep_blocks is \[1, 1\], expected different"),
        ({"keep_blocks": [0, -1]}, r"keep_blocks is \[-1, 0\], expected different"),
        ({"keep_blocks": [0, 1.5]}, r"`plan\[0\].keep_blocks\[1\]` is 1.5, expected a whole number"),
        ({"keep_blocks": 6}, r"`plan\[0\].keep_blocks` is 6, expected a list"),
        ({"keep_blocks": [0], "keep": 1}, "set exactly one of .*; found keep, keep_blocks"),
        ({"preset": GATEPROBE, "drop": 9}, "found drop, preset"),
        ({"preset": GATEPROBE[:-1]}, rf"`plan\[0\].preset` is .*, expected one of: .*did you mean '{GATEPROBE}'"),
        ({"preset": 9}, r"`plan\[0\].preset` is 9, expected text"),
        ({"preset": GATEPROBE, "role": "action"}, "is of language/block, found action/block: leave `role`"),
        (
            {"preset": "dtr-openvla-oft-libero-endpoints-drop30"},
            r"is for openvla_oft, `model.family` is pi05: write its",
        ),
    ],
)
def test_a_recipe_with_a_list_that_says_nothing_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_recipe({"name": "x", "model": {"family": "pi05"}, "plan": [entry]}, Path("/"))


@pytest.mark.parametrize("form", [list, dict])
def test_a_preset_brings_its_stack(form: type, tmp_path: Path) -> None:
    entry = {"preset": "dtr-pi05-libero-vision-endpoints"}
    plain = {"name": "x", "model": {"family": "pi05"}, "plan": [entry] if form is list else entry}
    recipe = parse_recipe(plain, Path("/"))
    assert (recipe.plan[0].role, recipe.plan[0].blocks) == ("vision.siglip", (0, 26))
    (tmp_path / "copy.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "copy.yaml") == recipe


def test_a_given_list_goes_through_the_stages(tmp_path: Path) -> None:
    pipeline_factory.checkpoint(tmp_path / "policy")
    pipeline_factory.demos(tmp_path / "demos")
    plain = pipeline_factory.data(tmp_path, plan=[{"keep_blocks": [0, 2, 5]}])
    outcome = run_recipe(parse_recipe(plain, tmp_path), until="drop")
    (plan,) = load_plans(outcome.folder / "plan" / "plan.json")
    assert (plan.kept, plan.metric) == ((0, 2, 5), "given")
    assert plan.scores_digest
    assert load_model("reference", outcome.folder / "drop" / "model").surgery["language"].kept == (0, 2, 5)


@pytest.mark.parametrize("family", FAMILY_RECIPES)
def test_every_family_has_a_recipe_that_names_its_own_stacks(family: str) -> None:
    recipe = load_recipe(REPO / "recipes" / f"{family}.yaml")  # an unknown key would be refused
    roles = {group.role for group in case(family).make(0).groups}
    assert recipe.model.family == family
    assert {plan.role for plan in recipe.plan} | set(recipe.recover.freeze) <= roles
    assert not {plan.role for plan in recipe.plan} & set(recipe.recover.freeze)
    assert {plan.preset is not None for plan in recipe.plan} == {family in {p.family for p in presets().values()}}


@pytest.mark.parametrize("family", FAMILY_RECIPES)
def test_a_shipped_recipe_asks_for_the_users_own_paths(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = REPO / "recipes" / f"{family}.yaml"
    with pytest.raises(RecipeError, match=r"`model.checkpoint` is '/path/to/.*' and `data.path` is '/path/to/"):
        require_paths(load_recipe(path))
    assert cli.main(["run", str(path), "--output", str(tmp_path / "run"), "--json"]) == 2
    assert "a placeholder: write your own folder there" in json.loads(capsys.readouterr().out)["error"]
    assert not (tmp_path / "run").exists()


def test_paths_that_were_set_are_not_asked_for() -> None:
    require_paths(load_recipe(REPO / "recipes" / "quick.yaml"))
    require_paths(
        parse_recipe({"name": "x", "model": {"checkpoint": "mine"}, "data": {"path": "demos"}}, Path("/base"))
    )
