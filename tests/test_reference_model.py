# SPDX-License-Identifier: Apache-2.0
"""The reference VLA: what goes in, what it may not see, and what its checkpoint folder refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import algorithm_factory as factory
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.models.base import ModelError, Surgery
from compress.models.reference import ReferenceVla
from compress.models.reference_config import ReferenceConfig
from compress.models.registry import UnknownFamilyError, load_model
from compress.models.surgery import operate


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "model"
    factory.policy().save(folder)
    return folder


def copy_of(checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_saved_model_loads_bit_equal(checkpoint: Path) -> None:
    made, loaded = factory.policy(), ReferenceVla.load(checkpoint)
    batch = factory.batches(made)[0]
    assert torch.equal(made.chunk(batch), loaded.chunk(batch))
    assert made.identity() == loaded.identity()


def test_pruned_model_loads_bit_equal_with_its_record(tmp_path: Path) -> None:
    model = factory.policy()
    wanted = Surgery(6, (0, 2, 5), without_attention=(2,), without_mlp=(5,))
    operate(model.module, model.groups[0], model.surgery["language"], wanted)
    model.record_surgery({"language": wanted})
    model.save(tmp_path / "pruned")
    loaded = ReferenceVla.load(tmp_path / "pruned")
    batch = factory.batches(model)[0]
    assert torch.equal(model.chunk(batch), loaded.chunk(batch))
    assert loaded.surgery["language"] == wanted
    assert len(loaded.groups[0].stack(loaded.module)) == 3


def test_shipped_half_precision_loads_as_single(tmp_path: Path) -> None:
    factory.policy().save(tmp_path / "half", half=True)
    assert load_file(tmp_path / "half" / "model.safetensors")["language.norm.weight"].dtype == torch.float16
    assert {p.dtype for p in ReferenceVla.load(tmp_path / "half").module.parameters()} == {torch.float32}


def test_every_word_reaches_the_first_action() -> None:
    model = factory.policy()
    one, other = (replace(s, instruction=t) for s, t in zip(factory.samples(1) * 2, factory.INSTRUCTIONS, strict=False))
    assert not torch.equal(model.chunk(model.collate([one]))[:, 0], model.chunk(model.collate([other]))[:, 0])


def test_padding_is_never_seen() -> None:
    model = factory.policy()
    batch = factory.batches(model)[0]
    before = model.chunk(batch)
    batch.inputs["input_ids"][batch.inputs["attention_mask"] == 0] = 77
    assert torch.equal(before, model.chunk(batch))


def test_decoding_is_bidirectional() -> None:
    """The first chunk step depends on the last placeholder: no causal mask."""
    model = factory.policy()
    batch = factory.batches(model)[0]
    before = model.chunk(batch)[:, 0]
    with torch.no_grad():
        model._module.placeholders[-1] += 1.0
    assert not torch.equal(before, model.chunk(batch)[:, 0])


def test_padded_steps_carry_no_loss() -> None:
    model = factory.policy()
    sample = factory.samples(1)[0]
    pad = np.array([False, False, True, True])
    wild = sample.actions.copy()
    wild[2:] = 9.0
    losses = [model.loss(model.collate([replace(sample, actions=a, pad=pad)])) for a in (sample.actions, wild)]
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"images": {}}, "camera"),
        ({"state": np.zeros(3, np.float32)}, r"expected \(8,\)"),
        ({"images": {c: np.zeros((16, 16, 3), np.uint8) for c in ("agentview", "wrist")}}, "expected 32 px"),
    ],
)
def test_misfit_sample_is_named(change: dict[str, object], expected: str) -> None:
    sample = replace(factory.samples(1)[0], **change)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=expected) as caught:
        factory.policy().collate([sample])
    assert sample.sample_id in str(caught.value)


def test_truncated_weights_are_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoint, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated or damaged"):
        ReferenceVla.load(folder)


def test_nan_weights_are_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoint, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["language.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"language\.norm\.weight holds NaN"):
        ReferenceVla.load(folder)


def test_missing_file_is_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoint, tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json missing"):
        ReferenceVla.load(folder)


@pytest.mark.parametrize("change", ["drop", "add", "reshape"])
def test_weights_must_fit_the_configuration(checkpoint: Path, tmp_path: Path, change: str) -> None:
    folder = copy_of(checkpoint, tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = "language.norm.weight"
    if change == "drop":
        del weights[name]
    elif change == "add":
        weights["stray"] = torch.ones(1)
    else:
        weights[name] = torch.ones(3)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match="stray" if change == "add" else r"language\.norm\.weight"):
        ReferenceVla.load(folder)


def test_other_family_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoint, tmp_path)
    header = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**header, "family": "smolvla"}))
    with pytest.raises(ModelError, match="family is 'smolvla', expected 'reference'"):
        ReferenceVla.load(folder)


def test_nan_is_never_saved(tmp_path: Path) -> None:
    model = factory.policy()
    with torch.no_grad():
        model._module.placeholders[0, 0] = float("nan")
    with pytest.raises(ModelError, match="placeholders"):
        model.save(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_configuration_round_trips_through_json() -> None:
    config = ReferenceConfig().after_surgery({"language": Surgery(12, (0, 3, 11), (3,))})
    assert ReferenceConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.language.depth == 3


def test_removed_block_cannot_come_back() -> None:
    model = factory.policy()
    group = model.groups[0]
    operate(model.module, group, Surgery.none(6), Surgery(6, (0, 1)))
    with pytest.raises(ModelError, match="no longer in the model"):
        operate(model.module, group, Surgery(6, (0, 1)), Surgery(6, (0, 4)))


def test_unknown_family_lists_what_there_is() -> None:
    with pytest.raises(UnknownFamilyError, match=r"available: .*reference"):
        load_model("openvla", "somewhere")
