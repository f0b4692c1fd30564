# SPDX-License-Identifier: Apache-2.0
"""What the two signatures say. *Builder*: this manifest is what I built. *Releaser*: with this gate verdict, it may
move this robot, within these limits, for these tasks, until this day.

Canonical JSON, strict both ways: `from_json(s.to_json()) == s`, and `from_json(b).to_json() == b` for accepted bytes.
Both name the manifest by its SHA-256; the rest repeats what a person should see before signing, and must agree with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from runtime.contract import check
from runtime.contract.codec import conform, decode, encode
from runtime.contract.conventions import Verdict
from runtime.contract.loading_limits import ENVELOPE_BYTES, INSTRUCTION_CHARACTERS, SIGNED_TASKS, SIGNED_TEXT
from runtime.contract.manifest import canonical_json, parse_json
from runtime.contract.utc_time import parse_utc
from runtime.errors import ContractError

BUILD_TYPE = "application/vnd.dropgate.build+json"
RELEASE_TYPE = "application/vnd.dropgate.release+json"
BUILD_SCHEMA, RELEASE_SCHEMA = "dropgate.build/1", "dropgate.release/1"
BUILD_FILE, RELEASE_FILE = "build.dsse.json", "release.dsse.json"  # in `signatures/`
T = TypeVar("T", bound="BuildStatement | ReleaseStatement")


@dataclass(frozen=True)
class BuildStatement:
    """The builder's: this is the manifest that I wrote. Digests in lower-case hex, `signed_at` UTC. ContractError."""

    manifest_sha256: str
    artifact_id: str
    policy_id: str
    signed_at: str

    def __post_init__(self) -> None:
        conform(self)
        for name in ("manifest_sha256", "artifact_id", "policy_id"):
            check.sha256(getattr(self, name), f"build.{name}")
        parse_utc(self.signed_at, "build.signed_at")

    @property
    def begins(self) -> datetime:
        """When it was signed, as its signer's clock said."""
        return parse_utc(self.signed_at, "build.signed_at")

    def to_json(self) -> bytes:
        """Canonical JSON: the payload that is signed."""
        return _to_json(self, BUILD_SCHEMA)

    @classmethod
    def from_json(cls, data: bytes) -> BuildStatement:
        """Parse a payload; ContractError for anything but the canonical spelling of a valid statement."""
        return _from_json(cls, data, BUILD_SCHEMA, "build statement")


@dataclass(frozen=True)
class ReleaseStatement:
    """The releaser's: with this verdict the artifact may move `robot` until `expires_at`.

    `serial` is a UUID of version 4; `gate_sha256` of gate.json, `limits_sha256` of the limits that the filter must run
    with, as canonical JSON; `tasks` are the sentences that the gate judged; `control_dt_s` [s]; `cameras` are
    observation keys, sorted; times UTC. Raises ContractError.
    """

    serial: str
    manifest_sha256: str
    artifact_id: str
    policy_id: str
    gate_sha256: str
    verdict: Verdict
    robot: str
    limits_sha256: str
    tasks: tuple[str, ...]
    control_dt_s: float
    cameras: tuple[str, ...]
    issued_at: str
    expires_at: str

    def __post_init__(self) -> None:
        conform(self)
        check_serial(self.serial, "release.serial")
        for name in ("manifest_sha256", "artifact_id", "policy_id", "gate_sha256", "limits_sha256"):
            check.sha256(getattr(self, name), f"release.{name}")
        check.require(self.verdict is Verdict.PROMOTE, "release.verdict", self.verdict.value, "promote")
        check.identifier(self.robot, "release.robot")
        check.require(len(self.robot) <= SIGNED_TEXT, "release.robot", len(self.robot), f"at most {SIGNED_TEXT}")
        _check_names(self.tasks, "release.tasks", INSTRUCTION_CHARACTERS)
        _check_names(self.cameras, "release.cameras", SIGNED_TEXT)
        check.require(list(self.cameras) == sorted(self.cameras), "release.cameras", self.cameras, "sorted")
        check.positive(self.control_dt_s, "release.control_dt_s")
        check.require(self.begins < self.expires, "release.expires_at", self.expires_at, f"after {self.issued_at}")

    @property
    def begins(self) -> datetime:
        """When it was issued, as its signer's clock said."""
        return parse_utc(self.issued_at, "release.issued_at")

    @property
    def expires(self) -> datetime:
        """The first instant at which it no longer counts."""
        return parse_utc(self.expires_at, "release.expires_at")

    def to_json(self) -> bytes:
        """Canonical JSON: the payload that is signed."""
        return _to_json(self, RELEASE_SCHEMA)

    @classmethod
    def from_json(cls, data: bytes) -> ReleaseStatement:
        """Parse a payload; ContractError for anything but the canonical spelling of a valid statement."""
        return _from_json(cls, data, RELEASE_SCHEMA, "release statement")


def check_serial(text: str, where: str) -> None:
    """Require a UUID of version 4 in its usual spelling."""
    try:
        found = uuid.UUID(text)
        good = str(found) == text and found.version == 4
    except ValueError:
        good = False
    check.require(good, where, text, "a UUID of version 4, lower case")


def _check_names(names: tuple[str, ...], where: str, characters: int) -> None:
    check.require(0 < len(names) <= SIGNED_TASKS, where, f"{len(names)} entries", f"1 to {SIGNED_TASKS}")
    check.unique(names, where)
    for name in names:
        check.require(0 < len(name) <= characters, where, name, f"1 to {characters} characters")


def _to_json(statement: BuildStatement | ReleaseStatement, schema: str) -> bytes:
    return canonical_json({"schema": schema, **encode(statement)})


def _from_json(cls: type[T], data: bytes, schema: str, where: str) -> T:
    content: Any = parse_json(data, where, ENVELOPE_BYTES)
    if not isinstance(content, Mapping):
        raise ContractError(f"{where}: found {type(content).__name__}, expected an object")
    found = content.get("schema")
    check.require(found == schema, f"{where} schema", found, repr(schema))
    statement = decode(cls, {name: value for name, value in content.items() if name != "schema"}, where)
    if statement.to_json() != data:
        raise ContractError(f"{where}: not canonical (sorted keys, two spaces, one newline)")
    return statement
