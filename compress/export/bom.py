# SPDX-License-Identifier: Apache-2.0
"""The bill of materials: `bom.cdx.json`, CycloneDX 1.6, of the model and of the software that made it.

Deterministic: no clock, no host, no random serial number (it is derived from the policy's identity). Software is the
closure of the packages that the manifest names, as installed here.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any
from urllib.parse import quote

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from compress.export.bom_evidence import DataSet, Metric
from compress.export.versions import installed
from runtime.contract.graph import TensorSpec
from runtime.contract.manifest import EXECUTED_ROLES, FileEntry, GateSummary, Manifest, PackageVersion, canonical_json

BOM_FILE = "bom.cdx.json"
SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:dropgate:bom")


def bom(
    manifest: Manifest,
    gate: GateSummary,
    evidence: Iterable[FileEntry],
    data_sets: Iterable[DataSet] = (),
    metrics: Iterable[Metric] = (),
) -> bytes:
    """Bytes of `bom.cdx.json` for a policy that is about to be sealed.

    Args:
        manifest: of the draft; names the model's files, lineage and packages.
        gate: the verdict.
        evidence: other sealed files, listed with their digests.
        data_sets: what it was trained, probed and judged on.
        metrics: what the gate measured.
    """
    libraries = closure(manifest.created_with)
    data = [_data_set(made) for made in data_sets]
    model = _model(manifest, gate, data, [_metric(metric) for metric in metrics])
    files = [_file(entry) for entry in sorted(evidence, key=lambda e: e.path)]
    return canonical_json(
        {
            "$schema": SCHEMA,
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, manifest.policy_id + gate.report_sha256)}",
            "version": 1,
            "metadata": {"component": model},
            "components": [_library(name, version) for name, (version, _) in libraries.items()] + files + data,
            "dependencies": _dependencies(model["bom-ref"], manifest.created_with, libraries),
        }
    )


def closure(roots: Iterable[PackageVersion]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Distribution -> (version, distributions it requires), sorted; requirements of the roots' installed versions only.

    A root installed here in another version than the manifest's keeps the manifest's, and its requirements are unknown.
    """
    recorded: dict[str, str] = {canonicalize_name(root.name): root.version for root in roots}
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    pending: list[str] = list(recorded)
    while pending:
        name = pending.pop()
        here = installed(name)
        version = recorded.get(name, here)
        if name in found or version is None:
            continue
        needs = _requirements(name) if here == version else ()
        found[name] = (version, needs)
        pending += needs
    known = set(found)
    return {name: (version, tuple(n for n in needs if n in known)) for name, (version, needs) in sorted(found.items())}


@functools.cache
def _requirements(name: str) -> tuple[str, ...]:
    """Names that the installed distribution requires on this platform, without extras."""
    parsed = (Requirement(text) for text in metadata.requires(name) or ())
    return tuple(
        sorted({canonicalize_name(r.name) for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})})
    )


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{quote(version, safe='')}"


def _library(name: str, version: str) -> dict[str, Any]:
    purl = _purl(name, version)
    made: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    licence = _licence(name) if installed(name) == version else None
    return made if licence is None else {**made, "licenses": [{"expression": licence}]}


@functools.cache
def _licence(name: str) -> str | None:
    """The SPDX expression that the installed distribution declares, if it declares one."""
    return next(iter(metadata.metadata(name).get_all("License-Expression") or ()), None)


def _file(entry: FileEntry) -> dict[str, Any]:
    return {
        "type": "data" if entry.role not in EXECUTED_ROLES else "file",
        "bom-ref": f"file:{entry.path}",
        "name": entry.path,
        "hashes": [{"alg": "SHA-256", "content": entry.sha256}],
        "properties": [{"name": "dropgate:role", "value": entry.role.value}],
    }


def _data_set(made: DataSet) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": f"dataset:{made.name.replace(' ', '-')}:{made.sha256}",
        "name": made.name,
        "description": made.description,
        "hashes": [{"alg": "SHA-256", "content": made.sha256}],
    }


def _metric(metric: Metric) -> dict[str, Any]:
    made: dict[str, Any] = {"type": metric.kind, "slice": metric.slice, "value": f"{metric.value:.6g}"}
    ends = {"lowerBound": metric.low, "upperBound": metric.high}
    interval = {name: f"{end:.6g}" for name, end in ends.items() if end is not None}
    return {**made, "confidenceInterval": interval} if interval else made


def _model(
    manifest: Manifest, gate: GateSummary, data: list[dict[str, Any]], measured: list[dict[str, Any]]
) -> dict[str, Any]:
    lineage, policy = manifest.lineage, manifest.policy
    return {
        "type": "machine-learning-model",
        "bom-ref": f"policy:{manifest.policy_id}",
        "name": lineage.source.name,
        "version": manifest.policy_id[:12],
        "components": [_file(entry) for entry in manifest.files if entry.role in EXECUTED_ROLES],
        "modelCard": {
            "modelParameters": {
                "task": "robot control from images, proprioception and an instruction",
                "architectureFamily": lineage.family,
                "modelArchitecture": "vision-language-action, " + "; ".join(_kept(manifest)),
                "inputs": [{"format": _format(tensor)} for tensor in policy.graph.inputs],
                "outputs": [{"format": _format(tensor)} for tensor in policy.graph.outputs],
                **({"datasets": [{"ref": made["bom-ref"]} for made in data]} if data else {}),
            },
            **({"quantitativeAnalysis": {"performanceMetrics": measured}} if measured else {}),
        },
        "pedigree": {"ancestors": [_ancestor(manifest)], "notes": "blocks dropped, then recovered (arXiv 2606.27755)"},
        "properties": _properties(
            {
                "dropgate:gate-reason": gate.reason,
                "dropgate:gate-report-sha256": gate.report_sha256,
                "dropgate:gate-verdict": gate.verdict.value,
                "dropgate:lineage-id": manifest.lineage_id,
                "dropgate:plan-sha256": lineage.plan.sha256,
                "dropgate:policy-id": manifest.policy_id,
                "dropgate:recipe-sha256": lineage.recipe_sha256,
            }
        ),
    }


def _ancestor(manifest: Manifest) -> dict[str, Any]:
    source = manifest.lineage.source
    return {
        "type": "machine-learning-model",
        "bom-ref": f"source:{source.sha256}",
        "name": source.name,
        "version": source.revision,
        "hashes": [{"alg": "SHA-256", "content": source.sha256}],
    }


def _kept(manifest: Manifest) -> list[str]:
    return [
        f"{s.name} {len(s.kept)} of {s.original_depth} blocks ({', '.join(map(str, s.kept))})"
        for s in manifest.lineage.plan.stacks
    ]


def _format(tensor: TensorSpec) -> str:
    return f"{tensor.name} {tensor.dtype.value} {list(tensor.shape)}"


def _properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def _dependencies(
    model: str, roots: Iterable[PackageVersion], libraries: Mapping[str, tuple[str, tuple[str, ...]]]
) -> list[dict[str, Any]]:
    refs = {name: _purl(name, version) for name, (version, _) in libraries.items()}
    first = {"ref": model, "dependsOn": sorted(refs[canonicalize_name(root.name)] for root in roots)}
    return [
        first,
        *({"ref": refs[name], "dependsOn": sorted(refs[n] for n in needs)} for name, (_, needs) in libraries.items()),
    ]
