# SPDX-License-Identifier: Apache-2.0
"""`Manifest` <-> canonical JSON. Same content, same bytes: sorted keys, UTF-8, no NaN, one newline at the end, no
clock, no host.

Laws (tested): `Manifest.from_json(m.to_json()) == m`, and `Manifest.from_json(b).to_json() == b` for accepted bytes.
`artifact_id` is the digest of all content. `policy_id` covers only what decides behaviour (specs and the files that are
executed), so it is the same before and after the gate: that is how a verdict is tied to the weights it was earned with.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any

from runtime.contract import check
from runtime.contract import loading_limits as limits
from runtime.contract.codec import conform, decode, encode
from runtime.contract.conventions import FileRole, Verdict
from runtime.contract.lineage import Lineage
from runtime.contract.policy_spec import PolicySpec
from runtime.errors import ContractError

SCHEMA_VERSION = "1.0"
MANIFEST_FILE = "manifest.json"
SIGNATURES_DIR = "signatures"
_VERSION = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")
_BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{}\]]', re.DOTALL)
_STEP = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
EXECUTED_ROLES = (FileRole.MODEL, FileRole.MODEL_DATA, FileRole.TOKENIZER, FileRole.NORMALIZATION)


@dataclass(frozen=True)
class FileEntry:
    """One file of the artifact: POSIX path, size [bytes], SHA-256, role. Raises ContractError."""

    path: str
    size: int
    sha256: str
    role: FileRole

    def __post_init__(self) -> None:
        conform(self)
        check.relative_path(self.path, "FileEntry.path")
        reserved = self.path == MANIFEST_FILE or self.path.split("/")[0] == SIGNATURES_DIR
        check.require(
            not reserved, "FileEntry.path", self.path, f"a name other than {MANIFEST_FILE} and {SIGNATURES_DIR}/"
        )
        check.require(self.size >= 0, f"FileEntry[{self.path}].size", self.size, "bytes >= 0")
        check.sha256(self.sha256, f"FileEntry[{self.path}].sha256")


@dataclass(frozen=True)
class GoldenRef:
    """Golden inputs and outputs for local parity: file, one instruction per sample, tolerance in command units."""

    file: str
    instructions: tuple[str, ...]
    max_abs: float

    def __post_init__(self) -> None:
        conform(self)
        check.relative_path(self.file, "GoldenRef.file")
        check.require(
            len(self.instructions) > 0, "GoldenRef.instructions", self.instructions, "one per sample, at least one"
        )
        check.positive(self.max_abs, "GoldenRef.max_abs")


@dataclass(frozen=True)
class GateSummary:
    """The simulation gate's verdict on the policy `policy_id`, with one sentence of reason and its report file."""

    verdict: Verdict
    reason: str
    policy_id: str
    report: str
    report_sha256: str

    def __post_init__(self) -> None:
        conform(self)
        check.require(self.reason != "", "GateSummary.reason", self.reason, "one sentence")
        check.sha256(self.policy_id, "GateSummary.policy_id")
        check.relative_path(self.report, "GateSummary.report")
        check.sha256(self.report_sha256, "GateSummary.report_sha256")


@dataclass(frozen=True)
class PackageVersion:
    """A package that took part in making the artifact."""

    name: str
    version: str

    def __post_init__(self) -> None:
        conform(self)


