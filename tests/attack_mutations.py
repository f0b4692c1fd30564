# SPDX-License-Identifier: Apache-2.0
"""Random attacks, seeded: each changes something that matters, so each must be refused.

Bytes of the artifact, of both envelopes and of the trust store's key material; digests made new or not; fields of
signed payloads; keys; links; clock; revocations. Not among them, because the station's administrator may set them: a
key's name and end, the time of the last revocation, and the spelling of the trust store's JSON.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from attack_bundles import ACCEPTED, Bundle, Case
from attacks import BUILD, RELEASE
from signing_factory import SERIAL, nothing_revoked, people, write_trust

from runtime.contract.artifact import load_manifest
from runtime.contract.dsse import Envelope, sign
from runtime.contract.manifest import MANIFEST_FILE, canonical_json, digest
from runtime.contract.statements import BUILD_TYPE, RELEASE_TYPE
from runtime.contract.trust_store import KEYS_FILE
from runtime.errors import DropGateRuntimeError


@dataclass
class Tally:
    """Refusals by kind; what was accepted, and errors that are not ours, with what repeats them."""

    by_kind: Counter[str] = field(default_factory=Counter)
    by_error: Counter[str] = field(default_factory=Counter)
    accepted: list[dict[str, Any]] = field(default_factory=list)
    foreign: list[dict[str, Any]] = field(default_factory=list)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Other bytes: a bit, a byte, some more, some less, a hole of zeros, a part twice, or the beginning only."""
    if not data:
        return rng.randbytes(1)
    at, length = rng.randrange(len(data)), rng.randrange(1, 17)
    made = rng.choice(
        [
            lambda: data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :],
            lambda: data[:at] + rng.randbytes(1) + data[at + 1 :],
            lambda: data[:at] + rng.randbytes(length) + data[at:],
            lambda: data[:at] + data[at + length :],
            lambda: data[:at] + bytes(length) + data[at + length :],
            lambda: data[:at] + data[at : at + length] + data[at:],
            lambda: data[:at],
        ]
    )()
    return made if made != data else bytes([data[0] ^ 1]) + data[1:]


def listed(case: Case) -> list[str]:
    return [entry.path for entry in load_manifest(case.artifact)[0].files]


def bytes_changed(case: Case, other: Bundle, rng: random.Random) -> None:
    case.edit(rng.choice([MANIFEST_FILE, BUILD, RELEASE, *listed(case)]), lambda data: mutated(rng, data))


def envelope_bytes(case: Case, other: Bundle, rng: random.Random) -> None:
    case.edit(rng.choice([BUILD, RELEASE]), lambda data: mutated(rng, data))


def content_resealed(case: Case, other: Bundle, rng: random.Random) -> None:
    case.edit(rng.choice(listed(case)), lambda data: mutated(rng, data))
    case.reseal()


def manifest_resealed(case: Case, other: Bundle, rng: random.Random) -> None:
    """A field of the manifest, with a new identity."""
    path = case.artifact / MANIFEST_FILE
    data = json.loads(path.read_bytes())
    data.pop("artifact_id")
    edit_leaf(data, rng)
    path.write_bytes(canonical_json({"artifact_id": digest(data), **data}))


def edit_leaf(data: Any, rng: random.Random) -> None:
    """Another value somewhere in JSON data."""
    leaves: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, (dict, list)) and value:
                walk(value)
            else:
                leaves.append((node, key))

    walk(data)
    node, key = rng.choice(leaves)
    old = node[key]
    choices = [None, "", "x", 0, 1.5, [], rng.randbytes(32).hex(), not old]
    if isinstance(old, str):
        choices += [old + "x", old[:-1], old.swapcase()] * 2
    elif isinstance(old, (int, float)):
        choices += [old + 1, -old - 1, old * 2 + 0.5] * 2
    node[key] = rng.choice([choice for choice in choices if repr(choice) != repr(old)])


def payload_edited(case: Case, other: Bundle, rng: random.Random) -> None:
    """A field of what was signed, under the old signature."""

    def change(envelope: dict[str, Any]) -> None:
        data = json.loads(base64.b64decode(envelope["payload"]))
        edit_leaf(data, rng)
        envelope["payload"] = base64.b64encode(canonical_json(data)).decode()

    case.edit_json(case.artifact / rng.choice([BUILD, RELEASE]), change)


def key_exchanged(case: Case, other: Bundle, rng: random.Random) -> None:
    """The same statement by somebody else, or under somebody else's name."""
    name, kind = rng.choice([(BUILD, BUILD_TYPE), (RELEASE, RELEASE_TYPE)])
    envelope = Envelope.from_json((case.artifact / name).read_bytes(), name, kind)
    right, wrong = case.who.builder, case.who.releaser
    if name == RELEASE:
        right, wrong = wrong, right
    stranger = people().builder
    others = [wrong, stranger, *([other.who.builder] if other.who is not case.who else [])]
    made = json.loads(sign(kind, envelope.payload, rng.choice(others)).to_json())
    if rng.random() < 0.5:
        made["signatures"][0]["keyid"] = rng.choice([right, wrong]).keyid
    (case.artifact / name).write_bytes(canonical_json(made))


def part_of_another(case: Case, other: Bundle, rng: random.Random) -> None:
    """A file of another good bundle, with new digests or without; its signatures, too."""
    theirs = [
        path
        for path in other.files
        if path.startswith("artifact/") and case.bundle.files.get(path) != other.files[path]
    ]
    path = rng.choice(sorted(theirs))
    (case.root / path).write_bytes(other.files[path])
    if path.removeprefix("artifact/") in listed_or_none(case) and rng.random() < 0.5:
        case.reseal()


