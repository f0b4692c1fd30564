# SPDX-License-Identifier: Apache-2.0
"""Which pairs are worth a picture: where the candidate fails and the baseline does not, under every panel first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest

from compress.gate.floor import TaskFloor
from compress.gate.judge import Judgement
from compress.gate.panels import judge_scenes, panel_scenes
from compress.gate.plan import GatePlan, Pair
from compress.gate.rows import IN_DISTRIBUTION, EpisodeRow, RowKey

KINDS = {(False, True): "lost", (True, False): "gained", (False, False): "neither"}


@dataclass(frozen=True)
class FilmedPair:
    """One pair that can be drawn.

    Attributes:
        panel, pair, told: the scene, and the task whose sentence is given.
        kind: `lost` (the candidate alone failed), `gained` (the baseline alone), `neither` (both did); what counts as
            failing is the panel's: under `instruction_swap` it is reaching the goal nobody asked for.
    """

    panel: str
    pair: Pair
    told: int
    kind: str

    @property
    def stem(self) -> str:
        """Name of its files."""
        place = f"task{self.pair.task}_state{self.pair.state}"
        return place if self.panel == IN_DISTRIBUTION else f"{self.panel}_{place}"


def failed_pairs(
    plan: GatePlan, floors: tuple[TaskFloor, ...], judgement: Judgement | None, rows: Mapping[RowKey, EpisodeRow]
) -> list[FilmedPair]:
    """Pairs that at least one policy failed: lost, then gained, then neither.

    Within a kind panels take turns, the suite itself first, each in the plan's order: so that few strips still show
    every panel in which something was lost. Pairs that both failed are listed of the suite alone.
    """
    found: dict[str, list[FilmedPair]] = {IN_DISTRIBUTION: []}
    if judgement is not None:
        pairs = zip(judgement.pairs, judgement.results, strict=True)
        found[IN_DISTRIBUTION] = [
            FilmedPair(IN_DISTRIBUTION, pair, pair.task, KINDS[result]) for pair, result in pairs if result in KINDS
        ]
        for name in plan.panels:
            found[name] = _of_panel(plan, floors, name, rows)
    return [pair for kind in KINDS.values() for pair in _in_turns(found.values(), kind)]


def _of_panel(
    plan: GatePlan, floors: tuple[TaskFloor, ...], name: str, rows: Mapping[RowKey, EpisodeRow]
) -> list[FilmedPair]:
    scenes = panel_scenes(plan, floors, name)
    results = judge_scenes(plan, scenes, name, rows).results
    discordant = [(scene, result) for scene, result in zip(scenes, results, strict=False) if result[0] != result[1]]
    return [FilmedPair(name, pair, told, KINDS[result]) for (pair, told), result in discordant]


def _in_turns(panels: Iterable[list[FilmedPair]], kind: str) -> list[FilmedPair]:
    rounds = zip_longest(*([pair for pair in panel if pair.kind == kind] for panel in panels))
    return [pair for one in rounds for pair in one if pair is not None]
