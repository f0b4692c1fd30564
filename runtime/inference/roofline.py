# SPDX-License-Identifier: Apache-2.0
"""How fast could this graph be here at best? Its counted work against what this machine was measured to do at most.

    floor = sum over matrix products of max(FLOPs / peak FLOP/s, weight bytes / peak bandwidth)
            + matrix products * time to start one

Each term is a lower bound: products run one after the other, a product cannot start before its weights are read, and
an engine may fuse everything else into products but not products into each other. What lies between them (norms,
softmax, copies) has no floor of its own, so it shows as distance from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.errors import ContractError

SCHEMA = "dropgate.work/1"
WORK_FILE = "evidence/work.json"
OVERHEAD = 0.5  # of the measured time: more than this beyond the floor, and neither compute nor bandwidth binds


@dataclass(frozen=True)
class Product:
    """Matrix products of one kind: operations (2 per multiply-add) and constant bytes of one, and how many there are.

    `precision` is what it computes in: `float32`, `float16`, `bfloat16` or `int8`.
    """

    precision: str
    flops: int
    weight_bytes: int
    count: int


@dataclass(frozen=True)
class Work:
    """What one inference of a graph has to do."""

    products: tuple[Product, ...]

    @property
    def flops(self) -> int:
        """Of all products."""
        return sum(p.flops * p.count for p in self.products)

    @property
    def weight_bytes(self) -> int:
        """Read by all products; weights that a loop reads again count again."""
        return sum(p.weight_bytes * p.count for p in self.products)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that occur, sorted."""
        return tuple(sorted({p.precision for p in self.products}))

    def to_json(self) -> dict[str, Any]:
        """Plain data for `evidence/work.json`."""
        rows = [
            {"precision": p.precision, "flops": p.flops, "weight_bytes": p.weight_bytes, "count": p.count}
            for p in self.products
        ]
        return {"schema": SCHEMA, "flops": self.flops, "weight_bytes": self.weight_bytes, "products": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> Work:
        """Inverse of `to_json`; ContractError where it is something else."""
        try:
            if data["schema"] != SCHEMA:
                raise ContractError(f"{where}: schema is {data['schema']!r}, expected {SCHEMA}; export again")
            return cls(tuple(Product(**row) for row in data["products"]))
        except (KeyError, TypeError) as error:
            raise ContractError(f"{where}: is not counted work ({error}); export again") from error


@dataclass(frozen=True)
class Peak:
    """What this machine was measured to do at most, with the same engine and threads.

    Attributes:
        flops: precision -> operations per second of a big matrix product.
        bytes_per_s: of reading memory that is as large as the weights.
        launch_s: [s] per node of a chain of tiny ones.
    """

    flops: Mapping[str, float]
    bytes_per_s: float
    launch_s: float

    def best(self, other: Peak) -> Peak:
        """The better of two measurements, number by number."""
        names = {**self.flops, **other.flops}
        flops = {name: max(self.flops.get(name, 0.0), other.flops.get(name, 0.0)) for name in names}
        return Peak(flops, max(self.bytes_per_s, other.bytes_per_s), min(self.launch_s, other.launch_s))


@dataclass(frozen=True)
class Floor:
    """The least time [ms] and its terms; `achieved_ms` and `ratio` are the measurement beside it.

    `binds` is the largest of the floor's terms (`compute`, `bandwidth`, `launch`), or `overhead` where more than half
    of the measured time is in none of them.
    """

    floor_ms: float
    compute_ms: float
    bandwidth_ms: float
    launch_ms: float
    achieved_ms: float
    ratio: float
    binds: str


def floor(work: Work, peak: Peak, achieved_ms: float) -> Floor:
    """The floor of `work` on a machine, beside the measured time of the graph alone [ms].

    Raises:
        ContractError: a precision was not measured, or there is nothing to compare.
    """
    missing = [name for name in work.precisions if not peak.flops.get(name)]
    if missing or not work.products:
        found = f"found no peak of {missing}" if missing else "found no matrix product in the graph"
        raise ContractError(f"floor: {found}, expected one of each in {list(work.precisions)}")
    compute = bandwidth = 0.0
    for product in work.products:
        computing = product.flops / peak.flops[product.precision]
        reading = product.weight_bytes / peak.bytes_per_s
        compute += product.count * (computing if computing >= reading else 0.0)
        bandwidth += product.count * (reading if reading > computing else 0.0)
    launch = peak.launch_s * sum(p.count for p in work.products)
    least = compute + bandwidth + launch
    terms = {"compute": compute, "bandwidth": bandwidth, "launch": launch}
    over = achieved_ms * 1e-3 - least > OVERHEAD * achieved_ms * 1e-3
    binds = "overhead" if over else max(terms, key=lambda name: terms[name])
    ms = {f"{name}_ms": 1e3 * value for name, value in terms.items()}
    return Floor(1e3 * least, **ms, achieved_ms=achieved_ms, ratio=achieved_ms / (1e3 * least), binds=binds)
