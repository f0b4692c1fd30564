# SPDX-License-Identifier: Apache-2.0
"""Numbers of the data set in the policy's convention: every format, both directions, padding, refusals, digests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import data_factory as factory
import numpy as np
import pipeline_factory
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_data_recipe import MAPPED, section

from compress.data.formats import detect, open_reader
from compress.data.frame_files import FrameFiles
from compress.data.frames import FrameStore
from compress.data.mapping import MappingError
from compress.data.values import ValueMap
from compress.pipeline import run_recipe
from compress.recipe import parse_recipe
from compress.run_dir import RunDir
from compress.settings import SettingsError
from compress.stages.data import frame_map

GRIPPER = ValueMap((-1.0, 1.0), (1.0, 0.0))
VALUES = {"grip": GRIPPER, "dx": ValueMap((0.0, 1000.0), (0.0, 1.0))}
NAMES = ("dx", "dy", "grip")
numbers = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))
pairs = st.tuples(numbers, numbers).filter(lambda pair: abs(pair[0] - pair[1]) > 1e-2)


def test_liberos_gripper_becomes_openvla_ofts() -> None:
    found = GRIPPER.apply(np.array([-1.0, 1.0, 0.0, 0.5], np.float32))
    assert found.dtype == np.float32
    assert found.tolist() == [1.0, 0.0, 0.5, 0.25]
    assert GRIPPER.inverse.apply(np.array([1.0, 0.0])).tolist() == [-1.0, 1.0]


@given(pairs, pairs, st.lists(numbers, min_size=1, max_size=5))
def test_there_and_back_is_where_it_was(data: tuple[float, float], policy: tuple[float, float], x: list[float]) -> None:
    how = ValueMap(data, policy)
    np.testing.assert_allclose(how.apply(np.array(data)), np.array(policy, np.float32), atol=1e-3)
    slope = abs((data[1] - data[0]) / (policy[1] - policy[0]))
    back = how.inverse.apply(how.apply(np.array(x)))
    scale = max(map(abs, [*policy, *how.apply(np.array(x)).tolist()]))
    np.testing.assert_allclose(back, x, atol=1e-3 + 1e-6 * slope * scale + 1e-6 * max(map(abs, [*data, *x])))


def written(kind: str, folder: Path) -> Path:
    made: Path = getattr(factory, kind)(folder / "set.hdf5" if kind == "robomimic" else folder / "set")
    return made


def opened(root: Path, values: dict[str, ValueMap], **changed: Any) -> FrameFiles:
    found = open_reader(detect(root), root)
    wanted = frame_map(section(**found.contents().suggestion()))
    return FrameFiles(found, replace(wanted, action_values=values, **changed), "digest", action_names=NAMES)


@pytest.mark.parametrize("kind", ["lerobot", "rlds", "robomimic"])
def test_every_format_is_read_in_the_policys_convention(kind: str, tmp_path: Path) -> None:
    root = written(kind, tmp_path)
    plain, turned = opened(root, {}), opened(root, VALUES)
    assert len(plain) == sum(factory.LENGTHS)
    for index in range(len(plain)):
        stored, found = plain.chunk(index, 3)[0], turned.chunk(index, 3)[0]
        np.testing.assert_array_equal(found[:, 1], stored[:, 1])
        np.testing.assert_allclose(found[:, 2], (1.0 - stored[:, 2]) / 2.0, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found[:, 0], stored[:, 0] / 1000.0, rtol=1e-6)
    np.testing.assert_array_equal(plain.sample(0, 2).state, turned.sample(0, 2).state)


def test_liberos_own_files_too(tmp_path: Path) -> None:
    folder = pipeline_factory.demos(tmp_path / "demos", episodes=1, length=4)
    names = [f"d{axis}" for axis in "xyz"] + [f"dr{axis}" for axis in "xyz"] + ["gripper"]
    data = section(path=str(folder), action_values={"gripper": {"data": [-1, 1], "policy": [1, 0]}})
    assert data.mapped
    stores = [
        FrameFiles(
            open_reader("libero_hdf5", folder), replace(frame_map(data), action_values=values), "x", action_names=names
        )
        for values in ({}, data.action_values)
    ]
    stored, found = (store.sample(0, 3).actions for store in stores)
    np.testing.assert_array_equal(found[:, :6], stored[:, :6])
    np.testing.assert_allclose(found[:, 6], (1.0 - stored[:, 6]) / 2.0, rtol=1e-6)


def test_past_the_end_zero_motion_is_the_data_sets_zero(tmp_path: Path) -> None:
    """A dimension whose rest is not the policy's zero rests where the data set's zero lies."""
    moved = {**VALUES, "dy": ValueMap((-1.0, 1.0), (0.0, 1.0))}
    still = opened(written("lerobot", tmp_path), moved, padding="still")
    last = factory.LENGTHS[0] - 1
    actions, pad = still.chunk(last, 2)
    assert pad.tolist() == [False, True]
    assert actions[1].tolist() == [0.0, 0.5, float(actions[0, 2])]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"gripper": GRIPPER},
            r"`data.action_values` names gripper; the policy's action has dx, dy, grip. Next: write",
        ),
        ({"grip": GRIPPER, "dz": GRIPPER, "dw": GRIPPER}, r"names dz, dw; the policy's action has dx, dy, grip"),
    ],
)
def test_a_name_that_is_no_dimension_is_refused(values: dict[str, ValueMap], message: str, tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=message):
        opened(written("lerobot", tmp_path), values)


def test_without_the_policys_names_nothing_is_passed_on_unconverted(tmp_path: Path) -> None:
    root = factory.lerobot(tmp_path / "set")
    full = replace(frame_map(section(**open_reader("lerobot", root).contents().suggestion())), action_values=VALUES)
    with pytest.raises(MappingError, match="the policy's action has no names"):
        FrameFiles(open_reader("lerobot", root), full, "digest")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"data": [1, 1], "policy": [0, 1]}, "`data.action_values.gripper.data` is [1.0, 1.0], expected two different"),
        ({"data": [-1, 1], "policy": [0]}, "`data.action_values.gripper.policy` is [0.0], expected two different"),
        ({"data": [-1, float("nan")], "policy": [0, 1]}, "expected two different numbers"),
        ({"data": [-1, 1]}, "`data.action_values.gripper.policy` is missing"),
        ([-0.5, 0.5], "`data.action_values.gripper` is [-0.5, 0.5], expected a section with the keys: data, policy"),
    ],
)
def test_half_a_conversion_is_no_recipe(entry: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        section(path="x", action_values={"gripper": entry})
    assert message in str(caught.value)


def test_a_run_trains_on_converted_numbers_and_another_conversion_is_other_data(tmp_path: Path) -> None:
    from compress.models.registry import load_model
    from compress.stages import data as stage
    from compress.stages.context import Context

    pipeline_factory.checkpoint(tmp_path / "policy")
    factory.lerobot(tmp_path / "arm")
    digests, last = [], []
    for values in (
        {},
        {"gripper": {"data": [-1, 1], "policy": [1, 0]}},
        {"gripper": {"data": [-1, 1], "policy": [0, 1]}},
    ):
        plain = pipeline_factory.data(tmp_path, data={**MAPPED, "action_values": values})
        recipe = parse_recipe(plain, tmp_path)
        assert parse_recipe(recipe.to_plain(), Path("/elsewhere")) == recipe
        assert run_recipe(recipe, "data").done == ("data",)
        index = json.loads((tmp_path / "run/data/demos.json").read_text())
        assert index["action_values"] == values
        digests.append(index["digest"])
        ctx = Context(recipe, RunDir(recipe.folder), "probe", None)  # type: ignore[arg-type]
        store: FrameStore = stage.load(ctx, load_model("reference", tmp_path / "policy"))
        assert store.digest == index["digest"]
        last.append(store.chunk(0, 1)[0][0, -1])
    assert len(set(digests)) == 3
    assert last[1:] == pytest.approx([(1 - last[0]) / 2, (1 + last[0]) / 2])
    wrong = {**MAPPED, "action_values": {"grip": {"data": [-1, 1], "policy": [1, 0]}}}
    with pytest.raises(MappingError, match="names grip; the policy's action has dx, dy, dz, drx, dry, drz, gripper"):
        run_recipe(parse_recipe(pipeline_factory.data(tmp_path, data=wrong), tmp_path), "probe")


def test_a_mapping_without_conversions_keeps_its_digest() -> None:
    assert "action_values" not in frame_map(section(**MAPPED)).to_plain()
