# SPDX-License-Identifier: Apache-2.0
"""Which blocks leave a stack: scores and a budget in, a list of kept and dropped blocks out. Plain data.

Blocks leave in the order of their scores (arXiv 2606.27755: one-shot ranking), in units that the stack allows, until
the budget is met; pinned blocks stay. Or the list is given, by hand or as a published one: then scores decide nothing
and may be there for the report. Indices are those of the original, unpruned stack.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compress import digests
from compress.atomic import write_json
from compress.plan_spec import FORMS, PlanError, PlanSpec
from compress.published import preset
from compress.scores import Scores, Subject


@dataclass(frozen=True)
class Costs:
    """What the blocks of a stack cost, measured on one model (`compress.costs.measure`).

    Attributes:
        role, part: what was measured.
        blocks: original indices, ascending; the three lists below have one entry each.
        parameters: of the scored part.
        flops: of the scored part, one sample.
        latency_ms: of the scored part, inside real forward passes; empty if not timed.
        total_parameters, total_flops, total_latency_ms: of the whole model.
        device: where the time was taken.
        model_identity: of the model.
    """

    role: str
    part: str
    blocks: tuple[int, ...]
    parameters: tuple[int, ...]
    flops: tuple[int, ...]
    total_parameters: int
    total_flops: int
    model_identity: str
    latency_ms: tuple[float, ...] = ()
    total_latency_ms: float | None = None
    device: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Costs:
        """Inverse of `dataclasses.asdict`; TypeError where keys are missing or unknown."""
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        return cls(**plain)

    def left(self, dropped: Sequence[int]) -> dict[str, float]:
        """Parameters, share of FLOPs and (where timed) milliseconds of the model once `dropped` are gone."""
        gone = [self.blocks.index(block) for block in dropped]
        rest: dict[str, float] = {
            "parameters": self.total_parameters - sum(self.parameters[i] for i in gone),
            "flops_share": 1.0 - sum(self.flops[i] for i in gone) / self.total_flops,
        }
        if self.total_latency_ms is not None:
            rest["latency_ms"] = self.total_latency_ms - self.saved_ms(dropped)
        return rest

    def saved_ms(self, dropped: Sequence[int]) -> float:
        """Milliseconds that leave with `dropped`, where timed."""
        return sum(self.latency_ms[self.blocks.index(block)] for block in dropped)


@dataclass(frozen=True)
class Plan:
    """Which blocks of one stack stay.

    Attributes:
        role, part: the stack, and what of a dropped block goes.
        depth: blocks of the original stack.
        kept, dropped: original indices, ascending; blocks that had left before are in neither.
        metric: what ranked them; `given` or `given by NAME` where the list itself was asked for.
        scores_digest: of the scores beside it; empty where there were none.
        model_identity: the model this plan is for.
        rule: the amount that was asked for.
        close_call: the tie that the cut runs through, if it does: other choices were as good.
        predicted: parameters, flops_share and latency_ms afterwards, as far as costs were given.
        form: how whole blocks go, see `PlanSpec`.
    """

    role: str
    part: str
    depth: int
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    metric: str
    scores_digest: str
    model_identity: str
    rule: Mapping[str, float]
    close_call: tuple[int, ...] = ()
    predicted: Mapping[str, float] = field(default_factory=dict)
    form: str = "auto"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise PlanError(f"{self.role}: form is {self.form!r}, expected one of: {', '.join(FORMS)}")
        both = sorted([*self.kept, *self.dropped])
        if both != sorted(set(both)) or any(not 0 <= block < self.depth for block in both):
            raise PlanError(
                f"{self.role}: kept {list(self.kept)} and dropped {list(self.dropped)} are not disjoint indices "
                f"below {self.depth}"
            )

    @property
    def ranked(self) -> bool:
        """Whether scores decided; if not, the list was given."""
        return not self.metric.startswith("given")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Inverse of `to_json`.

        Raises:
            PlanError: a key is missing or unknown, or the indices contradict each other.
        """
        try:
            plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
            return cls(**plain)
        except TypeError as error:
            raise PlanError(f"not a plan ({error}): run the plan stage again") from error

    def digest(self) -> str:
        """sha256 of the plan."""
        return digests.of_value(self.to_json())

    def map_text(self) -> str:
        """The kept-block map: a mark per original block (`#` kept, `-` dropped now, `.` gone before), and a summary."""
        marks = "".join("#" if b in self.kept else "-" if b in self.dropped else "." for b in range(self.depth))
        what = {"block": "blocks", "attention": "attention parts", "mlp": "MLP parts"}[self.part]
        how = f"by {self.metric}" if self.ranked else f"as {self.metric}"
        facts = [f"keep {len(self.kept)} of {self.depth} {what} {how}", f"drop {list(self.dropped)}"]
        formats = {"parameters": "{:,.0f} parameters", "flops_share": "{:.1%} of the FLOPs", "latency_ms": "{:.1f} ms"}
        facts += [text.format(self.predicted[name]) for name, text in formats.items() if name in self.predicted]
        if self.close_call:
            facts.append(f"the cut runs through a tie of {list(self.close_call)}")
        return f"{self.role:<16}[{marks}]  {'; '.join(facts)}"


