# SPDX-License-Identifier: Apache-2.0
"""Evidence -> `report.html`: no network, no script; the same evidence gives the same bytes.

No clock either, except where signatures are checked against a trust store: that has a moment, and the page says it.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from compress.atomic import write_atomic
from compress.report.errors import ReportError
from compress.report.evidence import STAGE_OF, Evidence, collect
from compress.report.view_blocks import read_ranking, stacks
from compress.report.view_export import latency, parity
from compress.report.view_films import films
from compress.report.view_floor import floor
from compress.report.view_gate import gate
from compress.report.view_head import NO_GATE, head, identity, surroundings
from compress.report.view_recovery import recovery
from compress.report.view_shipped import shipped
from compress.report.view_signed import signatures
from runtime.contract.manifest import MANIFEST_FILE
from runtime.contract.utc_time import utc_now

TEMPLATES = Path(__file__).parent / "templates"


def build(
    source: Path, out: Path, bench: Path | None = None, trust: Path | None = None, now: datetime | None = None
) -> Path:
    """Write the page for a run folder, an artifact directory or the folder of a gate run.

    Evidence that is missing is said on the page.

    Args:
        source: where the evidence is.
        out: the HTML file.
        bench, trust, now: see `collect`; with `trust`, `now` is this moment unless given.

    Returns:
        `out`.

    Raises:
        ReportError: no evidence at all, a damaged file (it is named), or `out` inside a finished artifact.
        TrustError: the trust store cannot be used.
        OSError: `out` cannot be written; an older page is as it was.
    """
    if (source / MANIFEST_FILE).is_file() and out.resolve().is_relative_to(source.resolve()):
        raise ReportError(f"{out}: lies inside the artifact, whose files are all sealed; give another --out")
    if trust is not None and now is None:
        now = utc_now()
    page = render(collect(source, bench, trust, now)).encode("utf-8")
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
        floor=floor(evidence),
        shipped=shipped(evidence),
        signatures=signatures(evidence),
        recipe=evidence.recipe,
        surroundings=surroundings(evidence),
        stage_of=STAGE_OF,
    )
