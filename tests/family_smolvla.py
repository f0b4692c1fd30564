# SPDX-License-Identifier: Apache-2.0
"""SmolVLA as a conformance case: transformers' SmolVLM and Llama blocks at a small size, random weights."""

from __future__ import annotations

from family_cases import VOCABULARY, FamilyCase, scramble, tiny_io

from compress.models.base import VlaModel
from compress.models.smolvla import SmolVla
from compress.models.smolvla_config import SmolVlaConfig, TextShape, VisionShape
from runtime.contract.conventions import NormMethod
from runtime.contract.spec import INSTRUCTION_FIELD

DEPTH = 4
TINY = SmolVlaConfig(
    vlm="tiny",
    text=TextShape(48, 96, heads=6, kv_heads=2, head_dim=8, vocabulary=VOCABULARY),
    vision=VisionShape(32, 64, depth=3, heads=2, image_size=28, patch_size=14),
    scale_factor=2,
    depth=DEPTH,
    max_state_dim=12,
    max_action_dim=10,
    horizon=4,
    steps=3,
)


def make(seed: int) -> VlaModel:
    io = tiny_io(template=f"{INSTRUCTION_FIELD}\n", method=NormMethod.MEAN_STD)
    made = SmolVla(TINY, io, seed)
    scramble(made.module, seed)
    return made


CASE = FamilyCase(
    make,
    SmolVla.load,
    why_no_library="LeRobot's class cannot be installed beside this torch; tests/test_smolvla.py has other oracles",
    dead=(("language", DEPTH - 1, "block"),),
)
