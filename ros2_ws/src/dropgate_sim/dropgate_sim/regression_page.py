# SPDX-License-Identifier: Apache-2.0
"""The regression's `report.html`: one file, no network, no script; in the style of `compress report`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from compress.report.numbers import DASH, points, rate
from compress.report.page import TEMPLATES
from compress.report.svg import DARK, LIGHT, WIDTH, Canvas, Scale, x_axis
from dropgate_sim.ros_rows import RosRow

if TYPE_CHECKING:
    from dropgate_sim.regression_report import Evidence

FILMS = "films"
MOST_FILMS = 12
TOP, LABEL, LANE, GAP, LEFT, RIGHT = 26.0, 20, 17, 8, 12, 396

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Simulation regression: {{ data.verdict | upper }}</title>
<style>
{% include "style.css.j2" %}

</style>
</head>
<body>
<h1>Simulation regression of {{ data.artifact }} on {{ data.robot }}</h1>
<main>
<section class="verdict {{ 'promote' if data.verdict == 'pass' else 'hold' }}">
<strong>{{ data.verdict | upper }}</strong>
<p class="reason">{{ data.reason[:1] | upper }}{{ data.reason[1:] }}.</p>
<p class="quiet">The policy that was judged in process now acts through ROS 2: controller, guard, safety filter,
messages and clocks as on the robot; only the arm is simulated. A robot reads regression.json, not this page.</p>
</section>

<section><h2>Success, scene by scene</h2>
{% if chart %}<figure>{{ chart }}</figure>
<div class="scroll"><table class="tasks">
<thead><tr><th>task</th><th>through ROS</th><th>in process</th><th>difference, points (Tango 95 %)</th>
<th class="n">lost</th><th class="n">gained</th></tr></thead>
<tbody>{% for row in tasks %}<tr><th scope="row" class="wide">{{ row[0] }}</th>
{% for cell in row[1:4] %}<td>{{ cell }}</td>{% endfor %}
{% for cell in row[4:] %}<td class="n">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<table class="cross">
<thead><tr><td></td><th scope="col">in process reached</th><th scope="col">in process missed</th></tr></thead>
<tbody><tr><th scope="row">through ROS reached</th><td>{{ data.compared.both }}</td>
<td class="discordant">{{ data.compared.gained }} gained</td></tr>
<tr><th scope="row">through ROS missed</th><td class="discordant">{{ data.compared.lost }} lost</td>
<td>{{ data.compared.neither }}</td></tr></tbody></table>
{% else %}<p class="missing">No scene was run both ways.</p>{% endif %}
</section>

<section><h2>Episodes</h2>
{% if not films %}<p>No pictures.</p>{% else %}
<p class="quiet">Failures first, from the first to the last moment.</p>
{% for film in films %}<figure class="film"><figcaption>{{ film[0] }}</figcaption>
<img src="{{ film[1] }}" alt="Filmstrip: {{ film[0] }}"></figure>
{% endfor %}{% endif %}
</section>

<section><h2>Time, causes, identity</h2>
<div class="scroll"><table><tbody>
{% for name, value in facts %}<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</tbody></table></div>
</section>
</main>
</body>
</html>
"""


def render(evidence: Evidence, data: Mapping[str, Any]) -> str:
    """The page as text."""
    from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([DictLoader({"page": PAGE}), FileSystemLoader(TEMPLATES)]),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    tasks = [{"sentence": f"All {len(evidence.panel.pairs)} scenes", **data["compared"]}, *data["tasks"]]
    return environment.get_template("page").render(
        data=data,
        chart=_chart(tasks) if data["tasks"] else None,
        tasks=[_row(task) for task in tasks],
        films=_films(evidence),
        facts=_facts(data),
    )


