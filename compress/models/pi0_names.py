# SPDX-License-Identifier: Apache-2.0
"""Published names of pi0 and pi0.5 tensors -> one canonical set: `vlm.`, `expert.` and the small layers at the root.

who                     example (the same tensor)
canonical               vlm.language_model.layers.0.mlp.up_proj.weight
openpi                  paligemma_with_expert.paligemma.model.language_model.layers.0.mlp.up_proj.weight
LeRobot                 model.paligemma_with_expert.paligemma.model.language_model.layers.0.mlp.up_proj.weight
transformers, saved     paligemma_with_expert.paligemma.model.language_model.model.layers.0.mlp.up_proj.weight
transformers, in class  model.vlm.language_model.layers.0.mlp.up_proj.weight

A tower may add `vision_model.`. Heads over the vocabulary carry no action: the one of the expert is dropped (or kept as
the unused token table of transformers' class, as transformers itself does), the one of PaliGemma is dropped, unless it
is stored in place of the table that it is tied to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from compress.models.base import ModelError

EXPERT_HEAD = "expert.lm_head.weight"
_TABLE, _HEAD = "vlm.language_model.embed_tokens.weight", "vlm.lm_head.weight"
_SMALL = ("state_proj", "action_in_proj", "action_out_proj", "action_time_mlp_in", "action_time_mlp_out",
          "time_mlp_in", "time_mlp_out")  # fmt: skip
_PREFIXES = (
    ("paligemma_with_expert.paligemma.model.", "vlm."),
    ("paligemma_with_expert.paligemma.", "vlm."),
    ("paligemma_with_expert.gemma_expert.model.", "expert."),
    ("paligemma_with_expert.gemma_expert.", "expert."),
    ("model.vlm.", "vlm."),
    ("model.dit.embed_tokens.", "expert.lm_head."),
    ("model.dit.", "expert."),
    ("embed_action_time.", ""),
)
_INNER = (
    ("vlm.vision_tower.vision_model.", "vlm.vision_tower."),
    ("vlm.language_model.model.", "vlm.language_model."),
)


def canonical(weights: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The weights by canonical name; a head that is tied to the token table takes its place where the table is absent.

    Raises:
        ModelError: a name belongs to no known layout, or two tensors are one.
    """
    found: dict[str, Tensor] = {}
    strangers = []
    for published, value in weights.items():
        name = _canonical(published)
        if name is None:
            strangers.append(published)
        elif name in found:
            raise ModelError(f"{where}: two tensors are to become {name}, one of them {published}")
        else:
            found[name] = value
    if strangers:
        raise ModelError(
            f"{where}: tensors {sorted(strangers)[:3]} ({len(strangers)}) belong to no known layout of pi0 or pi0.5 "
            "(transformers, LeRobot, openpi): merge adapters and export plain weights first"
        )
    head = found.pop(_HEAD, None)
    if head is not None:
        found.setdefault(_TABLE, head)
    return found


def _canonical(published: str) -> str | None:
    name = published
    if name.startswith(("model.paligemma_with_expert.", *(f"model.{small}." for small in _SMALL))):
        name = name.removeprefix("model.")  # LeRobot's policy around openpi's network
    for prefix, replacement in (*_PREFIXES, *_INNER):
        if name.startswith(prefix):
            name = replacement + name.removeprefix(prefix)
    return name if name.startswith(("vlm.", "expert.", *(f"{small}." for small in _SMALL))) else None


def require_kind(weights: Mapping[str, Tensor], family: str, where: Path) -> None:
    """The two families differ in how time enters; canonical weights of the other one are refused by name.

    Raises:
        ModelError: they are of the other family.
    """
    found = "pi05" if "time_mlp_in.weight" in weights else "pi0" if "action_time_mlp_in.weight" in weights else None
    if found != family:
        raise ModelError(
            f"{where}: expected a {family} checkpoint, found {found or 'neither pi0 nor pi05'}"
            + (f"; set model.family to {found}" if found else "")
        )
