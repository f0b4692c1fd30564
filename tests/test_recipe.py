# SPDX-License-Identifier: Apache-2.0
"""A recipe is fully valid or refused in one sentence: key, value, what is allowed. Its copy reads back the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from compress.gate.spec import EXECUTION_FIELDS, GateSpec
from compress.recipe import Recipe, RecipeError, load_recipe, parse_recipe
from compress.recipe_sections import Metric, SuiteName
from compress.settings import SettingsError
from compress.sim.suites import SUITES
from compress.strict_yaml import YamlError, load_yaml

REPO = Path(__file__).resolve().parent.parent
SHIPPED = sorted((REPO / "recipes").glob("*.yaml"))


def parsed(**data: Any) -> Recipe:
    return parse_recipe({"name": "x", **data}, Path("/base"))


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


REFUSED = [
    ({"prob": {}}, "`prob` is not a setting; did you mean `probe`? Known here: data, export, gate, model, name,"),
    ({"probe": {"sampels": 3}}, "`probe.sampels` is not a setting; did you mean `probe.samples`?"),
    ({"gate": {"pair": 3}}, "`gate.pair` is not a setting; did you mean `gate.pairs`?"),
    ({"recover": {"zzz": 3}}, "`recover.zzz` is not a setting. Known here: activation_checkpointing, batch_size, bf16"),
    ({"probe": {"metric": "gateprob"}}, "taylor, fisher, loo; did you mean 'gateprobe'?"),
    ({"probe": {"compare": ["uniform", "lou"]}}, "`probe.compare[1]` is 'lou', expected one of"),
    ({"recover": {"method": "lor"}}, "`recover.method` is 'lor', expected one of: full, lora; did you mean 'lora'?"),
    ({"data": {"generate": {"suite": "libero_goals"}}}, "did you mean 'libero_goal'?"),
    ({"model": {"family": "tpi0"}}, "`model.family` is 'tpi0', expected one of: "),
    ({"recover": {"lr": "fast"}}, "`recover.lr` is 'fast', expected a number"),
    ({"recover": {"bf16": 1}}, "`recover.bf16` is 1, expected true or false"),
    ({"gate": {"pairs": True}}, "`gate.pairs` is True, expected a whole number"),
    ({"export": {"opset": 18.5}}, "`export.opset` is 18.5, expected a whole number"),
    ({"seed": "one"}, "`seed` is 'one', expected a whole number"),
    ({"plan": 6}, "`plan` is 6, expected a list"),
    ({"plan": {"keep": "six"}}, "`plan[0].keep` is 'six', expected a whole number"),
    ({"probe": 3}, "`probe` is 3, expected a section with the keys: metric, samples, batch_size, seed, compare"),
    ({"seed": -1}, "`seed` is -1, expected >= 0 and <= 3999"),
    ({"recover": {"steps": -1}}, "`recover.steps` is -1, expected >= 0"),
    ({"recover": {"lr": float("nan")}}, "`recover.lr` is nan, expected > 0"),
    ({"recover": {"lr": float("inf")}}, "`recover.lr` is inf, expected > 0"),
    ({"recover": {"ema": 1.0}}, "`recover.ema` is 1.0, expected >= 0 and <= 0.999999"),
    ({"probe": {"samples": 1}}, "`probe.samples` is 1, expected >= 2"),
    ({"export": {"golden": 4}}, "`export.golden` is 4, expected >= 8"),
    ({"data": {"generate": {"seed": 5000}}}, "`data.generate.seed` is 5000, expected >= 0 and <= 3999"),
    ({"gate": {"margin": 2.0}}, "`gate.margin` is 2.0, expected a number between 0 and 0.5"),
    ({"gate": {"tasks": []}}, "`gate.tasks` is [], expected different tasks"),
    ({"plan": {"keep": 6, "drop": 1}}, "parameter_budget, latency_budget_ms; found keep, drop"),
    ({"plan": {"role": "language"}}, "found none"),
    ({"plan": {"keep_fraction": 1.5}}, "keep_fraction is 1.5, expected in (0, 1]"),
    ({"plan": {"keep": 3, "part": "head"}}, "part is 'head', expected one of: block, attention, mlp"),
    ({"plan": []}, "expected at least one stack"),
    ({"plan": [{"keep": 3}, {"keep": 4}]}, "each once"),
    ({"data": {}}, "set exactly one of `path` and `generate`: neither is set"),
    ({"data": {"path": "a", "generate": {}}}, "set exactly one of `path` and `generate`: both are set"),
    ({"name": "A B"}, "`name` is 'A B', expected lower case letters"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "message"), REFUSED, ids=lambda value: None if isinstance(value, str) else str(value)[:50]
)
def test_wrong_recipe_is_refused_with_key_and_choices(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parsed(**data)
    assert message in str(caught.value)


def test_name_is_required() -> None:
    with pytest.raises(SettingsError, match="`name` is missing, expected text"):
        parse_recipe({"seed": 1}, Path("/"))


def every_key(value: Any, prefix: str = "") -> list[str]:
    if isinstance(value, Mapping):
        return [
            found for key, item in value.items() for found in every_key(item, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [prefix]


@pytest.mark.parametrize("section", ["model", "probe", "recover", "export", "gate"])
def test_every_typo_of_every_key_finds_its_key(section: str) -> None:
    for key in parsed().to_plain()[section]:
        typo = key[:-1] + "q" if len(key) > 4 else key + key[-1]
        with pytest.raises(SettingsError, match=rf"did you mean `{section}\.{key}`"):
            parsed(**{section: {typo: None}})


def test_every_number_with_a_range_refuses_below_it() -> None:
    tried = 0
    for section in fields(parsed()):
        value = getattr(parsed(), section.name)
        for item in fields(value) if is_dataclass(value) else ():
            low, above = item.metadata.get("low"), item.metadata.get("above")
            if low is None and above is None:
                continue
            bad = low - 1 if low is not None else above
            with pytest.raises(SettingsError, match=rf"`{section.name}\.{item.name}` is "):
                parsed(**{section.name: {item.name: bad}})
            tried += 1
    assert tried > 12


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_is_valid_and_round_trips(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert load_recipe(written(tmp_path, recipe.to_yaml())) == recipe


def test_recipes_ship() -> None:
    assert {path.stem for path in SHIPPED} >= {"quick", "release"}


def test_resolved_copy_writes_out_every_default(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "name: short\n"))
    again = load_yaml(written(tmp_path, recipe.to_yaml()))
    assert set(every_key(again)) == set(every_key(recipe.to_plain()))
    assert again["recover"]["lr"] == recipe.recover.lr
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_shipped_copy_leaves_out_how_it_was_carried_out(tmp_path: Path) -> None:
    recipe = parsed(output="/somewhere", gate={"workers": 7}, export={"threads": 9})
    other = parsed(output="/elsewhere", gate={"workers": 1}, export={"threads": 2, "bench_runs": 7})
    assert recipe.to_ship() == other.to_ship()
    text = load_yaml(written(tmp_path, recipe.to_ship()))
    assert not set(EXECUTION_FIELDS) & set(text["gate"])
    assert load_recipe(tmp_path / "recipe.yaml").plan == recipe.plan


def test_shipped_copy_tells_what_was_asked() -> None:
    assert parsed().to_ship() != parsed(gate={"margin": 0.2}).to_ship()
    assert parsed().to_ship() != parsed(recover={"steps": 3}).to_ship()


def test_seed_reaches_every_section_that_gives_none() -> None:
    recipe = parsed(seed=7, data={"generate": {}}, probe={"seed": 1})
    assert (recipe.data.generate and recipe.data.generate.seed, recipe.probe.seed, recipe.recover.seed) == (7, 1, 7)
    assert parsed(seed=7).data.generate == recipe.data.generate


def test_plan_may_be_one_mapping_or_a_list() -> None:
    one = parsed(plan={"keep": 6})
    assert one == parsed(plan=[{"keep": 6}])
    both = parsed(plan=[{"keep": 6}, {"role": "vision.siglip", "drop": 1}])
    assert [item.role for item in both.plan] == ["language", "vision.siglip"]


def test_relative_inputs_start_from_the_recipe(tmp_path: Path) -> None:
    text = "name: x\nmodel: {checkpoint: weights}\ndata: {path: demos}\ngate: {libero_assets: assets}\n"
    recipe = load_recipe(written(tmp_path, text))
    assert recipe.data.path == tmp_path / "demos"
    assert recipe.model.checkpoint == str(tmp_path / "weights")
    assert recipe.gate.libero_assets == tmp_path / "assets"


def test_repeated_key_is_refused_with_both_lines(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"line 4: key `steps` is already set in line 3"):
        load_recipe(written(tmp_path, "name: x\nrecover:\n  steps: 3\n  steps: 4\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [x\n", "not valid YAML in line"),
        ("- name\n", "holds a list, expected a mapping"),
        ("", "holds a NoneType"),
        ("name: x\n1: 2\n", "key 1 is a int, expected text"),
        ("name: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_what_is_no_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, text))
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: cannot be read \(No such file or directory\); .* recipes/"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("5e-4", 5e-4), ("1E3", 1e3), ("-2e1", -20.0), ("3.5e-2", 3.5e-2), (".5e1", 5.0)]
)
def test_exponent_without_a_dot_is_a_number(tmp_path: Path, text: str, value: float) -> None:
    assert load_yaml(written(tmp_path, f"a: {text}\n")) == {"a": value}


@pytest.mark.parametrize("text", ["e3", "5e", "1e3x", "abc1e3"])
def test_what_only_looks_like_an_exponent_stays_text(tmp_path: Path, text: str) -> None:
    assert load_yaml(written(tmp_path, f"a: {text}\n")) == {"a": text}


def test_merge_keys_still_work(tmp_path: Path) -> None:
    with pytest.raises(YamlError, match="already set"):
        load_yaml(written(tmp_path, "a: 1\nb: 2\na: 3\n"))
    assert load_yaml(written(tmp_path, "a: &x {p: 1}\nb: {<<: *x, q: 2}\n"))["b"] == {"p": 1, "q": 2}


def test_choices_are_those_of_the_stages() -> None:
    baselines = pytest.importorskip("compress.baselines", reason="needs torch; make install")
    assert set(get_args(Metric)) == set(baselines.SCORERS)
    assert set(get_args(SuiteName)) == set(SUITES)


def test_gate_section_is_the_gate_itself() -> None:
    assert parsed(gate={"pairs": 7}).gate == GateSpec(pairs=7)
