# SPDX-License-Identifier: Apache-2.0
"""Which adapter reads which family, and where the built-in checkpoint lies. The adapters are imported on demand."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.models.base import VlaModel

FAMILIES = {"reference": "compress.models.reference:ReferenceVla"}
BUILTIN = {"reference": Path(__file__).resolve().parent.parent / "reference" / "weights"}


class UnknownFamilyError(ValueError):
    """No adapter of that name, or no checkpoint there."""


def checkpoint_path(family: str, checkpoint: str) -> Path:
    """The folder of `checkpoint`; `builtin` names the one that ships with the package.

    Raises:
        UnknownFamilyError: unknown family, or the folder does not exist.
    """
    if family not in FAMILIES:
        raise UnknownFamilyError(f"model family {family!r} is not known; available: {', '.join(sorted(FAMILIES))}")
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
    module, _, name = FAMILIES[family].partition(":")
    adapter = getattr(importlib.import_module(module), name)
    model: VlaModel = adapter.load(path)
    return model
