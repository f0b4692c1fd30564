# SPDX-License-Identifier: Apache-2.0
"""The network of OpenVLA-OFT (arXiv 2502.19645) on stock transformers blocks; every language token sees every real one.

    position    0     1 ... P     P+1       [P+2]   then L-1    then one   then H*A    then one
    token       BOS   patches     state     [time]  prompt      suffix     slots       stop

P patches are those of all cameras, L is the length of the prompt with its BOS. The suffix is Llama's empty token, which
upstream appends to every prompt; slots are zeros (L1 head) or projected noisy actions (diffusion head, which also adds
the time token). Hidden states are read one place early, as upstream reads them: from the suffix to the last slot but
one. The prompt comes right-padded, so its padding lies in the middle: nothing sees it and positions count real tokens
only. For a prompt without padding this is the published sequence; with padding it is the published sequence of the
prompt alone. The same holds for FiLM, whose mean embedding here never counts padding, as in upstream's inference
(upstream's batched training does count it, so that a sample's loss there depends on its neighbours' prompts).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from compress.models.flow import start_noise
from compress.models.openvla_oft_config import SIGLIP_MEAN, SIGLIP_STD, LlamaShape, OpenVlaOftConfig
from compress.models.openvla_oft_heads import ActionHead, Projector, ddim_factors, ddim_step, time_features, visits
from compress.models.openvla_oft_vision import dinov2, siglip
from compress.models.rows import Rows


class Scene(NamedTuple):
    """An observation as tokens: `front` (B, F, W), `words` (B, T - 1, W), their `mask` (B, T), `length` (B, 1)."""

    front: Tensor
    words: Tensor
    mask: Tensor
    length: Tensor


class OpenVlaOftModule(nn.Module):
    """pixels, ids, mask, state -> normalised chunk; this is the exported graph."""

    start: Tensor

    def __init__(self, config: OpenVlaOftConfig) -> None:
        super().__init__()
        self.config = config
        width, seen = config.language.width, config.dinov2.width + config.siglip.width
        self.dinov2 = dinov2(config)
        self.siglip = siglip(config)
        self.projector = Projector(seen, 4 * seen, width, width)
        self.proprio_projector = Projector(config.state_dim, width, width)
        self.language = LlamaModel(_llama(config.language))
        self.read_rows = Rows("language", -(config.slots + 2), -2)  # from the suffix to the last slot but one
        self.head = ActionHead(width, config.action_dim)
        if config.diffusion is not None:
            self.noisy_action_projector = Projector(1, width, width)
            self.register_buffer("start", torch.zeros(config.horizon, config.action_dim), persistent=False)
        self.settle()

    def settle(self) -> None:
        """Compute what no checkpoint holds; needed again after a build on the meta device."""
        self.language.rotary_emb = LlamaRotaryEmbedding(self.language.config)
        if self.config.diffusion is not None:
            start = start_noise((self.config.horizon, self.config.action_dim), 0)
            self.start = start.to(self.head.fc2.weight.device)

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> Tensor:
        """Decode the whole chunk; with the diffusion head, denoise it from the start noise of seed 0.

        Args:
            pixels: (B, C, 3, H, W) float, `(x / 255 - 0.5) / 0.5`.
            input_ids: (B, T) int64, right-padded, BOS first.
            attention_mask: (B, T) int64, 1 where a token is real.
            state: (B, S) float, normalised.

        Returns:
            (B, horizon, A) float, normalised actions.
        """
        scene = self.observe(pixels, input_ids, attention_mask, state)
        if self.config.diffusion is None:
            slots = scene.front.new_zeros(scene.front.shape[0], self.config.slots, scene.front.shape[2])
            return self.head(self.decode(scene.front, scene, slots)).float()
        return self.denoise(scene, self.start)

    def observe(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> Scene:
        """What does not change while a chunk is denoised."""
        batch, cameras = pixels.shape[:2]
        embedded = self.language.embed_tokens(input_ids)
        language = self._mean(embedded, attention_mask) if self.config.film else None
        if language is not None:
            language = language.unsqueeze(1).expand(-1, cameras, -1).flatten(0, 1)
        images = pixels.flatten(0, 1).to(self.siglip.positions.dtype)
        seen = torch.cat([self.dinov2(self._for_dino(images), language), self.siglip(images, language)], dim=-1)
        patches = self.projector(seen).unflatten(0, (batch, cameras)).flatten(1, 2)  # (B, C * N, W)
        if self.config.clip_state:
            state = state.clamp(-1.0, 1.0)
        proprio = self.proprio_projector(state.to(embedded.dtype)).unsqueeze(1)
        front = torch.cat([embedded[:, :1], patches, proprio], dim=1)
        return Scene(front, embedded[:, 1:], attention_mask, attention_mask.sum(dim=1, keepdim=True))

    def decode(self, front: Tensor, scene: Scene, slots: Tensor) -> Tensor:
        """Hidden states (B, H * A, W) that the head reads.

        Args:
            front: (B, F, W), tokens before the prompt.
            scene: the rest of the observation.
            slots: (B, H * A, W), what lies at the action positions.
        """
        batch, ahead, count = front.shape[0], front.shape[1] + scene.words.shape[1], slots.shape[1]
        suffix, stop = (self._token(name).expand(batch, 1, -1) for name in (self.config.suffix_id, self.config.stop_id))
        tokens = torch.cat([front, scene.words, suffix, slots, stop], dim=1)
        counted = torch.arange(max(ahead, count + 2), device=front.device)
        behind = counted[: count + 2] + (front.shape[1] - 1) + scene.length
        positions = torch.cat([counted[:ahead].expand(batch, -1), behind], dim=1)
        real = scene.mask.to(tokens.dtype)
        ones = torch.ones(batch, front.shape[1] + count + 2, dtype=tokens.dtype, device=front.device)
        seen = torch.cat([ones[:, : front.shape[1]], real[:, 1:], ones[:, front.shape[1] :]], dim=1)
        blocked = (1.0 - seen) * torch.finfo(tokens.dtype).min
        mask = blocked[:, None, None, :].expand(batch, 1, tokens.shape[1], tokens.shape[1])
        hidden = self.language(inputs_embeds=tokens, attention_mask=mask, position_ids=positions, use_cache=False)
        return self.read_rows(hidden.last_hidden_state)

    def predict_noise(self, scene: Scene, noisy: Tensor, levels: Tensor) -> Tensor:
        """The noise in `noisy` (B, H, A) at noise levels (B,) -> (B, H, A)."""
        return self._noise(scene, noisy, time_features(levels.to(noisy.dtype), scene.front.shape[2]))

    def _noise(self, scene: Scene, noisy: Tensor, features: Tensor) -> Tensor:
        """The same with `time_features` (B or 1, W) of the levels."""
        front = scene.front
        slots = self.noisy_action_projector(noisy.flatten(1).unsqueeze(-1).to(front.dtype))
        moment = features.to(front.dtype).expand(front.shape[0], -1).unsqueeze(1)
        return self.head(self.decode(torch.cat([front, moment], dim=1), scene, slots)).float()

    def tables(self) -> tuple[Tensor, Tensor]:
        """What differs between the sampler's steps: `time_features` (steps, W) and `ddim_factors` (steps, 4)."""
        assert self.config.diffusion is not None  # callers have looked
        path, device = visits(self.config.diffusion), self.head.fc2.weight.device
        levels = torch.tensor([float(level) for level, _, _ in path], device=device)
        factors = torch.tensor([ddim_factors(share, following) for _, share, following in path], device=device)
        return time_features(levels, self.config.language.width), factors

    def advance(self, chunk: Tensor, rows: tuple[Tensor, ...], context: tuple[Tensor, ...], share: float) -> Tensor:
        """One step of the deterministic sampler (`compress.models.flow`); its share is in the tables."""
        del share
        features, factors = rows
        return ddim_step(chunk, self._noise(Scene(*context), chunk, features), *factors[..., None, None].unbind(1))

    def denoise(self, scene: Scene, start: Tensor) -> Tensor:
        """From start noise (H, A) to a normalised chunk (B, H, A), by the deterministic sampler."""
        assert self.config.diffusion is not None  # callers have looked
        noisy = start.expand(scene.front.shape[0], -1, -1)
        for features, factors in zip(*(table.split(1) for table in self.tables()), strict=True):
            noisy = self.advance(noisy, (features, factors), scene, 0.0)
        return noisy

    def _token(self, name: int) -> Tensor:
        table = self.language.embed_tokens
        return table(torch.full((1, 1), name, dtype=torch.int64, device=table.weight.device))

    def _mean(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """The mean over the prompt, the suffix and the stop token, (B, W)."""
        real = mask.to(embedded.dtype).unsqueeze(-1)
        added = self._token(self.config.suffix_id)[0] + self._token(self.config.stop_id)[0]
        return ((embedded * real).sum(dim=1) + added) / (real.sum(dim=1) + 2)

    def _for_dino(self, images: Tensor) -> Tensor:
        """SigLIP's normalisation undone and DINOv2's applied."""
        pairs = list(zip(SIGLIP_MEAN, SIGLIP_STD, self.config.dino_mean, self.config.dino_std, strict=True))
        scale = images.new_tensor([std / dino_std for _, std, _, dino_std in pairs])
        shift = images.new_tensor([(mean - dino_mean) / dino_std for mean, _, dino_mean, dino_std in pairs])
        return images * scale[:, None, None] + shift[:, None, None]


def _llama(shape: LlamaShape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        rms_norm_eps=shape.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_base},
        max_position_embeddings=2048,
        pad_token_id=None,
        use_cache=False,
        attn_implementation="sdpa",
    )
