# SPDX-License-Identifier: Apache-2.0
"""The attacks by name, each with the reason that the station must give.

They change a byte, exchange parts, lie with a trusted key, use up time, or trick the file system.
"""

from __future__ import annotations

import os
import shutil

import attacks as do
from attack_bundles import GATE
from attacks import BUILD, RELEASE, Attack, flip
from signing_factory import build_statement, people, trusted, write_trust

from runtime.contract.artifact import load_manifest
from runtime.contract.dsse import sign
from runtime.contract.manifest import MANIFEST_FILE
from runtime.contract.statements import BUILD_TYPE, RELEASE_TYPE
from runtime.contract.trust_store import KEYS_FILE, REVOKED_FILE, Role

ANOTHER, UNKNOWN, UNFIT = "is about another artifact", "unknown to this station", "does not fit"
WRONG_ROLE, OTHER_NAME = "only a {} may", "the SHA-256 of its public_key"
FILES = {
    "graph": "policy.onnx",
    "data": "policy.onnx.data",
    "tokenizer": "tokenizer.json",
    "normalisation": "normalization.safetensors",
    "golden": "golden.safetensors",
    "evidence": "evidence/probe.json",
    "gate": GATE,
}

FLIPS = [
    *(Attack(f"flip {n}", lambda c, o, p=p: c.edit(p, flip), f"changed: {p}") for n, p in FILES.items()),  # type: ignore[misc]
    *(Attack(f"flip {n}, new digests", do.resealed(p), ANOTHER) for n, p in FILES.items()),
    Attack("flip manifest", lambda c, o: c.edit(MANIFEST_FILE, lambda d: flip(d, 0.1)), "ContractError"),
    Attack("flip build signature", do.envelope(do.flip_signature, BUILD), UNFIT),
    Attack("flip release signature", do.envelope(do.flip_signature), UNFIT),
    Attack("flip build payload", do.payload('"policy_id": "', '"policy_id": "0', BUILD), UNFIT),
    Attack("other robot in payload", do.payload('"robot": "', '"robot": "x'), UNFIT),
    Attack("later end in payload", do.payload('"expires_at": "2027', '"expires_at": "2037'), UNFIT),
    Attack("envelope respelled", lambda c, o: c.edit(RELEASE, lambda d: d + b"\n"), "not canonical"),
    Attack("flip envelope type", do.envelope(lambda d: d.update(payloadType=RELEASE_TYPE.upper())), "payloadType"),
    Attack("flip trusted key", do.trust(lambda d: d["keys"][0].update(public_key=d["keys"][1]["public_key"])),
           OTHER_NAME),
    Attack("flip trusted key id", do.trust(lambda d: d["keys"][0].update(keyid="0" * 64)), OTHER_NAME),
]  # fmt: skip

SWAPS = [
    Attack("gate report of another artifact", do.swap(GATE), f"changed: {GATE}"),
    Attack("gate report of another artifact, new digests", do.swap(GATE, reseal=True), ANOTHER),
    Attack("evidence of another artifact, new digests", do.swap("evidence/probe.json", reseal=True), ANOTHER),
    Attack("both signatures of another artifact", lambda c, o: (do.swap(BUILD)(c, o), do.swap(RELEASE)(c, o)), ANOTHER),
    Attack("release of another artifact", do.swap(RELEASE), ANOTHER),
    Attack("manifest of another artifact", do.swap(MANIFEST_FILE), "changed: "),
    Attack("old release on a newer artifact", do.replay, ANOTHER),
    Attack("forged with the names of trusted keys", do.forge, UNFIT),
    Attack("unknown builder", do.signed_by(BUILD, BUILD_TYPE, lambda c: people().builder), UNKNOWN),
    Attack("unknown releaser", do.signed_by(RELEASE, RELEASE_TYPE, lambda c: people().releaser), UNKNOWN),
    Attack("releaser signs the build", do.signed_by(BUILD, BUILD_TYPE, lambda c: c.who.releaser),
           WRONG_ROLE.format("builder")),
    Attack("builder signs the release", do.signed_by(RELEASE, RELEASE_TYPE, lambda c: c.who.builder),
           WRONG_ROLE.format("releaser")),
    Attack("build passed off as release", do.copy(BUILD, RELEASE), "payloadType"),
    Attack("build retyped as release", lambda c, o: (do.copy(BUILD, RELEASE)(c, o),
           do.envelope(lambda d: d.update(payloadType=RELEASE_TYPE))(c, o)), WRONG_ROLE.format("releaser")),
    Attack("release signed under another type", do.retyped, UNFIT),
    Attack("build content under a release type", lambda c, o: (c.artifact / RELEASE).write_bytes(
           sign(RELEASE_TYPE, build_statement(*load_manifest(c.artifact)).to_json(), c.who.releaser).to_json()),
           "signed, but not valid .*schema"),
    Attack("two signatures", do.envelope(lambda d: d["signatures"].append(d["signatures"][0])), "exactly one"),
    Attack("no signature", do.envelope(lambda d: d["signatures"].clear()), "exactly one"),
    Attack("key ids exchanged", lambda c, o: (
           do.envelope(lambda d: d["signatures"][0].update(keyid=c.who.releaser.keyid), BUILD)(c, o),
           do.envelope(lambda d: d["signatures"][0].update(keyid=c.who.builder.keyid), RELEASE)(c, o)),
           WRONG_ROLE.format("builder")),
    Attack("certificate inside the envelope", do.envelope(lambda d: d["signatures"][0].update(cert="MIIB")), "exactly"),
    Attack("roles exchanged in the store", do.trust(lambda d: (d["keys"][0].update(role="releaser"),
           d["keys"][1].update(role="builder"))), WRONG_ROLE.format("builder")),
]  # fmt: skip