def listed_or_none(case: Case) -> list[str]:
    try:
        return listed(case)
    except DropGateRuntimeError:
        return []


def file_system(case: Case, other: Bundle, rng: random.Random) -> None:
    path = rng.choice([MANIFEST_FILE, BUILD, RELEASE, *listed(case)])
    target, outside = case.artifact / path, case.root / "outside"
    shutil.copy(target, outside)
    what = rng.choice(["gone", "symlink", "hard link", "pipe", "folder", "extra", "renamed", "extra folder"])
    if what in ("gone", "symlink", "hard link", "pipe", "folder"):
        target.unlink()
        {
            "gone": lambda: None,
            "symlink": lambda: os.symlink(outside, target),
            "hard link": lambda: os.link(outside, target),
            "pipe": lambda: os.mkfifo(target),
            "folder": target.mkdir,
        }[what]()
    elif what == "renamed":
        target.rename(target.with_name(target.name + rng.choice([".bak", "~", ".tmp", "2"])))
    elif what == "extra":
        folder = rng.choice([case.artifact, case.artifact / "signatures", case.artifact / "evidence"])
        (folder / f"{rng.randbytes(4).hex()}{rng.choice(['', '.json', '.onnx', '.dsse.json', '.py'])}").write_bytes(
            b"{}"
        )
    else:
        (rng.choice([case.artifact, case.artifact / "signatures"]) / rng.randbytes(4).hex()).mkdir()


def clock(case: Case, other: Bundle, rng: random.Random) -> None:
    ahead, late = timedelta(seconds=rng.randrange(301, 10**8)), timedelta(days=90, seconds=rng.randrange(10**8))
    case.now += rng.choice([-ahead, late])


def revoked(case: Case, other: Bundle, rng: random.Random) -> None:
    artifact = load_manifest(case.artifact)[0].artifact_id
    kind, entry = rng.choice(
        [
            ("keys", case.who.builder.keyid),
            ("keys", case.who.releaser.keyid),
            ("artifacts", artifact),
            ("releases", SERIAL),
        ]
    )
    write_trust(case.trust, case.who.trust(revoked=nothing_revoked(**{kind: (entry,)})))


def store_changed(case: Case, other: Bundle, rng: random.Random) -> None:
    """Key material, roles, permissions or the files of the trust store."""

    def edit(data: dict[str, Any]) -> None:
        key = rng.choice(data["keys"])
        name = rng.choice(["keyid", "public_key", "role", "unknown", "gone", "twice"])
        if name == "unknown":
            key[rng.randbytes(3).hex()] = True
        elif name == "gone":
            data["keys"].remove(key)
        elif name == "twice":
            data["keys"].append({**key, "role": rng.choice(["builder", "releaser"])})
        elif name == "role":
            key["role"] = rng.choice(["root", "", None, "builder" if key["role"] == "releaser" else "releaser"])
        else:
            text = mutated(rng, key[name].encode()).decode("latin-1")
            key[name] = text

    what = rng.choice(["edit", "edit", "edit", "truncated", "mode", "other"])
    keys = case.trust / KEYS_FILE
    if what == "edit":
        case.edit_json(keys, edit)
    elif what == "truncated":
        os.truncate(keys, rng.randrange(keys.stat().st_size - 2))
    elif what == "mode":
        rng.choice([case.trust, keys]).chmod(rng.choice([0o666, 0o664, 0o757, 0o777, 0o622]))
    elif other.who is not case.who:
        keys.write_bytes(other.files[f"trust/{KEYS_FILE}"])
    else:
        keys.unlink()


KINDS: dict[str, Callable[[Case, Bundle, random.Random], None]] = {
    "bytes changed": bytes_changed,
    "envelope bytes": envelope_bytes,
    "content changed, new digests": content_resealed,
    "manifest changed, new identity": manifest_resealed,
    "payload edited": payload_edited,
    "key exchanged": key_exchanged,
    "part of another bundle": part_of_another,
    "file system": file_system,
    "clock": clock,
    "revoked": revoked,
    "store changed": store_changed,
}


def run(good: list[Bundle], count: int, seed: int, scratch: Path) -> Tally:
    """`count` attacks; kinds and bundles take turns, case n of a seed is always the same but for the keys."""
    found = Tally()
    names = list(KINDS)
    for index in range(count):
        rng = random.Random(f"{seed}-{index}")
        kind, bundle = names[index % len(names)], good[(index // len(names)) % len(good)]
        other = good[(good.index(bundle) + rng.randrange(1, len(good))) % len(good)]
        root = scratch / f"case-{index}"
        case = bundle.write(root)
        before = case.content()
        where = {"seed": seed, "index": index, "kind": kind, "bundle": bundle.name}
        try:
            KINDS[kind](case, other, rng)
            if case.content() == before:
                raise AssertionError(f"{where}: changed nothing")
            answer = case.answer()
        except AssertionError:
            raise
        except Exception:
            found.foreign.append({**where, "error": traceback.format_exc()})
            continue
        finally:
            shutil.rmtree(root)
        if answer == ACCEPTED:
            found.accepted.append(where)
        else:
            found.by_kind[kind] += 1
            found.by_error[answer.split(":")[0]] += 1
    return found
