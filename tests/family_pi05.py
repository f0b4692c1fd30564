# SPDX-License-Identifier: Apache-2.0
"""pi0.5 as a conformance case; what no library can be asked is proved part by part in `test_pi05`."""

from __future__ import annotations

import torch
from family_cases import FamilyCase, scramble, tiny_io
from family_pi0 import HORIZON, narrow_config, tiny_config
from transformers import PI0Config

from compress.models.base import VlaModel
from compress.models.pi05 import PROMPT, Pi05Vla
from compress.models.pi05_module import AdaRmsNorm
from compress.models.policy_io import PolicyIo


def io() -> PolicyIo:
    return tiny_io(horizon=HORIZON, template=PROMPT, max_tokens=80)


def open_gates(model: VlaModel, seed: int) -> None:
    """Published gates are trained away from zero, where a fresh network has them: blocks would write nothing."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in (m for m in model.module.modules() if isinstance(m, AdaRmsNorm)):
            width = norm.dense.out_features // 3
            norm.dense.bias[-width:] = 0.5 + torch.rand(width, generator=draw)


def make(seed: int, config: PI0Config | None = None) -> Pi05Vla:
    made = Pi05Vla(config or tiny_config(), io(), seed)
    scramble(made.module, seed)
    open_gates(made, seed)
    return made


def narrow(seed: int) -> Pi05Vla:
    """A policy of full depth, 18 pairs, for end-to-end tests."""
    return make(seed, narrow_config())


CASE = FamilyCase(
    make,
    Pi05Vla.load,
    why_no_library="transformers has no class of pi0.5; see test_pi05",
    dead=(("language", 3, "attention"), ("language", 3, "mlp"), ("language", 3, "block")),
    padding_is_seen=True,
)
