# SPDX-License-Identifier: Apache-2.0
"""Does a directory hold exactly what its manifest says? Every difference is named by kind; nothing is repaired.

After model-transparency's directory comparison: extra, missing and changed files, plus what a file system can
smuggle in:
links, devices, names that escape or collide. Links are refused wherever they are; hard links too, because the file
then has another name by which it can be changed; and files with holes, which cost their sender nothing.
`signatures/` alone may hold files that the manifest does not list.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

from runtime.contract import check
from runtime.contract import loading_limits as limits
from runtime.contract.manifest import MANIFEST_FILE, SIGNATURES_DIR, FileEntry, Manifest
from runtime.contract.regular_file import FileIdentity, examine
from runtime.errors import ArtifactError, ContractError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class VerificationReport:
    """POSIX paths inside the artifact, by what is wrong with them; all empty means intact.

    `refused` are whole sentences: contents that no robot loads, although they are what the manifest says.
    """

    extra: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    linked: tuple[str, ...] = ()
    irregular: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()
    hard_linked: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    oversized: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

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
                f"builder, without links or holes, then run: python -m runtime verify {directory}"
            )


@dataclass(frozen=True)
class Listing:
    """What lies on disk below a directory, by kind; POSIX paths. `empty` are directories without any entry."""

    regular: frozenset[str]
    linked: frozenset[str]
    irregular: frozenset[str]
    empty: frozenset[str]


def list_directory(root: Path) -> Listing:
    """Walk `root` without following links; ArtifactError if there is more than any artifact holds."""
    regular: set[str] = set()
    linked: set[str] = set()
    irregular: set[str] = set()
    empty: set[str] = set()
    pending, seen = [""], 0
    while pending:
        prefix = pending.pop()
        with os.scandir(root / prefix) as entries:
            found = list(itertools.islice(entries, limits.DIRECTORY_ENTRIES + 1))
        seen += len(found)
        if seen > limits.DIRECTORY_ENTRIES or prefix.count("/") > limits.DIRECTORY_DEPTH:
            raise ArtifactError(
                f"{root}: found more than {limits.DIRECTORY_ENTRIES} entries or {limits.DIRECTORY_DEPTH} levels, "
                "expected an artifact directory"
            )
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


@dataclass(frozen=True)
class Comparison:
    """What was found, and which files were found: identities of the listed ones that were read, by path."""

    report: VerificationReport
    identities: dict[str, FileIdentity] = field(default_factory=dict)


def compare(root: Path, manifest: Manifest) -> Comparison:
    """Compare the directory with the manifest; reads every listed file once, unless it is larger than any may be."""
    listing = list_directory(root)
    listed = {entry.path: entry for entry in manifest.files}
    seam = f"{SIGNATURES_DIR}/"
    extra = {path for path in listing.regular - set(listed) - {MANIFEST_FILE} if not path.startswith(seam)}
    extra |= {path for path in listing.empty if path != seam}
    present = listing.regular | listing.linked | listing.irregular
    oversized = {entry.path for entry in manifest.files if entry.size > limits.FILE_BYTES[entry.role]}
    wrong: dict[str, set[str]] = {"changed": set(), "hard_linked": set(), "sparse": set()}
    identities = {}
    for path in sorted(listing.regular & (set(listed) | {MANIFEST_FILE}) - oversized):
        identities[path], faults = _look(root, path, listed.get(path))
        for fault in faults:
            wrong[fault].add(path)
    report = VerificationReport(
        extra=_shown(extra),
        missing=_shown(set(listed) - present),
        linked=_shown(listing.linked),
        irregular=_shown(listing.irregular),
        unsafe=_shown(_unsafe(present)),
        oversized=_shown(oversized),
        **{name: _shown(paths) for name, paths in wrong.items()},
    )
    return Comparison(report, {path: found for path, found in identities.items() if found is not None})


def _look(root: Path, path: str, entry: FileEntry | None) -> tuple[FileIdentity | None, set[str]]:
    """Identity and faults of one file; `entry` None (the manifest itself) is not digested here."""
    try:
        facts = examine(root, path, digest_size=None if entry is None else entry.size)
    except OSError:  # exchanged since the listing
        return None, {"changed"}
    faults = set()
    if not facts.regular or (entry is not None and facts.sha256 != entry.sha256):
        faults.add("changed")
    if facts.links > 1:
        faults.add("hard_linked")
    if facts.sparse:
        faults.add("sparse")
    return facts.identity, faults


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


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks; the digest does not depend on the block size."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            state.update(block)
    return state.hexdigest()
