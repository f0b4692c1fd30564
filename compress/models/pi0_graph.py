# SPDX-License-Identifier: Apache-2.0
"""What pi0 and pi0.5 compute alike: a prefix read once, and a flow of actions that attends to its keys and values.

The two stacks meet in the keys and values only: block i of the expert attends to those of block i of the language
stack, and to its own. Masks are plain additive tensors and positions are given, because the masks that transformers
builds itself (`create_causal_mask` with blocks) have no ONNX form; the conformance suite holds both to be equal.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from compress.models.flow import start_noise


class PrefixCache:
    """Keys and values (B, heads, tokens, width) of the prefix by block index, in the form that Gemma's attention asks.

    While it is open it keeps what it is given; once closed it puts what it kept in front of what it is given.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._open = True

    def close(self) -> None:
        """From here on, reading only."""
        self._open = False

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What block `layer_idx` attends to."""
        if self._open:
            self._kept[layer_idx] = keys, values
            return keys, values
        kept_keys, kept_values = self._kept[layer_idx]
        return torch.cat([kept_keys, keys], dim=2), torch.cat([kept_values, values], dim=2)


class Prefix:
    """What the language stack keeps of images and prompt: its keys and values, and which tokens are real, (B, P)."""

    def __init__(self, cache: PrefixCache, real: Tensor) -> None:
        self.cache = cache
        self.real = real

    def suffix(self, tokens: int, alone: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Additive mask (B, 1, S, P + S) and positions (B, S) of `tokens` tokens behind the prefix.

        Args:
            tokens: S.
            alone: the first so many do not see the others (pi0's state token).
            dtype: of the mask.
        """
        order = torch.arange(tokens, device=self.real.device)
        own = (order[:, None] >= alone) | (order[None, :] < alone)
        batch = self.real.shape[0]
        seen = torch.cat([self.real.bool()[:, None, :].expand(-1, tokens, -1), own[None].expand(batch, -1, -1)], dim=-1)
        return _additive(seen[:, None], dtype), self.real.sum(-1, keepdim=True) + order


class FlowNetwork(Protocol):
    """The network of one family, an `nn.Module`."""

    @property
    def vlm(self) -> Any:
        """transformers' `PaliGemmaModel`."""
        ...

    def velocity(self, prefix: Prefix, state: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """Velocity (B, H, A) at the noisy actions (B, H, A), the state (B, S) and the times (B,)."""
        ...


def read_prefix(vlm: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Prefix:
    """Run images (B, C, 3, H, W) and prompt (B, T) through PaliGemma; every real token sees every other."""
    batch, cameras = pixels.shape[:2]
    words = vlm.get_input_embeddings()(ids)
    seen = vlm.get_image_features(pixels.flatten(0, 1)).pooler_output.to(words.dtype)
    embeds = torch.cat([seen.reshape(batch, cameras * seen.shape[1], seen.shape[2]), words], dim=1)
    real = torch.cat([mask.new_ones(batch, embeds.shape[1] - words.shape[1]), mask], dim=1)
    cache = PrefixCache()
    vlm.language_model(
        inputs_embeds=embeds,
        attention_mask=_additive(real.bool()[:, None, None, :].expand(-1, 1, real.shape[1], -1), embeds.dtype),
        position_ids=real.cumsum(-1) - 1,
        cache=cache,
        use_cache=False,
    )
    cache.close()
    return Prefix(cache, real)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool mask, true where a token may be seen -> what is added to attention scores."""
    return seen.new_zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


class Sampler(nn.Module):
    """Observation -> normalised actions (B, H, D): Euler steps from fixed noise at time 1 to time 0, unrolled."""

    start: Tensor

    def __init__(self, network: FlowNetwork, start: Tensor, steps: int, action_dim: int) -> None:
        """A sampler around a live network.

        Args:
            network: shared, not copied.
            start: noise (H, A).
            steps: of Euler's method.
            action_dim: D, the dimensions that the robot has; the rest of A is padding.
        """
        super().__init__()
        self.network = cast(nn.Module, network)
        self.register_buffer("start", start, persistent=False)
        self.steps, self.action_dim = steps, action_dim

    @classmethod
    def seeded(cls, network: FlowNetwork, shape: tuple[int, int], steps: int, action_dim: int, seed: int) -> Sampler:
        """With the noise (H, A) that `seed` stands for, on the network's device."""
        device = next(cast(nn.Module, network).parameters()).device
        return cls(network, start_noise(shape, seed).to(device), steps, action_dim)

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> Tensor:
        """The inputs of `runtime.contract.graph` -> (B, H, D)."""
        network = cast(FlowNetwork, self.network)
        prefix = read_prefix(network.vlm, pixels, input_ids, attention_mask)
        actions = self.start[None].expand(pixels.shape[0], -1, -1)
        step = -1.0 / self.steps
        for number in range(self.steps):
            time = torch.full((pixels.shape[0],), 1.0 + number * step, dtype=torch.float32, device=pixels.device)
            velocity = network.velocity(prefix, state, actions, time)
            actions = actions + step * velocity.to(actions.dtype)
        return actions[..., : self.action_dim]
