# SPDX-License-Identifier: Apache-2.0
"""What the command filter costs a good policy: success in closed loop with the filter on against the filter off.

    export PYTHONPATH=.:ros2_ws/src/dropgate_sim OMP_NUM_THREADS=1
    python benchmarks/filter_closed_loop.py ARTIFACT --output FOLDER --pairs 200 --json out.json
    python benchmarks/filter_closed_loop.py ARTIFACT --output FOLDER --arms off,on,latency,slow --pairs 60
    python benchmarks/filter_closed_loop.py ARTIFACT --output FOLDER --arms off,latency,wide,ramp --scenes 1:39,2:4

Same policy, same scenes and seeds, paired. Off is the gate's rollout; on is the real controller and filter with the
limits of the robot's file, in the simulation's time (`filter_arms.py` says how). The other arms change one thing each
and say what success costs. The scenes are the first of the gate's own random order; all arms of a scene run one after
the other, so the rows are paired whenever it is stopped. `rows.jsonl` in FOLDER is append-only: the same command goes
on. Needs the simulator, no ROS. One process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dropgate_sim.sim_robot import Interface, SimRobot
from filter_arms import ARMS, JOINT_ARMS, OFF, ON, Filtered, Row, panda_description, setup_of, unfiltered

from compress.gate.environment import hardware, versions
from compress.gate.intervals import mcnemar_exact, tango, wilson
from compress.gate.plan import Pair, make_plan
from compress.gate.policies import artifact_source
from compress.gate.sim_gate import suite_tasks
from compress.gate.spec import GateSpec
from compress.progress import choose
from compress.sim.suites import open_suite
from runtime.contract.artifact import read_artifact

REPO = Path(__file__).resolve().parent.parent
ROWS, SETTINGS = "rows.jsonl", "settings.json"
MARGIN, FALSE_REJECTS = 0.02, 0.01  # the bar


class Rows:
    """`rows.jsonl`, open for appending; a torn last line is cut off."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS
        if path.exists() and (found := json.loads(path.read_text())) != settings:
            differ = sorted(key for key in settings if found.get(key) != settings[key])
            raise SystemExit(f"{folder} holds another run: {', '.join(differ)} differ. Next: give another --output")
        path.write_text(json.dumps(settings, indent=2) + "\n")
        rows = folder / ROWS
        data = rows.read_bytes() if rows.exists() else b""
        whole = data.rfind(b"\n") + 1
        self.found = {row.key: row for row in (Row(**json.loads(line)) for line in data[:whole].splitlines())}
        self._stream = rows.open("ab")
        self._stream.truncate(whole)

    def append(self, row: Row) -> None:
        """On disk when this returns."""
        self._stream.write((json.dumps(asdict(row), sort_keys=True) + "\n").encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.found[row.key] = row


def measure(given: argparse.Namespace, arms: Sequence[str]) -> dict[str, Any]:
    """Run what is missing, and put the numbers together."""
    artifact = read_artifact(given.artifact)
    spec = GateSpec(suite=given.suite, order_seed=given.seed)
    source, tasks = artifact_source(artifact.root, spec), suite_tasks(spec)
    plan = make_plan(spec, tasks, {"candidate": source.identity})
    if not 1 <= given.pairs <= len(plan.order):
        raise SystemExit(f"--pairs is {given.pairs}, the suite {spec.suite!r} has 1 to {len(plan.order)} scenes")
    pairs = plan.order[: given.pairs]
    if given.scenes:
        pairs = tuple(pair for pair in plan.order if f"{pair.task}:{pair.state}" in given.scenes.split(","))
    if not pairs:
        raise SystemExit(f"--scenes {given.scenes}: none of them is a scene of {spec.suite!r}, expected TASK:STATE")
    asked = frozenset(pairs)
    rows = Rows(given.output, {
        "artifact": artifact.manifest.artifact_id, "suite": spec.suite, "seed": given.seed, "robot": given.robot.stem,
        "latency_s": given.latency, "max_steps": given.max_steps,
    })  # fmt: skip
    suite, size, policy = open_suite(spec.suite, None), source.image_size or 128, source.open()
    robot, jointed = SimRobot(suite, size), SimRobot(suite, size, Interface.JOINT_TRAJECTORY)
    filtered: dict[str, Filtered] = {}
    for arm in arms:
        if arm in JOINT_ARMS:
            setup = setup_of(artifact, given.robot, arm, panda_description(jointed, pairs[0]))
            filtered[arm] = Filtered(jointed, policy, setup, given.latency)
        elif arm != OFF:
            filtered[arm] = Filtered(robot, policy, setup_of(artifact, given.robot, arm), given.latency)
    try:
        with choose(quiet=given.quiet).bar("filter in closed loop", len(pairs) * len(arms)) as bar:
            for pair in pairs:
                cap = given.max_steps or plan.task(pair.task).max_steps
                for arm in arms:
                    if (arm, *pair) not in rows.found:
                        if arm == OFF:
                            rows.append(unfiltered(robot, policy, pair, cap, spec.open_loop))
                        else:
                            rows.append(filtered[arm].run(arm, pair, cap))
                    done = [row for row in rows.found.values() if row.arm in arms and Pair(*row.key[1:]) in asked]
                    won = {a: sum(row.success for row in done if row.arm == a) for a in arms}
                    bar.update(len(done), len(pairs) * len(arms), ", ".join(f"{a} {n}" for a, n in won.items()))
    finally:
        robot.close()
        jointed.close()
        policy.close()
    chosen = {arm: {pair: rows.found[(arm, *pair)] for pair in pairs} for arm in arms}
    names = {task.index: task.name for task in tasks}
    return {
        "schema": "dropgate.filter_closed_loop/1", "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "artifact_id": artifact.manifest.artifact_id, "robot": given.robot.stem, "suite": spec.suite,
        "seed": given.seed, "latency_s": given.latency, "pairs": len(pairs), "machine": hardware(),
        "load": os.getloadavg()[0], "versions": versions(),
        "arms": {arm: summary(arm, of, chosen[OFF], names) for arm, of in chosen.items()},
    }  # fmt: skip


def summary(arm: str, rows: dict[Pair, Row], off: dict[Pair, Row], names: dict[int, str]) -> dict[str, Any]:
    """One arm, and what it lost and gained against the filter off; shares are fractions, times seconds."""
    won = sum(row.success for row in rows.values())
    lost = [pair for pair, row in rows.items() if off[pair].success and not row.success]
    gained = [pair for pair, row in rows.items() if row.success and not off[pair].success]
    rejected = Counter[str]()
    for row in rows.values():
        rejected.update(row.rejected)
    admitted, bad = sum(row.admitted for row in rows.values()), sum(rejected.values())
    commands = sum(row.commands for row in rows.values())
    failed = [row for row in rows.values() if not row.success]
    both = [(row.steps, off[pair].steps) for pair, row in rows.items() if row.success and off[pair].success]
    low, high = tango(len(lost), len(gained), len(rows))
    return {
        "about": ARMS[arm], "success": won, "of": len(rows), "wilson_95": wilson(won, len(rows)),
        "late": sum(row.late for row in rows.values()),
        "difference": (len(gained) - len(lost)) / len(rows), "tango_95": (low, high),
        "mcnemar_p": mcnemar_exact(len(lost), len(gained)),
        "lost": [_scene(pair, names) | {"why": _reason(rows[pair])} for pair in lost],
        "gained": [_scene(pair, names) for pair in gained],
        "chunks": sum(row.chunks for row in rows.values()), "admitted": admitted, "rejected": dict(rejected),
        "reject_share": bad / (admitted + bad) if admitted + bad else 0.0,
        "why_rejected": Counter(_kind(text) for row in rows.values() for text in row.why).most_common(8),
        "examples": [text for row in rows.values() for text in row.why][:8],
        "cut": sum(row.cut for row in rows.values()), "trips": sum(row.trips for row in rows.values()),
        "commands": commands, "scaled_share": sum(r.scaled for r in rows.values()) / commands if commands else 0.0,
        "changed_share": sum(r.changed for r in rows.values()) / commands if commands else 0.0,
        "time_s": statistics.median(a for a, _ in both) * 0.05 if both else None,
        "time_off_s": statistics.median(b for _, b in both) * 0.05 if both else None,
        "time_ratio": statistics.median(a / b for a, b in both) if both else None,
        "same_steps": sum(a == b for a, b in both),
        "same_end": sum(row.end == off[pair].end != [] for pair, row in rows.items()),
        "failures": Counter(_reason(row) for row in failed).most_common(5),
        "wall_s_median": statistics.median(row.wall_s for row in rows.values()),
    }  # fmt: skip


def _scene(pair: Pair, names: dict[int, str]) -> dict[str, Any]:
    return {"task": names[pair.task], "state": pair.state, "seed": pair.seed}


def _reason(row: Row) -> str:
    """What ended a failed episode."""
    if row.cause not in ("", "none"):
        return f"{row.cause}: {row.text}"[:160]
    if row.late:
        return "reached the goal too late"
    return row.text or "the policy did not reach the goal within its steps"


def _kind(text: str) -> str:
    """The same words without their numbers."""
    return " ".join("#" if any(c.isdigit() for c in word) else word for word in text.split())[:120]


def lines(result: dict[str, Any]) -> list[str]:
    """For people."""
    said = [f"{result['pairs']} paired scenes of {result['suite']}, {result['robot']}, seed {result['seed']}", ""]
    for arm, of in result["arms"].items():
        low, high = (100 * v for v in of["wilson_95"])
        said += [f"{arm}: {of['success']}/{of['of']} ({100 * of['success'] / of['of']:.1f} %, {low:.1f} to {high:.1f})"]
        if arm == OFF:
            continue
        low, high = (100 * v for v in of["tango_95"])
        said += [
            f"    {of['about']}",
            f"    difference {100 * of['difference']:+.1f} points (Tango 95 %: {low:+.1f} to {high:+.1f}), "
            f"lost {len(of['lost'])}, gained {len(of['gained'])}, McNemar p {of['mcnemar_p']:.3f}",
            f"    chunks: {of['admitted']} admitted, {sum(of['rejected'].values())} rejected {of['rejected']} "
            f"({100 * of['reject_share']:.2f} %), {of['cut']} cut; monitor trips {of['trips']}",
            f"    commands {of['commands']}: slowed {100 * of['scaled_share']:.2f} %, "
            f"none of the chunk's rows {100 * of['changed_share']:.2f} %",
        ]
        if of["time_s"] is not None:
            said += [
                f"    time to the goal (median, where both reach it): {of['time_s']:.2f} s, off {of['time_off_s']:.2f} "
                f"s, ratio {of['time_ratio']:.3f}; same number of steps in {of['same_steps']}"
            ]
        said += [f"    failed {count} x {why}" for why, count in of["failures"]]
        said += [f"    rejected {count} x {why}" for why, count in of["why_rejected"]]
        said += [f"    lost: {s['task']}, state {s['state']}: {s['why']}" for s in of["lost"]]
        said += [f"    gained: {s['task']}, state {s['state']}" for s in of["gained"]]
    if ON in result["arms"]:
        of = result["arms"][ON]
        held = of["difference"] >= -MARGIN and of["reject_share"] <= FALSE_REJECTS
        said += ["", f"bar (within {100 * MARGIN:g} points, false rejects <= {FALSE_REJECTS:.0%}): "
                 f"{'held' if held else 'MISSED'} on these scenes"]  # fmt: skip
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--scenes", default="", metavar="TASK:STATE,...", help="these instead: to ablate what differed")
    parser.add_argument("--arms", default=f"{OFF},{ON}", help=f"of {', '.join(ARMS)}; {OFF} is always run")
    parser.add_argument("--suite", default="dropgate_tabletop")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the scenes")
    parser.add_argument("--robot", type=Path, default=REPO / "launch" / "config" / "libero_panda.yaml")
    parser.add_argument("--latency", type=float, default=0.05, help="of an answer, for the arms in real time [s]")
    parser.add_argument("--max-steps", type=int, default=0, help="control steps of 50 ms; 0 = the suite's")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args(arguments)
    arms = tuple(dict.fromkeys((OFF, *given.arms.split(","))))
    if unknown := sorted(set(arms) - set(ARMS)):
        parser.error(f"unknown arms {unknown}; available: {', '.join(ARMS)}")
    result = measure(given, arms)
    print("\n".join(lines(result)))
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
