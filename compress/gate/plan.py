# SPDX-License-Identifier: Apache-2.0
"""The pre-registered plan: which scenes, in which one random order, on disk before the first episode.

The order is a shuffle of *all* (task, state) pairs: going task by task, a test that stops early would promote a policy
whose last task is broken. There is no other way to get an order than `make_plan`.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from compress.atomic import write_json
from compress.gate.panel_spec import INSTRUCTION_SWAP
from compress.gate.spec import GateSpec, GateSpecError

SCHEMA = "dropgate.gate_plan/2"
RECORD_STATES = 3  # scenes on which a recording for the blind replay is tried
MIN_POPULATION = 100  # fewer scenes cannot stand for themselves: their pairs are judged as an endless stream
RULE = (
    "1. On the screening scenes of each task the baseline acts, and a recording of one other scene is replayed blind. "
    "A task counts if the baseline's rate exceeds the replay's by at least floor_gap. 2. Both policies run the pairs "
    "of `order` whose task counts, in that order, at most `pairs` of them; a crash is a failure. 3. Each pair gives "
    "candidate minus baseline, -1, 0 or +1; two betting e-processes look after every pair; the first that reaches "
    "1/alpha decides. 4. After a pass, the next pairs in `order` of every task that was seen too seldom for a veto. 5. "
    "Every panel is a test of its own of that kind, with its own order, budget, margin and alpha, on the pairs whose "
    "task counts; both policies get the same perturbation, drawn from (panel, task, state, seed) alone. Under "
    "instruction_swap the policies are told another task's sentence, and what counts is NOT reaching the original "
    "goal. 6. Promote only if 'not worse by the margin' is reached, no suite or task is significantly worse (Holm), "
    "and every panel that is not advisory passes, with a baseline that itself manages at least twice its margin."
)


class PlanMismatch(ValueError):
    """The folder holds another plan than the one that was asked for."""


class Pair(NamedTuple):
    """One scene that both policies run."""

    task: int
    state: int
    seed: int


@dataclass(frozen=True)
class SuiteTask:
    """What the plan needs to know of a task. `states` is the number of its stored initial states."""

    index: int
    name: str
    sentence: str
    states: int
    max_steps: int


@dataclass(frozen=True)
class GatePlan:
    """Everything that is fixed before the first episode.

    Attributes:
        protocol: `GateSpec.protocol()`.
        arms: identity (policy id) of candidate and baseline.
        tasks: those of the suite that take part.
        order: every (task, state, seed), each once, shuffled.
        screen: per task index, the scenes of baseline and blind replay.
        record: per task index, the scenes on which a recording is tried, in order; never those of `screen`.
        panels: per panel, every (pair, index of the task whose sentence is given), each pair once, shuffled by itself.
    """

    protocol: dict[str, Any]
    arms: dict[str, str]
    tasks: tuple[SuiteTask, ...]
    order: tuple[Pair, ...]
    screen: dict[int, tuple[Pair, ...]]
    record: dict[int, tuple[Pair, ...]]
    panels: dict[str, tuple[tuple[Pair, int], ...]]

    def task(self, index: int) -> SuiteTask:
        """The task with this index in the suite."""
        return next(task for task in self.tasks if task.index == index)

    def to_json(self) -> dict[str, Any]:
        """JSON data without the digest."""
        return {
            "schema": SCHEMA,
            "rule": RULE,
            "protocol": self.protocol,
            "arms": self.arms,
            "tasks": [asdict(task) for task in self.tasks],
            "order": [list(pair) for pair in self.order],
            "screen": {str(task): [list(pair) for pair in pairs] for task, pairs in self.screen.items()},
            "record": {str(task): [list(pair) for pair in pairs] for task, pairs in self.record.items()},
            "panels": {name: [[*pair, told] for pair, told in scenes] for name, scenes in self.panels.items()},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GatePlan:
        """Inverse of `to_json`; the order must be the one that `make_plan` gives. Raises PlanMismatch."""
        try:
            spec = GateSpec(**data["protocol"])
            plan = make_plan(spec, tuple(SuiteTask(**task) for task in data["tasks"]), data["arms"])
        except (KeyError, TypeError, ValueError) as error:
            raise PlanMismatch(f"this is not a gate plan ({type(error).__name__}: {error})") from error
        differ = [key for key, value in plan.to_json().items() if data.get(key) != value]
        if differ:
            raise PlanMismatch(f"the plan was edited: {', '.join(differ)} is not what its protocol and seed give")
        return plan

    def digest(self) -> str:
        """SHA-256 of the canonical content."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def make_plan(spec: GateSpec, tasks: tuple[SuiteTask, ...], arms: dict[str, str]) -> GatePlan:
    """The plan of a spec over the tasks of a suite. Raises GateSpecError if the scenes do not suffice."""
    counts = {task.index: _states(spec, task) for task in tasks}
    order_rng = np.random.default_rng([spec.order_seed, 0])
    screen_rng = np.random.default_rng(
        [spec.order_seed, 1]
    )  # apart from the order: which tasks count must not depend on it
    population = [Pair(task, state, spec.env_seed) for task, n in sorted(counts.items()) for state in range(n)]
    order = tuple(population[i] for i in order_rng.permutation(len(population)))
    screen, record = {}, {}
    for task, n in sorted(counts.items()):
        shuffled = [Pair(task, int(state), spec.env_seed) for state in screen_rng.permutation(n)]
        recorded = min(RECORD_STATES, n - 1)
        record[task], screen[task] = (
            tuple(shuffled[:recorded]),
            tuple(shuffled[recorded : recorded + spec.floor_states]),
        )
    panels = {name: _panel(spec, name, population) for name in spec.panels}
    return GatePlan(spec.protocol(), dict(arms), tuple(tasks), order, screen, record, panels)


def register(plan: GatePlan, path: Path) -> str:
    """Write the plan, or check that exactly this one is already there. Returns its digest. Raises PlanMismatch."""
    wanted = {**plan.to_json(), "digest": plan.digest()}
    if not path.exists():
        write_json(path, wanted)
        return plan.digest()
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise PlanMismatch(f"{path} is not JSON ({error}). Next: run the gate in a new folder") from error
    if found != wanted:
        differ = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
        raise PlanMismatch(
            f"{path} is the plan of another gate run (it differs in {', '.join(differ)}). Next: use a new folder"
        )
    return plan.digest()


def _states(spec: GateSpec, task: SuiteTask) -> int:
    count = task.states if spec.states is None else spec.states
    if count > task.states:
        raise GateSpecError(f"`states` is {count}, but task {task.name!r} has {task.states} stored initial states")
    if count < 2:
        raise GateSpecError(
            f"task {task.name!r} has {count} stored initial state, expected at least 2: one to record, one to compare"
        )
    return count


def _panel(spec: GateSpec, name: str, population: list[Pair]) -> tuple[tuple[Pair, int], ...]:
    """All pairs in an order of the panel's own; empty for a swap of one task, which has no other sentence to give."""
    rng = np.random.default_rng([spec.order_seed, 3, zlib.crc32(name.encode())])
    pairs = [population[i] for i in rng.permutation(len(population))]
    if name != INSTRUCTION_SWAP:
        return tuple((pair, pair.task) for pair in pairs)
    tasks = sorted({pair.task for pair in pairs})
    if len(tasks) < 2:
        return ()
    return tuple((pair, int(rng.choice([task for task in tasks if task != pair.task]))) for pair in pairs)