def make_plan(scores: Scores | Subject, spec: PlanSpec, costs: Costs | None = None) -> Plan:
    """Cut the stack to the budget.

    Args:
        scores: what ranks the blocks; where the list itself is given, the stack alone will do.
        spec: how much leaves.
        costs: of the same stack.

    Raises:
        PlanError: scores of another stack or part, costs missing or of another model, a budget that cannot be met, or
            a given list that does not fit the stack.
    """
    subject = scores.subject if isinstance(scores, Scores) else scores
    if (subject.role, subject.part) != (spec.role, spec.part):
        raise PlanError(
            f"the scores are of {subject.role}/{subject.part}, the plan wants {spec.role}/{spec.part}: probe that one"
        )
    wanted = (spec.role, spec.part, subject.model_identity)
    if costs is not None and (costs.role, costs.part, costs.model_identity) != wanted:
        found = f"{costs.role}/{costs.part} of model {costs.model_identity[:12]}"
        raise PlanError(f"the costs are of {found}, the scores of model {subject.model_identity[:12]}: measure again")
    if spec.blocks is not None:
        dropped = _given(subject, spec, spec.blocks)
        metric = "given" if spec.preset is None else f"given by {spec.preset}"
        digest = scores.digest() if isinstance(scores, Scores) else ""
        return _plan(subject, spec, dropped, metric, digest, (), {} if costs is None else costs.left(dropped))
    if not isinstance(scores, Scores):
        raise PlanError(f"{spec.amount[0]} of {spec.role} needs scores: probe it, or give keep_blocks or a preset")
    runs = ranked_runs(scores, spec)
    dropped = tuple(sorted(_dropped(runs, len(subject.blocks), spec, costs)))
    return ranked_plan(scores, spec, dropped, costs)


def ranked_plan(
    scores: Scores, spec: PlanSpec, dropped: tuple[int, ...], costs: Costs | None = None,
    known: Mapping[str, float] | None = None,
) -> Plan:  # fmt: skip
    """The plan that drops these blocks of a ranked stack; `known` replaces what `costs` alone would predict."""
    split = next((t for t in scores.ties if set(t) & set(dropped) and set(t) - set(dropped)), ())
    predicted = {**({} if costs is None else costs.left(dropped)), **(known or {})}
    return _plan(scores.subject, spec, dropped, scores.metric, scores.digest(), split, predicted)


def _plan(
    subject: Subject, spec: PlanSpec, dropped: tuple[int, ...], metric: str, digest: str, split: tuple[int, ...],
    predicted: Mapping[str, float],
) -> Plan:  # fmt: skip
    kept = tuple(block for block in subject.blocks if block not in dropped)
    name, value = spec.amount
    return Plan(
        spec.role, spec.part, subject.depth, kept, dropped, metric, digest, subject.model_identity,
        {name: value}, split, predicted, spec.form,
    )  # fmt: skip


def save_plans(path: Path, plans: Sequence[Plan]) -> None:
    """Write `plan.json`, one plan per stack, atomically."""
    write_json(path, {"plans": [plan.to_json() for plan in plans]})


