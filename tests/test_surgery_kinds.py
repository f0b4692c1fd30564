# SPDX-License-Identifier: Apache-2.0
"""A stack whose blocks get their kind by their place is not shortened in a way that would change a kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2Model

from compress.models.base import BlockGroup, ModelError, Surgery
from compress.models.surgery import operate

KINDS = ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]
GROUP = BlockGroup(
    "language", "layers", "self_attn", "mlp", "input_layernorm", "post_attention_layernorm", "norm"
)  # fmt: skip


def qwen() -> nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    windows = {"use_sliding_window": True, "sliding_window": 2, "layer_types": KINDS}
    return Qwen2Model(Qwen2Config(vocab_size=8, num_hidden_layers=4, **sizes, **windows)).eval()


@pytest.mark.parametrize("gone", [0, 1])
def test_a_cut_that_moves_a_kind_is_refused(gone: int) -> None:
    kept = tuple(i for i in range(4) if i != gone)
    with pytest.raises(ModelError, match=r"blocks \[2\] would change their kind .* use form `stub`"):
        operate(qwen(), GROUP, Surgery.none(4), Surgery(4, kept))


@pytest.mark.parametrize("gone", [2, 3])
def test_a_cut_that_moves_none_is_that_of_a_gate(gone: int) -> None:
    torch.manual_seed(0)
    model, tokens = qwen(), torch.randn(1, 6, 16)
    handle = model.layers[gone].register_forward_hook(lambda _m, args, _output: args[0])
    with torch.no_grad():
        wanted = model(inputs_embeds=tokens, use_cache=False).last_hidden_state
    handle.remove()
    operate(model, GROUP, Surgery.none(4), Surgery(4, tuple(i for i in range(4) if i != gone)))
    model.config.num_hidden_layers = 3
    with torch.no_grad():
        torch.testing.assert_close(model(inputs_embeds=tokens, use_cache=False).last_hidden_state, wanted)
