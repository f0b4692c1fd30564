# SPDX-License-Identifier: Apache-2.0
"""One shard of a gate: its share of the plan, into a folder of its own below the gate's.

Shards need not see each other. Where they do (one machine, a shared file system, a copied folder), a shard also reads
what the others have finished, and stops when all together have decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from compress.gate.engine import EngineFactory, local_engine
from compress.gate.floor import TaskFloor, task_floors
from compress.gate.made_with import FILE, ONE_BY_ONE, declare, settings_of
from compress.gate.panel_fit import refused_panels
from compress.gate.panels import panel_scenes, panel_settled
from compress.gate.plan import GatePlan
from compress.gate.policies import PolicySource, artifact_source
from compress.gate.shard import SHARDS, Shard, ShardLog
from compress.gate.sim_gate import Phases, Progress, locked, prepare
from compress.gate.spec import GateSpec
from compress.gate.stats import Outcome
from compress.gate.verdict import unfit_for_proof


@dataclass(frozen=True)
class ShardDone:
    """What a shard has: `folder`, episodes of its own, and whether all rows that it sees already decide the gate."""

    shard: Shard
    folder: Path
    episodes: int
    settled: bool


def run_artifacts(
    candidate: Path,
    baseline: Path,
    spec: GateSpec,
    folder: Path,
    shard: Shard,
    progress: Progress | None = None,
    engine: EngineFactory = local_engine,
    batch: int = ONE_BY_ONE,
) -> ShardDone:
    """`run_shard` for two artifact directories."""
    arms = {"candidate": artifact_source(candidate, spec), "baseline": artifact_source(baseline, spec)}
    return run_shard(arms, spec, folder, shard, progress, engine, batch)


def run_shard(
    arms: dict[str, PolicySource],
    spec: GateSpec,
    folder: Path,
    shard: Shard,
    progress: Progress | None = None,
    engine: EngineFactory = local_engine,
    batch: int = ONE_BY_ONE,
) -> ShardDone:
    """Run what is missing of a shard; calling it again continues it, also after SIGKILL.

    Raises:
        MixedSettings: this shard or one beside it was made with other settings.
        PlanMismatch, FolderBusy, RowsDamaged: `folder` belongs to another gate, or the shard is being run.
        SimulatorBroken, UnusablePolicy: no episodes can be run here; those that were are kept.
    """
    own = folder / SHARDS / shard.name
    own.mkdir(parents=True, exist_ok=True)
    with locked(own), ExitStack() as stack:
        plan, setup, names = prepare(arms, spec, folder)
        declare(own / FILE, settings_of(plan, arms, batch, shard=shard.name))
        log = ShardLog(folder, shard)
        stack.enter_context(log)
        pool = stack.enter_context(engine(setup, spec.workers, spec.episode_timeout_s, own / "logs", names))
        phases = Phases(plan, spec, log, pool, progress, lambda jobs: shard.owned(plan, jobs), log.refresh)
        phases.look()
        settled = _compare(phases, plan, log, refused_panels(plan, arms))
        return ShardDone(shard, own, log.own, settled)


def _compare(phases: Phases, plan: GatePlan, log: ShardLog, refused: Mapping[str, str]) -> bool:
    """Run the pairs and the panels; every task counts as long as screening rows of the other shards are missing."""

    def screened() -> bool:
        return task_floors(plan, log.rows) is not None

    if not screened():
        phases.pairs(assumed_floors(plan), screened)
    floors = task_floors(plan, log.rows)
    if floors is None:
        return False
    if unfit_for_proof(plan, floors):
        return True
    judgement = phases.compare(floors)
    phases.panels(floors, judgement, refused, wait=False)
    open_panels = [name for name in plan.panels if name not in refused and judgement.decision.outcome is Outcome.PASS]
    scenes = {name: panel_scenes(plan, floors, name) for name in open_panels}
    return judgement.missing == 0 and all(panel_settled(plan, scenes[name], name, log.rows) for name in open_panels)


def assumed_floors(plan: GatePlan) -> tuple[TaskFloor, ...]:
    """Every task counts: what a shard that is alone has to go by."""
    return tuple(TaskFloor(t.index, t.name, 0, 0, 0, "", True, "assumed") for t in plan.tasks if t.index in plan.screen)
