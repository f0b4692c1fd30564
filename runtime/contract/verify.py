# SPDX-License-Identifier: Apache-2.0
"""Does a directory hold exactly what its manifest says? Every difference is named by kind; nothing is repaired.

After model-transparency's directory comparison: extra, missing and changed files, plus what a file system can
smuggle in:
links, devices, names that escape or collide. Links are refused wherever they are. Hard links are not (they are plain
files to a reader and their content is digested). `signatures/` alone may hold files that the manifest does not list.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from runtime.contract import check
from runtime.contract.manifest import MANIFEST_FILE, SIGNATURES_DIR, Manifest
from runtime.errors import ArtifactError, ContractError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class VerificationReport:
    """POSIX paths inside the artifact, by what is wrong with them; all empty means intact."""

    extra: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    linked: tuple[str, ...] = ()
    irregular: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True when the directory is exactly what the manifest says."""
        return not any(getattr(self, field.name) for field in fields(self))

    def describe(self) -> str:
        """One line that names every finding, or `intact`."""
        parts = [
            f"{field.name}: {', '.join(getattr(self, field.name))}"
            for field in fields(self)
            if getattr(self, field.name)
        ]
        return "; ".join(parts) or "intact"

    def raise_if_bad(self, directory: Path) -> None:
        """ArtifactError naming every finding and the next step, unless intact."""
        if not self.ok:
            raise ArtifactError(
                f"{directory}: not what its manifest says ({self.describe()}); copy the artifact again from its "
                f"builder, then run: "
                f"python -m runtime verify {directory}"
            )


@dataclass(frozen=True)
class Listing:
    """What lies on disk below a directory, by kind; POSIX paths. `empty` are directories without any entry."""

    regular: frozenset[str]
    linked: frozenset[str]
    irregular: frozenset[str]
    empty: frozenset[str]


def list_directory(root: Path) -> Listing:
    """Walk `root` without following links."""
    regular: set[str] = set()
    linked: set[str] = set()
    irregular: set[str] = set()
    empty: set[str] = set()
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(root / prefix) as entries:
            found = list(entries)
        if not found and prefix:
            empty.add(prefix)
        for entry in found:
            path = f"{prefix}{entry.name}"
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                linked.add(path)
            elif stat.S_ISDIR(mode):
                pending.append(f"{path}/")
            else:
                (regular if stat.S_ISREG(mode) else irregular).add(path)
    return Listing(frozenset(regular), frozenset(linked), frozenset(irregular), frozenset(empty))


def compare(root: Path, manifest: Manifest) -> VerificationReport:
    """Compare the directory with the manifest; reads every listed file once."""
    listing = list_directory(root)
    listed = {entry.path: entry for entry in manifest.files}
    seam = f"{SIGNATURES_DIR}/"
    extra = {path for path in listing.regular - set(listed) - {MANIFEST_FILE} if not path.startswith(seam)}
    extra |= {path for path in listing.empty if path != seam}
    present = listing.regular | listing.linked | listing.irregular
    changed = {
        path
        for path in listing.regular & set(listed)
        if not _matches(root / path, listed[path].size, listed[path].sha256)
    }
    return VerificationReport(
        extra=_shown(extra),
        missing=_shown(set(listed) - present),
        changed=_shown(changed),
        linked=_shown(listing.linked),
        irregular=_shown(listing.irregular),
        unsafe=_shown(_unsafe(present)),
    )


def _shown(paths: Iterable[str]) -> tuple[str, ...]:
    """Sorted, with bytes that are not UTF-8 escaped so that they can be printed."""
    return tuple(sorted(path.encode("utf-8", "backslashreplace").decode("utf-8") for path in paths))


def _unsafe(paths: frozenset[str]) -> set[str]:
    bad = check.colliding(paths)
    for path in paths:
        try:
            check.relative_path(path, "path")
        except ContractError:
            bad.add(path)
    return bad


def _matches(path: Path, size: int, sha256: str) -> bool:
    return path.stat().st_size == size and file_digest(path) == sha256


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks; the digest does not depend on the block size."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            state.update(block)
    return state.hexdigest()
