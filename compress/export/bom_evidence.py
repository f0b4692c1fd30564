# SPDX-License-Identifier: Apache-2.0
"""What the bill of materials says of data and performance, taken from the evidence files: nothing is measured or typed.

Data sets: the batches that recovery trained on, the samples that the probe read, the plan of scenes that the gate
judged. Performance: success of both policies and their difference on every panel of the gate. What a file does not hold
is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.contract.manifest import digest, parse_json
from runtime.contract.panels import PRIMARY
from runtime.errors import ContractError

GATE, PROBE, RECOVERY = "gate.json", "probe.json", "recovery.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class DataSet:
    """Data that took part, by the SHA-256 under which the evidence knows it."""

    name: str
    sha256: str
    description: str


@dataclass(frozen=True)
class Metric:
    """A measured number, on `slice`, with its interval (fractions)."""

    kind: str
    slice: str
    value: float
    low: float | None
    high: float | None


def data_sets(evidence: Mapping[str, Path]) -> tuple[DataSet, ...]:
    """Of recovery, probe and gate, as far as the files say."""
    recovery, gate, found = _json(evidence, RECOVERY), _json(evidence, GATE), []
    if isinstance(recovery, dict) and _hex(recovery.get("data_digest")):
        found.append(DataSet("recovery batches", recovery["data_digest"], "what the pruned policy was fine-tuned on"))
    probed = sorted(
        {sample for scores in _items(_json(evidence, PROBE)) for sample in _texts(scores.get("sample_ids"))}
    )
    if probed:
        about = f"{len(probed)} samples that the blocks were scored on; the digest is of their ids"
        found.append(DataSet("probe samples", digest(probed), about))
    if isinstance(gate, dict) and _hex(gate.get("plan_digest")):
        spec = gate.get("spec")
        suite = spec.get("suite") if isinstance(spec, dict) else None
        about = f"simulated tasks, initial states and seeds of suite {suite or 'unknown'}; the digest is of the plan"
        found.append(DataSet("gate plan", gate["plan_digest"], about))
    return tuple(found)


def metrics(evidence: Mapping[str, Path]) -> tuple[Metric, ...]:
    """Success rates with Wilson intervals and the paired difference with its bounds, panel by panel."""
    gate = _json(evidence, GATE)
    if not isinstance(gate, dict):
        return ()
    panels = [panel for panel in _items(gate.get("panels")) if isinstance(panel.get("name"), str)]
    if not panels and isinstance(gate.get("paired"), dict):
        panels = [{**gate["paired"], "name": PRIMARY}]
    return tuple(metric for panel in panels for metric in _of_panel(panel))


def _of_panel(panel: Mapping[str, Any]) -> list[Metric]:
    found, name = [], panel["name"]
    kind = "success under the wrong instruction" if panel.get("kind") == "swap" else "success rate"
    for arm in ("candidate", "baseline"):
        told = panel.get(arm)
        if isinstance(told, dict) and _number(told.get("rate")):
            low, high = _pair(told.get("wilson95"))
            found.append(Metric(kind, f"{arm}, {name}", told["rate"], low, high))
    difference: Any = panel.get("difference")
    if isinstance(difference, dict) and "mean" in difference and _number(difference["mean"]):
        low, high = _pair([difference.get("lower"), difference.get("upper")])
        found.append(Metric("paired difference", name, difference["mean"], low, high))
    elif _number(difference):
        low, high = _pair(panel.get("tango95"))
        found.append(Metric("paired difference", name, difference, low, high))
    return found


def _json(evidence: Mapping[str, Path], name: str) -> Any:
    if name not in evidence:
        return None
    try:
        return parse_json(evidence[name].read_bytes(), name)
    except (ContractError, OSError):  # sealing refuses it with the reason
        return None


def _items(value: Any) -> list[dict[str, Any]]:
    listed = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
    return [item for item in listed if isinstance(item, dict)]


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _hex(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _pair(value: Any) -> tuple[float | None, float | None]:
    ends: Sequence[Any] = value if isinstance(value, list) and len(value) == 2 else (None, None)
    low, high = (end if _number(end) else None for end in ends)
    return low, high
