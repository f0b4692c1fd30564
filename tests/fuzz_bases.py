# SPDX-License-Identifier: Apache-2.0
"""Artifacts to be damaged: their files in memory, and how to seal them again after a change, as an attacker would."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from artifact_factory import artifact_files, onnx_bytes, policy_spec, write_draft

from runtime.contract.conventions import FileRole
from runtime.contract.manifest import MANIFEST_FILE, canonical_json, digest
from runtime.contract.policy_spec import EngineConstraints, PolicySpec
from runtime.contract.write import ArtifactFile

MODEL, DATA = "policy.onnx", "policy.onnx.data"


@dataclass
class Work:
    """One artifact while it is being damaged: `files` by path, `manifest` as JSON data.

    `raw_manifest` replaces the manifest's bytes; `on_disk` runs after the files were written (links, holes).
    """

    files: dict[str, bytes]
    manifest: dict[str, Any]
    raw_manifest: bytes | None = None
    on_disk: list[Callable[[Path], None]] = field(default_factory=list)

    def reseal(self) -> None:
        """Sizes, digests and identity as if this had always been the content."""
        listed = self.manifest.get("files")
        for entry in listed if isinstance(listed, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("path"), str) and entry["path"] in self.files:
                data = self.files[entry["path"]]
                entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self.manifest.pop("artifact_id", None)
        self.manifest["artifact_id"] = digest(self.manifest)

    def write(self, folder: Path) -> None:
        """Lay it down in an empty folder."""
        sealed = self.raw_manifest if self.raw_manifest is not None else canonical_json(self.manifest)
        for path, data in {**self.files, MANIFEST_FILE: sealed}.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        for change in self.on_disk:
            change(folder)


@dataclass(frozen=True)
class Base:
    """An intact artifact, by name."""

    name: str
    files: dict[str, bytes]
    manifest: dict[str, Any]

    def work(self) -> Work:
        """A copy to damage."""
        return Work(dict(self.files), copy.deepcopy(self.manifest))


def base_of(folder: Path, name: str) -> Base:
    """An artifact directory as a base."""
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    files = {entry["path"]: (folder / entry["path"]).read_bytes() for entry in manifest["files"]}
    return Base(name, files, manifest)


def bases(scratch: Path) -> list[Base]:
    """The small graph with its weights inside, and one with external data, a Loop, float16, bfloat16, int8 and int4."""
    write_draft(scratch / "inline")
    graph, data = rich_graph()
    files = {
        **artifact_files(),
        MODEL: ArtifactFile(FileRole.MODEL, graph),
        DATA: ArtifactFile(FileRole.MODEL_DATA, data),
    }
    write_draft(scratch / "rich", policy=rich_policy(), files=files)
    return [base_of(scratch / "inline", "inline"), base_of(scratch / "rich", "rich")]


def rich_policy() -> PolicySpec:
    spec = policy_spec()
    engine = EngineConstraints(opset=21, providers=("CPUExecutionProvider",))
    return PolicySpec(spec.observation, spec.action, spec.prompt, spec.normalization, spec.graph, engine)


def rich_graph() -> tuple[bytes, bytes]:
    """The small graph's actions plus `Loop` over weights of several types outside the file; one weight is all zeros."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(onnx_bytes())
    model.opset_import[0].version, model.ir_version = 21, 10
    graph, chunks = model.graph, []
    rng = np.random.default_rng(7)

    def weight(name: str, kind: int, shape: list[int], data: bytes) -> None:
        tensor = graph.initializer.add(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
        offset = sum(map(len, chunks))
        for key, value in (("location", DATA), ("offset", offset), ("length", len(data))):
            tensor.external_data.add(key=key, value=str(value))
        chunks.append(data + bytes(-len(data) % 64))

    weight("step", TensorProto.FLOAT, [1, 8, 7], rng.standard_normal(56).astype(np.float32).tobytes())
    weight("half", TensorProto.FLOAT16, [1, 8, 7], rng.standard_normal(56).astype(np.float16).tobytes())
    weight("brain", TensorProto.BFLOAT16, [1, 8, 7], (rng.standard_normal(56).astype("<f4").view("<u4") >> 16)
           .astype("<u2").tobytes())  # fmt: skip
    weight("byte", TensorProto.INT8, [7, 8], rng.integers(-8, 8, 56, dtype=np.int8).tobytes())
    weight("nibble", TensorProto.INT4, [8, 7], rng.integers(0, 256, 28, dtype=np.uint8).tobytes())
    weight("zeros", TensorProto.FLOAT, [64, 256], bytes(65536))
    for name, value in (("rounds", np.int64(4)), ("go", np.bool_(True)), ("small", np.float32(1e-3))):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    body = helper.make_graph(
        [
            helper.make_node("Add", ["carried", "step"], ["moved"]),
            helper.make_node("Identity", ["more"], ["again"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [1, 8, 7]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("moved", TensorProto.FLOAT, [1, 8, 7]),
        ],
    )
    graph.node[-1].output[0] = "plain"
    graph.node.extend(
        [
            helper.make_node("Cast", ["half"], ["half32"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["brain"], ["brain32"], to=TensorProto.FLOAT),
            helper.make_node("DequantizeLinear", ["byte", "small"], ["byte32"]),
            helper.make_node("DequantizeLinear", ["nibble", "small"], ["nibble32"]),
            helper.make_node("MatMul", ["nibble32", "byte32"], ["square"]),
            helper.make_node("ReduceSum", ["square"], ["drop"], keepdims=0),
            helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
            helper.make_node("Sum", ["plain", "half32", "brain32", "drop", "nothing"], ["start"]),
            helper.make_node("Loop", ["rounds", "go", "start"], ["actions"], name="flow", body=body),
        ]
    )
    model.metadata_props.add(key="dropgate.note", value="rich")
    return model.SerializeToString(deterministic=True), b"".join(chunks)
