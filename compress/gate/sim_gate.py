# SPDX-License-Identifier: Apache-2.0
"""The whole gate: register the plan, screen the tasks, run the pairs until decided, probe, report.

`promote` needs evidence; everything that is missing (simulator, assets, rows, a working baseline, tasks that prove
something) is a `hold`. `error` is for what was asked wrongly: an artifact that cannot be read, a folder of another run.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from compress.gate.engine import Engine, EngineFactory, local_engine
from compress.gate.episodes import SimulatorBroken
from compress.gate.film_choice import failed_pairs
from compress.gate.filmstrip import draw_filmstrips
from compress.gate.floor import TaskFloor, recording_jobs, replay_jobs, screening_jobs, task_floors
from compress.gate.jobs import Job, WorkerSetup
from compress.gate.judge import Judgement, extra_jobs, judge, pair_jobs
from compress.gate.made_with import FILE as SETTINGS
from compress.gate.made_with import MixedSettings, declare, settings_of
from compress.gate.panel_fit import refused_panels
from compress.gate.panel_spec import strengths
from compress.gate.panels import judge_panels, panel_jobs, panel_scenes, panel_settled, release_verdict
from compress.gate.plan import GatePlan, PlanMismatch, SuiteTask, make_plan, register
from compress.gate.policies import PolicySource, UnusablePolicy, artifact_source
from compress.gate.report import GateReport, write_report
from compress.gate.rows import ROWS, EpisodeRow, RowKey, RowLog, RowsDamaged
from compress.gate.spec import GateSpec, GateSpecError
from compress.gate.stats import Outcome
from compress.gate.verdict import Verdict, unfit_for_proof

PLAN, LOCK = "plan.json", ".lock"
DEFAULT_IMAGE_SIZE = 128


class FolderBusy(RuntimeError):
    """Another gate run writes into this folder."""


@dataclass(frozen=True)
class GateProgress:
    """One finished episode: the phase, how many of it are done, how many it has at most, and the row."""

    phase: str
    done: int
    total: int
    row: EpisodeRow


Progress = Callable[[GateProgress], None]


def run_gate(
    candidate: Path,
    baseline: Path,
    spec: GateSpec,
    folder: Path,
    progress: Progress | None = None,
    engine: EngineFactory = local_engine,
) -> GateReport:
    """Compare two artifact directories (drafts are welcome) and write the evidence into `folder`.

    A run that was interrupted is continued by calling it again; finished episodes are never repeated.

    Returns:
        Verdict, reason, exit code (0 promote, 1 hold, 2 error); `folder` has gate.json, gate.md, episodes.parquet.
    """
    try:
        arms = {"candidate": artifact_source(candidate, spec), "baseline": artifact_source(baseline, spec)}
    except UnusablePolicy as error:
        return write_report(folder, spec, Verdict.ERROR, str(error))
    except ImportError as error:
        return write_report(folder, spec, Verdict.HOLD, f"the simulator cannot start: {error}")
    return gate_policies(arms["candidate"], arms["baseline"], spec, folder, progress, engine)


def gate_policies(
    candidate: PolicySource,
    baseline: PolicySource,
    spec: GateSpec,
    folder: Path,
    progress: Progress | None = None,
    engine: EngineFactory = local_engine,
) -> GateReport:
    """`run_gate` for any two policy sources."""
    arms = {"candidate": candidate, "baseline": baseline}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            return _run(arms, spec, folder, progress, engine)
    except (SimulatorBroken, FileNotFoundError, ImportError) as error:  # assets, libero or a renderer are missing
        verdict, reason = Verdict.HOLD, f"the simulator cannot start: {error}"
    except (UnusablePolicy, PlanMismatch, GateSpecError, RowsDamaged, FolderBusy, MixedSettings) as error:
        verdict, reason = Verdict.ERROR, str(error)
    return write_report(folder, spec, verdict, reason, arms)


def _run(
    arms: dict[str, PolicySource], spec: GateSpec, folder: Path, progress: Progress | None, engine: EngineFactory
) -> GateReport:
    began = time.monotonic()
    plan, setup, names = prepare(arms, spec, folder)
    declare(folder / SETTINGS, settings_of(plan, arms))
    with ExitStack() as stack:
        log = stack.enter_context(RowLog(folder / ROWS))
        pool = stack.enter_context(engine(setup, spec.workers, spec.episode_timeout_s, folder / "logs", names))
        run = Phases(plan, spec, log, pool, progress)
        floors = run.screen()
        judgement = None if unfit_for_proof(plan, floors) else run.compare(floors)
        refused = refused_panels(plan, arms)
        run.panels(floors, judgement, refused)
        failed = failed_pairs(plan, floors, judgement, log.rows)
        strips = draw_filmstrips(plan, failed, log.rows, pool, folder, spec.filmstrips)
        took = time.monotonic() - began
        return conclude(folder, spec, arms, plan, log.rows, floors, judgement, refused, strips, took)


def conclude(
    folder: Path,
    spec: GateSpec,
    arms: Mapping[str, PolicySource],
    plan: GatePlan,
    rows: Mapping[RowKey, EpisodeRow],
    floors: tuple[TaskFloor, ...],
    judgement: Judgement | None,
    refused: Mapping[str, str],
    filmstrips: tuple[dict[str, Any], ...] = (),
    wall_s: float = 0.0,
    no_proof: str = "",
) -> GateReport:
    """Rows -> verdict and evidence, without a simulator. `no_proof` says why these rows can promote nothing."""
    panels = judge_panels(plan, floors, judgement, rows, refused)
    verdict, reason = release_verdict(plan, floors, judgement, panels)
    if verdict is Verdict.PROMOTE and no_proof:
        verdict, reason = Verdict.HOLD, f"{no_proof}. It would be: {reason}"
    return write_report(folder, spec, verdict, reason, arms, plan, floors, judgement, rows, filmstrips, wall_s, panels)


def worker_setup(arms: Mapping[str, PolicySource], spec: GateSpec, image_size: int) -> WorkerSetup:
    """What a simulator needs to know to run this gate's jobs."""
    assets, axes = str(spec.libero_assets or ""), strengths(spec.panels)
    return WorkerSetup(spec.suite, assets, image_size, spec.open_loop, spec.envs_per_worker, arms, axes)


