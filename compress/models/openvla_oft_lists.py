# SPDX-License-Identifier: Apache-2.0
"""Language blocks that a published policy was trained without: `drop_attn_list` and `drop_mlp_list`.

The lists hold indices, or one boolean per block. They are believed only if the tensors agree: what is dropped must not
be there, what is not dropped must be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.models.base import ModelError, Surgery
from compress.models.openvla_oft_names import LAYER

LISTS = {"self_attn.": "drop_attn_list", "mlp.": "drop_mlp_list"}
NORMS = {"without_attention": "input_layernorm", "without_mlp": "post_attention_layernorm"}


def read_surgery(text: Mapping[str, Any], depth: int, weights: Mapping[str, Tensor], where: Path) -> Surgery:
    """What was removed from a language stack of `depth` blocks.

    Args:
        text: the published `text_config`.
        depth: blocks before any removal.
        weights: by published name.
        where: for errors.

    Raises:
        ModelError: a list names no block, or it disagrees with the tensors.
    """
    gone: dict[str, set[int]] = {}
    for start, name in LISTS.items():
        gone[start] = _indices(text.get(name) or [], depth, f"{where}: text_config.{name}")
        there = {int(m[1]) for key in weights if (m := LAYER.match(key)) and m[2].startswith(start)}
        present, absent = sorted(there & gone[start]), sorted(set(range(depth)) - there - gone[start])
        beyond = sorted(index for index in there if index >= depth)
        if present or absent or beyond:
            raise ModelError(
                f"{where}: {name} is {sorted(gone[start])} of {depth} blocks, but the weights hold `{start}` tensors "
                f"of dropped blocks {present}, none of kept blocks {absent}, and blocks {beyond} beyond the depth: "
                "the configuration belongs to other weights"
            )
    attention, mlp = gone["self_attn."], gone["mlp."]
    kept = tuple(i for i in range(depth) if i not in attention & mlp)
    return Surgery(depth, kept, tuple(sorted(attention - mlp)), tuple(sorted(mlp - attention)))


def without_dead_norms(weights: dict[str, Tensor], surgery: Surgery, width: int) -> None:
    """In place, by our names: norms in front of removed writers read nothing; published files leave them out."""
    for position, original in enumerate(surgery.kept):
        for record, norm in NORMS.items():
            if original in getattr(surgery, record):
                weights.setdefault(f"language.layers.{position}.{norm}.weight", torch.ones(width))


def _indices(values: Any, depth: int, where: str) -> set[int]:
    if isinstance(values, list) and len(values) == depth and all(isinstance(value, bool) for value in values):
        return {index for index, value in enumerate(values) if value}
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise ModelError(f"{where} is {values!r}, expected block indices, or one boolean for each of {depth} blocks")
    odd = sorted(value for value in values if not 0 <= value < depth)
    if odd or len(set(values)) != len(values):
        raise ModelError(f"{where} is {values}, expected different indices below {depth}")
    return set(values)
