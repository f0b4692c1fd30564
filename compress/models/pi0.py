# SPDX-License-Identifier: Apache-2.0
"""pi0 (arXiv 2410.24164) as a `VlaModel`, on transformers' `PI0ForConditionalGeneration`, which holds every weight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PI0Config, PI0ForConditionalGeneration

from compress.atomic import folder_atomic
from compress.models import pi0_config
from compress.models.base import ModelError
from compress.models.checkpoint import require_finite
from compress.models.pi0_graph import Prefix
from compress.models.pi0_names import EXPERT_HEAD
from compress.models.pi0_policy import PiPolicy

TABLE = "model.dit.embed_tokens"  # the expert is fed embeddings: its own token table is never read
WORDS = "vlm.language_model.embed_tokens.weight"
PROMPT = "{instruction}\n"  # openpi and LeRobot end the instruction with a newline; neither changes its case


class Pi0Network(nn.Module):
    """The stock class, called part by part: its own methods, with masks and positions given."""

    def __init__(self, stock: PI0ForConditionalGeneration) -> None:
        super().__init__()
        self.stock = stock

    @property
    def vlm(self) -> Any:
        """PaliGemma."""
        return self.stock.model.vlm

    def velocity(self, prefix: Prefix, state: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """State (B, S), noisy actions (B, H, A), times (B,) -> velocity (B, H, A)."""
        stock = self.stock
        small = stock.action_out_proj.weight.dtype
        state = nn.functional.pad(state, (0, stock.config.max_state_dim - state.shape[-1]))
        embeds = stock.embed_action_time(state.to(small), noisy.to(small), time)
        embeds = embeds.to(self.vlm.get_input_embeddings().weight.dtype)
        mask, positions = prefix.suffix(embeds.shape[1], alone=1, dtype=embeds.dtype)
        hidden = stock.model.dit(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, cache=prefix.cache,
            use_cache=False,
        ).last_hidden_state  # fmt: skip
        return cast(Tensor, stock.action_out_proj(hidden[:, 1:].to(small)))


class Pi0Vla(PiPolicy):
    """The `VlaModel` of pi0."""

    family = "pi0"
    head = "action_out_proj"
    vlm = "model.vlm"
    expert = "model.dit"
    unused = (TABLE,)

    def _build(self, config: PI0Config) -> Pi0Network:
        return Pi0Network(PI0ForConditionalGeneration(config))

    @property
    def module(self) -> nn.Module:
        """The stock class."""
        return cast(Pi0Network, self.network).stock

    def _place(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        placed = {_stock_name(name): value for name, value in weights.items()}
        if EXPERT_HEAD not in weights:  # openpi drops it; the stock class wants the slot filled
            slot = self.module.state_dict()[f"{TABLE}.weight"]
            placed[f"{TABLE}.weight"] = torch.zeros(slot.shape, dtype=weights.get(WORDS, slot).dtype)
        return placed

    def stock_config(self) -> dict[str, Any] | None:
        """The configuration under which transformers loads this network; None while any slot is a stub."""
        surgery = self.surgery
        if self.hollow or any(record.without_attention or record.without_mlp for record in surgery.values()):
            return None
        config = pi0_config.plain(self.config)
        for role, names in pi0_config.DEPTHS.items():
            inner = config
            for name in names[:-1]:
                inner = inner[name]
            inner[names[-1]] = len(surgery[role].kept)
        kinds = {value.dtype for value in self.module.state_dict().values()}
        widest = kinds.pop() if len(kinds) == 1 else torch.float32
        return {
            **config, "model_type": "pi0", "architectures": ["PI0ForConditionalGeneration"],
            "dtype": str(widest).removeprefix("torch."),
        }  # fmt: skip

    def save_stock(self, folder: Path) -> None:
        """Write a folder that `PI0ForConditionalGeneration.from_pretrained` loads, atomically.

        Raises:
            ModelError: slots are stubs, which the stock class cannot express, or a weight is not finite.
        """
        config = self.stock_config()
        if config is None:
            raise ModelError(
                "pi0: stubbed slots cannot be written for the stock class: remove pairs with `compact_pairs`, and "
                "vision blocks in form `compact`"
            )
        require_finite(self.module.state_dict(), folder)
        with folder_atomic(folder) as work:
            cast(PI0ForConditionalGeneration, self.module).save_pretrained(work)
            (work / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _stock_name(name: str) -> str:
    if name == EXPERT_HEAD:
        return f"{TABLE}.weight"
    for prefix, replacement in (("vlm.", "model.vlm."), ("expert.", "model.dit."), ("action_out_proj.", None)):
        if name.startswith(prefix):
            return name if replacement is None else replacement + name.removeprefix(prefix)
    return f"embed_action_time.{name}"
