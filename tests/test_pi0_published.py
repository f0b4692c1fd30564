# SPDX-License-Identifier: Apache-2.0
"""pi0 read from the folders that openpi, LeRobot and transformers publish, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from family_pi0 import make
from pi_cuts import batch_of
from pi_publisher import (
    ACTION,
    STATE,
    Affine,
    as_lerobot,
    check_published,
    mean_std,
    openpi_names,
    upstream,
    write_lerobot,
    write_openpi,
    write_robot,
)
from safetensors.torch import load_file, save_file
from transformers import PI0ForConditionalGeneration

from compress.models.base import ModelError
from compress.models.pi0 import Pi0Vla
from runtime.contract.conventions import NormMethod
from runtime.contract.graph import NORMALIZATION_FILE


def shifted(statistics: Mapping[str, list[float]], added: float) -> Affine:
    """(x - mean) / (std + added)."""
    return np.array(statistics["mean"]), np.array(statistics["std"]) + added


def test_openpi_folder(tmp_path: Path) -> None:
    model, statistics = make(0), mean_std(1)
    write_openpi(model, tmp_path / "openpi", openpi_names(statistics))
    check_published(model, Pi0Vla.load(tmp_path / "openpi"), *(shifted(statistics[n], 1e-6) for n in (STATE, ACTION)))


def test_lerobot_folder(tmp_path: Path) -> None:
    model, statistics = make(0), mean_std(2)
    write_lerobot(model, tmp_path / "lerobot", "MEAN_STD", statistics)
    check_published(model, Pi0Vla.load(tmp_path / "lerobot"), *(shifted(statistics[n], 0.0) for n in (STATE, ACTION)))


def test_names_become_what_transformers_makes_of_them(tmp_path: Path) -> None:
    """Its own conversion of LeRobot's names is the second opinion on ours."""
    model = make(0)
    config = model.stock_config()
    write_robot(model, tmp_path)
    (tmp_path / NORMALIZATION_FILE).write_bytes(model.side_files()[NORMALIZATION_FILE])
    weights = as_lerobot(upstream(model))
    del weights["model.paligemma_with_expert.paligemma.lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = PI0ForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    ours = Pi0Vla.load(tmp_path).module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_shards_of_the_stock_class(tmp_path: Path) -> None:
    model = make(0)
    batch = batch_of(model)
    assert isinstance(model.module, PI0ForConditionalGeneration)
    model.module.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    write_robot(model, tmp_path)
    statistics = mean_std(3)
    (tmp_path / "processor_config.json").write_text(
        json.dumps(
            {
                f"{part}_{k}": v
                for part, name in (("state", STATE), ("actions", ACTION))
                for k, v in statistics[name].items()
            }
        )
    )
    found = Pi0Vla.load(tmp_path)
    assert all(torch.equal(v, found.module.state_dict()[k]) for k, v in model.module.state_dict().items())
    np.testing.assert_allclose(found.io.normalizers.action.scale, statistics[ACTION]["std"])
    np.testing.assert_allclose(found.io.normalizers.state.offset, statistics[STATE]["mean"])
    assert torch.equal(found.loss(batch, 1), model.loss(batch, 1))


def test_a_tied_head_stands_for_the_token_table(tmp_path: Path) -> None:
    """LeRobot's published base stores the head only; where both are there, the head carries no action."""
    model = make(0)
    write_openpi(model, tmp_path, openpi_names(mean_std(1)))
    weights = upstream(model)
    table = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    weights["paligemma_with_expert.paligemma.lm_head.weight"] = weights.pop(table)
    save_file(weights, tmp_path / "model.safetensors")
    name = "model.vlm.language_model.embed_tokens.weight"
    assert torch.equal(Pi0Vla.load(tmp_path).module.state_dict()[name], model.module.state_dict()[name])


def test_without_the_experts_head_its_unused_table_is_zero(tmp_path: Path) -> None:
    model = make(0)
    write_openpi(model, tmp_path, openpi_names(mean_std(1)))
    weights = upstream(model)
    del weights["paligemma_with_expert.gemma_expert.lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    found = Pi0Vla.load(tmp_path)
    assert not found.module.state_dict()["model.dit.embed_tokens.weight"].any()
    batch = batch_of(model)
    assert torch.equal(found.loss(batch, 1), model.loss(batch, 1))


DAMAGES = {
    "missing tensors": lambda w: w.pop("paligemma_with_expert.gemma_expert.model.layers.2.mlp.up_proj.weight"),
    "sizes of the network cannot be told": lambda w: w.pop("action_in_proj.weight"),
    "no known layout": lambda w: w.update({"lora.A.weight": torch.zeros(2)}),
    "two tensors": lambda w: w.update({"model.state_proj.weight": torch.zeros(32, 10)}),
    "found pi05; set model.family to pi05": lambda w: w.update({"time_mlp_in.weight": torch.zeros(32, 32)}),
    "expects": lambda w: w.update({"state_proj.bias": torch.zeros(31)}),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_weights_that_do_not_fit_are_refused(message: str, tmp_path: Path) -> None:
    model = make(0)
    write_openpi(model, tmp_path, openpi_names(mean_std(1)))
    weights = load_file(tmp_path / "model.safetensors")
    DAMAGES[message](weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        Pi0Vla.load(tmp_path)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("option", ["use_visual_memory", "use_proprioceptive_memory", "use_relative_actions"])
def test_lerobot_options_that_change_the_inputs_are_refused(option: str, tmp_path: Path) -> None:
    write_lerobot(make(0), tmp_path, "MEAN_STD", mean_std(1))
    edit(tmp_path / "config.json", **{option: True})
    with pytest.raises(ModelError, match=option):
        Pi0Vla.load(tmp_path)


def test_another_policy_type_is_refused(tmp_path: Path) -> None:
    write_lerobot(make(0), tmp_path, "MEAN_STD", mean_std(1))
    edit(tmp_path / "config.json", type="smolvla")
    with pytest.raises(ModelError, match="found a 'smolvla' checkpoint, expected 'pi0'"):
        Pi0Vla.load(tmp_path)


def test_the_robot_must_be_described(tmp_path: Path) -> None:
    write_openpi(make(0), tmp_path, openpi_names(mean_std(1)))
    (tmp_path / "policy_io.json").unlink()
    with pytest.raises(ModelError, match=r"policy_io.json is missing.*beside the weights"):
        Pi0Vla.load(tmp_path)


def test_without_statistics_anywhere_the_robots_own_are_asked_for(tmp_path: Path) -> None:
    model = make(0)
    write_robot(model, tmp_path)
    save_file(upstream(model), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=NORMALIZATION_FILE):
        Pi0Vla.load(tmp_path)
    (tmp_path / NORMALIZATION_FILE).write_bytes(model.side_files()[NORMALIZATION_FILE])
    batch = batch_of(model)
    assert Pi0Vla.load(tmp_path).chunk(batch).shape == (3, 4, 7)


def test_two_robots_statistics_are_a_question(tmp_path: Path) -> None:
    write_openpi(make(0), tmp_path, openpi_names(mean_std(1)))
    other = tmp_path / "assets" / "droid"
    other.mkdir()
    (other / "norm_stats.json").write_bytes(next(tmp_path.rglob("norm_stats.json")).read_bytes())
    with pytest.raises(ModelError, match="statistics of 2 robots"):
        Pi0Vla.load(tmp_path)


def test_pipelines_that_disagree_are_a_question(tmp_path: Path) -> None:
    write_lerobot(make(0), tmp_path, "MEAN_STD", mean_std(1))
    file = tmp_path / "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
    weights = load_file(file)
    save_file({**weights, "action.mean": weights["action.mean"] + 0.1}, file)
    with pytest.raises(ModelError, match="scale actions differently"):
        Pi0Vla.load(tmp_path)


def test_lerobot_may_leave_values_alone_or_use_another_scale(tmp_path: Path) -> None:
    statistics = {name: {"min": [-2.0] * dim, "max": [4.0] * dim} for name, dim in ((STATE, 8), (ACTION, 7))}
    write_lerobot(make(0), tmp_path, "MIN_MAX", statistics)
    assert Pi0Vla.load(tmp_path).io.normalizers.action.method is NormMethod.MIN_MAX
    for name in ("policy_preprocessor", "policy_postprocessor"):
        path = tmp_path / f"{name}.json"
        path.write_text(path.read_text().replace('"STATE": "MIN_MAX"', '"STATE": "IDENTITY"'))
    assert Pi0Vla.load(tmp_path).io.normalizers.state.method is NormMethod.IDENTITY
    path = tmp_path / "policy_preprocessor.json"
    path.write_text(path.read_text().replace('"STATE": "IDENTITY"', '"STATE": "QUANTILE10"'))
    with pytest.raises(ModelError, match="QUANTILE10"):
        Pi0Vla.load(tmp_path)
