# SPDX-License-Identifier: Apache-2.0
"""What the episodes of a folder were made with, declared before the first one; rows of other settings never mix.

`compared` must be equal for rows to be one proof: plan, artifacts, renderer, library versions, our own code, how the
policy's answers were computed. `where` (machine, paths) is for people and for replays.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.atomic import write_json
from compress.digests import of_file, of_value
from compress.gate.environment import hardware, versions
from compress.gate.plan import GatePlan
from compress.gate.policies import PolicySource
from compress.gate.rows import ROWS

FILE, SCHEMA = "settings.json", "dropgate.gate_settings/1"
CODE = ("compress/gate", "compress/sim", "runtime")  # what an episode's outcome can depend on
ONE_BY_ONE = 1  # questions per run of the graph: what the robot does, and the only way to a proof


class MixedSettings(ValueError):
    """Rows that were made differently would become one verdict."""


def settings_of(
    plan: GatePlan, arms: Mapping[str, PolicySource], batch: int = ONE_BY_ONE, **where: Any
) -> dict[str, Any]:
    """Settings of episodes that start now, in this process's environment. `where` is added to that part."""
    from compress.sim.renderer import choose_renderer

    return {
        "schema": SCHEMA,
        "compared": {
            "plan_digest": plan.digest(),
            "protocol": plan.protocol,
            "arms": {
                name: {"policy_id": source.identity, "made_of": _made_of(source)} for name, source in arms.items()
            },
            "renderer": choose_renderer(),
            "versions": versions(),
            "code": code_digest(),
            "assets": _assets_digest(str(plan.protocol["suite"])),
            "batch": batch,
        },
        "where": {
            "host": socket.gethostname(),
            "hardware": hardware(),
            "artifacts": {name: source.artifact for name, source in arms.items()},
            **where,
        },
    }


def declare(path: Path, settings: dict[str, Any]) -> None:
    """Write the settings, or check that what is there is the same. Raises MixedSettings with what differs, and for rows
    of which nobody knows what they were made with."""
    if not path.exists():
        log = path.with_name(ROWS)
        if log.exists() and log.stat().st_size:
            raise MixedSettings(
                f"{log} has episodes, but {path.name} is gone: they prove nothing. Next: use a new folder"
            )
        write_json(path, settings)
        return
    refuse_other(read_settings(path), settings, f"{path} was made with other settings than this run has")


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a settings file. Raises MixedSettings if it is none."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise MixedSettings(f"{path}: {error}; rows without settings prove nothing. Next: use a new folder") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("compared"), dict):
        raise MixedSettings(f"{path} is no {SCHEMA}. Next: use a new folder")
    return data


def refuse_other(there: Mapping[str, Any], here: Mapping[str, Any], what: str) -> None:
    """Raises MixedSettings naming every compared setting that differs, with both values."""
    differ = list(differences(there["compared"], here["compared"]))
    if differ:
        raise MixedSettings(f"{what}: {'; '.join(differ)}. Next: run with equal settings, or use a new folder")


def differences(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """`name: found one, expected other` for each leaf of JSON data that differs."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(set(one) | set(other)):
            yield from differences(one.get(key), other.get(key), f"{name}.{key}" if name else str(key))
    elif one != other:
        yield f"{name}: {_short(one)} and {_short(other)}"


def code_digest() -> str:
    """sha256 over the Python files and data of CODE."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(path for folder in CODE for path in (root / folder).rglob("*") if path.is_file())
    kept = [path for path in files if "__pycache__" not in path.parts]
    return of_value([[path.relative_to(root).as_posix(), of_file(path)] for path in kept])


def _made_of(source: PolicySource) -> str:
    """An artifact's manifest names the digest of each of its files, and they are verified when it is loaded."""
    if source.artifact:
        return hashlib.sha256((Path(source.artifact) / "manifest.json").read_bytes()).hexdigest()
    return of_value({**source.to_json(), "identity": ""})


def _assets_digest(suite: str) -> str:
    """Names and sizes of LIBERO's assets; the embedded suite's are part of the code."""
    folder = os.environ.get("LIBERO_ASSETS", "")
    if suite == "dropgate_tabletop" or not folder or not Path(folder).is_dir():
        return ""
    root = Path(folder)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return of_value([[path.relative_to(root).as_posix(), path.stat().st_size] for path in files])


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
