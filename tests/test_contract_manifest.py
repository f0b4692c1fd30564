# SPDX-License-Identifier: Apache-2.0
"""Manifest <-> canonical JSON: two round-trip laws, identity by content, and every refusal."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import jsonschema
import pytest
from artifact_factory import lineage, policy_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.contract.conventions import FileRole, Verdict
from runtime.contract.manifest import FileEntry, GateSummary, GoldenRef, Manifest, PackageVersion, canonical_json
from runtime.contract.schema import SCHEMA_FILE, manifest_schema
from runtime.errors import ContractError

FILES = (
    FileEntry("tokenizer.json", 3, "1" * 64, FileRole.TOKENIZER),
    FileEntry("policy.onnx", 5, "2" * 64, FileRole.MODEL),
    FileEntry("normalization.safetensors", 0, "3" * 64, FileRole.NORMALIZATION),
    FileEntry("golden.safetensors", 7, "4" * 64, FileRole.GOLDEN),
)
REPORT = FileEntry("evidence/gate.json", 9, "5" * 64, FileRole.EVIDENCE)


def manifest(**changes) -> Manifest:
    parts = {
        "lineage": lineage(),
        "policy": policy_spec(),
        "golden": GoldenRef("golden.safetensors", ("a",), 1e-4),
        "created_with": (PackageVersion("numpy", "2"), PackageVersion("dropgate", "0.1")),
        "files": FILES,
    }
    return Manifest(**{**parts, **changes})


def judged(**changes) -> Manifest:
    files = (*FILES, REPORT)
    gate = {"verdict": Verdict.PROMOTE, "reason": "ok", "policy_id": manifest(files=files).policy_id}
    gate |= {"report": REPORT.path, "report_sha256": REPORT.sha256, **changes}
    return manifest(files=files, gate=GateSummary(**gate))


def rewritten(**changes) -> bytes:
    """Canonical bytes of a manifest whose plain JSON was edited by hand."""
    return canonical_json({**json.loads(manifest().to_json()), **changes})


@pytest.mark.parametrize("build", [manifest, judged])
def test_manifest_survives_json_and_bytes_survive_parsing(build) -> None:
    data = build().to_json()
    assert Manifest.from_json(data) == build()
    assert Manifest.from_json(data).to_json() == data


@settings(max_examples=15, deadline=None)
@given(
    names=st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=4),
    texts=st.lists(st.text(max_size=20), min_size=1, max_size=3),
    tolerance=st.floats(min_value=1e-300, max_value=1e300),
    order=st.permutations(FILES),
)
def test_round_trip_holds_for_any_content(names, texts, tolerance, order) -> None:
    made = manifest(
        created_with=tuple(PackageVersion(name, version) for name, version in names.items()),
        golden=GoldenRef("golden.safetensors", tuple(texts), tolerance),
        files=tuple(order),
    )
    assert Manifest.from_json(made.to_json()) == made


def test_order_of_files_does_not_change_bytes() -> None:
    assert manifest(files=FILES[::-1]).to_json() == manifest().to_json()


def test_json_is_canonical() -> None:
    text = manifest().to_json().decode()
    assert text.endswith("}\n")
    assert not text.endswith("\n\n")
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def test_evidence_changes_artifact_id_but_not_policy_id() -> None:
    assert judged().policy_id == manifest().policy_id
    assert judged().artifact_id != manifest().artifact_id


@pytest.mark.parametrize("index", range(3))
def test_executed_files_change_policy_id(index: int) -> None:
    files = list(FILES)
    files[index] = dataclasses.replace(files[index], sha256="9" * 64)
    assert manifest(files=tuple(files)).policy_id != manifest().policy_id


def test_spec_changes_policy_id() -> None:
    other = dataclasses.replace(policy_spec(), action=dataclasses.replace(policy_spec().action, dt_s=0.1))
    assert manifest(policy=other).policy_id != manifest().policy_id


def test_lineage_id_depends_on_lineage_only() -> None:
    assert judged().lineage_id == manifest().lineage_id
    assert manifest(lineage=dataclasses.replace(lineage(), family="other")).lineage_id != manifest().lineage_id


def nested(**changes) -> bytes:
    data = json.loads(manifest().to_json())
    data["policy"]["observation"]["images"][1].update(changes)
    return canonical_json(data)


UNREADABLE = {
    "not json": (b"{", r"manifest.json: not JSON in UTF-8"),
    "not utf-8": (b"\xff", r"manifest.json: not JSON in UTF-8"),
    "huge integer": (b"1" * 5000, r"manifest.json: "),
    "not an object": (b"[]", r"found list, expected an object"),
    "nan": (b'{"a": NaN}', r"manifest.json: found NaN, expected finite"),
    "twice": (b'{"a": 1, "a": 2}', r"manifest.json keys: found \['a'\], expected every name once"),
    "next major": (rewritten(schema_version="2.0"), r"schema_version: found '2.0', this runtime reads 1.0; install"),
    "no version": (canonical_json({}), r"schema_version: found None, this runtime reads 1.0"),
    "odd version": (rewritten(schema_version="1"), r"schema_version: found '1', this runtime reads 1.0"),
    "unknown key": (rewritten(extra=1), r"manifest: unknown keys \['extra'\], allowed: \['created_with'"),
    "unknown nested": (nested(depth=1), r"manifest.policy.observation.images\[1\]: unknown keys \['depth'\]"),
    "bad nested": (nested(layout="X"), r"images\[1\]: ImageSpec.layout: found 'X', allowed: 'HWC', 'CHW'"),
    "overflow": (nested(max_age_s=10**400), r"max_age_s: found inf, expected a finite number"),
    "wrong type": (rewritten(policy=3), r"manifest.policy: found int, expected an object with the keys of PolicySpec"),
    "null": (rewritten(files=None), r"Manifest.files: found None \(NoneType\), expected a sequence"),
    "false id": (
        rewritten(artifact_id="0" * 64),
        r"artifact_id: found '0+', expected [0-9a-f]{64}: content was changed",
    ),
    "spaces": (manifest().to_json().replace(b"\n", b"\r\n"), r"manifest.json: not canonical"),
    "integer for float": (nested(max_age_s=1), r"artifact_id|canonical"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_manifest_is_refused(name: str) -> None:
    data, message = UNREADABLE[name]
    with pytest.raises(ContractError, match=message):
        Manifest.from_json(data)


def test_missing_key_is_named() -> None:
    data = json.loads(manifest().to_json())
    del data["golden"]
    with pytest.raises(ContractError, match=r"manifest: missing keys \['golden'\]"):
        Manifest.from_json(canonical_json(data))


def entry(path: str) -> FileEntry:
    return FileEntry(path, 1, "6" * 64, FileRole.EVIDENCE)


INCONSISTENT = {
    "no model": (lambda: manifest(files=FILES[2:]), r"'policy.onnx' with role 'model' is needed, available: \['golden"),
    "same path": (lambda: manifest(files=(*FILES, FILES[0])), r"files paths: found \['tokenizer.json'\]"),
    "case": (
        lambda: manifest(files=(*FILES, entry("a/b"), entry("A/c"))),
        r"found \['A', 'a/b'\], expected paths that",
    ),
    "folder": (
        lambda: manifest(files=(*FILES, entry("a"), entry("a/b"))),
        r"found \['a', 'a/b'\], expected paths that",
    ),
    "package": (lambda: manifest(created_with=(PackageVersion("a", "1"),) * 2), r"created_with names: found \['a'\]"),
    "report": (
        lambda: judged(report="evidence/no.json"),
        r"'evidence/no.json' is not listed, available: \['evidence/g",
    ),
    "report digest": (lambda: judged(report_sha256="7" * 64), r"gate.report_sha256: found '7+', expected 5+"),
    "other weights": (
        lambda: judged(policy_id="8" * 64),
        r"gate.policy_id: found 8+, expected .*earned with other weights",
    ),
    "no reason": (lambda: judged(reason=""), r"GateSummary.reason: found '', expected one sentence"),
    "no golden text": (lambda: GoldenRef("g", (), 1.0), r"GoldenRef.instructions: found \(\)"),
    "negative size": (lambda: FileEntry("a", -1, "a" * 64, FileRole.BOM), r"FileEntry\[a\].size: found -1"),
}


@pytest.mark.parametrize("name", INCONSISTENT)
def test_inconsistent_manifest_is_refused(name: str) -> None:
    build, message = INCONSISTENT[name]
    with pytest.raises(ContractError, match=message):
        build()


BAD_PATHS = ["../a", "/a", "a//b", "a/./b", "a\\b", "C:a", "", "a/", ".hidden", "a b", "a\n", "é", "a/..", "x" * 201]


@pytest.mark.parametrize("path", [*BAD_PATHS, "manifest.json", "signatures/a.sig"])
def test_path_that_escapes_or_is_reserved_is_refused(path: str) -> None:
    with pytest.raises(ContractError, match=r"FileEntry.path: found .*, expected a"):
        entry(path)


def test_shipped_schema_is_the_generated_one() -> None:
    assert SCHEMA_FILE.read_bytes() == canonical_json(manifest_schema()), (
        "run: python -m runtime.contract.schema > runtime/contract/manifest.schema.json"
    )


def test_schema_command_prints_the_shipped_file() -> None:
    command = [sys.executable, "-m", "runtime.contract.schema"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == SCHEMA_FILE.read_bytes()


@pytest.mark.parametrize("build", [manifest, judged])
def test_manifest_fits_its_schema(build) -> None:
    schema = manifest_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(build().to_json()), schema)


@pytest.mark.parametrize("data", [rewritten(extra=1), nested(layout="X"), nested(height="8"), rewritten(files=None)])
def test_schema_refuses_what_the_parser_refuses(data: bytes) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(data), manifest_schema())
