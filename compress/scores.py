# SPDX-License-Identifier: Apache-2.0
"""What a ranking metric says of one stack: a number per block, how stable it is, and which blocks it cannot tell apart.

Plain data. Every metric (GateProbe, the baselines, leave-one-out) ends in `Scores`; low means drop first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress import digests

PARTS = ("block", "attention", "mlp")
JOIN = "+"  # between the roles of two stacks whose blocks leave in pairs: `language+action`
Progress = Callable[[int, int, str], None]
Reduce = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class ScoreError(ValueError):
    """Scores that cannot be computed, read or compared; the message names the block, sample or field."""


@dataclass(frozen=True)
class Subject:
    """What was scored.

    Attributes:
        role, part: the stack, and `block`, `attention` or `mlp`.
        depth: blocks in the original stack.
        blocks: original indices of the blocks that were there to be scored, ascending.
        unit, pinned: the stack's rules for removal.
        model_identity: `VlaModel.identity()`.
    """

    role: str
    part: str
    depth: int
    blocks: tuple[int, ...]
    unit: int
    pinned: tuple[int, ...]
    model_identity: str


@dataclass(frozen=True)
class Stability:
    """Rank agreement of two disjoint halves of the samples; `None` where a half ranks all blocks alike.

    `split` is `episodes` when no episode is in both halves, else `samples` (neighbouring frames make that optimistic).
    """

    spearman: float | None
    kendall: float | None
    split: str


@dataclass(frozen=True)
class Scores:
    """One value per block.

    Attributes:
        metric: name in `baselines.SCORERS`.
        subject: what was scored.
        values: one per `subject.blocks`; low = drop first.
        per_half: the same from each half of the samples; empty for metrics that read no data or a single sample.
        stability: agreement of the halves.
        noise: what rounding may add to each value; 0 for exact metrics.
        ties: groups of original block indices whose values are equal, or closer than their noise.
        sample_ids: the samples, sorted.
        wall_s: seconds it took.
        extra: what else the metric has to say, plain data.
    """

    metric: str
    subject: Subject
    values: tuple[float, ...]
    per_half: tuple[tuple[float, ...], ...] = ()
    stability: Stability | None = None
    noise: tuple[float, ...] = ()
    ties: tuple[tuple[int, ...], ...] = ()
    sample_ids: tuple[str, ...] = ()
    wall_s: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        blocks = self.subject.blocks
        if len(self.values) != len(blocks):
            raise ScoreError(
                f"{self.metric}: {len(self.values)} values for {len(blocks)} blocks of {self.subject.role}"
            )
        bad = [b for b, v in zip(blocks, self.values, strict=True) if not math.isfinite(v)]
        if bad:
            raise ScoreError(
                f"{self.metric}: blocks {bad} of {self.subject.role} score NaN or infinity, which cannot be ranked"
            )

    def order(self) -> tuple[int, ...]:
        """Original indices, first to drop first; of equal blocks the later one goes first."""
        ranked = sorted(zip(self.values, self.subject.blocks, strict=True), key=lambda pair: (pair[0], -pair[1]))
        return tuple(block for _, block in ranked)

    def of(self, block: int) -> float:
        """The value of an original block index."""
        return self.values[self.subject.blocks.index(block)]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `evidence/probe.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scores:
        """Inverse of `to_json`.

        Raises:
            ScoreError: a key is missing or unknown, or a value is not finite.
        """
        try:
            plain = {key: _tuples(value) if key != "extra" else value for key, value in data.items()}
            subject = Subject(**{key: _tuples(value) for key, value in data["subject"].items()})
            stability = None if plain.get("stability") is None else Stability(**plain["stability"])
            return cls(**{**plain, "subject": subject, "stability": stability})
        except (KeyError, TypeError, AttributeError) as error:
            raise ScoreError(f"not a block score file ({error}): run the probe stage again") from error

    def digest(self) -> str:
        """sha256 of everything but the time it took."""
        return digests.of_value({key: value for key, value in self.to_json().items() if key != "wall_s"})


def from_samples(
    metric: str, subject: Subject, matrix: NDArray[np.float64], ids: Sequence[str], wall_s: float,
    noise: NDArray[np.float64] | None = None, reduce: Reduce | None = None, extra: Mapping[str, Any] | None = None,
) -> Scores:  # fmt: skip
    """Scores from one row per sample; the order of the samples does not matter.

    Args:
        metric: name.
        subject: what was scored.
        matrix: (samples, blocks).
        ids: one per row.
        wall_s: seconds.
        noise: (samples, blocks) rounding error of each entry; averaged.
        reduce: rows -> one value per block; the mean by default.
        extra: kept as it is.

    Raises:
        ScoreError: no samples, or an id twice.
    """
    if not ids:
        raise ScoreError(f"{metric}: no calibration samples; give at least one demonstration frame")
    twice = sorted({i for i in ids if list(ids).count(i) > 1})
    if twice:
        raise ScoreError(f"{metric}: samples {twice[:3]} occur twice in the calibration set; every sample counts once")
    order = np.argsort(np.asarray(ids))
    matrix, names = matrix[order], [ids[i] for i in order]
    reduce = reduce or (lambda rows: rows.mean(axis=0))
    values = reduce(matrix)
    doubt = np.zeros_like(values) if noise is None else noise[order].mean(axis=0)
    halves, split = _halves(names)
    per_half = tuple(tuple(map(float, reduce(matrix[half]))) for half in halves)
    agreement = Stability(*rank_agreement(*per_half), split) if per_half else None
    return Scores(
        metric, subject, tuple(map(float, values)), per_half, agreement, tuple(map(float, doubt)),
        find_ties(subject.blocks, values, doubt), tuple(names), wall_s, dict(extra or {}),
    )  # fmt: skip


def without_samples(
    metric: str, subject: Subject, values: Sequence[float], wall_s: float, extra: Mapping[str, Any] | None = None
) -> Scores:
    """Scores of a metric that reads no data."""
    ties = find_ties(subject.blocks, np.asarray(values), np.zeros(len(values)))
    return Scores(metric, subject, tuple(map(float, values)), ties=ties, wall_s=wall_s, extra=dict(extra or {}))


def roles_of(role: str) -> tuple[str, ...]:
    """The stacks that a role of a plan names: one, or the two of a pair."""
    return tuple(role.split(JOIN))


def summed(found: Sequence[Scores], unit: int) -> Scores:
    """One value per pair: the sum over its stacks; `extra` keeps each stack's own values.

    Args:
        found: of one metric, part and model, over stacks that hold the same blocks.
        unit: how many neighbouring pairs must leave together.

    Raises:
        ScoreError: the stacks hold different blocks.
    """
    first = found[0].subject
    blocks = {item.subject.role: list(item.subject.blocks) for item in found}
    if len({tuple(held) for held in blocks.values()}) > 1:
        raise ScoreError(f"blocks cannot be scored in pairs, the stacks hold different ones: {blocks}")
    subject = replace(
        first, role=JOIN.join(blocks), unit=unit, pinned=tuple(sorted({b for s in found for b in s.subject.pinned}))
    )

    def total(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
        return tuple(map(sum, zip(*rows, strict=True))) if all(rows) else ()

    values, noise = total([s.values for s in found]), total([s.noise for s in found])
    per_half = tuple(total(half) for half in zip(*(s.per_half for s in found), strict=True))
    splits = {s.stability.split for s in found if s.stability is not None}
    agreement = Stability(*rank_agreement(*per_half), splits.pop()) if per_half and splits else None
    ties = find_ties(first.blocks, np.asarray(values), np.asarray(noise or [0.0] * len(values)))
    wall = max(s.wall_s for s in found)  # the stacks of one run report its whole time each
    extra = {"of": {s.subject.role: {"values": list(s.values), **dict(s.extra)} for s in found}}
    return Scores(found[0].metric, subject, values, per_half, agreement, noise, ties, found[0].sample_ids, wall, extra)


def rank_agreement(a: Sequence[float], b: Sequence[float]) -> tuple[float | None, float | None]:
    """Spearman's rho and Kendall's tau-b; `None` where one side ranks everything alike."""
    from scipy import stats

    if len(a) < 2 or len(set(a)) == 1 or len(set(b)) == 1:
        return None, None
    return float(stats.spearmanr(a, b).statistic), float(stats.kendalltau(a, b).statistic)


def find_ties(
    blocks: Sequence[int], values: NDArray[np.float64], noise: NDArray[np.float64]
) -> tuple[tuple[int, ...], ...]:
    """Groups of blocks that follow each other in the ranking by no more than their noise."""
    ranked = [int(i) for i in np.argsort(values, kind="stable")]
    groups: list[list[int]] = [[ranked[0]]] if ranked else []
    for before, here in pairwise(ranked):
        if values[here] - values[before] <= noise[here] + noise[before]:
            groups[-1].append(here)
        else:
            groups.append([here])
    return tuple(tuple(sorted(blocks[i] for i in group)) for group in groups if len(group) > 1)


def _halves(names: Sequence[str]) -> tuple[tuple[NDArray[np.bool_], ...], str]:
    """Two masks over sorted sample ids: by whole episodes (`task/demo/frame`) if there are several, else by sample."""
    if len(names) < 2:
        return (), "samples"
    episodes = [name.rpartition("/")[0] for name in names]
    distinct = sorted(set(episodes))
    keys = {e: i for i, e in enumerate(distinct)}
    by_episode = len(distinct) > 1
    side = np.array([keys[e] % 2 for e in episodes] if by_episode else [i % 2 for i in range(len(names))], dtype=bool)
    return (~side, side), "episodes" if by_episode else "samples"


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
