# SPDX-License-Identifier: Apache-2.0
"""pi0.5 (arXiv 2504.16054) as a `VlaModel`; its network is `pi05_module`.

The prompt decides how the state is seen, and publishers differ:

    PROMPT          openpi; LeRobot since 0.5 (March 2026): the robot's own dimensions, in 256 bins
    PROMPT_PADDED   LeRobot 0.4: filled up with zeros to 32 dimensions before binning
    PROMPT_ALONE    openpi's `pi05_libero` (`discrete_state_input=False`): no state at all

All strip the instruction and turn underscores and line breaks into spaces; none changes its case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn
from transformers import PI0Config

from compress.models.pi0_names import EXPERT_HEAD
from compress.models.pi0_policy import PiPolicy
from compress.models.pi05_module import Pi05Module

PROMPT = "Task: {instruction}, State: {state:256};\nAction: "
PROMPT_PADDED = "Task: {instruction}, State: {state:256:32};\nAction: "
PROMPT_ALONE = "{instruction}\n"


class Pi05Vla(PiPolicy):
    """The `VlaModel` of pi0.5."""

    family = "pi05"
    head = "action_out_proj"
    vlm = "paligemma"
    expert = "expert"

    def _build(self, config: PI0Config) -> Pi05Module:
        return Pi05Module(config)

    @property
    def module(self) -> nn.Module:
        """All parameters."""
        return cast(Pi05Module, self.network)

    def _place(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            "paligemma." + name.removeprefix("vlm.") if name.startswith("vlm.") else name: value
            for name, value in weights.items()
            if name != EXPERT_HEAD
        }
