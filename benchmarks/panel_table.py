# SPDX-License-Identifier: Apache-2.0
"""Would LIBERO alone have passed it? Several artifacts against one baseline, on the suite, every axis and the swap.

    python benchmarks/panel_table.py OUT --baseline FOLDER --candidate half=FOLDER --candidate two=FOLDER --pairs 40
    python benchmarks/panel_table.py OUT --baseline FOLDER --candidate half=FOLDER ...   again: goes on

A cell is one policy on the first `--pairs` scenes of one panel's own pre-registered order; all policies run the same
scenes, so the baseline's episodes serve every candidate. Rows are appended as episodes finish: a SIGKILL loses those
under way. Cells grow evenly, so a table of an unfinished run is a smaller table, not a wrong one. No blind floor is
measured here: every task of the suite counts. OUT gets plan.json, policies.json, rows/NAME.jsonl, table.json, table.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.atomic import write_atomic, write_json
from compress.gate.environment import hardware
from compress.gate.jobs import Job, WorkerSetup
from compress.gate.panel_fit import refused_panels
from compress.gate.panel_spec import PANELS, PanelSpec, kind_of, strengths
from compress.gate.panel_verdict import judge_panel
from compress.gate.panels import LEAST_MARGINS, Scene, counted, median_steps, panel_job, row_pairs
from compress.gate.plan import MIN_POPULATION, GatePlan, make_plan
from compress.gate.policies import PolicySource, artifact_source
from compress.gate.rates import comparison
from compress.gate.rows import IN_DISTRIBUTION, EpisodeRow, RowKey, RowLog, read_rows
from compress.gate.sequence import confidence_sequence
from compress.gate.sim_gate import suite_tasks
from compress.gate.spec import GateSpec
from compress.gate.stats import PairedTest
from compress.gate.workers import WorkerPool

BASELINE = "baseline"
DECISIVE = ("suite", "pairs", "margin", "alpha", "env_seed", "open_loop", "image_size", "panels")


def main() -> None:
    """Run what is missing, then write and print the table."""
    options = _options()
    named = dict(_named(text) for text in options.candidate)
    spec = _spec(options)
    sources = {BASELINE: artifact_source(options.baseline, spec)}
    sources |= {name: artifact_source(folder, spec) for name, folder in named.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    plan = _plan(spec, sources, options.out)
    _remember(options.out / "policies.json", {name: source.identity for name, source in sources.items()})
    refused = {name: refused_panels(plan, {name: source}) for name, source in sources.items()}
    if not options.print_only:
        deadline = time.monotonic() + 60 * options.minutes
        for name, source in sources.items():
            _run(options.out, name, source, plan, spec, set(refused[name]) | set(refused[BASELINE]), deadline)
    table = _table(options.out, plan, sources, refused)
    write_json(options.out / "table.json", table)
    text = _text(table)
    write_atomic(options.out / "table.md", lambda stream: stream.write(text.encode()))
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--baseline", type=Path, required=True, help="artifact or draft that all are compared with")
    parser.add_argument("--candidate", action="append", default=[], metavar="NAME=FOLDER", help="give it several times")
    parser.add_argument("--suite", default="dropgate_tabletop")
    parser.add_argument("--libero-assets", type=Path)
    parser.add_argument("--panel", action="append", choices=PANELS, help="these panels only (default: all)")
    parser.add_argument("--strength", action="append", default=[], metavar="AXIS=NUMBER")
    parser.add_argument("--pairs", type=int, default=40, help="scenes per cell")
    parser.add_argument("--margin", type=float, default=0.10)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0, help="of the order of scenes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e6, help="start no more episodes after that")
    parser.add_argument("--print-only", action="store_true")
    return parser.parse_args()


def _named(text: str) -> tuple[str, Path]:
    name, sign, folder = text.partition("=")
    if not sign or not name or name == BASELINE:
        raise SystemExit(f"--candidate is {text!r}, expected NAME=FOLDER with another name than {BASELINE!r}")
    return name, Path(folder)


def _spec(options: argparse.Namespace) -> GateSpec:
    wanted = {name: float(value) for name, _, value in (text.partition("=") for text in options.strength)}
    terms = PanelSpec(options.pairs, options.margin, options.alpha)
    panels = {name: replace(terms, strength=wanted.get(name)) for name in options.panel or PANELS}
    return GateSpec(
        suite=options.suite, pairs=options.pairs, margin=options.margin, alpha=options.alpha, order_seed=options.seed,
        panels=panels, libero_assets=options.libero_assets, workers=options.workers,
    )  # fmt: skip


def _plan(spec: GateSpec, sources: Mapping[str, PolicySource], out: Path) -> GatePlan:
    sizes = {source.image_size for source in sources.values()}
    if len(sizes) != 1:
        raise SystemExit(f"the policies want images of {sorted(map(str, sizes))} pixels, expected one size for all")
    plan = make_plan(replace(spec, image_size=sizes.pop()), suite_tasks(spec), {BASELINE: sources[BASELINE].identity})
    path, data = out / "plan.json", plan.to_json()
    known = json.loads(path.read_text()) if path.exists() else data
    differ = [key for key in ("arms", "tasks", "order", "panels") if known.get(key) != data[key]]
    differ += [f"protocol.{key}" for key in DECISIVE if known["protocol"].get(key) != data["protocol"][key]]
    if differ:
        raise SystemExit(f"{path} is of another table: {', '.join(differ)} differ. Next: use a new folder")
    write_json(path, known)
    return plan


def _remember(path: Path, identities: dict[str, str]) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    for name, identity in identities.items():
        if known.setdefault(name, identity) != identity:
            raise SystemExit(f"{path}: {name!r} was {known[name]}, is now {identity}. Next: another name or folder")
    write_json(path, known)


def _scenes(plan: GatePlan, panel: str) -> tuple[Scene, ...]:
    return tuple((pair, pair.task) for pair in plan.order) if panel == IN_DISTRIBUTION else plan.panels[panel]


def _panels(plan: GatePlan) -> tuple[str, ...]:
    return (IN_DISTRIBUTION, *plan.panels)


def _jobs(plan: GatePlan, policy: str, skip: set[str]) -> list[Job]:
    """Scene by scene over all panels: every cell grows at the same pace."""
    panels = [name for name in _panels(plan) if name not in skip]
    most = int(plan.protocol["pairs"])
    return [
        panel_job(plan, name, _scenes(plan, name)[place], policy)
        for place in range(most)
        for name in panels
        if place < len(_scenes(plan, name))
    ]


def _run(
    out: Path, name: str, source: PolicySource, plan: GatePlan, spec: GateSpec, skip: set[str], deadline: float
) -> None:
    policy = BASELINE if name == BASELINE else "candidate"
    setup = WorkerSetup(
        spec.suite, str(spec.libero_assets or ""), int(plan.protocol["image_size"]), spec.open_loop,
        spec.envs_per_worker, {policy: source}, strengths(spec.panels),
    )  # fmt: skip
    names = {task.index: task.name for task in plan.tasks}
    with RowLog(out / "rows" / f"{name}.jsonl") as log:
        left = [job for job in _jobs(plan, policy, skip) if job.key not in log.rows]
        if not left or time.monotonic() > deadline:
            return
        began, done = time.monotonic(), 0

        def arrived(row: EpisodeRow) -> None:
            nonlocal done
            log.append(row)
            done += 1
            if done % 20 == 0 or done == len(left):
                print(
                    f"{name}: {done}/{len(left)} episodes, {(time.monotonic() - began) / done:.2f} s each", flush=True
                )

        with WorkerPool(setup, spec.workers, spec.episode_timeout_s, out / "logs", names) as pool:
            pool.run(left, arrived, lambda: time.monotonic() > deadline)


def _table(
    out: Path, plan: GatePlan, sources: Mapping[str, PolicySource], refused: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    base = _rows(out, BASELINE)
    lines = {}
    for name in sources:
        if name == BASELINE:
            continue
        rows, cells = {**base, **_rows(out, name)}, []
        for panel in _panels(plan):
            why = refused[name].get(panel) or refused[BASELINE].get(panel, "")
            cell = _cell(plan, panel, rows)
            cells.append({**cell, "reason": why or cell["reason"]})
        alone = cells[0]["outcome"] == "pass"
        missed = [cell["name"] for cell in cells[1:] if cell["outcome"] != "pass" or not cell["proves"]]
        lines[name] = {"panels": cells, "suite_alone_passes": alone, "panels_not_passed": missed}
    terms = {name: plan.protocol["panels"][name]["strength"] for name in plan.panels}
    return {
        "plan_digest": plan.digest(), "suite": plan.protocol["suite"], "strengths": terms, "hardware": hardware(),
        "policies": {name: source.identity for name, source in sources.items()}, "candidates": lines,
    }  # fmt: skip


def _rows(out: Path, name: str) -> dict[RowKey, EpisodeRow]:
    return {row.key: row for row in read_rows(out / "rows" / f"{name}.jsonl")}


def _cell(plan: GatePlan, panel: str, rows: Mapping[RowKey, EpisodeRow]) -> dict[str, Any]:
    """The panel's entry, but over all its pairs: bounds that hold at every pair may also be read after the decision."""
    scenes = _scenes(plan, panel)
    budget = scenes[: int(plan.protocol["pairs"])]
    pairs = row_pairs(plan, budget, panel, rows)
    finite = len(scenes) if len(scenes) >= MIN_POPULATION else None
    test = PairedTest(plan.protocol["margin"], plan.protocol["alpha"], finite, max(1, len(budget)))
    results = counted(pairs, panel)
    entry = judge_panel(panel, kind_of(panel), test, results, len(budget), median_steps(pairs, panel)).entry()
    found = comparison(tuple(results))
    bounds = confidence_sequence([float(c) - float(b) for c, b in results], test)
    difference = {"mean": found["difference"], "lower": bounds.lower, "upper": bounds.upper}
    shared = {key: found[key] for key in ("candidate", "baseline", "lost", "gained")}
    proves = len(results) > 0 and found["baseline"]["rate"] >= LEAST_MARGINS * test.margin
    counts = {"decided_after": entry["pairs"], "pairs": len(results), "proves": proves}
    return {**entry, **shared, **counts, "difference": difference}


