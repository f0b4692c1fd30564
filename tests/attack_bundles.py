# SPDX-License-Identifier: Apache-2.0
"""Good bundles to be attacked (a released artifact and the station that trusts it), and what the station answers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from artifact_factory import action_spec, artifact_files, image_spec, lineage, policy_spec, write_draft
from fuzz_bases import rich_graph, rich_policy
from signing_factory import NOW, People, people, release_statement, write_signatures, write_trust

from runtime.contract.artifact import load_manifest, read_artifact
from runtime.contract.conventions import FileRole, Verdict
from runtime.contract.manifest import MANIFEST_FILE, FileEntry, GateSummary
from runtime.contract.signed import SignedVerifier
from runtime.contract.trust_store import TrustStore
from runtime.contract.verify import file_digest
from runtime.contract.write import ArtifactFile, extend_artifact
from runtime.errors import DropGateRuntimeError

ACCEPTED = "accepted"
ARTIFACT, TRUST = "artifact", "trust"
GATE = "evidence/gate.json"
Edit = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Bundle:
    """Content by path below `artifact/` and `trust/`, and the people whose keys the station knows."""

    name: str
    files: dict[str, bytes] = field(repr=False)
    who: People

    def write(self, root: Path) -> Case:
        """Lay it down in a new folder, with the permissions that a station asks for."""
        for path, data in self.files.items():
            target = root / path
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(0o644)
        return Case(root, self)


@dataclass
class Case:
    """One bundle on disk while it is attacked. `now` is the station's clock."""

    root: Path
    bundle: Bundle
    now: datetime = NOW

    @property
    def artifact(self) -> Path:
        return self.root / ARTIFACT

    @property
    def trust(self) -> Path:
        return self.root / TRUST

    @property
    def who(self) -> People:
        return self.bundle.who

    def edit(self, path: str, change: Edit) -> None:
        """Another content for a file of the artifact."""
        target = self.artifact / path
        target.write_bytes(change(target.read_bytes()))

    def edit_json(self, path: Path, change: Callable[[dict[str, Any]], object]) -> None:
        """Another content of a JSON file, spelled as we spell it."""
        data = json.loads(path.read_bytes())
        change(data)
        path.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n")

    def reseal(self) -> None:
        """New digests, as if this had always been the content: what an attacker without a key can do."""
        manifest, _ = load_manifest(self.artifact)
        files = tuple(
            FileEntry(e.path, (self.artifact / e.path).stat().st_size, file_digest(self.artifact / e.path), e.role)
            for e in manifest.files
        )
        draft = replace(manifest, gate=None, files=files)
        gate = manifest.gate
        if gate is not None:
            gate = replace(gate, policy_id=draft.policy_id, report_sha256=draft.file(gate.report).sha256)
        (self.artifact / MANIFEST_FILE).write_bytes(replace(draft, gate=gate).to_json())

    def answer(self) -> str:
        """`accepted`, or why the station refuses; an error that is not ours is not caught."""
        try:
            verifier = SignedVerifier(TrustStore.load(self.trust), lambda: self.now)
            read_artifact(self.artifact, verifier=verifier)
        except DropGateRuntimeError as error:
            return f"{type(error).__name__}: {error}"
        return ACCEPTED

    def content(self) -> dict[str, object]:
        """What is there now, to see whether an attack changed anything."""
        found: dict[str, object] = {"now": self.now}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                status = path.lstat()
                plain = path.is_file() and not path.is_symlink()
                key = path.relative_to(self.root).as_posix()
                found[key] = (status.st_mode, status.st_nlink, path.read_bytes() if plain else None)
            found[folder] = os.lstat(folder).st_mode
        return found


def bundles(count: int) -> list[Bundle]:
    """`count` good bundles that differ in policy, cameras, rate, tasks, files, evidence and release.

    Two by two they are of the same people: signatures of the one are the best that an attacker of the other has.
    """
    keys = [people() for _ in range((count + 1) // 2)]
    return [_bundle(index, keys[index // 2]) for index in range(count)]


def _bundle(index: int, who: People) -> Bundle:
    scratch = Path(tempfile.mkdtemp(prefix="dropgate-bundle-"))
    try:
        root = scratch / ARTIFACT
        spec, files = policy_spec(), artifact_files()
        if index % 3 == 0:  # weights in a file of their own
            graph, data = rich_graph()
            spec = rich_policy()
            files["policy.onnx"] = ArtifactFile(FileRole.MODEL, graph)
            files["policy.onnx.data"] = ArtifactFile(FileRole.MODEL_DATA, data)
        cameras = (image_spec("agentview" if index % 2 else "front"), image_spec("wrist"))
        observation = replace(spec.observation, images=cameras)
        action = action_spec(dt_s=0.02 + 0.001 * index)
        files["evidence/probe.json"] = ArtifactFile(FileRole.EVIDENCE, json.dumps({"bundle": index}).encode())
        source = replace(lineage().source, revision=f"r{index}")
        spec = replace(spec, observation=observation, action=action)
        draft = write_draft(root, files=files, policy=spec, lineage=replace(lineage(), source=source))
        report = json.dumps({"bundle": index, "verdict": "promote"}).encode()
        gate = GateSummary(
            Verdict.PROMOTE, f"{index} of 30", draft.manifest.policy_id, GATE, hashlib.sha256(report).hexdigest()
        )
        extend_artifact(draft, root, {GATE: ArtifactFile(FileRole.EVIDENCE, report)}, gate)
        manifest, raw = load_manifest(root)
        tasks = tuple(f"task {number} of bundle {index}, µ" for number in range(index % 4 + 1))
        release = release_statement(manifest, raw, tasks=tasks, robot=("ur5e", "fr3", "xarm6")[index % 3])
        write_signatures(root, who, release=release)
        write_trust(scratch / TRUST, who.trust())
        found = {p.relative_to(scratch).as_posix(): p.read_bytes() for p in sorted(scratch.rglob("*")) if p.is_file()}
        return Bundle(f"bundle {index}", found, who)
    finally:
        shutil.rmtree(scratch)
