# SPDX-License-Identifier: Apache-2.0
"""A key pair as two files: `ROLE.key.pem` for its owner alone, `ROLE.trust.json` to be given to stations."""

from __future__ import annotations

import base64
import os
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from compress.signing.errors import SigningError
from runtime.contract.codec import decode, encode
from runtime.contract.ed25519 import Signer, new_private_key, signer_from_pem
from runtime.contract.manifest import canonical_json, parse_json
from runtime.contract.trust_store import Role, TrustedKey
from runtime.contract.utc_time import format_utc
from runtime.errors import ContractError

PEM_BYTES, ENTRY_BYTES, PASSPHRASE_BYTES = 16_384, 16_384, 1024
SHARED = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class KeyPair:
    """Where the two files are, and the entry for a trust store."""

    private: Path
    entry: Path
    key: TrustedKey


def make_key_pair(
    folder: Path, role: Role, name: str, valid: timedelta, now: datetime, passphrase: bytes | None
) -> KeyPair:
    """Write a fresh pair below `folder` (made private if it is not there).

    Raises:
        SigningError: one of the files is there already.
        OSError: the folder cannot be written.
    """
    private, entry = folder / f"{role.value}.key.pem", folder / f"{role.value}.trust.json"
    for path in (private, entry):
        if os.path.lexists(path):
            raise SigningError(f"{path} is there already and stays; choose another --out, or remove it yourself")
    pem, signer = new_private_key(passphrase)
    public = base64.b64encode(signer.public).decode("ascii")
    key = TrustedKey(signer.keyid, role, public, name, format_utc(now + valid))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_new(private, pem, 0o600)
    _write_new(entry, canonical_json(encode(key)), 0o644)
    return KeyPair(private, entry, key)


def read_signer(path: Path, passphrase: bytes | None) -> Signer:
    """The key in a private file; SigningError if others can read it, it is a link, or no such key."""
    data = _read(path, PEM_BYTES, private=True)
    try:
        return signer_from_pem(data, passphrase, str(path))
    except ContractError as error:
        raise SigningError(f"{error}; an encrypted key needs --passphrase-file or --passphrase-env") from error


def read_entry(path: Path) -> TrustedKey:
    """The public entry that `make_key_pair` wrote; SigningError."""
    try:
        return decode(TrustedKey, parse_json(_read(path, ENTRY_BYTES), str(path), ENTRY_BYTES), str(path))
    except ContractError as error:
        raise SigningError(f"{error}; give the .trust.json that compress keygen wrote") from error


def passphrase_of(file: Path | None, variable: str | None) -> bytes | None:
    """From a private file (its first line) or an environment variable; None if neither is named. SigningError."""
    if file is not None:
        found = _read(file, PASSPHRASE_BYTES, private=True).split(b"\n")[0].rstrip(b"\r")
    elif variable is not None:
        found = os.environ.get(variable, "").encode()
    else:
        return None
    if not found:
        raise SigningError(f"passphrase: {file or variable} is empty or not set")
    return found


def _read(path: Path, limit: int, private: bool = False) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SigningError(f"{path}: is a link or cannot be opened ({error.strerror}); give the file itself") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise SigningError(f"{path}: found {status.st_size} bytes, expected a plain file of at most {limit}")
        if private and status.st_mode & SHARED:
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            raise SigningError(f"{path}: found mode {mode}, others can use this secret; run: chmod 600 {path}")
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read(limit)
    finally:
        os.close(descriptor)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)
