# SPDX-License-Identifier: Apache-2.0
"""recovery.json -> loss curve, and held-out action error before and after."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from compress.report.chart_line import Line, line_chart
from compress.report.errors import reading
from compress.report.evidence import Evidence
from compress.report.numbers import small
from compress.report.svg import DARK
from runtime.contract.action import ActionDim


@dataclass(frozen=True)
class Recovery:
    """Sentences, the curve (None without rows), the error table: dimension, unit, before, after."""

    notes: tuple[str, ...]
    chart: Markup | None
    errors: tuple[tuple[str, str, str, str], ...]


def recovery(evidence: Evidence) -> Recovery | None:
    """None without recovery.json."""
    data = evidence.data.get("recovery")
    if data is None:
        return None
    with reading(evidence.paths["recovery"], "recover"):
        spec, share = data["spec"], data["flops_share"]
        matched = f", compute-matched at {share:.2f} of the FLOPs" if share is not None else ""
        taught = " with distillation from the whole policy" if data["teacher_identity"] else ""
        notes = (
            f"{data['steps']} optimizer steps of {spec['batch_size']} frames "
            f"({spec['method']} fine-tuning{taught}{matched}), {data['wall_s']:.0f} s "
            f"in the last process on {data['hardware']}.",
            f"Loss on {data['held_out_frames']} held-out frames: {small(data['loss_before'])} before, "
            f"{small(data['loss_after'])} after.",
        )
        dots = [(float(row["step"]), float(row["loss"])) for row in data["curve"]]
        chart = None
        if dots:
            words = f"From {small(dots[0][1])} at step {dots[0][0]:g} to {small(dots[-1][1])} at step {dots[-1][0]:g}."
            before, after = float(data["loss_before"]), float(data["loss_after"])
            levels = [(before, "held out, before"), (after, "held out, after")]
            chart = line_chart(
                "recovery", "Training loss during recovery", words, [Line("training loss", dots, DARK)],
                "optimizer step", "action loss of the model's own kind [normalised actions]", levels=levels,
            )  # fmt: skip
        return Recovery(notes, chart, _errors(evidence, data["action_error_before"], data["action_error_after"]))


def _errors(evidence: Evidence, before: list[float], after: list[float]) -> tuple[tuple[str, str, str, str], ...]:
    """In physical units where the manifest tells what a command is, else in commands."""
    dims: tuple[ActionDim, ...] = evidence.manifest.policy.action.dims if evidence.manifest is not None else ()
    rows = []
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        known = dims[index] if len(dims) == len(before) else None
        scale = known.scale if known else 1.0
        name, unit = (known.name, known.unit.value) if known else (f"dimension {index}", "command")
        rows.append((name, unit, small(old * scale), small(new * scale)))
    return tuple(rows)
