# SPDX-License-Identifier: Apache-2.0
"""What is particular to pi0: blocks that leave in pairs, weights without effect, and mixed number types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from family_pi0 import io, make, narrow, sampled, stock_chunk, tiny_config
from pi_cuts import CUTS, batch_of, check_dead_weights, pairs, stub
from pi_publisher import mean_std, openpi_names, upstream, write_openpi, write_robot
from safetensors.torch import save_file
from transformers import PI0ForConditionalGeneration

from compress.dtr.drop import DropError
from compress.models.base import ModelError, Surgery
from compress.models.pi0 import Pi0Vla
from compress.models.pi0_policy import PiPolicy
from runtime.contract.graph import NORMALIZATION_FILE

ELEVEN = (1, 3, 5, 7, 8, 9, 11, 13, 14, 15, 17)


def test_a_pair_leaves_both_lists_as_if_both_slots_were_stubs() -> None:
    compact, stubbed = make(0), make(0)
    batch = batch_of(compact)
    pairs(compact, [1])
    stub(stubbed, "language", (1,), (1,))
    stub(stubbed, "action", (1,), (1,))
    assert [len(g.stack(compact.module)) for g in compact.groups] == [3, 3, 3]
    torch.testing.assert_close(compact.chunk(batch), stubbed.chunk(batch), rtol=0, atol=0)
    torch.testing.assert_close(compact.loss(batch, 4), stubbed.loss(batch, 4), rtol=0, atol=0)
    assert compact.surgery["language"].kept == compact.surgery["action"].kept == (0, 2, 3)


def test_pairs_are_counted_in_the_original_network() -> None:
    model = make(0)
    stub(model, "language", (2,), (2,))
    pairs(model, [0])
    pairs(model, [2])
    assert model.surgery["language"] == Surgery(4, (1, 3))
    with pytest.raises(DropError, match=r"drops \[2\]; the stack keeps \[1, 3\] of 4"):
        pairs(model, [2])


def test_one_half_of_a_pair_is_never_recorded(tmp_path: Path) -> None:
    model = make(0)
    with pytest.raises(ModelError, match="leave their lists in pairs"):
        model.record_surgery({"language": Surgery(4, (0, 1, 3))})
    pairs(model, [1])
    model.save(tmp_path / "cut")
    header = tmp_path / "cut" / "dropgate.json"
    data = json.loads(header.read_text())
    data["surgery"]["action"]["kept"] = [0, 1, 3]
    header.write_text(json.dumps(data))
    with pytest.raises(ModelError, match="leave their lists in pairs"):
        Pi0Vla.load(tmp_path / "cut")


def test_eighteen_pairs_become_seven_that_the_stock_class_loads_bit_for_bit(tmp_path: Path) -> None:
    """The whole road of a pruned pi0: ours, its own folder, the stock folder, and back into ours."""
    model = narrow(0)
    batch = batch_of(model)
    pairs(model, ELEVEN)
    config = model.stock_config()
    assert config is not None
    assert config["vlm_config"]["text_config"]["num_hidden_layers"] == config["dit_config"]["num_hidden_layers"] == 7
    assert config["vlm_config"]["vision_config"]["num_hidden_layers"] == 27
    model.save(tmp_path / "own")
    model.save_stock(tmp_path / "stock")
    assert torch.equal(Pi0Vla.load(tmp_path / "own").chunk(batch), model.chunk(batch))
    assert isinstance(model.module, PI0ForConditionalGeneration)
    assert torch.equal(stock_chunk(tmp_path / "stock", batch), sampled(model.module, batch, 0))
    write_robot(model, tmp_path / "stock")
    (tmp_path / "stock" / NORMALIZATION_FILE).write_bytes(model.side_files()[NORMALIZATION_FILE])
    again = Pi0Vla.load(tmp_path / "stock")
    assert torch.equal(again.chunk(batch), model.chunk(batch))
    assert again.config.dit_config.num_hidden_layers == 7


def test_a_stub_is_nothing_that_the_stock_class_can_say(tmp_path: Path) -> None:
    model = make(0)
    stub(model, "language", (1,), (1,))
    assert model.stock_config() is None
    with pytest.raises(ModelError, match=r"plan pairs \(role `language\+action`\)"):
        model.save_stock(tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.__name__)
def test_dead_weights_are_those_without_gradient(cut: Callable[[PiPolicy], None]) -> None:
    model = make(0)
    cut(model)
    check_dead_weights(model)


def test_dead_weights_of_the_whole_network() -> None:
    """The last language block's queries, output, MLP and norm, the last norm, and the expert's token table."""
    model = make(0)
    block = "model.vlm.language_model.layers.3"
    writers = {f"{block}.self_attn.{name}.weight" for name in ("q_proj", "o_proj")}
    mlp = {f"{block}.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    others = {f"{block}.post_attention_layernorm.weight", "model.vlm.language_model.norm.weight"}
    assert set(model.dead_weights) == writers | mlp | others | {"model.dit.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_state_dim": 7}, "state dimensions"),
        ({"max_action_dim": 6}, "action dimensions"),
        ({"chunk_size": 5}, "horizon"),
    ],
)
def test_the_robot_must_fit_the_network(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Pi0Vla(tiny_config(**changes), io())


def test_stacks_that_cannot_share_keys_are_refused() -> None:
    with pytest.raises(ModelError, match="block by block"):
        tiny_config(expert={"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 8,
                            "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 3})  # fmt: skip


def test_bfloat16_with_float32_norms_as_openpi_publishes_it(tmp_path: Path) -> None:
    """Types stay as loaded (one per tower), and the answer is the float32 one up to bfloat16 rounding."""
    model = make(0)
    write_openpi(model, tmp_path / "openpi", openpi_names(mean_std(1)))
    wide = ("patch_embedding", "position_embedding", "layernorm", "model.norm", "action_", "state_")
    low = {k: v if any(w in k for w in wide) else v.bfloat16() for k, v in upstream(model).items()}
    save_file(low, tmp_path / "openpi" / "model.safetensors")
    found = Pi0Vla.load(tmp_path / "openpi")
    state = found.module.state_dict()
    assert state["model.dit.layers.0.mlp.up_proj.weight"].dtype is torch.bfloat16
    assert state["model.dit.layers.0.input_layernorm.weight"].dtype is torch.float32
    assert {v.dtype for k, v in state.items() if "vision_tower" in k} == {torch.float32}
    batch = batch_of(model)
    torch.testing.assert_close(found.loss(batch, 2), model.loss(batch, 2), rtol=0.02, atol=0.02)
    found.save(tmp_path / "own")
    again = Pi0Vla.load(tmp_path / "own")
    assert torch.equal(again.chunk(batch), found.chunk(batch))
    found.loss(batch, 2).sum().backward()


def test_autocast_loss_is_the_loss() -> None:
    model = make(0)
    batch = batch_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        low = model.loss(batch, 2)
    torch.testing.assert_close(low.float(), model.loss(batch, 2), rtol=0.02, atol=0.02)
