# SPDX-License-Identifier: Apache-2.0
"""Which keys this station believes, for what, until when, and what it no longer believes: `keys.json`, `revoked.json`.

The directory belongs to the station's administrator (root). It is the root of trust, so it must be out of everybody
else's reach: links, files that group or others may write, foreign owners and unknown fields are refused, and so is a
missing `revoked.json` (nothing revoked is an empty list, not an absent file). Keys are never taken from an artifact.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from runtime.contract import check
from runtime.contract.codec import conform, decode, encode
from runtime.contract.ed25519 import key_id
from runtime.contract.loading_limits import SIGNED_TEXT, TRUST_BYTES, TRUST_ENTRIES
from runtime.contract.manifest import canonical_json, parse_json
from runtime.contract.regular_file import open_beneath
from runtime.contract.statements import check_serial
from runtime.contract.utc_time import parse_utc
from runtime.errors import ContractError, TrustError

KEYS_FILE, REVOKED_FILE = "keys.json", "revoked.json"
KEYS_SCHEMA, REVOKED_SCHEMA = "dropgate.trust/1", "dropgate.revoked/1"
NEXT = "run: compress trust list --trust DIR"


class Role(str, Enum):
    """What a key may sign; a key has one role."""

    BUILDER = "builder"
    RELEASER = "releaser"


@dataclass(frozen=True)
class TrustedKey:
    """A public key that the station believes in one role. `public_key` is base64 of 32 bytes, `not_after` UTC.

    ContractError unless `keyid` is the key's own digest.
    """

    keyid: str
    role: Role
    public_key: str
    name: str
    not_after: str

    def __post_init__(self) -> None:
        conform(self)
        check.sha256(self.keyid, "key.keyid")
        known = key_id(self.public)
        check.require(known == self.keyid, "key.keyid", self.keyid, f"{known}, the SHA-256 of its public_key")
        check.require(0 < len(self.name) <= SIGNED_TEXT, "key.name", self.name, f"1 to {SIGNED_TEXT} characters")
        check.require(self.name.isprintable(), "key.name", self.name, "printable characters")
        parse_utc(self.not_after, "key.not_after")

    @property
    def public(self) -> bytes:
        """The 32 raw bytes."""
        try:
            raw = base64.b64decode(self.public_key.encode("ascii"), validate=True)
        except (ValueError, binascii.Error) as error:
            raise ContractError(f"key.public_key: not base64 ({error})") from None
        check.require(
            base64.b64encode(raw).decode("ascii") == self.public_key, "key.public_key", self.public_key, "plain base64"
        )
        return raw

    @property
    def ends(self) -> datetime:
        """The first instant at which nothing that it signed counts any more."""
        return parse_utc(self.not_after, "key.not_after")

    @property
    def label(self) -> str:
        """For messages: name, role and the beginning of the id."""
        return f"{self.name} ({self.role.value} {self.keyid[:12]})"


@dataclass(frozen=True)
class Revoked:
    """What the station no longer believes: key ids, artifact ids, serials of releases; sorted. Raises ContractError."""

    keys: tuple[str, ...]
    artifacts: tuple[str, ...]
    releases: tuple[str, ...]
    updated_at: str

    def __post_init__(self) -> None:
        conform(self)
        for name in ("keys", "artifacts", "releases"):
            entries = getattr(self, name)
            check.require(len(entries) <= TRUST_ENTRIES, f"revoked.{name}", len(entries), f"at most {TRUST_ENTRIES}")
            check.unique(entries, f"revoked.{name}")
            for entry in entries:
                (check_serial if name == "releases" else check.sha256)(entry, f"revoked.{name}")
        parse_utc(self.updated_at, "revoked.updated_at")

    def to_json(self) -> bytes:
        """Content of `revoked.json`."""
        return canonical_json({"schema": REVOKED_SCHEMA, **encode(self)})

    @classmethod
    def from_json(cls, data: bytes) -> Revoked:
        """Parse `revoked.json`; ContractError."""
        return decode(cls, _with_schema(data, REVOKED_FILE, REVOKED_SCHEMA), REVOKED_FILE)


@dataclass(frozen=True)
class _KeyList:
    keys: tuple[TrustedKey, ...]

    def __post_init__(self) -> None:
        conform(self)


@dataclass(frozen=True)
class TrustStore:
    """The station's keys and revocations. ContractError if a key appears twice: one key, one role."""

    keys: tuple[TrustedKey, ...]
    revoked: Revoked

    def __post_init__(self) -> None:
        conform(self)
        check.require(len(self.keys) <= TRUST_ENTRIES, "keys", len(self.keys), f"at most {TRUST_ENTRIES}")
        check.unique((key.keyid for key in self.keys), "keyids (one key, one role)")

    def key(self, keyid: str) -> TrustedKey | None:
        """The key of this id, or None."""
        return next((key for key in self.keys if key.keyid == keyid), None)

    def keys_json(self) -> bytes:
        """Content of `keys.json`."""
        return canonical_json({"schema": KEYS_SCHEMA, "keys": [encode(key) for key in self.keys]})

    @classmethod
    def load(cls, directory: str | Path) -> TrustStore:
        """Read a station's directory; TrustError says what makes it unsafe or invalid."""
        root = Path(os.path.abspath(directory))
        check_directory(root)
        try:
            keys = _read(root, KEYS_FILE)
            revoked = _read(root, REVOKED_FILE)
            listed = decode(_KeyList, _with_schema(keys, KEYS_FILE, KEYS_SCHEMA), KEYS_FILE)
            return cls(listed.keys, Revoked.from_json(revoked))
        except ContractError as error:
            raise TrustError(f"trust store {root}: {error}") from None


