# SPDX-License-Identifier: Apache-2.0
"""Evidence -> `report.html`: no network, no script, no clock; the same evidence gives the same bytes."""

from __future__ import annotations

from pathlib import Path

from compress.atomic import write_atomic
from compress.report.errors import ReportError
from compress.report.evidence import STAGE_OF, Evidence, collect
from compress.report.view_blocks import read_ranking, stacks
from compress.report.view_export import latency, parity
from compress.report.view_films import films
from compress.report.view_gate import gate
from compress.report.view_head import NO_GATE, head, identity, surroundings
from compress.report.view_recovery import recovery
from runtime.contract.manifest import MANIFEST_FILE

TEMPLATES = Path(__file__).parent / "templates"


def build(source: Path, out: Path) -> Path:
    """Write the page for a run folder, an artifact directory or the folder of a gate run.

    Evidence that is missing is said on the page.

    Args:
        source: where the evidence is.
        out: the HTML file.

    Returns:
        `out`.

    Raises:
        ReportError: no evidence at all, a damaged file (it is named), or `out` inside a finished artifact.
        OSError: `out` cannot be written; an older page is as it was.
    """
    if (source / MANIFEST_FILE).is_file() and out.resolve().is_relative_to(source.resolve()):
        raise ReportError(f"{out}: lies inside the artifact, whose files are all sealed; give another --out")
    page = render(collect(source)).encode("utf-8")
    write_atomic(out, lambda stream: stream.write(page))
    return out


def render(evidence: Evidence) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = lambda digest: digest[:12]
    ranking = read_ranking(evidence)
    return environment.get_template("report.html.j2").render(
        kind=evidence.kind,
        head=head(evidence, ranking),
        identity=identity(evidence, ranking),
        stacks=stacks(ranking),
        recovery=recovery(evidence),
        gate=gate(evidence),
        no_gate=NO_GATE,
        latency=latency(evidence),
        parity=parity(evidence),
        films=films(evidence),
        recipe=evidence.recipe,
        surroundings=surroundings(evidence),
        stage_of=STAGE_OF,
    )
