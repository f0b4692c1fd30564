# SPDX-License-Identifier: Apache-2.0
"""A signed payload in one file: DSSE (Dead Simple Signing Envelope, v1) with exactly one Ed25519 signature.

What is signed is the pre-authentication encoding, which binds the payload's type: a build statement cannot pass for a
release. The payload is given out only by `opened`, after its signature was checked. An envelope has one
spelling (canonical JSON, canonical base64), so that no byte of the file can change unseen.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from runtime.contract import check, ed25519
from runtime.contract.loading_limits import ENVELOPE_BYTES
from runtime.contract.manifest import canonical_json, parse_json
from runtime.errors import ArtifactError, ContractError

_KEYS = {"payloadType", "payload", "signatures"}


@dataclass(frozen=True)
class Envelope:
    """Type, payload (not to be believed before `opened`), and who claims to have signed it. Raises ContractError."""

    payload_type: str
    payload: bytes = field(repr=False)
    keyid: str
    signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check.sha256(self.keyid, "envelope keyid")
        found = len(self.signature)
        check.require(
            found == ed25519.SIGNATURE_BYTES, "envelope sig", f"{found} bytes", f"{ed25519.SIGNATURE_BYTES} bytes"
        )

    def opened(self, public: bytes, where: str) -> bytes:
        """The payload; ArtifactError unless the key `public` (32 bytes) signed it and its type."""
        if ed25519.key_id(public) != self.keyid:
            raise ArtifactError(f"{where}: names key {self.keyid}, and was to be checked with another")
        if not ed25519.verify(public, self.signature, encoding(self.payload_type, self.payload)):
            raise ArtifactError(
                f"{where}: the signature of key {self.keyid} does not fit what it is said to cover; it was changed, or "
                "signed with another key"
            )
        return self.payload

    def to_json(self) -> bytes:
        """Canonical JSON."""
        signatures = [{"keyid": self.keyid, "sig": _text(self.signature)}]
        return canonical_json(
            {"payloadType": self.payload_type, "payload": _text(self.payload), "signatures": signatures}
        )

    @classmethod
    def from_json(cls, data: bytes, where: str, payload_type: str) -> Envelope:
        """Parse an envelope of this type.

        ContractError: too large, not JSON, keys unknown or missing or twice, another type, not exactly one signature,
        not base64, or not in canonical spelling.
        """
        content = _object(parse_json(data, where, ENVELOPE_BYTES), _KEYS, where)
        found = content["payloadType"]
        check.require(found == payload_type, f"{where} payloadType", found, repr(payload_type))
        signatures = content["signatures"]
        if not isinstance(signatures, list) or len(signatures) != 1:
            count = len(signatures) if isinstance(signatures, list) else "no list"
            raise ContractError(f"{where} signatures: found {count}, expected exactly one")
        signature = _object(signatures[0], {"keyid", "sig"}, f"{where} signatures[0]")
        check.require(isinstance(signature["keyid"], str), f"{where} keyid", signature["keyid"], "text")
        envelope = cls(
            payload_type,
            _bytes(content["payload"], f"{where} payload"),
            signature["keyid"],
            _bytes(signature["sig"], f"{where} sig"),
        )
        if envelope.to_json() != data:
            raise ContractError(f"{where}: not canonical (sorted keys, two spaces, one newline, plain base64)")
        return envelope


def encoding(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, signer: ed25519.Signer) -> Envelope:
    """An envelope with the signer's one signature."""
    return Envelope(payload_type, payload, signer.keyid, signer.sign(encoding(payload_type, payload)))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: Any, where: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (AttributeError, ValueError, binascii.Error) as error:
        raise ContractError(f"{where}: not base64 ({error})") from None


def _object(value: Any, keys: set[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != keys:
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise ContractError(f"{where}: found {found}, expected an object with exactly {sorted(keys)}")
    return value