def check_directory(root: Path) -> None:
    """TrustError unless `root` is a directory that only its administrator, root or we, can change or exchange."""
    try:
        status = os.lstat(root)
    except OSError as error:
        raise TrustError(f"trust store {root}: {error.strerror or error}; run: compress trust add") from None
    if not stat.S_ISDIR(status.st_mode):
        raise TrustError(
            f"trust store {root}: found a link or a file, expected a directory; give the place it leads to"
        )
    _check_owner(status, f"trust store {root}")
    for folder in Path(os.path.realpath(root)).parents:
        above = os.lstat(folder)
        if above.st_uid not in (0, os.geteuid()):
            raise TrustError(
                f"trust store {root}: {folder} above it belongs to user {above.st_uid}, who could exchange the store; "
                f"expected root or {os.geteuid()}: move it"
            )
        mode = above.st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
            raise TrustError(
                f"trust store {root}: {folder} above it may be written by group or others, who could exchange the "
                f"store; move it, or run: chmod go-w {folder}"
            )


def _read(root: Path, name: str) -> bytes:
    """Content of a safe file; what is checked and what is read is one open file."""
    where = f"trust store {root}: {name}"
    try:
        descriptor = open_beneath(root, name)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        found = "is not there" if missing else f"is a link or cannot be opened ({error.strerror})"
        raise TrustError(f"{where} {found}; run: compress trust add (it writes both files)") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise TrustError(f"{where} is no regular file, or has a second name (hard link); write it again")
        _check_owner(status, where)
        with open(descriptor, "rb", closefd=False) as stream:
            data = stream.read(TRUST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > TRUST_BYTES:
        raise TrustError(f"{where} is larger than {TRUST_BYTES} bytes")
    return data


def _check_owner(status: os.stat_result, where: str) -> None:
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        raise TrustError(f"{where}: found mode {mode}, expected no writing by group or others; run: chmod go-w on it")
    if status.st_uid not in (0, os.geteuid()):
        raise TrustError(f"{where}: belongs to user {status.st_uid}, expected root or {os.geteuid()}; run: chown root")


def _with_schema(data: bytes, where: str, schema: str) -> dict[str, Any]:
    content = parse_json(data, where, TRUST_BYTES)
    found = content.get("schema") if isinstance(content, Mapping) else None
    check.require(found == schema, f"{where} schema", found, repr(schema))
    return {name: value for name, value in content.items() if name != "schema"}
