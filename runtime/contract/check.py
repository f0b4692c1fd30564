# SPDX-License-Identifier: Apache-2.0
"""Small checks shared by the specs; each failure is a ContractError that names field, found and expected."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from runtime.errors import ContractError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._\-]*")
MAX_PATH = 200


def require(condition: bool, where: str, found: object, expected: str) -> None:
    """Raise ContractError `where: found ..., expected ...` unless `condition` holds."""
    if not condition:
        raise ContractError(f"{where}: found {found!r}, expected {expected}")


def positive(value: float, where: str) -> None:
    """Require a number above zero."""
    require(value > 0, where, value, "a number above zero")


def identifier(value: str, where: str) -> None:
    """Require a key usable as tensor name and file stem: letters, digits, `_`, `.`, `-`; not starting with a digit."""
    require(_IDENTIFIER.fullmatch(value) is not None, where, value, "letters, digits, '_', '.' or '-', not empty")


def unique(values: Iterable[str], where: str) -> None:
    """Require that no value repeats."""
    repeated = sorted(value for value, count in Counter(values).items() if count > 1)
    require(not repeated, where, repeated, "every name once")


def sha256(value: str, where: str) -> None:
    """Require a lower-case hexadecimal SHA-256 digest."""
    require(_SHA256.fullmatch(value) is not None, where, value, "64 lower-case hexadecimal digits (SHA-256)")


def relative_path(value: str, where: str) -> None:
    """Require a POSIX path that stays inside the artifact on every file system: no '..', no backslash, no hidden
    names."""
    ok = len(value) <= MAX_PATH and all(_SEGMENT.fullmatch(segment) for segment in value.split("/"))
    require(
        ok, where, value, "a relative POSIX path of letters, digits, '_', '-', '.', with no '..', '\\' or leading '/'"
    )


def colliding(paths: Iterable[str]) -> set[str]:
    """Paths that some file system cannot hold side by side: equal but for case, or a file used as a folder."""
    spelling: dict[str, str] = {}
    listed = sorted(paths)
    files, bad = set(listed), set()
    for path in listed:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            prefix = "/".join(parts[:depth])
            if spelling.setdefault(prefix.lower(), prefix) != prefix or (prefix in files and prefix != path):
                bad |= {path, spelling[prefix.lower()]}
    return bad
