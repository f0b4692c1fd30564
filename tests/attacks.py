# SPDX-License-Identifier: Apache-2.0
"""What can be done to a released artifact and to the station that is to believe it; attack_list.py has the attacks.

Three attackers: one who can change files (with or without making new digests), one who holds other people's signed
artifacts or an unknown key, and one whose own trusted key signs something that it may not.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from attack_bundles import ARTIFACT, Bundle, Case
from signing_factory import (
    SERIAL,
    build_statement,
    nothing_revoked,
    people,
    release_statement,
    write_signatures,
    write_trust,
)

from runtime.contract.artifact import load_manifest
from runtime.contract.conventions import Verdict
from runtime.contract.dsse import sign
from runtime.contract.manifest import MANIFEST_FILE, canonical_json
from runtime.contract.statements import BUILD_TYPE, RELEASE_TYPE
from runtime.contract.trust_store import KEYS_FILE

BUILD, RELEASE = "signatures/build.dsse.json", "signatures/release.dsse.json"


@dataclass(frozen=True)
class Attack:
    """What is done to the case (with another good bundle of the same people at hand), and the reason to be given."""

    name: str
    act: Callable[[Case, Bundle], object]
    reason: str


def flip(data: bytes, place: float = 0.5) -> bytes:
    """One bit of one byte."""
    at = int(len(data) * place)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def envelope(change: Callable[[dict[str, Any]], object], name: str = RELEASE) -> Callable[[Case, Bundle], object]:
    return lambda case, other: case.edit_json(case.artifact / name, change)


def flip_signature(envelope: dict[str, Any]) -> None:
    entry = envelope["signatures"][0]
    entry["sig"] = base64.b64encode(flip(base64.b64decode(entry["sig"]))).decode()


def payload(old: str, new: str, name: str = RELEASE) -> Callable[[Case, Bundle], object]:
    def change(envelope: dict[str, Any]) -> None:
        text = base64.b64decode(envelope["payload"]).decode()
        assert old in text
        envelope["payload"] = base64.b64encode(text.replace(old, new).encode()).decode()

    return envelope(change, name)


def retyped(case: Case, other: Bundle) -> None:
    """A release that its releaser signed under the other type: DSSE's encoding covers the type."""
    statement = release_statement(*load_manifest(case.artifact))
    envelope = sign(BUILD_TYPE, statement.to_json(), case.who.releaser)
    (case.artifact / RELEASE).write_bytes(replace(envelope, payload_type=RELEASE_TYPE).to_json())


def resealed(path: str) -> Callable[[Case, Bundle], object]:
    def act(case: Case, other: Bundle) -> None:
        case.edit(path, flip)
        case.reseal()

    return act


def swap(path: str, reseal: bool = False) -> Callable[[Case, Bundle], object]:
    """The other bundle's file of this name."""

    def act(case: Case, other: Bundle) -> None:
        (case.artifact / path).write_bytes(other.files[f"{ARTIFACT}/{path}"])
        if reseal:
            case.reseal()

    return act


def release(**changes: Any) -> Callable[[Case, Bundle], object]:
    """The trusted releaser signs something else."""

    def act(case: Case, other: Bundle) -> None:
        manifest, raw = load_manifest(case.artifact)
        statement = release_statement(manifest, raw, **changes)
        (case.artifact / RELEASE).write_bytes(sign(RELEASE_TYPE, statement.to_json(), case.who.releaser).to_json())

    return act


def raw_release(change: Callable[[dict[str, Any]], object]) -> Callable[[Case, Bundle], object]:
    """The trusted releaser signs bytes that no tool of ours writes."""

    def act(case: Case, other: Bundle) -> None:
        manifest, raw = load_manifest(case.artifact)
        data = json.loads(release_statement(manifest, raw).to_json())
        change(data)
        (case.artifact / RELEASE).write_bytes(sign(RELEASE_TYPE, canonical_json(data), case.who.releaser).to_json())

    return act


def signed_by(path: str, kind: str, signer: Callable[[Case], Any]) -> Callable[[Case, Bundle], object]:
    def act(case: Case, other: Bundle) -> None:
        manifest, raw = load_manifest(case.artifact)
        make = build_statement if path == BUILD else release_statement
        (case.artifact / path).write_bytes(sign(kind, make(manifest, raw).to_json(), signer(case)).to_json())

    return act


def clock(**shift: float) -> Callable[[Case, Bundle], object]:
    def act(case: Case, other: Bundle) -> None:
        case.now += timedelta(**shift)

    return act


def revoke(kind: str) -> Callable[[Case, Bundle], object]:
    def act(case: Case, other: Bundle) -> None:
        manifest, _ = load_manifest(case.artifact)
        entry = {"builder": case.who.builder.keyid, "releaser": case.who.releaser.keyid, "releases": SERIAL}
        field = "keys" if kind in entry and kind != "releases" else kind
        revoked = nothing_revoked(**{field: (entry.get(kind, manifest.artifact_id),)})
        write_trust(case.trust, case.who.trust(revoked=revoked))

    return act


def trust(change: Callable[[dict[str, Any]], object], name: str = KEYS_FILE) -> Callable[[Case, Bundle], object]:
    return lambda case, other: case.edit_json(case.trust / name, change)


def replay(case: Case, other: Bundle) -> None:
    """New evidence, same policy, old signatures."""
    case.edit("evidence/probe.json", lambda data: data + b" ")
    case.reseal()


def forge(case: Case, other: Bundle) -> None:
    """A whole artifact by a stranger, who names the trusted keys."""
    stranger = people()
    case.edit("policy.onnx", flip)
    case.reseal()
    write_signatures(case.artifact, stranger)
    for name, key in ((BUILD, case.who.builder), (RELEASE, case.who.releaser)):
        case.edit_json(case.artifact / name, lambda d, key=key: d["signatures"][0].update(keyid=key.keyid))  # type: ignore[misc]


def link(case: Case, path: str, hard: bool) -> None:
    outside = case.root / "outside"
    shutil.copy(case.artifact / path, outside)
    (case.artifact / path).unlink()
    (os.link if hard else os.symlink)(outside, case.artifact / path)


def manifest_path(name: str) -> Callable[[Case, Bundle], object]:
    def change(data: dict[str, Any]) -> None:
        data["files"][0]["path"] = name

    return lambda case, other: case.edit_json(case.artifact / MANIFEST_FILE, change)


def fifo(case: Case, path: str) -> None:
    (case.artifact / path).unlink()
    os.mkfifo(case.artifact / path)


def held(case: Case, other: Bundle) -> None:
    """The gate held it; a trusted releaser signs a release all the same."""
    manifest, _ = load_manifest(case.artifact)
    assert manifest.gate is not None
    held = replace(manifest, gate=replace(manifest.gate, verdict=Verdict.HOLD))
    (case.artifact / MANIFEST_FILE).write_bytes(held.to_json())
    write_signatures(case.artifact, case.who)


def folder_link(case: Case, other: Bundle) -> None:
    (case.artifact / "signatures").rename(case.root / "elsewhere")
    (case.artifact / "signatures").symlink_to(case.root / "elsewhere")


def write(path: str, data: bytes) -> Callable[[Case, Bundle], object]:
    return lambda case, other: (case.artifact / path).write_bytes(data)


def copy(source: str, target: str) -> Callable[[Case, Bundle], object]:
    return lambda case, other: shutil.copy(case.artifact / source, case.artifact / target)
