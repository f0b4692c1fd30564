# SPDX-License-Identifier: Apache-2.0
"""Cuts of tiny policies for the tests of exact trims."""

from __future__ import annotations

from collections.abc import Sequence

from compress.models.base import Surgery, VlaModel
from compress.models.surgery import operate
from compress.probing import find_group, surgery_of


def stub(model: VlaModel, role: str, blocks: Sequence[int], parts: str = "am") -> None:
    """Silence attention (`a`) and MLP (`m`) of blocks, in original indices."""
    done = surgery_of(model, find_group(model, role))
    attention = {*done.without_attention, *(blocks if "a" in parts else ())}
    mlp = {*done.without_mlp, *(blocks if "m" in parts else ())}
    _change(model, role, Surgery(done.depth, done.kept, tuple(sorted(attention)), tuple(sorted(mlp))))


def keep(model: VlaModel, role: str, blocks: Sequence[int]) -> None:
    """Shorten the list to these blocks, in original indices."""
    _change(model, role, Surgery(surgery_of(model, find_group(model, role)).depth, tuple(blocks)))


def _change(model: VlaModel, role: str, wanted: Surgery) -> None:
    group = find_group(model, role)
    operate(model.module, group, surgery_of(model, group), wanted)
    model.record_surgery({**model.surgery, role: wanted})
