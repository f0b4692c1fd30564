# SPDX-License-Identifier: Apache-2.0
"""`gate.json` (all numbers), `gate.md` (for people), `episodes.parquet`: what a run leaves behind; `GateReport`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compress.atomic import write_atomic, write_json
from compress.gate.environment import hardware, versions
from compress.gate.floor import TaskFloor
from compress.gate.judge import Judgement, level_vetoes, primary_panel
from compress.gate.markdown import markdown
from compress.gate.panel_verdict import PanelVerdict, judge_panel
from compress.gate.panels import panel_warnings
from compress.gate.plan import GatePlan, Pair
from compress.gate.policies import PolicySource
from compress.gate.rows import IN_DISTRIBUTION, EpisodeRow, RowKey
from compress.gate.spec import GateSpec
from compress.gate.stats import PairedTest
from compress.gate.summary import paired_summary, steps_summary, task_summaries, wrong_instruction_summary
from compress.gate.verdict import EXIT_CODES, Verdict

SCHEMA = "dropgate.gate/2"
GATE_JSON, GATE_MD, PARQUET = "gate.json", "gate.md", "episodes.parquet"


@dataclass(frozen=True)
class GateReport:
    """What `run_gate` returns.

    Attributes:
        verdict, reason: the answer and one sentence of why.
        folder: where gate.json, gate.md, episodes.parquet and filmstrips are; nothing is written for an error.
        candidate_id: policy id of the candidate that the verdict is about; empty if it could not be read.
        data: the content of gate.json.
    """

    verdict: Verdict
    reason: str
    folder: Path
    candidate_id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 promote, 1 hold, 2 error."""
        return EXIT_CODES[self.verdict]

    @property
    def path(self) -> Path:
        """gate.json."""
        return self.folder / GATE_JSON


def write_report(
    folder: Path,
    spec: GateSpec,
    verdict: Verdict,
    reason: str,
    arms: Mapping[str, PolicySource] | None = None,
    plan: GatePlan | None = None,
    floors: tuple[TaskFloor, ...] = (),
    judgement: Judgement | None = None,
    rows: Mapping[RowKey, EpisodeRow] | None = None,
    filmstrips: tuple[dict[str, Any], ...] = (),
    wall_s: float = 0.0,
    panels: Sequence[PanelVerdict] = (),
) -> GateReport:
    """Write the files (none for an error: the folder may belong to another run) and return the report.

    `panels` are those after the primary one, which is always the first of the list.
    """
    primary = _primary(spec, judgement, rows or {})
    rows, arms = rows or {}, arms or {}
    identity = arms["candidate"].identity if arms else ""
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": verdict.value,
        "reason": reason,
        "exit_code": EXIT_CODES[verdict],
        "spec": spec.to_json(),
        "plan_digest": plan.digest() if plan else "",
        "arms": {
            name: {"policy_id": source.identity, "artifact": Path(source.artifact).name}
            for name, source in arms.items()
        },
        "plan": plan.to_json() if plan else None,
        "paired": paired_summary(judgement, primary),
        "panels": [panel.entry() for panel in (primary, *panels)],
        "panel_paths": {panel.name: [list(bounds) for bounds in panel.path] for panel in panels},
        "vetoes": [veto.to_json() for veto in level_vetoes(plan, judgement)] if plan and judgement else [],
        "tasks": task_summaries(plan, floors, judgement),
        "screening": [asdict(floor) for floor in floors],
        "warnings": panel_warnings((primary, *panels)),
        "wrong_instruction": wrong_instruction_summary(rows),
        "speed": steps_summary(rows),
        "crashes": {
            arm: sum(bool(r.error) and r.arm == arm for r in rows.values()) for arm in ("candidate", "baseline")
        },
        "episodes": len(rows),
        "filmstrips": list(filmstrips),
        "versions": versions(),
        "hardware": hardware(),
        "wall_s": round(wall_s, 1),
    }
    report = GateReport(verdict, reason, folder, identity, data)
    if verdict is not Verdict.ERROR:
        if rows:
            write_parquet(rows, plan, judgement, folder / PARQUET)
        write_json(folder / GATE_JSON, data)
        write_atomic(folder / GATE_MD, lambda stream: stream.write(markdown(data).encode()))
    return report


def _primary(spec: GateSpec, judgement: Judgement | None, rows: Mapping[RowKey, EpisodeRow]) -> PanelVerdict:
    if judgement is not None:
        return primary_panel(judgement, rows)
    return judge_panel(IN_DISTRIBUTION, "suite", PairedTest(float(spec.margin), spec.alpha), (), spec.pairs, {})


def write_parquet(
    rows: Mapping[RowKey, EpisodeRow], plan: GatePlan | None, judgement: Judgement | None, path: Path
) -> None:
    """One line per episode; `place` is the pair's place in the plan's order; the verdict rests on the `decided`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    places = {} if plan is None else {(IN_DISTRIBUTION, pair): place for place, pair in enumerate(plan.order)}
    for name, scenes in ({} if plan is None else plan.panels).items():
        places |= {(name, pair): place for place, (pair, _) in enumerate(scenes)}
    decided = set() if judgement is None else {(IN_DISTRIBUTION, pair) for pair in judgement.pairs}
    lines = []
    for key in sorted(rows):
        row = rows[key].to_json()
        row.pop("actions")
        scene = (key.panel, Pair(key.task, key.state, key.seed))
        lines.append(
            {**row, "place": places.get(scene), "decided": key.arm in ("candidate", "baseline") and scene in decided}
        )
    table = pa.Table.from_pylist(lines)
    write_atomic(path, lambda stream: pq.write_table(table, stream))
