# SPDX-License-Identifier: Apache-2.0
"""`compress keygen`: a key pair for a builder or a releaser."""

from __future__ import annotations

import argparse
import getpass
import socket
from pathlib import Path

from compress.verbs.answer import OK, Answer, Verbs, add_verb
from compress.verbs.duration import duration

ROLES = ("builder", "releaser")  # runtime.contract.trust_store.Role, which is not imported for --help (tested)


def add_parser(verbs: Verbs) -> None:
    """`keygen`."""
    parser = add_verb(verbs, "keygen", _keygen, "make an Ed25519 key pair that signs builds or releases")
    parser.add_argument("--role", required=True, choices=ROLES, help="what it may sign; a key has one role")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="ROLE.key.pem (secret) and ROLE.trust.json (public)"
    )
    parser.add_argument("--name", help="whose key it is (default: user@host)")
    parser.add_argument("--valid", type=duration, default="730d", metavar="90d", help="default: %(default)s")
    add_passphrase(parser, "encrypt the private key with")


def add_passphrase(parser: argparse.ArgumentParser, what: str) -> None:
    """--passphrase-file, --passphrase-env."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--passphrase-file", type=Path, metavar="FILE", help=f"{what} the first line of FILE (mode 600)")
    group.add_argument("--passphrase-env", metavar="NAME", help=f"{what} the content of this environment variable")


def _keygen(options: argparse.Namespace) -> Answer:
    from compress.signing.key_files import make_key_pair, passphrase_of
    from runtime.contract.trust_store import Role
    from runtime.contract.utc_time import utc_now

    name = options.name or f"{getpass.getuser()}@{socket.gethostname()}"
    passphrase = passphrase_of(options.passphrase_file, options.passphrase_env)
    made = make_key_pair(options.out, Role(options.role), name, options.valid, utc_now(), passphrase)
    data = {
        "keyid": made.key.keyid,
        "role": options.role,
        "private": str(made.private),
        "entry": str(made.entry),
        "encrypted": passphrase is not None,
        "not_after": made.key.not_after,
    }
    lines = [
        f"{options.role} key {made.key.keyid}, until {made.key.not_after}",
        f"secret: {made.private} ({'encrypted' if passphrase else 'not encrypted'}; it never leaves its owner)",
        f"public: {made.entry}. On each station: compress trust add {made.entry.name} --trust DIR, and compare the key "
        "id with the one above over another channel",
    ]
    return Answer(OK, data, lines)
