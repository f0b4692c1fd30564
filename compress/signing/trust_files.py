# SPDX-License-Identifier: Apache-2.0
"""Write a station's trust store: add a key, revoke a key, an artifact or a release. Under a lock, by renaming.

Why something was revoked goes into `revocations.jsonl`, one line each, for people; the station reads `revoked.json`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from compress.atomic import write_atomic
from compress.signing.errors import SigningError
from runtime.contract.trust_store import KEYS_FILE, REVOKED_FILE, Revoked, TrustedKey, TrustStore, check_directory
from runtime.contract.utc_time import format_utc

LOG_FILE = "revocations.jsonl"
KINDS = {"key": "keys", "artifact": "artifacts", "release": "releases"}
MODE = 0o644


def add_key(directory: Path, key: TrustedKey, now: datetime) -> TrustStore:
    """Believe `key`; an empty or absent directory becomes a store.

    Raises:
        SigningError: it is there already, or was revoked, or has ended.
        TrustError: the directory is unsafe or damaged.
    """
    if not directory.exists():
        directory.mkdir(mode=0o755, parents=True)
        directory.chmod(0o755)
    with _locked(directory):
        _begin(directory, now)
        store = TrustStore.load(directory)
        known = store.key(key.keyid)
        if known is not None:
            raise SigningError(f"{directory}: knows this key already as {known.label}; one key has one role")
        if key.keyid in store.revoked.keys:
            raise SigningError(f"{directory}: key {key.keyid} was revoked here; make another: compress keygen")
        if now >= key.ends:
            raise SigningError(f"{directory}: {key.label} ended at {key.not_after}; make another: compress keygen")
        _write(directory / KEYS_FILE, replace(store, keys=(*store.keys, key)).keys_json())
        return TrustStore.load(directory)


def revoke(directory: Path, kind: str, identity: str, reason: str, now: datetime) -> bool:
    """Stop believing a `key`, an `artifact` or a `release`; False if it was revoked before.

    Raises:
        SigningError: no reason given.
        ContractError: `identity` is not what such names look like.
        TrustError: the directory is unsafe or damaged.
    """
    if not reason.strip():
        raise SigningError("--reason is empty; say why in one sentence, somebody will ask")
    with _locked(directory):
        store = TrustStore.load(directory)
        field = KINDS[kind]
        before: tuple[str, ...] = getattr(store.revoked, field)
        if identity in before:
            return False
        stamp = max(format_utc(now), store.revoked.updated_at)
        lists: dict[str, Any] = {field: tuple(sorted((*before, identity)))}
        changed = replace(store.revoked, **lists, updated_at=stamp)
        _write(directory / REVOKED_FILE, changed.to_json())
        _log(directory / LOG_FILE, {"at": stamp, "kind": kind, "id": identity, "reason": reason.strip()})
        return True


def _begin(directory: Path, now: datetime) -> None:
    """Both files, empty, where there is no `keys.json` yet; a `revoked.json` that is there stays."""
    if os.path.lexists(directory / KEYS_FILE):
        return
    store = TrustStore((), Revoked((), (), (), format_utc(now)))
    if not os.path.lexists(directory / REVOKED_FILE):
        _write(directory / REVOKED_FILE, store.revoked.to_json())
    _write(directory / KEYS_FILE, store.keys_json())


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two administrators at once: the second waits, so that neither's entry is lost."""
    check_directory(directory.absolute())
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    write_atomic(path, lambda stream: stream.write(data), mode=MODE)


def _log(path: Path, entry: dict[str, str]) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, MODE)
    with open(descriptor, "ab") as stream:
        stream.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
        stream.flush()
        os.fsync(descriptor)
