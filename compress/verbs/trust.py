# SPDX-License-Identifier: Apache-2.0
"""`compress trust add | list` and `compress revoke`: whom a station believes, and what no longer."""

from __future__ import annotations

import argparse
from pathlib import Path

from compress.verbs.answer import OK, Answer, Verbs, add_verb

THINGS = {"key": "a key id", "artifact": "an artifact id", "release": "a release's serial"}


def add_parsers(verbs: Verbs) -> None:
    """`trust` with its verbs, and `revoke`."""
    about = "a station's trust store: keys that it believes, and in which role"
    inner = verbs.add_parser("trust", help=about, description=about).add_subparsers(
        dest="trust_verb", required=True, metavar="VERB"
    )
    add = add_verb(inner, "add", _add, "believe a key from now on")
    add.add_argument("entry", type=Path, metavar="ROLE.trust.json", help="public half, as compress keygen wrote it")
    shown = add_verb(inner, "list", _list, "show keys and revocations, and whether the store is safe to use")
    gone = add_verb(verbs, "revoke", _revoke, "stop believing a key, an artifact or a release on this station")
    what = gone.add_mutually_exclusive_group(required=True)
    for name, meaning in THINGS.items():
        what.add_argument(f"--{name}", metavar="ID", help=meaning)
    gone.add_argument("--reason", required=True, help="one sentence, kept in revocations.jsonl")
    for parser in (add, shown, gone):
        parser.add_argument("--trust", required=True, type=Path, metavar="DIR", help="the station's trust store")


def _add(options: argparse.Namespace) -> Answer:
    from compress.signing.key_files import read_entry
    from compress.signing.trust_files import add_key
    from runtime.contract.utc_time import utc_now

    key = read_entry(options.entry)
    store = add_key(options.trust, key, utc_now())
    data = {"keyid": key.keyid, "role": key.role.value, "name": key.name, "keys": len(store.keys)}
    lines = [
        f"{options.trust}: believes {key.name} as {key.role.value} until {key.not_after}",
        f"key id {key.keyid}: compare it with the owner's over another channel",
    ]
    return Answer(OK, data, lines)


def _list(options: argparse.Namespace) -> Answer:
    from runtime.contract.codec import encode
    from runtime.contract.trust_store import TrustStore
    from runtime.contract.utc_time import utc_now

    store, now = TrustStore.load(options.trust), utc_now()
    lines = [f"{options.trust}: {len(store.keys)} keys"]
    for key in store.keys:
        gone = "revoked" if key.keyid in store.revoked.keys else "ended" if now >= key.ends else "believed"
        lines.append(f"{key.role.value:9} {gone:9} until {key.not_after}  {key.keyid}  {key.name}")
    counts = {name: len(getattr(store.revoked, name)) for name in ("keys", "artifacts", "releases")}
    lines.append(f"revoked: {', '.join(f'{n} {name}' for name, n in counts.items())}, at {store.revoked.updated_at}")
    return Answer(OK, {"keys": [encode(key) for key in store.keys], "revoked": encode(store.revoked)}, lines)


def _revoke(options: argparse.Namespace) -> Answer:
    from compress.signing.trust_files import revoke
    from runtime.contract.utc_time import utc_now

    kind = next(name for name in THINGS if getattr(options, name) is not None)
    identity = getattr(options, kind)
    new = revoke(options.trust, kind, identity, options.reason, utc_now())
    done = "revoked" if new else "was revoked before; nothing changed"
    return Answer(OK, {"kind": kind, "id": identity, "new": new}, [f"{kind} {identity}: {done} ({options.trust})"])
