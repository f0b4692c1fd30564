# SPDX-License-Identifier: Apache-2.0
"""Filmstrips of failed pairs, embedded; pictures that the evidence names and that are not there are said."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.report.errors import ReportError, reading
from compress.report.evidence import Evidence

PNG = b"\x89PNG\r\n\x1a\n"
MOST = 3_500_000  # characters of pictures on a page that has to stay below 5 MB
MEANING = {
    "lost": "the candidate failed, the baseline did not",
    "gained": "the baseline failed, the candidate did not",
    "neither": "both failed",
}
SWAPPED = {
    "lost": "told another sentence, the candidate still did what the scene suggests; the baseline did not",
    "gained": "told another sentence, the baseline still did what the scene suggests; the candidate did not",
    "neither": "told another sentence, both still did what the scene suggests",
}


@dataclass(frozen=True)
class Film:
    """One strip.

    Attributes:
        kind, meaning: `lost`, `gained` or `neither`, and what that says.
        panel: `robot pose`, or empty for the suite itself and for strips from before panels were drawn.
        sentence: the task's; state: number of the initial state; told: another sentence that was given, or empty.
        caption: of the evidence.
        times: of the columns, such as `1.2 s`; empty for a strip whose columns are not aligned in time.
        ends: (policy, when and why its episode ended).
        file: its name below the gate's folder.
        uri: a data URI, empty if the picture is not shown.
        why_not: why it is not shown.
        reproduced: the drawn episodes ended as those that were judged.
    """

    kind: str
    meaning: str
    panel: str
    sentence: str
    state: str
    told: str
    caption: str
    times: tuple[str, ...]
    ends: tuple[tuple[str, str], ...]
    file: str
    uri: str
    why_not: str
    reproduced: bool

    @property
    def alt(self) -> str:
        """For those who do not see it."""
        said = "; ".join(f"{policy}: {end}" for policy, end in self.ends)
        return f"Filmstrip, candidate above and baseline below: {self.caption}" + (f". {said}" if said else "")


@dataclass(frozen=True)
class Films:
    """Strips in the order of gate.json, and sentences on what is shown and what is not."""

    strips: tuple[Film, ...]
    notes: tuple[str, ...]


def films(evidence: Evidence) -> Films:
    """Empty without gate.json."""
    data = evidence.data.get("gate")
    if data is None:
        return Films((), ())
    with reading(evidence.paths["gate"], "gate"):
        folder, left, strips = evidence.paths["gate"].parent, MOST, []
        for strip in data["filmstrips"]:
            film = _film(folder, strip, left)
            left -= len(film.uri)
            strips.append(film)
        return Films(tuple(strips), tuple(_notes(data, strips)))


def _film(folder: Path, strip: Mapping[str, Any], left: int) -> Film:
    panel, sentence = strip.get("panel", "in_distribution"), strip.get("sentence", "")
    told = strip.get("told", sentence)
    uri = _uri(folder, strip["file"])
    why = "" if uri else f"{strip['file']} is not here; it stays in the gate's own folder."
    if len(uri) > left:
        uri, why = "", f"{strip['file']} is left out to keep this page small; it is in the gate's own folder."
    ends = [(policy, _end(strip[policy])) for policy in ("candidate", "baseline") if policy in strip]
    return Film(
        kind=strip["kind"],
        meaning=(SWAPPED if panel == "instruction_swap" else MEANING)[strip["kind"]],
        panel="" if panel == "in_distribution" else panel.replace("_", " "),
        sentence=sentence,
        state=str(strip["state"]),
        told="" if told == sentence else told,
        caption=strip["caption"],
        times=tuple(f"{time:g} s" for time in strip.get("times_s", ())),
        ends=tuple(ends),
        file=strip["file"],
        uri=uri,
        why_not=why,
        reproduced=bool(strip["reproduced"]),
    )


def _end(end: Mapping[str, Any]) -> str:
    return f"at {end['end_s']:g} s (step {end['steps']}): {end['why']}"


def _notes(data: Mapping[str, Any], strips: list[Film]) -> list[str]:
    panels = data.get("panels") or ([data["paired"]] if data["paired"] else [])
    there = sum(panel["lost"] + panel["gained"] for panel in panels)
    drawn = sum(film.kind in ("lost", "gained") for film in strips)
    pairs = "discordant pair" if there == 1 else "discordant pairs"
    counted = f"{drawn} of {there} {pairs} of all panels {'is' if drawn == 1 else 'are'} drawn"
    if not panels:
        return ["No pairs were compared."]
    if not there:
        return ["There is no discordant pair: no scene on which only one of the policies failed."]
    if not drawn:
        return [f"{counted}: the recipe asks for {data['spec']['filmstrips']}, or the simulator failed while drawing."]
    return [f"{counted}, lost ones first, panels in turns. Every episode is in episodes.parquet."]


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
