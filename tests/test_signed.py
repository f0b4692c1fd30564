# SPDX-License-Identifier: Apache-2.0
"""Keys, envelopes, statements and trust stores: one spelling each, and everything else is refused with its reason.

What an attacker may do to a whole artifact is in test_attacks.py.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signing_factory import NOW, SERIAL, nothing_revoked, people, trusted, write_trust

from runtime.contract import ed25519
from runtime.contract.conventions import Verdict
from runtime.contract.dsse import Envelope, encoding, sign
from runtime.contract.loading_limits import INSTRUCTION_CHARACTERS, SIGNED_TEXT
from runtime.contract.statements import BUILD_TYPE, RELEASE_TYPE, BuildStatement, ReleaseStatement
from runtime.contract.trust_store import KEYS_FILE, REVOKED_FILE, Role, TrustStore
from runtime.contract.utc_time import format_utc, parse_utc
from runtime.errors import ArtifactError, ContractError, TrustError

REPO = Path(__file__).resolve().parent.parent
WHO = people()
A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
BUILD = BuildStatement(A, B, C, "2026-11-27T20:00:00Z")
RELEASE = ReleaseStatement(
    SERIAL, A, B, C, D, Verdict.PROMOTE, "ur5e", A, ("put the red block left",), 0.05, ("agentview", "wrist"),
    "2026-11-27T20:00:00Z", "2027-02-25T20:00:00Z",
)  # fmt: skip
# RFC 8032, section 7.1, tests 1 to 3: public key, message, signature
VECTORS = [
    ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246"
     "55141438e7a100b"),
    ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb"
     "00d291612bb0c00"),
    ("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc"
     "027beceea1ec40a"),
]  # fmt: skip
P = 2**255 - 19
EDWARDS_D = -121665 * pow(121666, P - 2, P) % P


# --- Ed25519


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_published_signatures_verify_and_their_neighbours_do_not(public: str, message: str, signature: str) -> None:
    key, text, good = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
    assert ed25519.verify(key, good, text)
    assert not ed25519.verify(key, good, text + b"x")
    for place in (0, 31, 32, 63):
        assert not ed25519.verify(key, good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :], text)


def test_second_spelling_of_a_signature_is_refused() -> None:
    """S + L is the same scalar: accepted, it would let anybody make a second valid signature from the first."""
    order = 2**252 + 27742317777372353535851937790883648493
    key, text, good = (bytes.fromhex(part) for part in VECTORS[1])
    again = good[:32] + (int.from_bytes(good[32:], "little") + order).to_bytes(32, "little")
    assert not ed25519.verify(key, again, text)


def double(x: int, y: int) -> tuple[int, int]:
    """Twice a point of the curve -x2 + y2 = 1 + d x2 y2: the textbook law, as oracle."""
    t = EDWARDS_D * x * x % P * y % P * y % P
    return 2 * x * y * pow(1 + t, P - 2, P) % P, (y * y + x * x) * pow(1 - t, P - 2, P) % P


def x_of(y: int) -> int | None:
    square = (y * y - 1) * pow(EDWARDS_D * y * y + 1, P - 2, P) % P
    root = pow(square, (P + 3) // 8, P)
    for candidate in (root, root * pow(2, (P - 1) // 4, P) % P):
        if candidate * candidate % P == square:
            return candidate
    return None


def test_listed_weak_keys_are_points_of_small_order() -> None:
    for spelled in ed25519._SMALL_ORDER:
        y = int.from_bytes(spelled, "little") % P
        x = x_of(y)
        assert x is not None
        for _ in range(3):
            x, y = double(x, y)
        assert (x, y) == (0, 1), spelled.hex()


def test_small_order_key_is_refused_with_either_sign() -> None:
    for sign_bit in (0, 0x80):
        weak = bytes([1, *[0] * 30, sign_bit])
        with pytest.raises(ContractError, match="large order"):
            ed25519.key_id(weak)
        with pytest.raises(ContractError, match="large order"):
            ed25519.verify(weak, b"\x01" + bytes(63), b"anything")


def test_private_key_survives_its_file_with_and_without_passphrase() -> None:
    for passphrase in (None, b"correct horse"):
        pem, signer = ed25519.new_private_key(passphrase)
        again = ed25519.signer_from_pem(pem, passphrase, "f")
        assert again.keyid == signer.keyid
        assert ed25519.verify(signer.public, again.sign(b"m"), b"m")


@pytest.mark.parametrize("given", [None, b"wrong"])
def test_encrypted_key_needs_its_passphrase(given: bytes | None) -> None:
    pem, _ = ed25519.new_private_key(b"right")
    with pytest.raises(ContractError, match="no private key that can be read"):
        ed25519.signer_from_pem(pem, given, "f")


def test_key_of_another_kind_is_refused() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import x25519

    pem = x25519.X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(ContractError, match="expected an Ed25519 key"):
        ed25519.signer_from_pem(pem, None, "f")


def test_without_the_library_nothing_verifies_and_the_fix_is_named() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from runtime.contract import ed25519, signed\nfrom runtime.errors import TrustError\n"
        f"try: ed25519.verify(bytes.fromhex('{VECTORS[0][0]}'), b'', b'')\n"
        "except TrustError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert 'pip install -e ".[signing]"' in done.stdout


# --- envelopes


def test_encoding_is_the_published_one() -> None:
    """The example of the DSSE protocol, v1."""
    assert encoding("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def envelope() -> bytes:
    return sign(BUILD_TYPE, BUILD.to_json(), WHO.builder).to_json()


def test_envelope_opens_with_the_key_that_closed_it() -> None:
    read = Envelope.from_json(envelope(), "e", BUILD_TYPE)
    assert read.opened(WHO.builder.public, "e") == BUILD.to_json()
    assert read.to_json() == envelope()
    with pytest.raises(ArtifactError, match="checked with another"):
        read.opened(WHO.releaser.public, "e")


@pytest.mark.parametrize("change", [{"payload": b"{}"}, {"payload_type": RELEASE_TYPE}, {"signature": bytes(64)}])
def test_envelope_that_its_key_did_not_sign_stays_closed(change: dict[str, Any]) -> None:
    forged = replace(Envelope.from_json(envelope(), "e", BUILD_TYPE), **change)
    with pytest.raises(ArtifactError, match="does not fit what it is said to cover"):
        forged.opened(WHO.builder.public, "e")


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    data = json.loads(envelope())
    change(data)
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(extra=1), "expected an object with exactly"),
        (lambda d: d.pop("payload"), "expected an object with exactly"),
        (lambda d: d.update(payloadType=RELEASE_TYPE), "payloadType"),
        (lambda d: d.update(payloadType=["x"]), "payloadType"),
        (lambda d: d.update(signatures=[]), "found 0, expected exactly one"),
        (lambda d: d.update(signatures={}), "expected exactly one"),
        (lambda d: d.update(signatures=5), "found no list, expected exactly one"),
        (lambda d: d.update(signatures=[5]), "found int"),
        (lambda d: d["signatures"].append(d["signatures"][0]), "found 2, expected exactly one"),
        (lambda d: d["signatures"][0].update(cert="x"), "expected an object with exactly"),
        (lambda d: d["signatures"][0].update(keyid="x"), "SHA-256"),
        (lambda d: d["signatures"][0].update(keyid=7), "expected text"),
        (lambda d: d["signatures"][0].update(sig="AAAA"), "3 bytes"),
        (lambda d: d["signatures"][0].update(sig=None), "not base64"),
        (lambda d: d.update(payload=d["payload"] + "!"), "not base64"),
        (lambda d: d.update(payload=d["payload"].replace("=", "") or "A"), "base64|canonical"),
    ],
)
def test_damaged_envelope_is_refused(change: Callable[[dict[str, Any]], object], reason: str) -> None:
    with pytest.raises(ContractError, match=reason):
        Envelope.from_json(edited(change), "e", BUILD_TYPE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "found list"),
        (b"5", "found int"),
        (b'{"payload": 1, "payload": 2}', "every name once"),
        (b'{"payload": NaN}', "finite"),
        (b" " * (256 * 1024 + 1), "at most 262144"),
    ],
)
def test_what_is_no_envelope_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ContractError, match=reason):
        Envelope.from_json(data, "e", BUILD_TYPE)


def test_envelope_has_one_spelling() -> None:
    for other in (envelope() + b" ", envelope().replace(b"  ", b"\t"), json.dumps(json.loads(envelope())).encode()):
        with pytest.raises(ContractError, match="not canonical"):
            Envelope.from_json(other, "e", BUILD_TYPE)


# --- statements


@pytest.mark.parametrize("statement", [BUILD, RELEASE])
def test_statement_survives_its_json(statement: BuildStatement | ReleaseStatement) -> None:
    assert type(statement).from_json(statement.to_json()) == statement


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=4, unique=True),
    st.floats(min_value=1e-3, max_value=10.0),
)
def test_any_release_survives_its_json(tasks: list[str], dt_s: float) -> None:
    try:
        made = replace(RELEASE, tasks=tuple(tasks), control_dt_s=dt_s)
    except ContractError:  # lone surrogates
        return
    assert ReleaseStatement.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"promote"', b'"hold"', "expected 'promote'|expected promote"),
        (b'"promote"', b'"yes"', "allowed"),
        (b'"robot": "ur5e"', b'"robot": "ur5e", "robot": "fr3"', "every name once"),
        (b'"robot": "ur5e"', b'"robot": "ur5e", "any_robot": true', "unknown keys"),
        (b'"robot": "ur5e"', b'"robot": "../ur5e"', "letters, digits"),
        (b'"robot": "ur5e",', b"", "missing keys"),
        (b"0.05", b"NaN", "finite"),
        (b"0.05", b"1e999", "finite"),
        (b"0.05", b"-0.05", "above zero"),
        (b"0.05", b"5e-2", "not canonical"),
        (b"0.05", b'"0.05"', "expected a number"),
        (b"release/1", b"release/2", "schema"),
        (b"release/1", b"build/1", "schema"),
        (b"2027-02-25T20:00:00Z", b"2026-11-27T20:00:00Z", "after"),
        (b"2027-02-25T20:00:00Z", b"2027-02-30T20:00:00Z", "no time"),
        (b"2027-02-25T20:00:00Z", b"2027-02-25T20:00:00+01:00", "a time such as"),
        (b"2027-02-25T20:00:00Z", b"2027-02-25 20:00:00Z", "a time such as"),
        (SERIAL.encode(), SERIAL.upper().encode(), "UUID"),
        (SERIAL.encode(), b"00000000-0000-1000-8000-000000000000", "UUID"),
        (b'"agentview",\n    "wrist"', b'"wrist",\n    "agentview"', "sorted"),
        (b'"put the red block left"', b"", "1 to"),
        (b'"put the red block left"', b'""', "1 to"),
        (b'"put the red block left"', b'"a",\n    "a"', "every name once"),
        (b"a" * 64, b"A" * 64, "SHA-256"),
        (b"\n}", b"\n} ", "not canonical"),
        (b"ur5e", b"\xff", "UTF-8"),
    ],
)
def test_release_of_another_form_is_refused(old: bytes, new: bytes, reason: str) -> None:
    data = RELEASE.to_json()
    assert old in data
    with pytest.raises(ContractError, match=reason):
        ReleaseStatement.from_json(data.replace(old, new, 1))


def test_time_without_zone_is_refused() -> None:
    with pytest.raises(ContractError, match="without a zone"):
        format_utc(datetime(2026, 1, 1))
    assert parse_utc(format_utc(NOW), "t") == NOW
    assert format_utc(NOW.astimezone(timezone(timedelta(hours=5)))) == format_utc(NOW)


def test_longest_and_shortest_names_of_a_release_are_its_own() -> None:
    longest = "x" * INSTRUCTION_CHARACTERS
    assert replace(RELEASE, tasks=(longest, "a")).tasks == (longest, "a")
    for wrong in ("", longest + "x"):
        with pytest.raises(ContractError, match=f"1 to {INSTRUCTION_CHARACTERS} characters"):
            replace(RELEASE, tasks=(wrong,))


# --- trust stores


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_trust(tmp_path / "trust", WHO.trust())


def test_store_reads_back_what_was_written(store: Path) -> None:
    assert TrustStore.load(store) == WHO.trust()
    assert TrustStore.load(str(store)).key(WHO.builder.keyid) is not None


def test_key_with_two_roles_is_refused(store: Path) -> None:
    with pytest.raises(ContractError, match="one key, one role"):
        WHO.trust(keys=(trusted(WHO.builder, Role.BUILDER), trusted(WHO.builder, Role.RELEASER)))
    data = json.loads((store / KEYS_FILE).read_bytes())
    data["keys"][1] = {**data["keys"][0], "role": "releaser"}
    (store / KEYS_FILE).write_text(json.dumps(data))
    with pytest.raises(TrustError, match="one key, one role"):
        TrustStore.load(store)


def test_key_under_another_name_is_refused() -> None:
    with pytest.raises(ContractError, match="the SHA-256 of its public_key"):
        trusted(WHO.builder, Role.BUILDER, keyid=WHO.releaser.keyid)
    with pytest.raises(ContractError, match="31 bytes"):
        trusted(WHO.builder, Role.BUILDER, public_key=base64.b64encode(bytes(31)).decode())


@pytest.mark.parametrize("file", [KEYS_FILE, REVOKED_FILE])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[]", "schema"),
        ('{"schema": "dropgate.trust/2"}', "schema"),
        ('{"schema": 1, "schema": 2}', "every name once"),
    ],
)
def test_damaged_file_of_a_store_is_refused(store: Path, file: str, text: str, reason: str) -> None:
    (store / file).write_text(text)
    with pytest.raises(TrustError, match=reason):
        TrustStore.load(store)


@pytest.mark.parametrize("file", [KEYS_FILE, REVOKED_FILE])
def test_unknown_field_of_a_store_is_refused(store: Path, file: str) -> None:
    data = json.loads((store / file).read_bytes())
    (store / file).write_text(json.dumps({**data, "allow_all": True}))
    with pytest.raises(TrustError, match="unknown keys"):
        TrustStore.load(store)


@pytest.mark.parametrize("wrong", [5, None, [], {}, True, ""])
@pytest.mark.parametrize("field", ["keyid", "role", "public_key", "name", "not_after"])
def test_key_with_a_field_of_another_kind_is_refused(store: Path, field: str, wrong: object) -> None:
    data = json.loads((store / KEYS_FILE).read_bytes())
    data["keys"][0][field] = wrong
    (store / KEYS_FILE).write_text(json.dumps(data))
    with pytest.raises(TrustError, match=f"{field}|public key"):
        TrustStore.load(store)


@pytest.mark.parametrize("wrong", [5, None, {"a": 1}, "text", [5], [None]])
@pytest.mark.parametrize("field", ["keys", "artifacts", "releases"])
def test_list_of_a_store_that_is_none_is_refused(store: Path, field: str, wrong: object) -> None:
    files = (KEYS_FILE, REVOKED_FILE) if field == "keys" else (REVOKED_FILE,)
    for file in files:
        before = (store / file).read_bytes()
        (store / file).write_text(json.dumps({**json.loads(before), field: wrong}))
        with pytest.raises(TrustError, match=file):
            TrustStore.load(store)
        (store / file).write_bytes(before)


def test_shortest_and_longest_name_of_a_key() -> None:
    for name in ("x", "x" * SIGNED_TEXT):
        assert trusted(WHO.builder, Role.BUILDER, name=name).name == name
    with pytest.raises(ContractError, match=r"key\.name"):
        trusted(WHO.builder, Role.BUILDER, name="x" * (SIGNED_TEXT + 1))


def link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


UNSAFE: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.unlink(), "is not there"),
    (link, "is a link"),
    (lambda path: os.link(path, path.with_suffix(".more")), "second name"),
    (lambda path: path.chmod(0o664), "mode 0664"),
    (lambda path: path.chmod(0o646), "mode 0646"),
    (lambda path: (path.unlink(), os.mkfifo(path, 0o644)), "no regular file"),
    (lambda path: (path.unlink(), path.mkdir()), "no regular file"),
    (lambda path: path.write_bytes(b" " * (1 << 20) + b" "), "larger than"),
]


@pytest.mark.parametrize("file", [KEYS_FILE, REVOKED_FILE])
@pytest.mark.parametrize(("change", "reason"), UNSAFE)
def test_unsafe_file_of_a_store_is_refused(
    store: Path, file: str, change: Callable[[Path], object], reason: str
) -> None:
    change(store / file)
    with pytest.raises(TrustError, match=reason):
        TrustStore.load(store)


def test_unsafe_directory_of_a_store_is_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    with pytest.raises(TrustError, match="found a link or a file"):
        TrustStore.load(tmp_path / "link")
    with pytest.raises(TrustError, match="No such file"):
        TrustStore.load(tmp_path / "none")
    store.chmod(0o775)
    with pytest.raises(TrustError, match="mode 0775"):
        TrustStore.load(store)
    store.chmod(0o755)
    tmp_path.chmod(0o777)
    with pytest.raises(TrustError, match="exchange the store"):
        TrustStore.load(store)
    tmp_path.chmod(0o1777)  # sticky: others may add, not exchange
    assert TrustStore.load(store).keys


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_store_of_another_user_is_refused(store: Path) -> None:
    os.chown(store / KEYS_FILE, 4242, -1)
    with pytest.raises(TrustError, match="belongs to user 4242"):
        TrustStore.load(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_store_of_root_or_of_the_user_is_read_by_a_user(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert TrustStore.load(store).keys, "all is root's"
    for path in (store, store / KEYS_FILE, store / REVOKED_FILE):
        os.chown(path, 4242, -1)
    assert TrustStore.load(store).keys
    os.chown(store, 4243, -1)
    with pytest.raises(TrustError, match="belongs to user 4243, expected root or 4242"):
        TrustStore.load(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_store_below_a_folder_of_another_user_is_refused(store: Path, tmp_path: Path) -> None:
    """Its owner could put an older store of ours, without a revocation, in the place of this one: sticky or not."""
    for mode in (0o755, 0o1755):
        tmp_path.chmod(mode)
        os.chown(tmp_path, 4242, -1)
        with pytest.raises(TrustError, match="above it belongs to user 4242, who could exchange the store"):
            TrustStore.load(store)
        os.chown(tmp_path, os.geteuid(), -1)
    assert TrustStore.load(store).keys


def test_revocation_of_nonsense_is_refused() -> None:
    for name, entry in (("keys", "x"), ("artifacts", "A" * 64), ("releases", A)):
        with pytest.raises(ContractError, match=f"revoked.{name}"):
            nothing_revoked(**{name: (entry,)})
    with pytest.raises(ContractError, match="every name once"):
        nothing_revoked(keys=(A, A))
