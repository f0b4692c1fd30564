# SPDX-License-Identifier: Apache-2.0
"""Filmstrips of failed pairs, embedded; pictures that the evidence names and that are not there are said."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from compress.report.errors import ReportError, reading
from compress.report.evidence import Evidence

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Film:
    """One strip: `uri` is a data URI, empty if the picture is missing."""

    caption: str
    file: str
    uri: str


def films(evidence: Evidence) -> tuple[Film, ...]:
    """In the order of gate.json."""
    data = evidence.data.get("gate")
    if data is None:
        return ()
    with reading(evidence.paths["gate"], "gate"):
        folder = evidence.paths["gate"].parent
        return tuple(Film(strip["caption"], strip["file"], _uri(folder, strip["file"])) for strip in data["filmstrips"])


def _uri(folder: Path, name: str) -> str:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ReportError(f"{folder / 'gate.json'}: names the filmstrip {name!r}, which is outside its own folder")
    if not path.is_file():
        return ""
    content = path.read_bytes()
    if not content.startswith(PNG):
        raise ReportError(f"{path}: is not a PNG picture; run: compress gate")
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
