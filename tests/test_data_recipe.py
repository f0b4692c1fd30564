# SPDX-License-Identifier: Apache-2.0
"""From the recipe's `data` section to frames: the mapping, what is refused, a run on mapped data, the look at it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import data_factory as factory
import pipeline_factory
import pytest
from data_factory import FRONT, LENGTHS, WRIST

from compress import cli
from compress.data.mapping import Column, MappingError
from compress.pipeline import run_recipe
from compress.recipe import parse_recipe
from compress.settings import SettingsError
from compress.stages.data import frame_map

MAPPED: dict[str, Any] = {
    "format": "lerobot",
    "path": "arm",
    "cameras": {"agentview": FRONT, "wrist": WRIST},
    "state": ["observation.state[0:4]", "observation.state[0:4]"],
    "action": ["action", "action", "action[0:1]"],
    "image_size": pipeline_factory.SIDE,
}


def section(**data: Any) -> Any:
    return parse_recipe({"name": "x", "data": data}, Path("/")).data


def test_mapping_is_what_the_recipe_says() -> None:
    made = frame_map(section(**{**MAPPED, "rotate_180": True, "instruction": "go"}))
    assert made.cameras == MAPPED["cameras"]
    assert made.state == (Column("observation.state", 0, 4),) * 2
    assert made.action == (Column("action"), Column("action"), Column("action", 0, 1))
    assert (made.image_size, made.rotate_180, made.instruction, made.padding) == ((32, 32), True, "go", "hold")
    one = frame_map(section(format="rlds", path="x", cameras={"a": "b"}, action="c", image_size=[24, 32]))
    assert (one.action, one.state, one.image_size, one.rotate_180) == ((Column("c"),), (), (24, 32), False)


def test_libero_needs_no_mapping_and_fills_in_what_is_left_out() -> None:
    assert not section(path="x").mapped
    some = section(path="x", image_size=224)
    assert some.mapped
    made = frame_map(some)
    assert made.cameras == {"agentview": "obs/agentview_rgb", "wrist": "obs/eye_in_hand_rgb"}
    assert [column.key for column in made.state] == ["obs/ee_pos", "obs/ee_ori", "obs/gripper_states"]
    assert (made.rotate_180, made.padding) == (True, "still")
    assert frame_map(section(generate={}, rotate_180=False)).rotate_180 is False


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"path": "x", "camera": {}}, "`data.camera` is not a setting; did you mean `data.cameras`?"),
        ({"path": "x", "format": "lerobots"}, "did you mean 'lerobot'?"),
        ({"path": "x", "cameras": ["a"]}, "`data.cameras` is ['a'], expected a mapping"),
        ({"path": "x", "cameras": {"a": 3}}, "`data.cameras.a` is 3, expected text"),
        ({"path": "x", "state": "qpos"}, "`data.state` is 'qpos', expected a list"),
        ({"path": "x", "image_size": 0}, "`data.image_size` is 0, expected pixels or [height, width], 1 to 4096"),
        ({"path": "x", "image_size": [3]}, "`data.image_size` is [3], expected pixels"),
        ({"path": "x", "image_size": []}, "`data.image_size` is [], expected pixels"),
        ({"path": "x", "image_size": [3, 4, 5]}, "`data.image_size` is [3, 4, 5]"),
        ({"path": "x", "image_size": 3.5}, "`data.image_size` is 3.5"),
        ({"path": "x", "instruction": "a", "instruction_key": "b"}, "at most one of `instruction_key` and"),
        ({"generate": {}, "format": "rlds"}, "`data.format` is 'rlds', and what `generate` makes is libero_hdf5"),
    ],
)
def test_wrong_section_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        section(**data)
    assert message in str(caught.value)


def test_resolved_copy_gives_the_mapping_back(tmp_path: Path) -> None:
    recipe = parse_recipe({"name": "x", "data": MAPPED}, tmp_path)
    assert recipe.data.path == tmp_path / "arm"
    assert parse_recipe(recipe.to_plain(), Path("/elsewhere")) == recipe


@pytest.fixture
def world(tmp_path: Path) -> Path:
    pipeline_factory.checkpoint(tmp_path / "policy")
    factory.lerobot(tmp_path / "arm")
    return tmp_path


def run(world: Path, until: str, **changed: Any) -> tuple[Any, dict[str, Any]]:
    plain = pipeline_factory.data(world, data={**MAPPED, **changed})
    outcome = run_recipe(parse_recipe(plain, world), until)
    return outcome, json.loads((world / "run/data/demos.json").read_text())


def test_a_policy_is_probed_and_recovered_on_mapped_data(world: Path) -> None:
    outcome, index = run(world, "recover")
    assert outcome.done == ("data", "trim", "probe", "plan", "drop", "recover")
    assert (index["episodes"], index["frames"], index["frames_per_second"]) == (3, sum(LENGTHS), factory.FPS)
    assert index["instructions"] == list(factory.SENTENCES)
    assert run(world, "recover")[0].done == (), "nothing changed"


def test_changed_data_or_mapping_is_noticed(world: Path) -> None:
    first = run(world, "data")[1]["digest"]
    other = run(world, "data", rotate_180=True)[1]["digest"]
    factory.write_video(next((world / "arm").rglob("*.mp4")), [factory.picture(0, 1)] * sum(LENGTHS))
    outcome, index = run(world, "data", rotate_180=True)
    assert outcome.done == ("data",)
    assert len({first, other, index["digest"]}) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"image_size": None},
            r"camera agentview are 48 x 64, the policy takes 32 x 32. Next: write data.image_size: 32",
        ),
        ({"cameras": {"agentview": FRONT}}, r"camera wrist has no pictures; the data set has .*images.wrist \(48 x 64"),
        ({"state": []}, r"demonstrations' state has 0 numbers, the policy's has 8. The data set has observation.state"),
        ({"action": "action"}, r"demonstrations' action has 3 numbers, the policy's has 7"),
    ],
)
def test_data_that_do_not_fit_the_policy_stop_the_probe(world: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(MappingError, match=message):
        run(world, "probe", **changed)


def test_the_look_at_a_data_set_is_enough_to_write_the_mapping(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "inspect", str(world / "arm"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["version"], found["episodes"], found["fps"]) == ("lerobot", "v3.0", 3, factory.FPS)
    assert found["cameras"][FRONT] == {"height": 48, "width": 64, "storage": "video"}
    assert found["vectors"]["action"] == {"width": 3, "names": ["dx", "dy", "grip"]}
    assert found["instructions"] == list(factory.SENTENCES)
    made = frame_map(section(**found["suggestion"]))
    assert made.cameras == {"front": FRONT, "wrist": WRIST}


@pytest.mark.parametrize("kind", ["lerobot", "rlds", "robomimic"])
def test_the_lines_to_start_from_are_a_recipe(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from compress.data.formats import open_reader
    from compress.data.frame_files import FrameFiles
    from compress.strict_yaml import load_yaml

    target = tmp_path / "set.hdf5" if kind == "robomimic" else tmp_path / "set"
    root = getattr(factory, kind)(target)
    assert cli.main(["data", "inspect", str(root)]) == 0
    text = capsys.readouterr().out
    (tmp_path / "part.yaml").write_text("name: x\n" + text[text.index("data:\n") :])
    data = parse_recipe(load_yaml(tmp_path / "part.yaml"), tmp_path).data
    assert len(FrameFiles(open_reader(data.format, data.path), frame_map(data), "digest")) == sum(LENGTHS)


def test_what_is_no_data_set_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "inspect", str(tmp_path / "absent")]) == 2
    assert "absent: no such file or folder" in capsys.readouterr().err