def _text(table: Mapping[str, Any]) -> str:
    """One line per panel, one column per candidate."""
    names = list(table["candidates"])
    head = ["panel (strength)", "baseline", *names]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for place, first in enumerate(table["candidates"][names[0]]["panels"] if names else []):
        strength = table["strengths"].get(first["name"])
        cells = [first["name"] + (f" ({strength:g})" if strength is not None else "")]
        columns = [table["candidates"][name]["panels"][place] for name in names]
        most = max(columns, key=lambda cell: cell["pairs"])
        cells.append(_share(most["baseline"]))
        cells += [_words(cell) for cell in columns]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [
        f"{name}: the suite alone {'passes' if line['suite_alone_passes'] else 'does not pass'} it"
        + (
            f"; not passed: {', '.join(line['panels_not_passed'])}"
            if line["panels_not_passed"]
            else "; every panel too"
        )
        for name, line in table["candidates"].items()
    ]
    legend = (
        "Rates in %; in brackets the paired difference in points with its anytime-valid one-sided bounds (each at "
        "1 - alpha), what the test says, and median steps to success beside the baseline's. Under instruction_swap the "
        "rate is that of NOT reaching the original goal. A panel on which the baseline manages less than twice the "
        "margin proves nothing."
    )
    return (
        "\n".join([*lines, "", legend, "", *notes, "", f"plan {table['plan_digest'][:12]}; {table['hardware']}"]) + "\n"
    )


def _share(rate: Mapping[str, Any]) -> str:
    return f"{100 * rate['rate']:.0f} ({rate['successes']}/{rate['trials']})" if rate["trials"] else "-"


def _words(cell: Mapping[str, Any]) -> str:
    if not cell["pairs"]:
        return f"not run: {cell['reason']}"
    gap, steps = cell["difference"], cell["steps_to_success"]
    pace = f", {steps['candidate']:g}/{steps['baseline']:g} steps" if None not in steps.values() else ""
    bounds = f"{100 * gap['mean']:+.0f}, {100 * gap['lower']:+.0f} to {100 * gap['upper']:+.0f}"
    said = cell["outcome"] if cell["proves"] else f"{cell['outcome']}, proves nothing"
    return f"{_share(cell['candidate'])} [{bounds}; {said}{pace}]"


if __name__ == "__main__":
    main()
