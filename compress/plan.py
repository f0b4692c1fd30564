# SPDX-License-Identifier: Apache-2.0
"""Which blocks leave a stack: scores and a budget in, a list of kept and dropped blocks out. Plain data.

Blocks leave in the order of their scores (arXiv 2606.27755: one-shot ranking), in units that the stack allows, until
the budget is met; pinned blocks stay. Indices are those of the original, unpruned stack.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compress import digests
from compress.atomic import write_json
from compress.scores import PARTS, Scores

FORMS = ("auto", "stub", "compact")
AMOUNTS = ("keep", "drop", "keep_fraction", "parameter_budget", "latency_budget_ms")


class PlanError(ValueError):
    """A budget that cannot be met, or a plan that cannot be read; the message says what is possible."""


@dataclass(frozen=True)
class PlanSpec:
    """How much leaves one stack; exactly one of the five amounts is set.

    Attributes:
        role, part: the stack, and what of a block goes.
        form: how a whole block goes: `compact` (the list gets shorter), `stub` (its slot stays and writes zero; any
            subset is allowed), or `auto`: compact where the stack allows it.
        keep, drop: blocks.
        keep_fraction: of the blocks that are there now, (0, 1]; rounded to the nearest allowed number, halves up.
        parameter_budget: parameters of the whole model afterwards, at most.
        latency_budget_ms: predicted time of one inference afterwards [ms], at most; needs measured costs.
    """

    role: str = "language"
    part: str = "block"
    keep: int | None = None
    drop: int | None = None
    keep_fraction: float | None = None
    parameter_budget: int | None = None
    latency_budget_ms: float | None = None
    form: str = "auto"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise PlanError(f"form is {self.form!r}, expected one of: {', '.join(FORMS)}")
        given = [name for name in AMOUNTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise PlanError(f"set exactly one of {', '.join(AMOUNTS)}; found {', '.join(given) or 'none'}")
        if self.part not in PARTS:
            raise PlanError(f"part is {self.part!r}, expected one of: {', '.join(PARTS)}")
        name, value = given[0], getattr(self, given[0])
        inside = 0.0 < value <= 1.0 if name == "keep_fraction" else value >= 0 if name == "drop" else value > 0
        if not inside:  # NaN is never inside
            limits = {"keep_fraction": "in (0, 1]", "drop": ">= 0"}.get(name, "> 0")
            raise PlanError(f"{name} is {value}, expected {limits}")

    @property
    def amount(self) -> tuple[str, float]:
        """Name and value of the one amount that is set."""
        name = next(name for name in AMOUNTS if getattr(self, name) is not None)
        return name, getattr(self, name)


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

    def left(self, dropped: Sequence[int]) -> dict[str, float]:
        """Parameters, share of FLOPs and (where timed) milliseconds of the model once `dropped` are gone."""
        gone = [self.blocks.index(block) for block in dropped]
        rest: dict[str, float] = {
            "parameters": self.total_parameters - sum(self.parameters[i] for i in gone),
            "flops_share": 1.0 - sum(self.flops[i] for i in gone) / self.total_flops,
        }
        if self.total_latency_ms is not None:
            rest["latency_ms"] = self.total_latency_ms - sum(self.latency_ms[i] for i in gone)
        return rest


@dataclass(frozen=True)
class Plan:
    """Which blocks of one stack stay.

    Attributes:
        role, part: the stack, and what of a dropped block goes.
        depth: blocks of the original stack.
        kept, dropped: original indices, ascending; blocks that had left before are in neither.
        metric, scores_digest: what ranked them.
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
        facts = [f"keep {len(self.kept)} of {self.depth} {what} by {self.metric}", f"drop {list(self.dropped)}"]
        formats = {"parameters": "{:,.0f} parameters", "flops_share": "{:.1%} of the FLOPs", "latency_ms": "{:.1f} ms"}
        facts += [text.format(self.predicted[name]) for name, text in formats.items() if name in self.predicted]
        if self.close_call:
            facts.append(f"the cut runs through a tie of {list(self.close_call)}")
        return f"{self.role:<16}[{marks}]  {'; '.join(facts)}"


def make_plan(scores: Scores, spec: PlanSpec, costs: Costs | None = None) -> Plan:
    """Cut the stack to the budget.

    Raises:
        PlanError: scores of another stack or part, costs missing or of another model, or a budget that cannot be met.
    """
    subject = scores.subject
    if (subject.role, subject.part) != (spec.role, spec.part):
        raise PlanError(
            f"the scores are of {subject.role}/{subject.part}, the plan wants {spec.role}/{spec.part}: probe that one"
        )
    wanted = (spec.role, spec.part, subject.model_identity)
    if costs is not None and (costs.role, costs.part, costs.model_identity) != wanted:
        found = f"{costs.role}/{costs.part} of model {costs.model_identity[:12]}"
        raise PlanError(f"the costs are of {found}, the scores of model {subject.model_identity[:12]}: measure again")
    units = _units(scores, whole=spec.part == "block" and spec.form != "stub")
    if spec.part == "block" and len(subject.blocks) == sum(map(len, units)):
        units = units[:-1]  # a stack without any block is no stack
    dropped = tuple(sorted(_dropped(units, len(subject.blocks), spec, costs)))
    kept = tuple(block for block in subject.blocks if block not in dropped)
    split = next((t for t in scores.ties if set(t) & set(dropped) and set(t) & set(kept)), ())
    name, value = spec.amount
    return Plan(
        spec.role, spec.part, subject.depth, kept, dropped, scores.metric, scores.digest(), subject.model_identity,
        {name: value}, split, costs.left(dropped) if costs is not None else {}, spec.form,
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


def _units(scores: Scores, whole: bool) -> list[tuple[int, ...]]:
    """What may leave, first to leave first, ranked by the sum of its scores; `whole`: units without pinned blocks."""
    subject = scores.subject
    size, pinned = (subject.unit, set(subject.pinned)) if whole else (1, set())
    units: dict[int, list[int]] = {}
    for block in subject.blocks:
        units.setdefault(block // size, []).append(block)
    free = [tuple(unit) for unit in units.values() if not set(unit) & pinned]
    return sorted(free, key=lambda unit: (sum(scores.of(block) for block in unit), -unit[0]))


def _dropped(units: Sequence[tuple[int, ...]], live: int, spec: PlanSpec, costs: Costs | None) -> list[int]:
    """The blocks of the shortest run of `units` that meets the budget."""
    name, value = spec.amount
    runs = [[block for unit in units[:count] for block in unit] for count in range(len(units) + 1)]
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
