# SPDX-License-Identifier: Apache-2.0
"""Rows -> verdict, `regression.json` for the robot, `report.html` and a few lines for people."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from compress.atomic import write_atomic, write_json
from compress.gate.environment import hardware, versions
from compress.gate.plan import Pair
from compress.gate.rows import EpisodeRow
from compress.gate.summary import comparison
from dropgate_sim.panel import Panel
from dropgate_sim.robot_file import RobotFile
from dropgate_sim.ros_rows import RosRow
from runtime.contract.artifact import Artifact
from runtime.contract.regression import REPORT, SCHEMA

PAGE = "report.html"
MARGIN = 0.10  # of success rate that may be lost between the bare policy and the robot
MIN_BARE = 0.5  # a policy that solves less in process proves nothing about the rest
RATE_EDGE = 1e-9


class Verdict(str, Enum):
    """Only `pass` lets a robot move."""

    PASS = "pass"
    FAIL = "fail"


@dataclass(frozen=True)
class Evidence:
    """A finished (or broken) regression.

    Attributes:
        broken: what kept it from being complete; empty otherwise.
        rows: episodes through ROS; bare: the same scenes in process.
        latencies: what the controller measured; empty if no episode was run this time.
        folder: where the files are.
    """

    artifact: Artifact
    robot: RobotFile
    panel: Panel
    verdict: Verdict
    reason: str
    broken: str
    rows: Mapping[Pair, RosRow]
    bare: Mapping[Pair, EpisodeRow]
    latencies: Mapping[str, Any]
    folder: Path


def judge(
    panel: Panel, rows: Mapping[Pair, RosRow], bare: Mapping[Pair, EpisodeRow], broken: str
) -> tuple[Verdict, str]:
    """Verdict and one sentence of why."""
    total = len(panel.pairs)
    done = [pair for pair in panel.pairs if pair in rows and pair in bare]
    if broken:
        return Verdict.FAIL, f"after {len(done)} of {total} episodes: {broken}"
    if len(done) < total:
        return Verdict.FAIL, f"only {len(done)} of {total} episodes are there"
    through, process = sum(rows[pair].success for pair in done), sum(bare[pair].success for pair in done)
    score = f"{through} of {total} through ROS, {process} of {total} in process"
    if process < MIN_BARE * total:
        return Verdict.FAIL, f"the policy itself solves less than {100 * MIN_BARE:g} %: {score}"
    if (process - through) / total > MARGIN + RATE_EDGE:
        return Verdict.FAIL, f"more than {100 * MARGIN:g} points are lost on the way: {score}"
    return Verdict.PASS, f"not more than {100 * MARGIN:g} points are lost on the way: {score}"


def write_evidence(evidence: Evidence, wall_s: float) -> None:
    """`regression.json` and `report.html`."""
    from dropgate_sim.regression_page import render

    data = evidence_json(evidence, wall_s)
    page = render(evidence, data).encode()
    write_atomic(evidence.folder / PAGE, lambda stream: stream.write(page))
    write_json(evidence.folder / REPORT, data)


def evidence_json(evidence: Evidence, wall_s: float) -> dict[str, Any]:
    """Content of regression.json; `compared` has ROS as candidate and the bare policy as baseline."""
    rows, bare, panel = evidence.rows, evidence.bare, evidence.panel
    both = [pair for pair in panel.pairs if pair in rows and pair in bare]
    infer = [row.infer_s for row in rows.values() if row.infer_s > 0.0]
    return {
        "schema": SCHEMA,
        "verdict": evidence.verdict.value,
        "reason": evidence.reason,
        "broken": evidence.broken,
        "artifact": evidence.artifact.root.name,
        "artifact_id": evidence.artifact.manifest.artifact_id,
        "policy_id": evidence.artifact.manifest.policy_id,
        "robot": evidence.robot.robot,
        "robot_file": evidence.robot.path.name,
        "robot_file_sha256": evidence.robot.sha256,
        "limits_sha256": evidence.robot.limits_sha256,
        "margin": MARGIN,
        "panel": panel.to_json(),
        "episodes": len(rows),
        "compared": comparison(_results(evidence, both)),
        "tasks": [
            {"task": task.index, "sentence": task.sentence, "pairs": len(mine), **comparison(_results(evidence, mine))}
            for task in panel.plan.tasks
            if (mine := [pair for pair in both if pair.task == task.index])
        ],
        "bare_from_evidence": sum(pair in panel.recorded for pair in both),
        "causes": dict(Counter(row.cause for row in rows.values())),
        "errors": dict(Counter(row.error.split(":")[0] for row in rows.values() if row.error)),
        "rejected_chunks": sum(row.rejected for row in rows.values()),
        "steps_to_success": {
            "through_ros": _median([rows[pair].steps for pair in both if rows[pair].success]),
            "in_process": _median([bare[pair].steps for pair in both if bare[pair].success]),
        },
        "latency": {
            "infer_s": _median(infer),
            "observation_age_max_s": max((row.age_s for row in rows.values()), default=None),
            "episode_wall_s": _median([row.wall_s for row in rows.values()]),
            **evidence.latencies,
        },
        "hardware": hardware(),
        "rmw": _rmw(),
        "versions": {**versions(), **_ros_versions()},
        "wall_s": round(wall_s, 1),
    }


def lines(evidence: Evidence) -> list[str]:
    """For the terminal: verdict, the paired table, intervals."""
    both = [pair for pair in evidence.panel.pairs if pair in evidence.rows and pair in evidence.bare]
    c = comparison(_results(evidence, both))
    out = [f"{evidence.verdict.value}: {evidence.reason}"]
    if both:
        low, high = c["tango95"]
        out += [
            "                     in process reached   missed",
            f"  through ROS reached {c['both']:17d} {c['gained']:8d}",
            f"              missed  {c['lost']:17d} {c['neither']:8d}",
            f"  through ROS {_rate(c['candidate'])}, in process {_rate(c['baseline'])}",
            f"  difference {100 * c['difference']:+.1f} points (Tango 95 %: {100 * low:+.1f} to {100 * high:+.1f})",
        ]
    return [*out, f"evidence: {evidence.folder / REPORT}, {evidence.folder / PAGE}"]


def _results(evidence: Evidence, pairs: list[Pair]) -> tuple[tuple[bool, bool], ...]:
    return tuple((evidence.rows[pair].success, evidence.bare[pair].success) for pair in pairs)


def _rate(data: Mapping[str, Any]) -> str:
    low, high = data["wilson95"]
    return f"{100 * data['rate']:.1f} % (Wilson 95 %: {100 * low:.0f} to {100 * high:.0f})"


def _median(values: list[Any]) -> float | None:
    return float(median(values)) if values else None


def _rmw() -> str:
    try:
        from rclpy.utilities import get_rmw_implementation_identifier

        return str(get_rmw_implementation_identifier())
    except ImportError:
        return "missing"


def _ros_versions() -> dict[str, str]:
    found = {"ros_distro": os.environ.get("ROS_DISTRO", "unknown"), "machine": platform.machine()}
    for name in ("rclpy", "dropgate-sim", "dropgate-controller"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