@dataclass(frozen=True)
class Manifest:
    """All that an artifact says about itself. `gate` None = draft. Raises ContractError if the parts disagree."""

    lineage: Lineage
    policy: PolicySpec
    golden: GoldenRef
    created_with: tuple[PackageVersion, ...]
    files: tuple[FileEntry, ...]
    gate: GateSummary | None = None
    schema_version: str = SCHEMA_VERSION

    def __post_init__(self) -> None:
        conform(self)
        check_schema_version(self.schema_version)
        object.__setattr__(self, "files", tuple(sorted(self.files, key=lambda entry: entry.path)))
        object.__setattr__(self, "created_with", tuple(sorted(self.created_with, key=lambda package: package.name)))
        check.unique((package.name for package in self.created_with), "Manifest.created_with names")
        paths = [entry.path for entry in self.files]
        check.unique(paths, "Manifest.files paths")
        collisions = sorted(check.colliding(paths))
        check.require(
            not collisions, "Manifest.files", collisions, "paths that differ by more than case, no file as folder"
        )
        self._check_references()
        if self.gate is not None:
            self._check_gate(self.gate)

    def _check_references(self) -> None:
        needed = {
            self.policy.graph.file: FileRole.MODEL,
            self.policy.normalization.file: FileRole.NORMALIZATION,
            self.policy.prompt.tokenizer_file: FileRole.TOKENIZER,
            self.golden.file: FileRole.GOLDEN,
        }
        found = {entry.path: entry.role for entry in self.files}
        for path, role in needed.items():
            if found.get(path) is not role:
                raise ContractError(
                    f"Manifest.files: {path!r} with role {role.value!r} is needed, available: {sorted(found)}"
                )

    def _check_gate(self, gate: GateSummary) -> None:
        entry = self.file(gate.report)
        check.require(
            entry.sha256 == gate.report_sha256, "Manifest.gate.report_sha256", gate.report_sha256, entry.sha256
        )
        if gate.policy_id != self.policy_id:
            raise ContractError(
                f"Manifest.gate.policy_id: found {gate.policy_id}, expected {self.policy_id}: "
                "the verdict was earned with other weights or specs; run the gate on this artifact"
            )

    def file(self, path: str) -> FileEntry:
        """The entry of `path`; ContractError lists the paths there are."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise ContractError(
            f"Manifest.files: {path!r} is not listed, available: {[entry.path for entry in self.files]}"
        )

    @property
    def artifact_id(self) -> str:
        """SHA-256 of the canonical content."""
        return digest(encode(self))

    @property
    def policy_id(self) -> str:
        """SHA-256 of specs and executed files: what the gate's verdict is about."""
        executed = [encode(entry) for entry in self.files if entry.role in EXECUTED_ROLES]
        return digest({"policy": encode(self.policy), "files": executed})

    @property
    def lineage_id(self) -> str:
        """SHA-256 of the lineage; known before export, so the graph's own metadata can carry it."""
        return lineage_id(self.lineage)

    def with_gate(self, gate: GateSummary | None, files: tuple[FileEntry, ...]) -> Manifest:
        """The same artifact with this verdict and file list."""
        return replace(self, gate=gate, files=files)

    def to_json(self) -> bytes:
        """Canonical JSON bytes."""
        return canonical_json({"artifact_id": self.artifact_id, **encode(self)})

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Parse and validate.

        ContractError for wrong JSON, version, keys, values, identity, or bytes that are not canonical.
        """
        content = parse_json(data, MANIFEST_FILE, limits.MANIFEST_BYTES)
        if not isinstance(content, dict):
            raise ContractError(f"{MANIFEST_FILE}: found {type(content).__name__}, expected an object")
        check_schema_version(content.get("schema_version"))
        claimed = content.pop("artifact_id", None)
        manifest = decode(cls, content, "manifest")
        if claimed != manifest.artifact_id:
            raise ContractError(
                f"manifest.artifact_id: found {claimed!r}, expected {manifest.artifact_id}: content was changed"
            )
        if manifest.to_json() != data:
            raise ContractError(
                f"{MANIFEST_FILE}: not canonical (sorted keys, two spaces, one newline); write it with Manifest.to_json"
            )
        return manifest


def check_schema_version(version: object) -> None:
    """Refuse a manifest of another major version; nothing is patched or guessed."""
    parts = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if parts is None or parts[1] != SCHEMA_VERSION.split(".")[0]:
        raise ContractError(
            f"schema_version: found {version!r}, this runtime reads {SCHEMA_VERSION}; install the dropgate "
            f"release that wrote it"
        )


def lineage_id(lineage: Lineage) -> str:
    """SHA-256 of a lineage's canonical JSON."""
    return digest(encode(lineage))


def digest(data: Any) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(canonical_json(data)).hexdigest()


def canonical_json(data: Any) -> bytes:
    """Sorted keys, two-space indent, UTF-8, no NaN, one trailing newline."""
    text = json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


def parse_json(data: bytes, where: str, limit: int = limits.JSON_BYTES) -> Any:
    """JSON without the usual leniency: ContractError names `where`.

    Refused: more than `limit` bytes, deep nesting, duplicate keys, NaN, infinity (also as 1e999), numbers of hundreds
    of digits, wrong UTF-8.
    """
    if len(data) > limit:
        raise ContractError(f"{where}: found {len(data)} bytes, expected at most {limit}")

    def refuse_constant(name: str) -> Any:
        raise ContractError(f"{where}: found {name}, expected finite numbers")

    def whole(digits: str) -> int:
        check.require(len(digits) <= limits.JSON_DIGITS, where, digits[:20] + "...", "a shorter number")
        return int(digits)

    def real(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refuse_constant(digits[:20])

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            check.unique((key for key, _ in pairs), f"{where} keys")
        return found

    _check_depth(data, where)
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=without_duplicates,
            parse_constant=refuse_constant,
            parse_int=whole,
            parse_float=real,
        )
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{where}: not JSON in UTF-8 ({error})") from error


def _check_depth(data: bytes, where: str) -> None:
    """Before parsing, because parsers recurse. Strings are skipped, so that brackets in them do not count."""
    depth = 0
    for token in _BRACKETS.finditer(data):
        depth += _STEP.get(token.group(), 0)
        if depth > limits.JSON_DEPTH:
            raise ContractError(f"{where}: found more than {limits.JSON_DEPTH} levels of nesting")
