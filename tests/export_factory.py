# SPDX-License-Identifier: Apache-2.0
"""A tiny reference policy with random weights, and its samples: real modules, small enough to export in seconds."""

from __future__ import annotations

import atexit
import functools
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import onnx
from algorithm_factory import tokenizer_json

from compress.data.samples import Sample
from compress.export.convert import IR_VERSION
from compress.export.draft import export_draft
from compress.export.onnx_export import ExportedGraph, graph_spec
from compress.export.options import GraphOptions
from compress.export.trims import Trimmed, trimmed
from compress.models.reference import ReferenceVla
from compress.models.reference_config import ReferenceConfig, StackConfig
from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import Normalization, Normalizers

INSTRUCTIONS = (
    "open the top drawer",
    "turn on the stove",
    "put the black bowl in the left tray",
    "push the plate to the front of the stove",
    "close the top drawer",
)


def config(depth: int = 3) -> ReferenceConfig:
    stack = {"width": 32, "heads": 2, "mlp_width": 64}
    return ReferenceConfig(
        vision=StackConfig(depth=2, **stack),
        language=StackConfig(depth=depth, **stack),
        image_size=32,
        patch_size=8,
        horizon=4,
    )


def normalizers() -> Normalizers:
    state = Normalization.of(NormMethod.Q01_Q99, -np.linspace(0.5, 2.0, 8), np.linspace(0.4, 1.5, 8))
    action = Normalization.of(NormMethod.Q01_Q99, -np.linspace(0.3, 1.0, 7), np.linspace(0.2, 0.9, 7))
    return Normalizers(state, action)


def model(depth: int = 3, seed: int = 0) -> ReferenceVla:
    """Random weights, in evaluation mode."""
    made = ReferenceVla(config(depth), normalizers(), tokenizer_json(), seed=seed)
    made.module.eval()
    return made


NO_FILE = hashlib.sha256(b"").hexdigest()


def lineage(of: ReferenceVla, plan: str = NO_FILE, recipe: str = NO_FILE) -> dict[str, object]:
    source = {"name": "tiny", "revision": "test", "sha256": of.identity()}
    return {"source": source, "recipe_sha256": recipe, "plan_sha256": plan}


def exported() -> ExportedGraph:
    """The tiny policy's graph, inside `draft()`; never change its files, copy them."""
    path, data = draft() / "policy.onnx", draft() / "policy.onnx.data"
    nodes = len(onnx.load(str(path), load_external_data=False).graph.node)
    return ExportedGraph(path, data, graph_spec(path), GraphOptions(), IR_VERSION, nodes, data.stat().st_size, 0.0)


def trims() -> Trimmed:
    """The tiny policy's stage as `draft` exports it."""
    made = model()
    return trimmed(made.stages()[0], made.specs(), made.tokenizer_json)


@functools.cache
def draft() -> Path:
    """A draft artifact of the tiny policy, made once per test process; never change it, copy it."""
    export_draft(model(), samples(), folder() / "draft", lineage(model()))
    return folder() / "draft"


@functools.cache
def folder() -> Path:
    """Removed when the process ends."""
    made = tempfile.TemporaryDirectory(prefix="dropgate-export-")
    atexit.register(made.cleanup)
    return Path(made.name)


def samples(count: int = 8, of: ReferenceConfig | None = None) -> list[Sample]:
    """Random observations; neighbours differ in prompt length, so padding differs too."""
    shape, source = of or config(), np.random.default_rng(0)
    side = shape.image_size
    return [
        Sample(
            images={name: source.integers(0, 256, (side, side, 3), dtype=np.uint8) for name in shape.cameras},
            state=source.normal(0, 0.5, shape.state_dim).astype(np.float32),
            actions=np.zeros((shape.horizon, shape.action_dim), np.float32),
            pad=np.zeros(shape.horizon, bool),
            instruction=INSTRUCTIONS[i % len(INSTRUCTIONS)],
            sample_id=f"random/{i}",
        )
        for i in range(count)
    ]
