# SPDX-License-Identifier: Apache-2.0
"""Does a gate report answer what a station demands? Two checks for each panel of the station's policy.

A panel satisfies the station when the lower bound of its difference is above minus the *station's* margin, at the
station's alpha or less, from enough pairs; and when the baseline can do it at all: who never succeeds loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from runtime.contract.finding import Check
from runtime.contract.gate_report import GateReport
from runtime.contract.station_policy import PanelDemand, StationPolicy
from runtime.errors import DropGateRuntimeError


def panel_checks(gate: GateReport | DropGateRuntimeError | None, policy: StationPolicy | None) -> list[Check]:
    """In the policy's order; unknown where report or policy could not be had."""
    if policy is None:
        return [Check("panels", None, "unknown", "those that the station requires")]
    checks = []
    for name, demand in policy.panels.items():
        least = policy.least_baseline(name)
        if not isinstance(gate, GateReport):
            checks += [
                Check(f"panel {name}", None, "unknown", _demand(demand)),
                Check(f"baseline {name}", None, "unknown", f"at least {least:g}"),
            ]
        else:
            checks += _panel(name, demand, least, gate)
    return checks


def _panel(name: str, demand: PanelDemand, least: float, gate: GateReport) -> Iterable[Check]:
    result = gate.panels.get(name)
    if result is None or result.outcome == "not_run":
        where = "it is from before panels" if gate.derived else f"it has {', '.join(gate.panels)}"
        found = f"not run (the report: {where})"
        yield Check(f"panel {name}", False, found, f"{_demand(demand)}; run: compress gate with this panel")
        yield Check(f"baseline {name}", None, "unknown", f"at least {least:g}")
        return
    good = result.lower > -demand.margin and result.alpha <= demand.alpha and result.pairs >= demand.min_pairs
    found = f"difference above {result.lower:.4f} at alpha {result.alpha:g} from {result.pairs} pairs"
    yield Check(f"panel {name}", good, found, _demand(demand))
    rate = result.baseline_rate
    yield Check(f"baseline {name}", rate >= least, f"rate {rate:.3f}", f"at least {least:g}, or it proves nothing")


def _demand(demand: PanelDemand) -> str:
    return f"above -{demand.margin:g} at alpha {demand.alpha:g} or less from {demand.min_pairs} pairs or more"
