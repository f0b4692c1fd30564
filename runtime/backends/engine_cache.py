# SPDX-License-Identifier: Apache-2.0
"""Engines that this station built and proved, by their key. Never filled from outside, never trusted unread.

    <root>/build.lock               one build at a time: kernels are timed, and a second build would disturb the timing
    <root>/<key>/engine.plan        the serialised engine, and
    <root>/<key>/record.json        what we wrote about it: its whole key, its own sha256, how far it is from the golden
    <root>/chosen/<slot>.json       which settings were built last for a model on this station
    <root>/timing/<station>.cache   TensorRT's kernel timings, its sha256 in front

An entry is renamed into place after it was proven, so that whatever a crash, a full disk or SIGKILL leaves behind has
no name that anybody looks up. Bytes are digested and the same bytes, not the file again, go to TensorRT.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.backends import private_files as files
from runtime.backends.engine_key import EngineKey, StationFacts, differences
from runtime.contract import check
from runtime.contract.codec import conform, decode, encode
from runtime.contract.manifest import canonical_json, digest, parse_json
from runtime.errors import BackendError, ContractError

RECORD_VERSION = 1
PLAN, RECORD, CHOSEN, TIMING, LOCK = "engine.plan", "record.json", "chosen", "timing", "build.lock"
MAX_RECORD, MAX_PLAN = 1 << 20, 1 << 37
REBUILD = "run: python -m runtime build ARTIFACT"
_SHA256 = re.compile(r"[0-9a-f]{64}")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Proof:
    """Parity of an engine on this station: the golden samples through the robot's own code.

    Attributes:
        samples: how many.
        worst, worst_dim: largest difference, in command units, and the action dimension that it is of.
        tolerance: of the manifest; `passed` compares with it.
        execution: how it ran, `CUDA graph`, or why not.
    """

    samples: int
    worst: float
    worst_dim: str
    tolerance: float
    execution: str

    def __post_init__(self) -> None:
        conform(self)
        check.positive(self.samples, "Proof.samples")
        check.positive(self.tolerance, "Proof.tolerance")

    @property
    def passed(self) -> bool:
        """Within the tolerance."""
        return self.worst <= self.tolerance


@dataclass(frozen=True)
class EngineRecord:
    """What we wrote beside a plan. `target` is the row of the version table, `layers` and `build_s` [s] for people."""

    key: EngineKey
    plan_sha256: str
    plan_bytes: int
    proof: Proof
    target: str
    layers: int
    build_s: float
    version: int = RECORD_VERSION

    def __post_init__(self) -> None:
        conform(self)
        check.sha256(self.plan_sha256, "EngineRecord.plan_sha256")
        check.require(self.version == RECORD_VERSION, "EngineRecord.version", self.version, str(RECORD_VERSION))
        check.require(self.proof.passed, "EngineRecord.proof", self.proof.worst, f"at most {self.proof.tolerance}")


@dataclass(frozen=True, eq=False)
class Engine:
    """A plan whose digest is the recorded one."""

    plan: bytes
    record: EngineRecord


def default_root() -> Path:
    """`$XDG_CACHE_HOME/dropgate/engines`, or below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dropgate" / "engines"