def prepare(
    arms: dict[str, PolicySource], spec: GateSpec, folder: Path
) -> tuple[GatePlan, WorkerSetup, dict[int, str]]:
    """The registered plan, what workers need, names of the tasks."""
    tasks = suite_tasks(spec)
    size = _image_size(arms, spec)
    plan = make_plan(replace(spec, image_size=size), tasks, {name: source.identity for name, source in arms.items()})
    register(plan, folder / PLAN)
    return plan, worker_setup(arms, spec, size), {task.index: task.name for task in tasks}


@dataclass(frozen=True)
class Phases:
    """What is run, in which order.

    A shard runs only its `share` of the jobs, and calls `refresh` to see the rows of the others before it stops.
    """

    plan: GatePlan
    spec: GateSpec
    log: RowLog
    pool: Engine
    progress: Progress | None
    share: Callable[[list[Job]], list[Job]] = list
    refresh: Callable[[], object] = bool

    def screen(self) -> tuple[TaskFloor, ...]:
        """Baseline and blind replay on the screening scenes."""
        self.look()
        floors = task_floors(self.plan, self.log.rows)
        if floors is None:
            raise SimulatorBroken("screening rows are missing. Next: run the gate again, it continues where it stopped")
        return floors

    def look(self) -> None:
        """Run what the floors rest on."""
        self._do("screen", [*recording_jobs(self.plan, self.log.rows), *screening_jobs(self.plan)])
        while self._do("record", recording_jobs(self.plan, self.log.rows)):
            pass
        self._do("floor", replay_jobs(self.plan, self.log.rows))

    def compare(self, floors: tuple[TaskFloor, ...]) -> Judgement:
        """Both policies on the pairs, in order, until decided or the budget is spent."""

        def decided() -> bool:
            return judge(self.plan, floors, self.log.rows).decided

        self.pairs(floors, decided)
        self._do("each task", extra_jobs(judge(self.plan, floors, self.log.rows), self.plan))
        return judge(self.plan, floors, self.log.rows)

    def panels(
        self, floors: tuple[TaskFloor, ...], judgement: Judgement | None, refused: Mapping[str, str], wait: bool = True
    ) -> None:
        """Each panel until it is decided, once the suite itself has passed: before that they could change nothing.

        `wait` False does not wait for that, as long as it can still pass: a shard does not know when the others end.
        """
        outcome = Outcome.FAIL if judgement is None else judgement.decision.outcome
        if outcome is Outcome.FAIL or (
            outcome is Outcome.UNDECIDED and (wait or not judgement or not judgement.missing)
        ):
            return
        for name in self.plan.panels:
            scenes = panel_scenes(self.plan, floors, name)
            if name not in refused and not panel_settled(self.plan, scenes, name, self.log.rows):
                stop = partial(panel_settled, self.plan, scenes, name, self.log.rows)
                self._do(name, panel_jobs(self.plan, floors, name), stop)

    def pairs(self, floors: tuple[TaskFloor, ...], stop: Callable[[], bool]) -> None:
        """The pairs of the budget, in order, until `stop()`."""
        if not stop():
            self._do("pairs", pair_jobs(self.plan, floors), stop)

    def _do(self, phase: str, jobs: list[Job], stop: Callable[[], bool] = lambda: False) -> bool:
        jobs = self.share(jobs)
        left = [job for job in jobs if job.key not in self.log.rows]
        done = len(jobs) - len(left)

        def arrived(row: EpisodeRow) -> None:
            nonlocal done
            done += 1
            self.log.append(row)
            if self.progress is not None:
                self.progress(GateProgress(phase, done, len(jobs), row))

        def stop_now() -> bool:
            self.refresh()
            return stop()

        self.pool.run(left, arrived, stop_now)
        return bool(left)


