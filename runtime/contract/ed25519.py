# SPDX-License-Identifier: Apache-2.0
"""Ed25519 (RFC 8032): the only file that knows the library `cryptography`.

It is imported when a key is used, so that `runtime` itself needs numpy alone; without it nothing verifies (TrustError).
A key's name is the SHA-256 of its 32 public bytes: it cannot be given to another key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runtime.contract import check
from runtime.errors import INSTALL_SIGNING, ContractError, TrustError

PUBLIC_BYTES, SIGNATURE_BYTES = 32, 64
_SIGN_BIT = 0x80
# y coordinates of the points of order 1, 2, 4 and 8, in every spelling that fits: under such a "key" anybody can sign
_SMALL_ORDER = frozenset(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


def key_id(public: bytes) -> str:
    """SHA-256 hex of the 32 raw public bytes; ContractError for anything that no key of ours has."""
    check.require(len(public) == PUBLIC_BYTES, "Ed25519 public key", f"{len(public)} bytes", f"{PUBLIC_BYTES} bytes")
    point = public[:-1] + bytes([public[-1] & ~_SIGN_BIT])
    check.require(point not in _SMALL_ORDER, "Ed25519 public key", public.hex(), "a point of large order")
    return hashlib.sha256(public).hexdigest()


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """True when `signature` (64 bytes) over `message` was made with the private half of `public` (32 bytes).

    TrustError where the library is missing, ContractError for a public key that is none.
    """
    key_id(public)
    invalid: Any = _library("cryptography.exceptions").InvalidSignature
    key = _library("cryptography.hazmat.primitives.asymmetric.ed25519").Ed25519PublicKey.from_public_bytes(public)
    try:
        key.verify(signature, message)
    except invalid:
        return False
    return True


@dataclass(frozen=True)
class Signer:
    """A private key in use: its public bytes, and how to sign. The private bytes are not kept here, nor printed."""

    public: bytes
    sign: Callable[[bytes], bytes] = field(repr=False, compare=False)

    @property
    def keyid(self) -> str:
        """SHA-256 hex of `public`."""
        return key_id(self.public)


def new_private_key(passphrase: bytes | None = None) -> tuple[bytes, Signer]:
    """A fresh key as PEM (PKCS #8, encrypted where a passphrase is given) and as a signer."""
    serial = _library("cryptography.hazmat.primitives.serialization")
    key = _library("cryptography.hazmat.primitives.asymmetric.ed25519").Ed25519PrivateKey.generate()
    protection = serial.BestAvailableEncryption(passphrase) if passphrase else serial.NoEncryption()
    pem: bytes = key.private_bytes(serial.Encoding.PEM, serial.PrivateFormat.PKCS8, protection)
    return pem, _signer(key)


def signer_from_pem(pem: bytes, passphrase: bytes | None, where: str) -> Signer:
    """The signer of a PEM file's content; ContractError names `where` and what is wrong (not an Ed25519 key, encrypted
    and no passphrase given, wrong passphrase)."""
    serial = _library("cryptography.hazmat.primitives.serialization")
    kind = _library("cryptography.hazmat.primitives.asymmetric.ed25519").Ed25519PrivateKey
    try:
        key = serial.load_pem_private_key(pem, passphrase)
    except (TypeError, ValueError) as error:  # TypeError: a passphrase is needed, or given for nothing
        raise ContractError(f"{where}: no private key that can be read ({error})") from None
    if not isinstance(key, kind):
        raise ContractError(f"{where}: found {type(key).__name__}, expected an Ed25519 key; run: compress keygen")
    return _signer(key)


def _signer(key: Any) -> Signer:
    return Signer(key.public_key().public_bytes_raw(), key.sign)


def _library(name: str) -> Any:
    try:
        import cryptography.exceptions
        import cryptography.hazmat.primitives.asymmetric.ed25519
        import cryptography.hazmat.primitives.serialization
    except ImportError as error:
        raise TrustError(f"signatures need the library cryptography ({error}); {INSTALL_SIGNING}") from error
    return {
        "cryptography.exceptions": cryptography.exceptions,
        "cryptography.hazmat.primitives.asymmetric.ed25519": cryptography.hazmat.primitives.asymmetric.ed25519,
        "cryptography.hazmat.primitives.serialization": cryptography.hazmat.primitives.serialization,
    }[name]