class EngineCache:
    """The cache below `root`. Methods raise BackendError, and OSError where the disk is full or not writable."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = Path(os.path.abspath(root or default_root()))

    def find(self, key: EngineKey) -> Engine | None:
        """The engine of exactly this key; None if there is no entry, BackendError if there is a bad one."""
        folder = self.root / key.digest
        if not os.path.lexists(folder):
            return None
        files.private_folder(self.root)
        files.check_private(folder, os.lstat(folder), folder=True)
        record = self._record(folder)
        if record.key != key:
            raise BackendError(f"{folder / RECORD}: is about another engine than its folder; {REBUILD}")
        plan = files.read_private(folder / PLAN, MAX_PLAN)
        found = (len(plan), hashlib.sha256(plan).hexdigest())
        if found != (record.plan_bytes, record.plan_sha256):
            raise BackendError(
                f"{folder / PLAN}: found {found[0]} bytes, sha256 {found[1]}, expected {record.plan_bytes} and "
                f"{record.plan_sha256}: it is not what was built here and is not loaded; {REBUILD}"
            )
        return Engine(plan, record)

    def chosen(self, key: EngineKey) -> Engine:
        """The engine built last for the model and station of `key`, whatever its settings; BackendError without one."""
        pointer = self.root / CHOSEN / f"{key.slot}.json"
        if not os.path.lexists(pointer):
            raise BackendError(f"{self.root}: no engine for this model on this station{self._why(key)}; {REBUILD}")
        files.private_folder(self.root)
        data = self._json(pointer)
        name = str(data.get("key")) if isinstance(data, dict) else ""
        folder = self.root / name
        if _SHA256.fullmatch(name) is None:
            raise BackendError(f"{pointer}: found {name[:80]!r}, expected the key of an engine; {REBUILD}")
        if not os.path.lexists(folder):
            raise BackendError(f"{folder}: was chosen and is gone; {REBUILD}")
        record = self._record(folder)
        engine = self.find(record.key) if record.key.slot == key.slot else None
        if engine is None:
            raise BackendError(f"{pointer}: names the engine of another model or station; {REBUILD}")
        return engine

    def publish(self, plan: bytes, record: EngineRecord) -> Engine:
        """Keep a proven engine, in place of an older entry of its key, and choose it."""
        files.private_folder(self.root)
        with files.staged_folder(self.root) as staging:
            files.write_synced(staging / PLAN, plan)
            files.write_synced(staging / RECORD, canonical_json(encode(record)))
            files.replace_folder(staging, self.root / record.key.digest)
        self.choose(record.key)
        return Engine(plan, record)

    def discard(self, key: EngineKey) -> None:
        """Remove the entry of a key, whatever state it is in."""
        folder = self.root / key.digest
        if os.path.lexists(folder):
            with files.staged_folder(self.root) as retired:
                os.rename(folder, retired / "old")
            files.sync_folder(self.root)

    def choose(self, key: EngineKey) -> None:
        """From now on `chosen` answers with this key's settings."""
        folder = files.private_folder(files.private_folder(self.root) / CHOSEN)
        files.replace_file(folder / f"{key.slot}.json", canonical_json({"key": key.digest}))

    @contextmanager
    def building(self, say: Say) -> Iterator[None]:
        """Hold the cache for one build; waits for another one and says so."""
        files.private_folder(self.root)
        with files.exclusive(
            self.root / LOCK, lambda who: say(f"{self.root}: {who} builds here; waiting for it to end")
        ):
            for folder in (self.root, self.root / CHOSEN, self.root / TIMING):
                files.sweep(folder)
            yield

    def timing(self, station: StationFacts, say: Say) -> bytes:
        """Kernel timings of earlier builds on this very station; empty where there are none or they are damaged."""
        path = self._timing_path(station)
        if not os.path.lexists(path):
            return b""
        data = files.read_private(path, MAX_PLAN)
        head, content = data[:64], data[65:]
        if hashlib.sha256(content).hexdigest().encode() != head:
            say(f"{path}: damaged timing cache, not used")
            return b""
        return content

    def keep_timing(self, station: StationFacts, content: bytes) -> None:
        """Replace the timings of this station."""
        files.private_folder(files.private_folder(self.root) / TIMING)
        files.replace_file(self._timing_path(station), hashlib.sha256(content).hexdigest().encode(), b"\n", content)

    def records(self) -> list[EngineRecord]:
        """Every readable record, in the order of their keys; bad ones are left out."""
        found = []
        for path in sorted(self.root.glob(f"*/{RECORD}")):
            try:
                found.append(self._record(path.parent))
            except (BackendError, OSError):
                continue
        return found

    def _record(self, folder: Path) -> EngineRecord:
        path = folder / RECORD
        try:
            return decode(EngineRecord, self._json(path), RECORD)
        except ContractError as error:
            raise BackendError(f"{path}: damaged ({error}); {REBUILD}") from error

    @staticmethod
    def _json(path: Path) -> Any:
        try:
            return parse_json(files.read_private(path, MAX_RECORD), str(path))
        except ContractError as error:
            raise BackendError(f"{path}: damaged ({error}); {REBUILD}") from error

    def _timing_path(self, station: StationFacts) -> Path:
        return self.root / TIMING / f"{digest(encode(station))}.cache"

    def _why(self, key: EngineKey) -> str:
        """What differs from the engine of the same model that there is, if there is one."""
        for record in self.records():
            if record.key.model == key.model:
                return f" (one was built with {'; '.join(differences(record.key, key)) or 'another profile'})"
        return f" ({len(self.records())} engines of other models)"
