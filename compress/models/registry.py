# SPDX-License-Identifier: Apache-2.0
"""Which adapter reads which family, and where the built-in checkpoint lies. The adapters are imported on demand."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.models.base import VlaModel

FAMILIES = {
    "reference": "compress.models.reference:ReferenceVla",
    "pi0": "compress.models.pi0:Pi0Vla",
    "pi05": "compress.models.pi05:Pi05Vla",
    "smolvla": "compress.models.smolvla:SmolVla",
    "groot_n17": "compress.models.groot:GrootN17",
    "openvla_oft": "compress.models.openvla_oft:OpenVlaOft",
}
BUILTIN = {"reference": Path(__file__).resolve().parent.parent / "reference" / "weights"}
REFUSED = {  # families that people ask for by name: what is missing, and what to do instead
    "act": "its blocks are post-norm by default, where silencing a block's writers is not the same as removing it",
    "diffusion-policy": "its network is a U-Net without a stack of residual blocks, so there are no blocks to score",
    "gigabrain0": "its network is defined only in the giga-models package (PaliGemma 2 with trajectory and subtask "
    "tokens, projections per robot), which transformers has no class for; compress it there",
    "groot": "N1.5 and N1.6 run on a VLM whose code lies in NVIDIA's own repository, and code out of a checkpoint is "
    "never run here; N1.7 is `groot_n17`",
    "lingbot": "it runs on its own fork of Qwen2.5-VL, and its options and statistics lie outside the checkpoint "
    "(lingbotvla_cli.yaml, a robot's YAML, norm_stats), so that a folder does not say which network it is",
    "openvla": "it decodes one action at a time, token by token; fine-tune it to chunks with OpenVLA-OFT and use "
    "`openvla_oft`",
    "pi0-fast": "it decodes action tokens one by one until it is done, which no graph of fixed shape can do; train "
    "`pi0` or `pi05` on the same data",
    "vla-adapter": "each block of its action head reads one language block, so neither stack can lose a block alone, "
    "and the head's blocks are not residual",
    "xvla": "its language stack (Florence-2's BART encoder) is post-norm, where silencing a block's writers is not "
    "the same as removing it, and its weights are per data domain",
}


class UnknownFamilyError(ValueError):
    """No adapter of that name, or no checkpoint there."""


def refusal(family: str) -> str:
    """Why there is no adapter of that name, and which there are; spelling (`GR00T_N1.7`, `x-vla`) does not matter."""
    asked = _plain(family)
    known = f"available: {', '.join(sorted(FAMILIES))}"
    for name in FAMILIES:
        if _plain(name) == asked:
            return f"model family {family!r} is written {name!r}; {known}"
    for name in sorted(REFUSED, key=len, reverse=True):
        plain = _plain(name)
        if asked == plain or (len(plain) > 4 and asked.startswith(plain)):  # with a version or size behind it
            return f"model family {family!r} is not supported: {REFUSED[name]}; {known}"
    return f"model family {family!r} is not known; {known}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).replace("gr00t", "groot")


def checkpoint_path(family: str, checkpoint: str) -> Path:
    """The folder of `checkpoint`; `builtin` names the one that ships with the package.

    Raises:
        UnknownFamilyError: unknown or refused family, no built-in checkpoint of it, or the folder does not exist.
    """
    if family not in FAMILIES:
        raise UnknownFamilyError(refusal(family))
    if checkpoint == "builtin" and family not in BUILTIN:
        raise UnknownFamilyError(
            f"no checkpoint of {family!r} ships with the package, only of {', '.join(sorted(BUILTIN))}: "
            "give a checkpoint folder"
        )
    path = BUILTIN[family] if checkpoint == "builtin" else Path(checkpoint).expanduser()
    if not path.is_dir():
        hint = (
            "train one with `compress reference train`"
            if checkpoint == "builtin"
            else "give a checkpoint folder, or `builtin`"
        )
        raise UnknownFamilyError(f"no checkpoint folder at {path}: {hint}")
    return path


def load_model(family: str, checkpoint: str | Path) -> VlaModel:
    """Load a policy strictly.

    Raises:
        UnknownFamilyError: unknown family, or no such folder.
        compress.models.base.ModelError: the checkpoint is damaged or does not fit.
    """
    path = checkpoint_path(family, str(checkpoint))
    model: VlaModel = adapter(family).load(path)
    return model


def adapter(family: str) -> Any:
    """The class that reads `family`, which must be known."""
    module, _, name = FAMILIES[family].partition(":")
    return getattr(importlib.import_module(module), name)
