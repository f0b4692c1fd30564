# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's header knows its weights: what fits in shape but is not what was saved never loads."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from family_cases import NAMES, case, samples_for
from safetensors.torch import load_file, save_file
from torch import Tensor

from compress.models.base import ModelError, VlaModel
from compress.models.checkpoint import digest_of
from compress.models.registry import checkpoint_path, load_model

families = pytest.mark.parametrize("name", NAMES)
Change = Callable[[dict[str, Tensor], VlaModel], dict[str, Tensor]]


def exchanged(weights: dict[str, Tensor], model: VlaModel) -> dict[str, Tensor]:
    """The last two blocks of a stack whose blocks are alike change places."""
    for group in model.groups:
        last = len(group.stack(model.module)) - 1
        a, b = (f"{group.blocks}.{index}." for index in (last - 1, last))
        swap = {
            n: n.replace(a, b, 1) if n.startswith(a) else n.replace(b, a, 1) for n in weights if n.startswith((a, b))
        }
        if all(weights[n].shape == weights[m].shape for n, m in swap.items() if m in weights) and set(
            swap.values()
        ) == set(swap):
            return {**weights, **{m: weights[n] for n, m in swap.items()}}
    raise AssertionError("no stack has two blocks of one shape")


def one_bit(weights: dict[str, Tensor], model: VlaModel) -> dict[str, Tensor]:
    """The least change that a number can have."""
    del model
    name = next(n for n, w in weights.items() if w.is_floating_point() and w.numel() > 1)
    changed = weights[name].clone()
    changed.view(-1)[0] = torch.nextafter(changed.view(-1)[0], torch.tensor(9.0))
    return {**weights, name: changed}


def header_of(folder: Path) -> Path:
    own = folder / "dropgate.json"
    return own if own.exists() else folder / "config.json"


@families
@pytest.mark.parametrize("change", [exchanged, one_bit], ids=lambda change: change.__name__)
def test_weights_that_were_not_saved_with_the_header_never_load(name: str, change: Change, tmp_path: Path) -> None:
    model = case(name).make(0)
    model.save(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file(change(load_file(file), model), file)
    with pytest.raises(
        ModelError, match=r"not the weights that were saved with this header .* copy the checkpoint again"
    ):
        case(name).load(tmp_path / "model")


@families
def test_a_checkpoint_from_before_loads_and_says_so(name: str, tmp_path: Path) -> None:
    """The same policy, with a warning; saved again it is as strict as a new one."""
    model = case(name).make(0)
    model.save(tmp_path / "model")
    header = header_of(tmp_path / "model")
    data = json.loads(header.read_text())
    assert data.pop("weights") == digest_of(load_file(tmp_path / "model" / "model.safetensors"))
    header.write_text(json.dumps(data))
    with pytest.warns(UserWarning, match=r"says nothing of its weights .* compress convert"):
        older = case(name).load(tmp_path / "model")
    assert older.identity() == model.identity()
    older.save(tmp_path / "again")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = case(name).load(tmp_path / "again")
    batch: Any = model.collate(samples_for(model, 1))
    assert torch.equal(again.chunk(batch), model.chunk(batch))


def test_the_shipped_policy_loads_silently_with_the_identity_that_it_had_before(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shipped = load_model("reference", "builtin")
    shutil.copytree(checkpoint_path("reference", "builtin"), tmp_path / "before")
    header = header_of(tmp_path / "before")
    data = json.loads(header.read_text())
    del data["weights"]
    header.write_text(json.dumps(data))
    with pytest.warns(UserWarning, match="says nothing of its weights"):
        assert load_model("reference", tmp_path / "before").identity() == shipped.identity()
