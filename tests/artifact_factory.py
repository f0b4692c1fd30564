# SPDX-License-Identifier: Apache-2.0
"""A small real artifact for tests: the reference signature (2 cameras, 8 state, 8 x 7 actions), an ONNX graph built
by hand.

The graph is not a learned policy but a function that every input influences, so a wrong wire shows:
actions[0, h, d] = 0.1 * (h + 1) * state[0, d] + mean(pixels) + 0.001 * sum(input_ids * attention_mask).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.contract.action import ActionDim, ActionSpec
from runtime.contract.artifact import Artifact
from runtime.contract.conventions import (
    ActionKind,
    ColourOrder,
    DimRole,
    FileRole,
    Frame,
    GripperSign,
    HoldRule,
    Layout,
    NormMethod,
    Orientation,
    RotationConvention,
    Unit,
    Verdict,
)
from runtime.contract.graph import graph_for
from runtime.contract.lineage import KeptStack, Lineage, PlanSummary, SourceModel
from runtime.contract.manifest import GateSummary, GoldenRef, PackageVersion
from runtime.contract.normalization import Normalization, Normalizers
from runtime.contract.policy_spec import EngineConstraints, NormalizationRef, PolicySpec
from runtime.contract.spec import ImageSpec, ObservationSpec, PromptSpec, StateSpec
from runtime.contract.write import ArtifactFile, write_artifact

TASK = "pick up the red cube"
M, RAD, ONE = Unit.METRE, Unit.RADIAN, Unit.RATIO


def image_spec(key: str = "agentview", **changes) -> ImageSpec:
    fields = {
        "key": key, "height": 16, "width": 12, "layout": Layout.HWC, "colour_order": ColourOrder.RGB,
        "orientation": Orientation.ROTATED_180, "max_age_s": 0.1, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.5),
    }  # fmt: skip
    return ImageSpec(**{**fields, **changes})


def state_spec(**changes) -> StateSpec:
    fields = {
        "key": "state", "names": ("x", "y", "z", "rx", "ry", "rz", "grip_left", "grip_right"),
        "units": (M, M, M, RAD, RAD, RAD, M, M), "frame": Frame.BASE,
        "rotation": RotationConvention.AXIS_ANGLE, "max_age_s": 0.1,
    }  # fmt: skip
    return StateSpec(**{**fields, **changes})


def action_spec(**changes) -> ActionSpec:
    dims = (
        *(ActionDim(n, DimRole.TRANSLATION, M, -0.05, 0.05, 0.05) for n in ("dx", "dy", "dz")),
        *(ActionDim(n, DimRole.ROTATION, RAD, -0.5, 0.5, 0.5) for n in ("droll", "dpitch", "dyaw")),
        ActionDim("gripper", DimRole.GRIPPER, ONE, -1.0, 1.0, 1.0),
    )
    fields = {
        "dims": dims, "kind": ActionKind.DELTA, "frame": Frame.BASE, "rotation": RotationConvention.AXIS_ANGLE,
        "gripper": GripperSign.NEGATIVE_OPENS, "horizon": 8, "dt_s": 0.05, "hold": HoldRule.ZERO_MOTION,
    }  # fmt: skip
    return ActionSpec(**{**fields, **changes})


def prompt_spec(**changes) -> PromptSpec:
    fields = {"template": "task: {instruction}", "max_tokens": 10, "pad_id": 0, "lowercase": True}
    return PromptSpec(**{**fields, **changes})


def policy_spec() -> PolicySpec:
    observation = ObservationSpec((image_spec("agentview"), image_spec("wrist")), state_spec(), max_skew_s=0.05)
    action, prompt = action_spec(), prompt_spec()
    reference = NormalizationRef(NormMethod.Q01_Q99, NormMethod.Q01_Q99)
    engine = EngineConstraints(opset=17, providers=("CPUExecutionProvider",))
    return PolicySpec(observation, action, prompt, reference, graph_for(observation, action, prompt), engine)


def lineage() -> Lineage:
    plan = PlanSummary("b" * 64, (KeptStack("language", 8, (0, 1, 2, 5, 7)), KeptStack("action", 2, (0, 1))))
    return Lineage("tiny_vla", SourceModel("example/tiny", "r1", "a" * 64), "c" * 64, plan)


def normalizers() -> Normalizers:
    state = Normalization.of(NormMethod.Q01_Q99, -np.arange(1.0, 9.0), np.arange(1.0, 9.0))
    action = Normalization.of(NormMethod.Q01_Q99, np.full(7, -0.5), np.full(7, 1.5), [True] * 6 + [False])
    return Normalizers(state, action)


def tokenizer_bytes() -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "task", ":", "pick", "up", "the", "red", "cube"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer.to_str().encode("utf-8")


def onnx_bytes(spec: PolicySpec | None = None) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    spec = spec or policy_spec()
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(t.name, kinds[t.dtype.value], t.shape) for t in spec.graph.inputs]
    outputs = [helper.make_tensor_value_info(t.name, kinds[t.dtype.value], t.shape) for t in spec.graph.outputs]
    gain = (0.1 * np.arange(1, 9, dtype=np.float32)).reshape(1, 8, 1)
    constants = {"begin": [0], "end": [7], "axis": [1], "gain": gain, "milli": np.float32(0.001)}
    nodes = [
        helper.make_node("Slice", ["state", "begin", "end", "axis"], ["arm"]),
        helper.make_node("Unsqueeze", ["arm", "axis"], ["row"]),
        helper.make_node("Mul", ["row", "gain"], ["rows"]),
        helper.make_node("ReduceMean", ["pixels"], ["light"], keepdims=0),
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["seen"]),
        helper.make_node("Cast", ["seen"], ["seen_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["seen_float"], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "milli"], ["text"]),
        helper.make_node("Add", ["rows", "light"], ["lit"]),
        helper.make_node("Add", ["lit", "text"], ["actions"]),
    ]
    tensors = [
        numpy_helper.from_array(np.asarray(v, dtype=getattr(v, "dtype", np.int64)), k) for k, v in constants.items()
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", inputs, outputs, tensors),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def observation(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = {key: rng.integers(0, 256, (16, 12, 3), dtype=np.uint8) for key in ("agentview", "wrist")}
    return {**images, "state": rng.uniform(-1.0, 1.0, 8)}


def expected_actions(sample: dict[str, np.ndarray], text: str = TASK) -> np.ndarray:
    """The graph's formula and the whole pipeline again in plain numpy: the oracle of the policy tests. (8, 7)
    float64."""
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.5])
    pixels = np.stack([(sample[key] / 255.0 - mean) / std for key in ("agentview", "wrist")])
    state = sample["state"] / np.arange(1.0, 9.0)
    words = ["[PAD]", "[UNK]", "task", ":", "pick", "up", "the", "red", "cube"]
    ids = [words.index(w) if w in words else 1 for w in ["task", ":", *text.lower().split()]]
    model = 0.1 * np.arange(1, 9)[:, None] * state[None, :7] + pixels.mean() + 0.001 * sum(ids)
    return np.concatenate([model[:, :6] * 1.0 + 0.5, model[:, 6:]], axis=1)


def artifact_files() -> dict[str, ArtifactFile]:
    from runtime.inference.golden import dump_golden

    samples = [observation(seed) for seed in (1, 2)]
    golden = dump_golden(samples, np.stack([expected_actions(sample) for sample in samples]).astype(np.float32))
    return {
        "policy.onnx": ArtifactFile(FileRole.MODEL, onnx_bytes()),
        "tokenizer.json": ArtifactFile(FileRole.TOKENIZER, tokenizer_bytes()),
        "normalization.safetensors": ArtifactFile(FileRole.NORMALIZATION, normalizers().to_bytes()),
        "golden.safetensors": ArtifactFile(FileRole.GOLDEN, golden),
        "evidence/probe.json": ArtifactFile(FileRole.EVIDENCE, b"{}\n"),
    }


def write_draft(directory: Path, **changes) -> Artifact:
    """A complete draft artifact (no verdict) in `directory`."""
    parts = {
        "lineage": lineage(), "policy": policy_spec(), "golden": GoldenRef("golden.safetensors", (TASK, TASK), 1e-4),
        "created_with": (PackageVersion("onnx", "1.0"), PackageVersion("dropgate", "0.1")),
    }  # fmt: skip
    return write_artifact(directory, changes.pop("files", None) or artifact_files(), **{**parts, **changes})


def judge(
    artifact: Artifact, directory: Path, verdict: Verdict, reason: str = "20 of 20 episodes",
    report: bytes = b'{"episodes": 20}\n',
) -> Artifact:  # fmt: skip
    """The artifact with a gate report and this verdict."""
    import hashlib

    from runtime.contract.write import extend_artifact

    gate = GateSummary(
        verdict, reason, artifact.manifest.policy_id, "evidence/gate.json", hashlib.sha256(report).hexdigest()
    )
    return extend_artifact(artifact, directory, {"evidence/gate.json": ArtifactFile(FileRole.EVIDENCE, report)}, gate)
