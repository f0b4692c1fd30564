# SPDX-License-Identifier: Apache-2.0
"""A cell file is understood as it stands, or refused with what was found: no obstacle is lost or moved in silence."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from runtime.errors import ContractError
from runtime.safety.cell import Capsule, Cell, Obstacle

FILE: dict[str, Any] = {
    "schema": "dropgate.cell/1",
    "capsules": [{"frame": "forearm", "from": [0, 1, 2], "to": [3, 4, -5.5], "radius": 0.06}],
    "scene": [
        {"name": "table", "kind": "box", "size": [1.2, 0.8, 0.04], "xyz": [0.5, 0, -0.05], "rpy": [0.1, 0.2, 0.3]},
        {"name": "ball", "kind": "sphere", "size": [0.2], "xyz": [1, 2, 3]},
        {"name": "post", "kind": "capsule", "size": [0.1, 2], "xyz": [1, 1, 1]},
    ],
    "may_touch": [["forearm", "wrist_2"], ["forearm", "table"]],
}


def changed(*path: Any, to: Any) -> dict[str, Any]:
    found = copy.deepcopy(FILE)
    at: Any = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return found


def test_file_is_read_as_it_stands(tmp_path):
    path = tmp_path / "cell.json"
    path.write_text(json.dumps(FILE))
    cell = Cell.load(path)
    assert cell.capsules == (Capsule("forearm", (0.0, 1.0, 2.0), (3.0, 4.0, -5.5), 0.06),)
    assert cell.scene == (
        Obstacle("table", "box", (1.2, 0.8, 0.04), (0.5, 0.0, -0.05), (0.1, 0.2, 0.3)),
        Obstacle("ball", "sphere", (0.2,), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0)),
        Obstacle("post", "capsule", (0.1, 2.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    )
    assert cell.may_touch == (("forearm", "wrist_2"), ("forearm", "table"))
    assert Obstacle("ball", "sphere", (0.2,), (1.0, 2.0, 3.0)).rpy == (0.0, 0.0, 0.0)
    assert Cell.from_json({"schema": FILE["schema"]}) == Cell()


@pytest.mark.parametrize("text", [None, b"{", b"\xff\xfe"], ids=["none", "half", "not UTF-8"])
def test_file_that_cannot_be_read_is_named(tmp_path, text):
    path = tmp_path / "cell.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ContractError, match=r"cell file .*cell\.json: cannot be read"):
        Cell.load(path)


@pytest.mark.parametrize("found", [[], 5, None, "cell"])
def test_what_is_no_object_is_named_by_its_type(found):
    with pytest.raises(ContractError, match=f"cell: found {type(found).__name__}, expected"):
        Cell.from_json(found)
    with pytest.raises(ContractError, match=f"scene: found {type(found).__name__}, expected"):
        Cell.from_json(changed("scene", 0, to=found))


@pytest.mark.parametrize("name", ["capsules", "scene", "may_touch"])
@pytest.mark.parametrize("value", [5, None, {}, "ab"])
def test_lists_are_lists(name, value):
    with pytest.raises(ContractError, match=f"cell: {name} is .*, expected a list"):
        Cell.from_json(changed(name, to=value))


@pytest.mark.parametrize("pair", ["ab", ["a"], ["a", "b", "c"], ["a", 5], [5, "a"], {"a": 1, "b": 2}, 5])
def test_pairs_that_may_touch_are_two_names(pair):
    with pytest.raises(ContractError, match="expected a list of two names"):
        Cell.from_json(changed("may_touch", 1, to=pair))


@pytest.mark.parametrize(
    ("path", "key"), [(("capsules", 0), "mass"), (("capsules", 0), "rpy"), (("scene", 1), "colour"), ((), "walls")]
)
def test_keys_that_nobody_knows_are_named(path, key):
    with pytest.raises(ContractError, match=f"found .*'{key}'"):
        Cell.from_json(changed(*path, key, to=[0, 0, 0]))


@pytest.mark.parametrize(
    ("path", "key"),
    [
        *((("capsules", 0), key) for key in ("frame", "from", "to", "radius")),
        *((("scene", 0), key) for key in ("name", "kind", "size", "xyz")), ((), "schema"),
    ],
)  # fmt: skip
def test_keys_that_are_missing_are_named(path, key):
    found = copy.deepcopy(FILE)
    at: Any = found
    for step in path:
        at = at[step]
    del at[key]
    with pytest.raises(ContractError, match=f"expected .*'{key}'"):
        Cell.from_json(found)


@pytest.mark.parametrize("kind", ["mesh", "Box", 5, None, [], {}])
def test_kinds_that_nobody_knows_are_refused(kind):
    with pytest.raises(ContractError, match=r"expected one of .*'box', 'capsule', 'sphere'"):
        Cell.from_json(changed("scene", 0, "kind", to=kind))


LISTS = [("capsules", 0, "from"), ("capsules", 0, "to"), ("scene", 0, "xyz"), ("scene", 0, "rpy"), ("scene", 0, "size")]
NO_NUMBERS = [[1, 2], [1, 2, 3, 4], "123", 5, None, {"a": 1, "b": 2, "c": 3}, [1, 2, "3"], ["1", 2, 3], [1, True, 3]]


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("values", NO_NUMBERS)
def test_places_and_sizes_are_so_many_numbers(path, values):
    with pytest.raises(ContractError, match=r"expected 3 number\(s\)"):
        Cell.from_json(changed(*path, to=values))


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400, 1e6, -1e6])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_no_number_is_infinite_or_absurd(path, value, position):
    values = [1.0, 1.0, 1.0]
    values[position] = value
    with pytest.raises(ContractError, match="numbers below 1e"):
        Cell.from_json(changed(*path, to=values))


@pytest.mark.parametrize("value", [0, 0.0, -0.1])
def test_sizes_are_above_zero(value):
    for position in range(3):
        values = [1.0, 1.0, 1.0]
        values[position] = value
        with pytest.raises(ContractError, match="positive numbers"):
            Cell.from_json(changed("scene", 0, "size", to=values))
    with pytest.raises(ContractError, match=r"capsules\.radius: .*positive numbers"):
        Cell.from_json(changed("capsules", 0, "radius", to=value))


@pytest.mark.parametrize(("kind", "numbers"), [("box", 3), ("sphere", 1), ("capsule", 2)])
def test_each_kind_has_its_number_of_sizes(kind, numbers):
    for count in (1, 2, 3, 4):
        found = changed("scene", 0, "kind", to=kind)
        found["scene"][0]["size"] = [0.5] * count
        if count == numbers:
            assert Cell.from_json(found).scene[0].size == (0.5,) * count
            continue
        with pytest.raises(ContractError, match=rf"expected {numbers} number\(s\)"):
            Cell.from_json(found)


@pytest.mark.parametrize("schema", ["dropgate.cell/2", "dropgate.cell", 1, None, []])
def test_another_schema_is_refused(schema):
    with pytest.raises(ContractError, match=r"cell: schema is .*, expected 'dropgate.cell/1'"):
        Cell.from_json(changed("schema", to=schema))