def load_plans(path: Path) -> tuple[Plan, ...]:
    """Read `plan.json`.

    Raises:
        PlanError: no such file, not JSON, or not plans.
    """
    try:
        return tuple(Plan.from_json(entry) for entry in json.loads(path.read_text())["plans"])
    except (OSError, json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise PlanError(f"{path} is not a plan file ({error}): run the plan stage again") from error


def _given(subject: Subject, spec: PlanSpec, blocks: tuple[int, ...]) -> tuple[int, ...]:
    """What leaves if exactly `blocks` stay; refused where the stack does not allow it."""
    name = "keep_blocks" if spec.preset is None else f"preset {spec.preset}"
    if spec.preset is not None and preset(spec.preset).depth != subject.depth:
        raise PlanError(f"{name} is for {preset(spec.preset).depth} blocks, {spec.role} has {subject.depth}")
    beyond, gone = [b for b in blocks if b >= subject.depth], sorted(set(blocks) - set(subject.blocks))
    if beyond:
        raise PlanError(f"{name} keeps blocks {beyond}, but {spec.role} has {subject.depth}: 0 to {subject.depth - 1}")
    if gone:
        raise PlanError(f"{name} keeps blocks {gone}, which left before; {spec.role} holds {list(subject.blocks)}")
    dropped = tuple(block for block in subject.blocks if block not in blocks)
    if spec.part != "block" or spec.form == "stub":
        return dropped
    pinned = sorted(set(dropped) & set(subject.pinned))
    units = {block // subject.unit for block in dropped}
    torn = [block for block in blocks if block // subject.unit in units]
    if pinned or torn:
        raise PlanError(
            f"{name} drops pinned blocks {pinned} of {spec.role} and tears {torn} from their units of {subject.unit}: "
            "change the list, or set form: stub, which takes any block"
        )
    return dropped


def ranked_runs(scores: Scores, spec: PlanSpec) -> list[list[int]]:
    """Everything that may leave at once, from nothing to the most: units in the order of the sum of their scores."""
    subject = scores.subject
    units = free_units(subject, whole=spec.part == "block" and spec.form != "stub")
    units.sort(key=lambda unit: (sum(scores.of(block) for block in unit), -unit[0]))
    if spec.part == "block" and len(subject.blocks) == sum(map(len, units)):
        units = units[:-1]  # a stack without any block is no stack
    return [[block for unit in units[:count] for block in unit] for count in range(len(units) + 1)]


def free_units(subject: Subject, whole: bool) -> list[tuple[int, ...]]:
    """What may leave a stack, by position; `whole`: units without pinned blocks, else any block."""
    size, pinned = (subject.unit, set(subject.pinned)) if whole else (1, set())
    units: dict[int, list[int]] = {}
    for block in subject.blocks:
        units.setdefault(block // size, []).append(block)
    return [tuple(unit) for unit in units.values() if not set(unit) & pinned]


def _dropped(runs: Sequence[list[int]], live: int, spec: PlanSpec, costs: Costs | None) -> list[int]:
    """The blocks of the shortest run that meets the budget."""
    name, value = spec.amount
    if name in ("parameter_budget", "latency_budget_ms"):
        key = "parameters" if name == "parameter_budget" else "latency_ms"
        if costs is None or (key == "latency_ms" and costs.total_latency_ms is None):
            raise PlanError(
                f"{name} needs {key} measured on this machine: give make_plan the result of compress.costs.measure"
            )
        sizes = [costs.left(run)[key] for run in runs]
        fit = next((run for run, size in zip(runs, sizes, strict=True) if size <= value), None)
        if fit is None:
            least, now = f"{min(sizes):,.8g}", f"{sizes[0]:,.8g}"
            raise PlanError(
                f"{name} is {value:,.8g}, but {spec.role} cut to the least leaves {least} (now {now}): raise the budget"
            )
        return fit
    if name == "keep_fraction":
        return min(runs, key=lambda run: (abs(live - len(run) - value * live), len(run)))
    wanted = live - value if name == "keep" else value
    allowed = [len(run) for run in runs]
    if wanted not in allowed:
        shown = [live - n for n in allowed[::-1]] if name == "keep" else allowed
        raise PlanError(f"{name} is {value}, but {spec.role} has {live} blocks; possible here: {shown}")
    return runs[allowed.index(int(wanted))]