LIES = [
    Attack("verdict hold", do.raw_release(lambda d: d.update(verdict="hold")), "expected promote"),
    Attack("held artifact", do.held, "the artifact's own gate says hold"),
    Attack("another gate report", do.release(gate_sha256="0" * 64), "names gate_sha256"),
    Attack("another policy", do.release(policy_id="0" * 64), ANOTHER),
    Attack("another artifact id", do.release(artifact_id="0" * 64), ANOTHER),
    Attack("another rate", do.release(control_dt_s=0.5), "names control_dt_s"),
    Attack("fewer cameras", do.release(cameras=("wrist",)), "names cameras"),
    Attack("unknown field", do.raw_release(lambda d: d.update(any_robot=True)), "unknown keys"),
    Attack("missing field", do.raw_release(lambda d: d.pop("expires_at")), "missing keys"),
    Attack("no tasks", do.raw_release(lambda d: d.update(tasks=[])), "release.tasks"),
    Attack("ends before it begins", do.raw_release(lambda d: d.update(expires_at=d["issued_at"])), "after"),
]

CLOCKS = [
    Attack("release expired", do.clock(days=90), "expired at"),
    Attack("signed in the future", do.clock(minutes=-6), "not yet valid"),
    Attack("release from the future", do.release(issued_at="2026-12-01T00:00:00Z"), "not yet valid"),
    Attack("key ended", lambda c, o: write_trust(c.trust, c.who.trust(keys=(
           trusted(c.who.builder, Role.BUILDER, not_after="2026-11-27T20:00:00Z"),
           trusted(c.who.releaser, Role.RELEASER)))), "ended at"),
    *(Attack(f"revoked {kind}", do.revoke(kind), "revoked on this station")
      for kind in ("builder", "releaser", "artifacts", "releases")),
]  # fmt: skip

FILE_SYSTEM = [
    Attack("unsigned", lambda c, o: shutil.rmtree(c.artifact / "signatures"), "unsigned"),
    Attack("empty signatures", lambda c, o: [(c.artifact / n).unlink() for n in (BUILD, RELEASE)], "unsigned"),
    Attack("release without build", lambda c, o: (c.artifact / BUILD).unlink(), "unsigned"),
    Attack("build without release", lambda c, o: (c.artifact / RELEASE).unlink(), "not released"),
    Attack("extra file", do.write("note.txt", b"x"), "extra: note.txt"),
    Attack("extra signature", do.write("signatures/third.dsse.json", b"{}"), "an extra file"),
    Attack("key inside the artifact", lambda c, o: shutil.copy(c.trust / KEYS_FILE, c.artifact / "signatures"),
           "an extra file"),
    Attack("extra folder in signatures", lambda c, o: (c.artifact / "signatures/x").mkdir(), "extra: signatures/x"),
    *(Attack(f"symlink {p}", lambda c, o, p=p: do.link(c, p, False), f"linked: {p}")  # type: ignore[misc]
      for p in ("policy.onnx", BUILD, RELEASE)),
    Attack("hard link policy.onnx", lambda c, o: do.link(c, "policy.onnx", True), "hard_linked: policy.onnx"),
    *(Attack(f"hard link {p}", lambda c, o, p=p: do.link(c, p, True), "second name") for p in (BUILD, RELEASE)),  # type: ignore[misc]
    Attack("signatures is a link", do.folder_link, "linked: signatures"),
    Attack("pipe policy.onnx", lambda c, o: do.fifo(c, "policy.onnx"), "irregular: policy.onnx"),
    Attack("pipe release", lambda c, o: do.fifo(c, RELEASE), f"irregular: {RELEASE}"),
    Attack("path ..", do.manifest_path("../policy.onnx"), "relative POSIX path"),
    Attack("path /", do.manifest_path("/etc/passwd"), "relative POSIX path"),
    Attack("path in signatures", do.manifest_path("signatures/x"), "signatures/"),
    Attack("huge envelope", do.write(RELEASE, b" " * (1 << 18) + b" "), "at most 262144"),
    Attack("huge manifest", do.write(MANIFEST_FILE, b" " * (4 << 20) + b" "), "at most 4194304"),
    Attack("huge file with a hole", lambda c, o: os.truncate(c.artifact / "policy.onnx", 1 << 33),
           "sparse: policy.onnx"),
    Attack("deep envelope", do.write(RELEASE, b"[" * 1000), "levels of nesting"),
    *(Attack(f"truncated {p}", lambda c, o, p=p: c.edit(p, lambda d: d[: len(d) // 2]), r)  # type: ignore[misc]
      for p, r in ((MANIFEST_FILE, "not JSON"), ("policy.onnx", "changed"), (GATE, "changed"), (BUILD, "not JSON"))),
    Attack("empty envelope", do.write(RELEASE, b""), "not JSON"),
    Attack("missing file", lambda c, o: (c.artifact / "tokenizer.json").unlink(), "missing: tokenizer.json"),
    Attack("no store", lambda c, o: shutil.rmtree(c.trust), "TrustError.*No such file"),
    Attack("no revocations", lambda c, o: (c.trust / REVOKED_FILE).unlink(), "TrustError.*is not there"),
    Attack("store writable by others", lambda c, o: (c.trust / KEYS_FILE).chmod(0o666), "TrustError.*mode 0666"),
    Attack("truncated store", lambda c, o: os.truncate(c.trust / KEYS_FILE, 100), "TrustError.*not JSON"),
]  # fmt: skip

ATTACKS = [*FLIPS, *SWAPS, *LIES, *CLOCKS, *FILE_SYSTEM]
