# SPDX-License-Identifier: Apache-2.0
"""`compress convert CHECKPOINT`: read a published checkpoint strictly, and write it without its dead weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from compress.verbs.answer import OK, Answer, Verbs, add_verb

if TYPE_CHECKING:
    from compress.trim import TrimReport

OBSERVATIONS = 4


def add_parser(verbs: Verbs) -> None:
    """`convert`."""
    from compress.models.registry import FAMILIES

    parser = add_verb(
        verbs,
        "convert",
        _convert,
        "read a checkpoint strictly and write it without the weights that no action depends on",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint folder, as published or DropGate's own")
    parser.add_argument("--family", required=True, choices=sorted(FAMILIES), help="the adapter that reads it")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write the checkpoint here; otherwise only look")


def _convert(options: argparse.Namespace) -> Answer:
    from compress.models.observations import random_samples
    from compress.models.registry import load_model
    from compress.trim import trim

    model = load_model(options.family, options.checkpoint)
    batches = [model.collate([sample]) for sample in random_samples(model, OBSERVATIONS)]
    report = trim(model, batches)
    if options.output is not None:
        model.save(options.output)
    data = {**report.to_json(), "identity": model.identity(), "output": str(options.output) if options.output else None}
    where = [f"written to {options.output}"] if options.output else ["nothing was written: give --output DIR"]
    return Answer(OK, data, [*lines(report), *where])


def lines(report: TrimReport) -> list[str]:
    """For people."""
    found = [f"{item.what:<60} {item.elements:>14,} weights {item.bytes / 1e6:>10,.1f} MB" for item in report.removed]
    found += [f"{item.what:<60} {item.elements:>14,} weights, not loaded" for item in report.unloaded]
    found += [f"{name:<60} no gradient, but its owner is needed: kept" for name in report.kept]
    total = sum(item.elements for item in (*report.removed, *report.unloaded))
    return [
        *found,
        f"{total:,} of {report.elements_before:,} weights cannot affect an action ({report.share:.1%}): removed; "
        f"loss and chunk of {report.samples} observations are the same to the bit",
    ]
