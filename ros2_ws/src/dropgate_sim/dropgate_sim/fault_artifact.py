# SPDX-License-Identifier: Apache-2.0
"""The artifact and the parameter file of the fault suite: a policy of joint positions for a mock of any robot file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dropgate_sim.mock_file import mock_sections
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
from runtime.contract.write import ArtifactFile, extend_artifact, write_artifact

TASK = "sweep"
SPLICE_S, SEND_S = 0.04, 0.025  # twice the default: arm, node and tests share a machine without real-time priorities
SIZE, HORIZON, EXECUTE_ROWS, DT_S = 16, 16, 8, 0.05
IMAGE_AGE_S, STATE_AGE_S = 0.25, 0.15  # of the suite's policy: what its observations may be old


def policy_spec(joints: tuple[str, ...], cameras: tuple[str, ...]) -> PolicySpec:
    """Absolute joint positions, every 50 ms, from two cameras and the joints."""
    images = tuple(
        ImageSpec(
            key, SIZE, SIZE, Layout.HWC, ColourOrder.RGB, Orientation.AS_CAMERA, IMAGE_AGE_S, (0.5,) * 3, (0.25,) * 3
        )
        for key in cameras
    )
    state = StateSpec("state", joints, (Unit.RADIAN,) * len(joints), Frame.JOINT, RotationConvention.NONE, STATE_AGE_S)
    dims = tuple(ActionDim(name, DimRole.JOINT, Unit.RADIAN, -2 * math.pi, 2 * math.pi, 1.0) for name in joints)
    action = ActionSpec(
        dims, ActionKind.ABSOLUTE, Frame.JOINT, RotationConvention.NONE, GripperSign.NONE, HORIZON, DT_S,
        HoldRule.REPEAT_LAST,
    )  # fmt: skip
    observation = ObservationSpec(images, state, max_skew_s=0.12)
    prompt = PromptSpec("task: {instruction}", 8, 0, True)
    reference = NormalizationRef(NormMethod.MIN_MAX, NormMethod.MIN_MAX)
    return PolicySpec(
        observation, action, prompt, reference, graph_for(observation, action, prompt),
        EngineConstraints(17, ("CPUExecutionProvider",)),
    )  # fmt: skip


def scripted_artifact(folder: Path, joints: tuple[str, ...], cameras: tuple[str, ...]) -> Artifact:
    """A sealed artifact whose model nobody opens: the worker is `scripted_policy`. Never for a real arm."""
    spec = policy_spec(joints, cameras)
    span = np.full(len(joints), 2 * math.pi)
    both = Normalization.of(NormMethod.MIN_MAX, -span, span)
    files = {
        "policy.onnx": ArtifactFile(FileRole.MODEL, _still(spec)),
        "tokenizer.json": ArtifactFile(FileRole.TOKENIZER, _words()),
        "normalization.safetensors": ArtifactFile(FileRole.NORMALIZATION, Normalizers(both, both).to_bytes()),
        "golden.safetensors": ArtifactFile(FileRole.GOLDEN, b"none"),
        "evidence/probe.json": ArtifactFile(FileRole.EVIDENCE, b"{}\n"),
    }
    plan = PlanSummary("b" * 64, (KeptStack("language", 2, (0, 1)), KeptStack("action", 2, (0, 1))))
    draft = write_artifact(
        folder / "draft", files,
        lineage=Lineage("tiny_vla", SourceModel("dropgate/scripted", "r1", "a" * 64), "c" * 64, plan),
        policy=spec, golden=GoldenRef("golden.safetensors", (TASK,), 1e-4),
        created_with=(PackageVersion("dropgate", "0.1"),),
    )  # fmt: skip
    report = b'{"scripted": true}\n'
    gate = GateSummary(
        Verdict.PROMOTE, "scripted policy of the fault suite", draft.manifest.policy_id, "evidence/gate.json",
        hashlib.sha256(report).hexdigest(),
    )  # fmt: skip
    entry = {"evidence/gate.json": ArtifactFile(FileRole.EVIDENCE, report)}
    return extend_artifact(draft, folder / "artifact", entry, gate)


def _still(spec: PolicySpec) -> bytes:
    """A valid graph that answers the observed joints in every row: if an engine ever ran it, the arm would stand."""
    from onnx import TensorProto, helper, numpy_helper

    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    inputs, outputs = (
        [helper.make_tensor_value_info(t.name, kinds[t.dtype.value], t.shape) for t in tensors]
        for tensors in (spec.graph.inputs, spec.graph.outputs)
    )
    shape = np.array([1, HORIZON, len(spec.action.names)], dtype=np.int64)
    constants = [
        numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"),
        numpy_helper.from_array(shape, "shape"),
    ]
    nodes = [
        helper.make_node("Unsqueeze", ["state", "axis"], ["row"]),
        helper.make_node("Expand", ["row", "shape"], [spec.graph.outputs[0].name]),
    ]
    graph = helper.make_graph(nodes, "still", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString(deterministic=True))


def _words() -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "sweep": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return str(tokenizer.to_str()).encode()


def parameters(
    robot_file: Path, artifact: Path, python: Path, pace: float, simulated_time: bool = True
) -> dict[str, Any]:
    """The mock's sections for the suite. Silences are counted in wall time: slow motion (`pace` < 1) stretches them."""
    sections = mock_sections(yaml.safe_load(robot_file.read_text(encoding="utf-8")), str(robot_file))
    controller, guard, arm = (
        sections[name]["ros__parameters"] for name in ("dropgate_controller", "dropgate_guard", "sim_arm")
    )
    joints = arm["joints"]
    controller |= {
        "artifact": str(artifact), "enable_motion": True, "require_regression": False,
        "use_sim_time": simulated_time,
        "state": [f"joint.{name}" for name in joints], "tick_hz": 50.0 * pace, "ramp_in_s": 0.3,
        "permit_timeout_s": 0.2 / pace, "max_pause_s": 0.6 / pace, "send_within_s": SEND_S / pace, "lead_s": 0.2,
        "execute_rows": EXECUTE_ROWS,
        "worker": {"python": str(python), "threads": 1, "request_timeout_s": 1.0 / pace, "start_timeout_s": 120.0},
    }  # fmt: skip
    rates = controller["limits"]["joint_acceleration"]
    controller["limits"]["splice_s"] = SPLICE_S
    controller["limits"].setdefault("joint_jerk", [10.0 * rate for rate in rates])  # full acceleration within 0.1 s
    guard |= {
        "heartbeat_s": 0.3 / pace,
        "joints_s": 0.5 / pace,
        "enable_s": 0.2 / pace,
        "scaling_s": 0.5 / pace,
        "state_s": 1.0 / pace,
        "use_sim_time": simulated_time,
    }
    arm |= {
        "hold_enable": False, "publish_clock": simulated_time, "real_time_factor": pace, "image_height": SIZE,
        "image_width": SIZE, "joints_hz": 100.0,
    }  # fmt: skip
    return sections


def cameras_of(sections: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of the controller's cameras."""
    return tuple(sections["dropgate_controller"]["ros__parameters"]["cameras"])
