# SPDX-License-Identifier: Apache-2.0
"""What a station demands of an artifact before its arm may move: a file of the station's, never of the artifact's.

    {"schema": "dropgate.station_policy/1",
     "panels": {"in_distribution": {"margin": 0.03, "alpha": 0.05, "min_pairs": 30}, ...},
     "min_baseline": 0.5, "max_release_days": 90, "require_regression": true}

Thresholds are compared with the numbers of the gate's report; those that the report says it used decide nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.contract import check
from runtime.contract.codec import OMITTED, conform, decode
from runtime.contract.manifest import parse_json
from runtime.contract.panels import PANELS, PRIMARY
from runtime.contract.station_file import read_station_file
from runtime.errors import ContractError

SCHEMA = "dropgate.station_policy/1"
POLICY_BYTES = 64 * 1024
_KEYS = ("schema", "panels", "min_baseline", "max_release_days", "require_regression")
EXAMPLE = "an example is launch/config/station_policy.json"


@dataclass(frozen=True)
class PanelDemand:
    """Of one panel: how much success rate may be lost at most, at which error rate, from how many pairs.

    `margin` (0, 1) and `alpha` (0, 0.5] are fractions; `min_baseline` may be left out, then the station's counts.
    Raises ContractError.
    """

    margin: float
    alpha: float
    min_pairs: int
    min_baseline: float | None = field(default=None, metadata=OMITTED)

    def __post_init__(self) -> None:
        conform(self)
        check.require(0.0 < self.margin < 1.0, "margin", self.margin, "a fraction above 0 and below 1")
        check.require(0.0 < self.alpha <= 0.5, "alpha", self.alpha, "a fraction above 0, at most 0.5")
        check.require(self.min_pairs >= 1, "min_pairs", self.min_pairs, "at least 1")
        least = self.min_baseline
        check.require(least is None or 0.0 < least <= 1.0, "min_baseline", least, "a fraction in (0, 1]")


@dataclass(frozen=True)
class StationPolicy:
    """The station's demands; `sha256` is of the file's bytes. Raises ContractError.

    Attributes:
        panels: by name; `in_distribution` is always among them.
        min_baseline: rate of the uncompressed policy in each of these panels, below which a comparison proves nothing
            (who never succeeds loses nothing).
        max_release_days: a release older than this is too old, whatever its own expiry says.
        require_regression: a passed simulation regression of this very robot is needed.
    """

    panels: Mapping[str, PanelDemand]
    min_baseline: float
    max_release_days: float
    require_regression: bool
    sha256: str = ""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.panels) - set(PANELS))
        check.require(not unknown, "station policy panels", unknown, f"names among {list(PANELS)}")
        check.require(PRIMARY in self.panels, "station policy panels", sorted(self.panels), f"{PRIMARY!r} among them")
        for name in ("min_baseline", "max_release_days"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            check.require(number, f"station policy {name}", value, "a number")
        check.require(0.0 < self.min_baseline <= 1.0, "station policy min_baseline", self.min_baseline, "in (0, 1]")
        days = self.max_release_days
        check.require(0.0 < days <= 3660.0, "station policy max_release_days", days, "days in (0, 3660]")
        plain = isinstance(self.require_regression, bool)
        check.require(plain, "station policy require_regression", self.require_regression, "true or false")

    @classmethod
    def load(cls, path: str | Path) -> StationPolicy:
        """Read the file; TrustError if it is missing or unsafe (see `station_file`), ContractError if it is wrong."""
        return cls.from_json(read_station_file(Path(path), POLICY_BYTES), str(path))

    @classmethod
    def from_json(cls, data: bytes, where: str) -> StationPolicy:
        """Parse and check; unknown and missing keys are errors."""
        content = parse_json(data, where, POLICY_BYTES)
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        check.require(found == sorted(_KEYS), where, found, f"an object with exactly {sorted(_KEYS)}; {EXAMPLE}")
        check.require(content["schema"] == SCHEMA, f"{where} schema", content["schema"], repr(SCHEMA))
        panels = content["panels"]
        check.require(isinstance(panels, dict), f"{where} panels", type(panels).__name__, f"an object; {EXAMPLE}")
        try:
            return cls(
                panels={name: decode(PanelDemand, demand, f"panels.{name}") for name, demand in panels.items()},
                min_baseline=content["min_baseline"],
                max_release_days=content["max_release_days"],
                require_regression=content["require_regression"],
                sha256=hashlib.sha256(data).hexdigest(),
            )
        except ContractError as error:
            raise ContractError(f"{where}: {error}; {EXAMPLE}") from None

    def least_baseline(self, panel: str) -> float:
        """The rate that the baseline must reach in this panel."""
        own = self.panels[panel].min_baseline
        return self.min_baseline if own is None else own