def _row(task: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = task["tango95"]
    difference = f"{points(task['difference'])} ({points(low)} to {points(high)})"
    return (
        task["sentence"], rate(task["candidate"]), rate(task["baseline"]), difference, str(task["lost"]),
        str(task["gained"]),
    )  # fmt: skip


def _chart(tasks: list[Mapping[str, Any]]) -> Markup:
    bottom = TOP + len(tasks) * (LABEL + 2 * LANE + GAP)
    words = "; ".join(
        f"{t['sentence']}: through ROS {rate(t['candidate'])}, in process {rate(t['baseline'])}" for t in tasks
    )
    canvas = Canvas("rates", "Success rates with 95 % Wilson intervals", words, bottom + 42)
    scale = Scale(0.0, 1.0, LEFT, RIGHT)
    x_axis(canvas, scale, [(v / 4, str(25 * v)) for v in range(5)], TOP, bottom, "episodes that reached the goal [%]")
    for place, (shape, colour, name) in enumerate((("disc", DARK, "through ROS"), ("square", LIGHT, "in process"))):
        canvas.marker(shape, LEFT + 6 + 110 * place, 10, colour)
        canvas.text(LEFT + 15 + 110 * place, 14, name, kind="tick")
    y = TOP
    for task in tasks:
        canvas.rect(LEFT, y, WIDTH - LEFT, LABEL - 2, "#f1f1f1")
        canvas.text(LEFT + 4, y + 14, task["sentence"], kind="strong")
        y += LABEL
        for shape, colour, found in (("disc", DARK, task["candidate"]), ("square", LIGHT, task["baseline"])):
            if found["trials"]:
                canvas.whisker(*(scale(edge) for edge in found["wilson95"]), y + LANE / 2, colour)
                canvas.marker(shape, scale(found["rate"]), y + LANE / 2, colour)
            canvas.text(WIDTH - 4, y + LANE / 2 + 4, f"{found['successes']}/{found['trials']}", "end")
            y += LANE
        y += GAP
    return canvas.markup()


def _films(evidence: Evidence) -> list[tuple[str, str]]:
    """Caption and data URI; failures first, in the panel's order."""
    rows = [evidence.rows[pair] for pair in evidence.panel.pairs if pair in evidence.rows]
    found = []
    for row in sorted(rows, key=lambda row: row.success):
        path = evidence.folder / FILMS / f"{film_name(row)}.png"
        if path.is_file() and len(found) < MOST_FILMS:
            uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
            found.append((_caption(evidence, row), uri))
    return found


def film_name(row: RosRow) -> str:
    """Of the picture file, without suffix."""
    return f"task{row.task}_state{row.state}_{'reached' if row.success else 'failed'}"


def _caption(evidence: Evidence, row: RosRow) -> str:
    sentence = evidence.panel.plan.task(row.task).sentence
    end = f"reached after {row.steps} steps" if row.success else f"not reached in {row.steps} steps"
    why = f" ({row.error})" if row.error else ""
    bare = evidence.bare.get(row.pair)
    beside = "" if bare is None else f"; in process it was {'reached' if bare.success else 'missed'}"
    return f"{sentence}, state {row.state}: {end}{why}{beside}"


def _facts(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    steps, latency = data["steps_to_success"], dict(data["latency"])
    milliseconds = latency.pop("controller_ms", {})
    facts = [
        ("steps to success through ROS, median", _or_dash(steps["through_ros"])),
        ("steps to success in process, median", _or_dash(steps["in_process"])),
        ("in-process episodes from the artifact's evidence", str(data["bare_from_evidence"])),
        ("why tasks ended", _listed(data["causes"])),
        ("errors", _listed(data["errors"])),
        ("refused chunks", str(data["rejected_chunks"])),
        *((name, _or_dash(value)) for name, value in latency.items()),
        *milliseconds.items(),
        ("robot file", f"{data['robot_file']}, SHA-256 {data['robot_file_sha256']}"),
        ("artifact id", data["artifact_id"]),
        ("policy id", data["policy_id"]),
        ("hardware", data["hardware"]),
        ("RMW", data["rmw"]),
        *data["versions"].items(),
    ]  # fmt: skip
    return [(str(name), str(value)) for name, value in facts]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def _or_dash(value: Any) -> str:
    return DASH if value is None else f"{value:g}"
