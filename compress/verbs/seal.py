# SPDX-License-Identifier: Apache-2.0
"""`compress seal ARTIFACT`: a builder's or a releaser's signature under what the artifact itself says.

The pipeline's stage `seal` wrote digests and verdict; this adds who vouches for them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from compress.verbs.answer import OK, Answer, Verbs, add_verb
from compress.verbs.duration import duration
from compress.verbs.keygen import add_passphrase

if TYPE_CHECKING:
    from runtime.contract.artifact import Artifact
    from runtime.contract.statements import BuildStatement, ReleaseStatement

FOR_RELEASE = ("robot", "limits_sha256", "regression")


def add_parser(verbs: Verbs) -> None:
    """`seal`."""
    parser = add_verb(
        verbs, "seal", _seal, "sign an artifact: a builder its manifest, then a releaser its gate verdict for one robot"
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="artifact directory (holds manifest.json)")
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--builder-key", type=Path, metavar="FILE", help="sign the build with this private key")
    key.add_argument("--releaser-key", type=Path, metavar="FILE", help="sign the release with this private key")
    parser.add_argument("--robot", help="release: the robot that it may move, such as ur5e")
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument("--limits-sha256", metavar="HEX", help="release: digest of the limits that the filter must use")
    limits.add_argument(
        "--regression", type=Path, metavar="FILE", help="release: take it from a passed regression.json of this robot"
    )
    parser.add_argument(
        "--expires", type=duration, default="90d", metavar="90d", help="release: how long (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be signed")
    parser.add_argument("--replace", action="store_true", help="put the signature in the place of the one there is")
    add_passphrase(parser, "the private key is encrypted with")


def _seal(options: argparse.Namespace) -> Answer:
    from compress.signing.errors import SigningError
    from compress.signing.key_files import passphrase_of, read_signer
    from compress.signing.signature_files import existing, write_envelope
    from runtime.contract import statements as s
    from runtime.contract.artifact import read_artifact
    from runtime.contract.dsse import sign

    building = options.builder_key is not None
    given = [f"--{name.replace('_', '-')}" for name in FOR_RELEASE if getattr(options, name) is not None]
    if building and given:
        raise SigningError(f"{', '.join(given)}: belong to a release; the builder signs the manifest alone")
    artifact = read_artifact(options.artifact)
    signer = read_signer(
        options.builder_key or options.releaser_key, passphrase_of(options.passphrase_file, options.passphrase_env)
    )
    name, kind = (s.BUILD_FILE, s.BUILD_TYPE) if building else (s.RELEASE_FILE, s.RELEASE_TYPE)
    statement = _build(artifact) if building else _release(artifact, options, signer.keyid)
    payload = statement.to_json().decode("utf-8")
    there = existing(artifact, name, kind)
    data = {"artifact_id": artifact.manifest.artifact_id, "keyid": signer.keyid, "file": name, "payload": payload}
    lines = [f"key {signer.keyid} signs {kind}:", payload.rstrip()]
    if there is not None:
        lines.append(f"signatures/{name} holds {there}")
    if options.dry_run:
        return Answer(OK, {**data, "written": None}, [*lines, "nothing was written (--dry-run)"])
    target = write_envelope(artifact, name, sign(kind, payload.encode("utf-8"), signer), options.replace)
    return Answer(OK, {**data, "written": str(target)}, [*lines, f"written: {target}"])


def _build(artifact: Artifact) -> BuildStatement:
    from compress.signing.subject import build_of
    from runtime.contract.utc_time import utc_now

    return build_of(artifact, utc_now())


def _release(artifact: Artifact, options: argparse.Namespace, keyid: str) -> ReleaseStatement:
    from compress.signing.errors import SigningError
    from compress.signing.signature_files import signer_of
    from compress.signing.subject import limits_from_regression, release_of
    from runtime.contract.statements import BUILD_FILE, BUILD_TYPE
    from runtime.contract.utc_time import utc_now

    if options.robot is None or (options.limits_sha256 is None and options.regression is None):
        raise SigningError("a release needs --robot NAME, and --regression FILE or --limits-sha256 HEX")
    if signer_of(artifact, BUILD_FILE, BUILD_TYPE) == keyid:
        raise SigningError(
            f"key {keyid} signed the build; the releaser is somebody else: compress keygen --role releaser"
        )
    limits = options.limits_sha256 or limits_from_regression(options.regression, artifact, options.robot)
    return release_of(artifact, options.robot, limits, options.expires, utc_now())
