# SPDX-License-Identifier: Apache-2.0
"""Which scenes the regression runs, and what the policy did on them without ROS.

The scenes are the first N of the gate's own random order, so they were fixed before anybody saw an episode. What the
policy did on them in process is taken from the artifact's evidence; what is not there is run now, by the gate's code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.gate.jobs import Job, WorkerSetup
from compress.gate.plan import GatePlan, Pair, PlanMismatch, make_plan
from compress.gate.policies import artifact_source
from compress.gate.recheck import read_parquet
from compress.gate.rows import EpisodeRow, RowLog
from compress.gate.sim_gate import suite_tasks
from compress.gate.spec import GateSpec, GateSpecError
from compress.gate.workers import WorkerPool
from runtime.contract.artifact import Artifact

GATE, EPISODES = "evidence/gate.json", "evidence/episodes.parquet"
ARM = "candidate"


class PanelError(ValueError):
    """The scenes that were asked for do not exist, or the evidence about them cannot be used."""


@dataclass(frozen=True)
class Panel:
    """Scenes in order.

    Attributes:
        spec, plan: of the gate, which the scenes come from.
        pairs: task, state and reset seed of each scene.
        recorded: episodes of this very policy that the artifact's evidence holds.
        assets: LIBERO's assets folder, or None.
    """

    spec: GateSpec
    plan: GatePlan
    pairs: tuple[Pair, ...]
    recorded: Mapping[Pair, EpisodeRow]
    assets: Path | None

    def to_json(self) -> dict[str, Any]:
        """What decides the scenes; a resumed run must have the same."""
        return {
            "suite": self.spec.suite,
            "order_seed": self.spec.order_seed,
            "pairs": [list(pair) for pair in self.pairs],
            "max_steps": {str(task.index): task.max_steps for task in self.plan.tasks},
        }


def make_panel(artifact: Artifact, states: int, seed: int | None, suite: str | None, assets: Path | None) -> Panel:
    """The first `states` scenes of the order; `seed` and `suite` replace those of the artifact's gate.

    Raises:
        PanelError: fewer scenes than asked for, or evidence that contradicts itself.
        compress.gate.policies.UnusablePolicy: the policy's conventions are not the simulator's.
    """
    listed = {entry.path for entry in artifact.manifest.files}
    gate = json.loads(artifact.read_bytes(GATE)) if GATE in listed else {}
    spec, plan = _spec(gate, artifact, seed, suite), None
    try:
        if gate.get("plan") and suite in (None, spec.suite):
            plan = GatePlan.from_json(gate["plan"])
            tasks = plan.tasks
        else:
            tasks = suite_tasks(replace(spec, libero_assets=assets))
        if plan is None or spec.order_seed != plan.protocol["order_seed"]:
            plan = make_plan(spec, tasks, {ARM: artifact.manifest.policy_id})
    except (PlanMismatch, GateSpecError) as error:
        raise PanelError(str(error)) from error
    artifact_source(artifact.root, spec)
    if not 1 <= states <= len(plan.order):
        raise PanelError(f"{states} scenes were asked for, the suite {spec.suite!r} has 1 to {len(plan.order)}")
    return Panel(spec, plan, plan.order[:states], _recorded(gate, artifact, listed), assets)


def in_process(
    panel: Panel, artifact: Artifact, folder: Path, arrived: Callable[[int, int], None]
) -> dict[Pair, EpisodeRow]:
    """One episode per scene: recorded ones, and the others run now in a gate worker. Resumable.

    Args:
        folder: `in_process.jsonl` and the worker's logs go there.
        arrived: told how many scenes are known, of how many, after each episode.

    Raises:
        SimulatorBroken, UnusablePolicy: as the gate does.
    """
    source = artifact_source(artifact.root, panel.spec)
    size = panel.spec.image_size or source.image_size or 0
    setup = WorkerSetup(
        panel.spec.suite, str(panel.assets or ""), size, panel.spec.open_loop, panel.spec.envs_per_worker,
        {ARM: source},
    )  # fmt: skip
    jobs = {pair: Job.of(ARM, ARM, pair, panel.plan.task(pair.task).max_steps) for pair in panel.pairs}
    with RowLog(folder / "in_process.jsonl") as log:
        left = [job for pair, job in jobs.items() if pair not in panel.recorded and job.key not in log.rows]
        done = len(jobs) - len(left)

        def keep(row: EpisodeRow) -> None:
            nonlocal done
            done += 1
            log.append(row)
            arrived(done, len(jobs))

        names = {task.index: task.name for task in panel.plan.tasks}
        if left:
            with WorkerPool(setup, 1, panel.spec.episode_timeout_s, folder / "logs", names) as pool:
                pool.run(left, keep)
        return {
            pair: panel.recorded[pair] if pair in panel.recorded else log.rows[job.key] for pair, job in jobs.items()
        }


def _spec(gate: Mapping[str, Any], artifact: Artifact, seed: int | None, suite: str | None) -> GateSpec:
    protocol = (gate.get("plan") or {}).get("protocol")
    try:
        spec = GateSpec(**protocol) if protocol else GateSpec()
    except (TypeError, ValueError) as error:
        raise PanelError(
            f"{GATE} holds no gate protocol of this version ({error}). Next: run the gate again, seal, then regress"
        ) from error
    if suite is not None and suite != spec.suite:
        spec = replace(GateSpec(), suite=suite)
    height = artifact.manifest.policy.observation.images[0].height
    return replace(spec, image_size=spec.image_size or height, order_seed=spec.order_seed if seed is None else seed)


def _recorded(gate: Mapping[str, Any], artifact: Artifact, listed: set[str]) -> dict[Pair, EpisodeRow]:
    if EPISODES not in listed or not gate:
        return {}
    found = gate.get("arms", {}).get(ARM, {}).get("policy_id")
    if found != artifact.manifest.policy_id:
        raise PanelError(f"{GATE} is about policy {found!r}, expected {artifact.manifest.policy_id!r}")
    rows = read_parquet(artifact.path(EPISODES)).values()
    return {Pair(row.task, row.state, row.seed): row for row in rows if row.arm == row.policy == ARM}
