# SPDX-License-Identifier: Apache-2.0
"""The network of the reference VLA: transformers' SigLIP and Llama, a projector for each input, one head.

    two cameras -> SigLIP tower -> 2x2 patch merge + projector --+
    proprioception -> projector ---------------------------------+-> Llama blocks (bidirectional) -> L1 head -> chunk
    BPE prompt -> token embeddings ------------------------------+
    one learned placeholder per step of the chunk ---------------+

Parallel decoding and the L1 head follow OpenVLA-OFT (arXiv 2502.19645). Deviations, for the sake of two CPU cores: one
placeholder per chunk step (theirs: one per step and dimension), learned placeholder embeddings (theirs: zeros).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, SiglipVisionConfig, SiglipVisionModel

from compress.models.reference_config import ReferenceConfig
from compress.models.rows import Rows

INPUTS = ("pixels", "input_ids", "attention_mask", "state")


def _llama(config: ReferenceConfig) -> LlamaModel:
    c = config.language
    return LlamaModel(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=c.width,
            intermediate_size=c.mlp_width,
            num_hidden_layers=c.depth,
            num_attention_heads=c.heads,
            num_key_value_heads=c.heads,
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )


def _siglip(config: ReferenceConfig) -> SiglipVisionModel:
    c = config.vision
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=c.width,
            intermediate_size=c.mlp_width,
            num_hidden_layers=c.depth,
            num_attention_heads=c.heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            vision_use_head=False,
            attn_implementation="sdpa",
        )
    )


class ReferenceModule(nn.Module):
    """pixels, ids, mask, state -> normalised chunk; this is the exported graph."""

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.config = config
        width, merged = config.language.width, 4 * config.vision.width
        self.vision = _siglip(config)
        self.projector = nn.Sequential(
            nn.LayerNorm(merged), nn.Linear(merged, width), nn.GELU(), nn.Linear(width, width)
        )
        self.camera_embedding = nn.Parameter(torch.randn(len(config.cameras), 1, width) * 0.02)
        self.state_projector = nn.Sequential(nn.Linear(config.state_dim, width), nn.GELU(), nn.Linear(width, width))
        self.placeholders = nn.Parameter(torch.randn(config.horizon, width) * 0.02)
        self.language = _llama(config)
        self.read_rows = Rows("language", -config.horizon, None)
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, config.action_dim)
        )

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> Tensor:
        """Decode the whole chunk in one pass.

        Args:
            pixels: (B, C, 3, H, W) float, normalised; camera order as in the configuration.
            input_ids: (B, T) int64, right-padded.
            attention_mask: (B, T) int64, 1 where a token is real.
            state: (B, S) float, normalised.

        Returns:
            (B, horizon, A) float, normalised actions.
        """
        batch = pixels.shape[0]
        images = self._see(pixels)  # (B, C * N, W)
        proprio = self.state_projector(state).unsqueeze(1)  # (B, 1, W)
        words = self.language.embed_tokens(input_ids)  # (B, T, W)
        slots = self.placeholders.expand(batch, -1, -1)  # (B, H, W)
        tokens = torch.cat([images, proprio, words, slots], dim=1)
        seen = torch.cat(
            [
                torch.ones(batch, images.shape[1] + 1, dtype=torch.bool, device=pixels.device),
                attention_mask.bool(),
                torch.ones(batch, slots.shape[1], dtype=torch.bool, device=pixels.device),
            ],
            dim=1,
        )
        # Every token sees every real token, forwards and backwards.
        blocked = torch.zeros_like(seen, dtype=tokens.dtype).masked_fill(~seen, torch.finfo(tokens.dtype).min)
        mask = blocked[:, None, None, :].expand(batch, 1, tokens.shape[1], tokens.shape[1])
        positions = self._places(images.shape[1] + 1, words.shape[1], tokens.device)
        hidden = self.language(inputs_embeds=tokens, attention_mask=mask, position_ids=positions, use_cache=False)
        return self.head(self.read_rows(hidden.last_hidden_state))

    def _places(self, ahead: int, words: int, device: torch.device) -> Tensor | None:
        """Positions (1, L) of a prompt without its padding, as they are with it; None for a prompt of full length."""
        if words == self.config.max_tokens:
            return None
        front, slots = torch.arange(ahead + words, device=device), torch.arange(self.config.horizon, device=device)
        return torch.cat([front, ahead + self.config.max_tokens + slots])[None]

    def _see(self, pixels: Tensor) -> Tensor:
        """(B, C, 3, H, W) -> (B, C * N, W): patches of each camera, merged two by two."""
        batch, cameras = pixels.shape[:2]
        patches = self.vision(pixel_values=pixels.flatten(0, 1)).last_hidden_state  # (B * C, side * side, V)
        side = self.config.image_size // self.config.patch_size
        patches = patches.view(batch * cameras, side // 2, 2, side // 2, 2, -1).permute(0, 1, 3, 2, 4, 5)
        patches = patches.flatten(3).flatten(1, 2)  # (B * C, N, 4 V)
        projected = self.projector(patches).view(batch, cameras, -1, self.config.language.width)
        return (projected + self.camera_embedding).flatten(1, 2)
