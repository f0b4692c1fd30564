# SPDX-License-Identifier: Apache-2.0
"""gate.json -> gate.md, for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def markdown(data: Mapping[str, Any]) -> str:
    """One page: the answer, the evidence, what was compared, what was not proven."""
    parts = [f"# Gate: {data['verdict'].upper()}", data["reason"] + "."]
    if data["paired"] is not None:
        parts += _evidence(data["paired"])
    if data.get("panels"):
        parts += _panels(data["panels"])
    if data.get("warnings"):
        parts += ["## Warnings", "\n".join(f"- {warning}" for warning in data["warnings"])]
    if data.get("vetoes"):
        parts += _vetoes(data["vetoes"])
    if data["tasks"]:
        parts += _tasks(data["tasks"])
    parts += _probe(data["wrong_instruction"])
    if data.get("speed"):
        parts += _speed(data["speed"])
    parts += _filmstrips(data["filmstrips"])
    parts += _run(data)
    return "\n\n".join(parts) + "\n"


def percent(rate: Mapping[str, Any] | None) -> str:
    """`18/20 (90 %, 70 to 97)`, or a dash."""
    if rate is None or not rate["trials"]:
        return "-"
    low, high = rate["wilson95"]
    return f"{rate['successes']}/{rate['trials']} ({100 * rate['rate']:.0f} %, {100 * low:.0f} to {100 * high:.0f})"


def _evidence(paired: Mapping[str, Any]) -> list[str]:
    low, high = paired["tango95"]
    scope = f"these {paired['population']} scenes" if paired["population"] else "an endless stream of such scenes"
    points = f"{100 * (paired['difference'] or 0):+.1f}"
    needed = math.exp(paired["threshold_log_e"])
    return [
        "## Paired comparison",
        f"Is the candidate worse than the baseline by {paired['margin']:g} or more, on {scope}? "
        f"{paired['pairs']} of at most {paired['budget']} pairs were used, in the order fixed beforehand.",
        "\n".join(
            [
                "| | |",
                "|---|---|",
                f"| candidate | {percent(paired['candidate'])} |",
                f"| baseline | {percent(paired['baseline'])} |",
                f"| both, only baseline (lost), only candidate (gained), neither | "
                f"{paired['both']}, {paired['lost']}, {paired['gained']}, {paired['neither']} |",
                f"| evidence for 'not worse' (needs {needed:.0f}) | {_evalue(paired['log_e_pass'])} |",
                f"| evidence for 'worse' (needs {needed:.0f}) | {_evalue(paired['log_e_fail'])} |",
                *_bounds(paired),
                f"| difference in points, Tango 95 % (for reading) | {points}, {100 * low:+.1f} to {100 * high:+.1f} |",
                f"| McNemar, exact p (for reading) | {paired['mcnemar_p']:.3f} |",
            ]
        ),
        "Intervals are 95 % and for reading; the two e-values decide (Ville's inequality, at every look). The bounds "
        "are the same test inverted and hold at every pair; it passes exactly when the lower one is above -margin.",
    ]


def _bounds(paired: Mapping[str, Any]) -> list[str]:
    if "lower" not in paired:
        return []
    level = f"{100 * (1 - paired['alpha']):g} %"
    return [f"| bounds of the difference in points, {level} each | {_span(paired['lower'], paired['upper'])} |"]


def _span(lower: float, upper: float) -> str:
    return f"{100 * lower:+.1f} to {100 * upper:+.1f}"


def _panels(panels: list[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| panel | outcome | candidate | baseline | lost, gained | bounds of the difference, margin (points) | pairs |",
        "|---|---|---|---|---|---|---|",
    ]
    for panel in panels:
        found = panel["difference"]
        cells = (
            panel["name"].replace("_", " "), panel["outcome"].replace("_", " "), percent(panel["candidate"]),
            percent(panel["baseline"]), f"{panel['lost']}, {panel['gained']}",
            f"{_span(found['lower'], found['upper'])}, -{100 * panel['margin']:g}",
            f"{panel['pairs']} of {panel['planned']}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return ["## Panels", "\n".join(lines)]


def _vetoes(vetoes: list[Mapping[str, Any]]) -> list[str]:
    vetoed = [veto for veto in vetoes if veto["vetoed"]]
    asked = ", ".join(f"{sum(v['level'] == level for v in vetoes)} {level}s" for level in ("suite", "task"))
    lines = [
        f"- {veto['level']} {veto['name']}: lost {veto['lost']}, gained {veto['gained']} of {veto['pairs']}, "
        f"p {veto['p']:.2g}, Holm {veto['p_holm']:.2g}"
        for veto in vetoed
    ]
    said = "\n".join(lines) or "None is significantly worse than the margin."
    return ["## Vetoes", f"Each against the margin, Holm-adjusted over its level ({asked}).", said]


def _tasks(tasks: list[Mapping[str, Any]]) -> list[str]:
    lines = ["| task | counts | candidate | baseline | blind replay | screening |", "|---|---|---|---|---|---|"]
    for task in tasks:
        counts = "yes" if task["counts"] else "no"
        cells = (
            task["sentence"],
            counts,
            percent(task["candidate"]),
            percent(task["baseline"]),
            percent(task["blind_floor"]),
            task["why"],
        )
        lines.append("| " + " | ".join(cells) + " |")
    return [
        "## Tasks and blind floor",
        "The blind replay executes one recorded episode without looking. A task that it solves nearly as well as the "
        "baseline proves nothing and does not count.",
        "\n".join(lines),
    ]


def _probe(wrong: Mapping[str, Any]) -> list[str]:
    return [
        "## Told the wrong sentence",
        f"Original goal reached although another task's sentence was given (near zero is expected): "
        f"candidate {percent(wrong['candidate'])}, baseline {percent(wrong['baseline'])}.",
    ]


def _speed(speed: Mapping[str, Any]) -> list[str]:
    cells = []
    for arm in ("candidate", "baseline"):
        steps, query = speed[arm]["steps_to_success"], speed[arm]["query_s"]
        cells.append(f"{arm} {steps:g} steps" if steps is not None else f"{arm} no success")
        cells[-1] += f", {1000 * query:.0f} ms a query" if query is not None else ""
    return ["## Pace", f"Median of successful episodes (50 ms a step): {'; '.join(cells)}."]


def _filmstrips(strips: list[Mapping[str, Any]]) -> list[str]:
    if not strips:
        return []
    pictures = [f"![{strip['caption']}]({strip['file']})\n\n{strip['caption']}" for strip in strips]
    return ["## Failures", "Candidate above, baseline below.", *pictures]


def _run(data: Mapping[str, Any]) -> list[str]:
    arms = "\n".join(f"- {name}: `{arm['policy_id']}`" for name, arm in data["arms"].items())
    packages = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    return [
        "## Run",
        f"{arms}\n- plan: `{data['plan_digest'] or 'none'}`\n- {data['episodes']} episodes, {data['wall_s']:.0f} s\n"
        f"- {data['hardware']}\n- {packages}",
    ]


def _evalue(log_e: float | None) -> str:
    return "certain" if log_e is None else f"{math.exp(min(log_e, 50.0)):.3g}"
