# SPDX-License-Identifier: Apache-2.0
"""The fault table as one HTML page, with nothing to load: opens anywhere, prints on two sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dropgate_sim.fault_verdict import Finding, share

STYLE = """
body{font:14px/1.4 system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse}
td,th{padding:.25em .6em;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}th{background:#f4f4f4}
td.n{text-align:right;font-variant-numeric:tabular-nums}small{color:#666;display:block}
.ok{background:#dff3e0}.FAIL{background:#f9d6d5}.late{background:#fdf0c8}
.bar{display:inline-block;height:.55em;background:#7aa6d8}.free{display:inline-block;height:.55em;background:#e4e4e4}
"""
HEAD = ("fault", "noticed [s] (bound)", "stopped [s] (bound)", "", "cause", "expected", "jerk: arm / as sent",
        "latest message [ms]: node / way", "result")  # fmt: skip
BAR_EM = 8.0


def page(findings: Sequence[Finding], about: Mapping[str, Any]) -> str:
    """The whole page."""
    facts = "".join(f"<li>{escape(str(key))}: {escape(str(value))}</li>" for key, value in about.items())
    rows = "".join(_row(finding) for finding in findings)
    good = sum(finding.ok for finding in findings)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Fault suite</title><style>{STYLE}</style>"
        f"<h1>Fault suite: {good} of {len(findings)} ok</h1><p>Times are the arm's, from the fault on. Jerk: worst "
        "share of the limit, as the simulated arm moved and as the messages ask for. <i>late</i>: the machine was too "
        "slow for a judgement (a good message came too late, or was withheld as late). Nothing here is a statement "
        f"about a real arm's braking.</p><ul>{facts}</ul><table><tr>{''.join(f'<th>{name}' for name in HEAD)}</tr>"
        f"{rows}</table></html>\n"
    )


def _row(f: Finding) -> str:
    lines = [*f.problems, *filter(None, (f.spoiled, f.note)), *f.earlier]
    remarks = "".join(f"<small>{escape(line)}</small>" for line in lines)
    tries = f" <small>try {f.tries}</small>" if f.tries > 1 else ""
    expected = " or ".join(f.expected) or "goes on" if f.stop_bound_s is None else " or ".join(f.expected) or "-"
    cells = (
        f"<td>{escape(f.fault)}{remarks}", f"<td class=n>{_time(f.detected_s, f.detect_bound_s)}",
        f"<td class=n>{_time(f.stopped_s, f.stop_bound_s)}", f"<td>{_bar(f)}", f"<td>{escape(f.cause or '-')}",
        f"<td>{escape(expected)}", f"<td class=n>{share(f.worst, 'jerk')} / {share(f.worst_sent, 'jerk')}",
        f"<td class=n>{1000 * f.made_s:.0f} / {1000 * f.way_s:.0f}", f"<td class={f.result}>{f.result}{tries}",
    )  # fmt: skip
    return f"<tr>{''.join(cells)}</tr>"


def _time(value: float | None, bound: float | None) -> str:
    told = "-" if value is None else f"{value:.3f}"
    return told if bound is None else f"{told} ({bound:.2f})"


def _bar(f: Finding) -> str:
    """How much of its bound the stop took."""
    if f.stopped_s is None or not f.stop_bound_s:
        return ""
    used = min(1.0, f.stopped_s / f.stop_bound_s) * BAR_EM
    return f"<span class=bar style=width:{used:.1f}em></span><span class=free style=width:{BAR_EM - used:.1f}em></span>"
