# SPDX-License-Identifier: Apache-2.0
"""Which families can be loaded, and what is said of those that cannot."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from compress.models.registry import BUILTIN, FAMILIES, REFUSED, UnknownFamilyError, checkpoint_path, load_model


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_has_its_adapter(family: str) -> None:
    module, _, name = FAMILIES[family].partition(":")
    adapter = getattr(importlib.import_module(module), name)
    assert adapter.family == family
    assert callable(adapter.load)


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_refused_families_say_why_and_what_there_is(family: str, tmp_path: Path) -> None:
    assert family not in FAMILIES
    with pytest.raises(UnknownFamilyError) as caught:
        load_model(family, tmp_path)
    assert REFUSED[family] in str(caught.value)
    assert all(name in str(caught.value) for name in FAMILIES)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("GR00T-N1.5", "groot"), ("x-vla", "xvla"), ("pi0_fast", "pi0-fast"), ("Lingbot-VLA", "lingbot"),
     ("GigaBrain-0.7", "gigabrain0"), ("VLAAdapter", "vla-adapter"), ("openvla-7b", "openvla")],
)  # fmt: skip
def test_spelling_does_not_matter(asked: str, meant: str) -> None:
    with pytest.raises(UnknownFamilyError) as caught:
        checkpoint_path(asked, "somewhere")
    assert REFUSED[meant] in str(caught.value)


def test_another_spelling_of_a_family_is_told_the_right_one() -> None:
    for asked, meant in (("SmolVLA", "smolvla"), ("GR00T-N1.7", "groot_n17")):
        with pytest.raises(UnknownFamilyError, match=f"'{asked}' is written '{meant}'"):
            checkpoint_path(asked, "somewhere")


def test_an_unknown_name_is_only_unknown() -> None:
    for name in ("nonesuch", "actor"):
        with pytest.raises(UnknownFamilyError, match=f"'{name}' is not known; available: "):
            checkpoint_path(name, "somewhere")


def test_builtin_is_refused_where_nothing_ships() -> None:
    assert set(BUILTIN) == {"reference"}
    assert checkpoint_path("reference", "builtin").is_dir()
    with pytest.raises(UnknownFamilyError, match="no checkpoint of 'smolvla' ships with the package"):
        checkpoint_path("smolvla", "builtin")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownFamilyError, match=r"no checkpoint folder at .*absent"):
        load_model("smolvla", tmp_path / "absent")