def suite_tasks(spec: GateSpec) -> tuple[SuiteTask, ...]:
    """The tasks of the spec. Raises GateSpecError, or what `open_suite` raises when the simulator is missing."""
    from compress.sim.renderer import NoRenderer
    from compress.sim.suites import UnknownTask, open_suite

    try:
        suite = open_suite(spec.suite, spec.libero_assets)
        chosen = suite.tasks if spec.tasks is None else tuple(suite.task(key) for key in spec.tasks)
    except UnknownTask as error:
        raise GateSpecError(str(error)) from error
    except NoRenderer as error:
        raise SimulatorBroken(str(error)) from error
    if len({task.index for task in chosen}) != len(chosen):
        raise GateSpecError(f"`tasks` names a task twice: {[task.name for task in chosen]}")
    return tuple(
        SuiteTask(task.index, task.name, task.language, suite.n_initial_states(task), spec.max_steps or task.max_steps)
        for task in sorted(chosen, key=lambda task: task.index)
    )


def _image_size(arms: dict[str, PolicySource], spec: GateSpec) -> int:
    sizes = {name: source.image_size for name, source in arms.items() if source.image_size is not None}
    if len(set(sizes.values())) > 1:
        raise UnusablePolicy(f"the policies were made for images of {sizes} pixels, expected one size for both")
    return spec.image_size or next(iter(sizes.values()), DEFAULT_IMAGE_SIZE)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer per folder. Raises FolderBusy."""
    with open(folder / LOCK, "wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderBusy(
                f"{folder} is in use by another gate run. Next: wait for it, or use another folder"
            ) from error
        yield
