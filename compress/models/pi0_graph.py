# SPDX-License-Identifier: Apache-2.0
"""What pi0 and pi0.5 compute alike: a prefix read once, and a flow of actions that attends to its keys and values.

The two stacks meet in the keys and values only: block i of the expert attends to those of block i of the language
stack, and to its own. Masks are plain additive tensors and positions are given, because the masks that transformers
builds itself (`create_causal_mask` with blocks) have no ONNX form; the conformance suite holds both to be equal.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.flow import FlowSampler, pairs, start_noise


class PrefixCache:
    """Keys and values (B, heads, tokens, width) of the prefix by block index, in the form that Gemma's attention asks.

    While it is open it keeps what it is given; once closed it puts what it kept in front of what it is given.
    """

    def __init__(self, kept: list[tuple[Tensor, Tensor]] | None = None) -> None:
        """Open and empty, or closed on what was `kept` of blocks 0, 1, ..."""
        self._kept = dict(enumerate(kept or []))
        self._open = kept is None

    def tensors(self) -> list[Tensor]:
        """Keys and values in turn, by block; every block of the language stack has left some."""
        return [tensor for index in range(len(self._kept)) for tensor in self._kept[index]]

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


class PiNetwork(nn.Module):
    """The network of one family in the parts of `compress.models.flow.FlowNetwork`."""

    @property
    @abstractmethod
    def vlm(self) -> Any:
        """transformers' `PaliGemmaModel`."""

    @abstractmethod
    def time_features(self, times: Tensor) -> Tensor:
        """Times (N,) -> sines and cosines (N, expert width) in float32."""

    @abstractmethod
    def velocity(self, prefix: Prefix, state: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """Velocity (B, H, A) at the noisy actions (B, H, A), the state (B, S) and `time_features` of B or 1 times."""

    def observe(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """Which tokens of the prefix are real, the state, and keys and values block by block."""
        prefix = read_prefix(self.vlm, pixels, input_ids, attention_mask)
        return (prefix.real, state, *prefix.cache.tensors())

    def advance(self, chunk: Tensor, rows: tuple[Tensor, ...], context: tuple[Tensor, ...], share: float) -> Tensor:
        """One step of Euler's method towards time 0."""
        real, state, *kept = context
        velocity = self.velocity(Prefix(PrefixCache(pairs(kept)), real), state, chunk, rows[0])
        return chunk - share * velocity.to(chunk.dtype)


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


def sampler(network: PiNetwork, shape: tuple[int, int], steps: int, action_dim: int, seed: int) -> FlowSampler:
    """Euler's method from time 1 to time 0.

    Args:
        network: shared, not copied.
        shape: of the noise, (H, A).
        steps: of Euler's method.
        action_dim: the dimensions that the robot has; the rest of A is padding.
        seed: what the start noise is drawn from.
    """
    device = next(network.parameters()).device
    times = torch.tensor([1.0 - number / steps for number in range(steps)], dtype=torch.float32, device=device)
    features = network.time_features(times).float()
    return FlowSampler(
        network, start_noise(shape, seed).to(device), (features,), horizon=shape[0], action_dim=action_dim
    )
