# SPDX-License-Identifier: Apache-2.0
"""Every model family x precision x graph form: exported, compared with torch in float64, and damaged once.

    PYTHONPATH=.:tests python benchmarks/parity_table.py --out parity_table.json
    PYTHONPATH=.:tests python benchmarks/parity_table.py --family pi0 smolvla --precision fp16 --out part.json

The policies are the tiny ones of the test suite (`tests/family_cases.py`): real module classes, random weights. Errors
are relative L2 over all observations, padded prompts among them. float32 and float16 run in ONNX Runtime on the CPU,
bfloat16 in ONNX's reference evaluator. A row `broken` is the float32 loop with one matrix scaled by 1.001.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from family_cases import NAMES, case, samples_for
from onnx import numpy_helper

from compress.export import parity
from compress.export.errors import ExportError, ParityError
from compress.export.onnx_export import ExportedGraph, export_stage
from compress.export.options import PRECISIONS, GraphOptions
from compress.export.policy_files import normalization_ref
from compress.models.base import ExportStage, VlaModel
from compress.models.flow import FlowSampler
from runtime.contract.conventions import Precision
from runtime.contract.graph import NORMALIZATION_FILE
from runtime.contract.normalization import Normalizers

DIFFUSION = "openvla_oft+diffusion"
FORMS = ("loop", "unrolled")
HEAD = f"{'family':22} {'form':9} {'prec':5} {'nodes':>6} {'bytes':>9} {'error':>9} {'torch':>9} {'limit':>9}  outcome"


@dataclass(frozen=True)
class Row:
    """One export; numbers are None where it did not get that far.

    Attributes:
        family, form, precision: what was exported.
        nodes, bytes: of the graph, loop bodies included, and of both files.
        error, torch, limit: relative L2 to float64, of the graph, of torch at that precision, and what the gate allows.
        worst_error, worst_limit: of the single worst observation.
        export_s: seconds.
        outcome: `passed`, or why it was refused.
    """

    family: str
    form: str
    precision: str
    nodes: int | None = None
    bytes: int | None = None
    error: float | None = None
    torch: float | None = None
    limit: float | None = None
    worst_error: float | None = None
    worst_limit: float | None = None
    export_s: float | None = None
    outcome: str = "passed"

    def line(self) -> str:
        """For people."""
        numbers = [
            f"{value:9.2e}" if value is not None else f"{'-':>9}" for value in (self.error, self.torch, self.limit)
        ]
        return (
            f"{self.family:22} {self.form:9} {self.precision:5} {self.nodes or '-':>6} {self.bytes or '-':>9} "
            f"{' '.join(numbers)}  {self.outcome}"
        )


def policy(family: str) -> VlaModel:
    """A tiny policy with random weights."""
    if family != DIFFUSION:
        return case(family).make(0)
    from family_openvla_oft import tiny

    from compress.models.openvla_oft_config import DiffusionShape

    return tiny(0, diffusion=DiffusionShape(levels=20, steps=4))


def judged(model: VlaModel, stage: ExportStage, graph: ExportedGraph, path: Path, row: Row) -> Row:
    """`row` with the numbers of the gate on `path`."""
    files = model.side_files()
    action = model.specs()["action"]
    ref = normalization_ref(files[NORMALIZATION_FILE])
    norms = Normalizers.from_bytes(files[NORMALIZATION_FILE], ref.state, ref.action)
    seen = parity.observations([(s.sample_id, model.collate([s]).inputs) for s in samples_for(model, 8)])
    outcome = "passed"
    try:
        parity.check(stage, path, graph.spec, seen, action, norms.action, options=graph.options)
    except ParityError as error:
        outcome = f"refused: {error}"
    report = parity.check(stage, path, graph.spec, seen, action, norms.action, options=graph.options, ratio=1e9)
    return Row(
        **{
            **asdict(row), "error": report.graph, "torch": report.torch_own, "limit": limit(report, report.torch_own),
            "worst_error": report.worst_graph, "worst_limit": limit(report, report.worst_torch_own), "outcome": outcome,
        }
    )  # fmt: skip


def limit(report: parity.ParityReport, own: float) -> float:
    """What the gate allows at its own ratio."""
    return max(parity.RATIOS[Precision(report.precision)] * own, report.floor)


def rows(family: str, precision: Precision, asked: Sequence[str]) -> Iterator[Row]:
    """One policy at one precision, in the forms that are `asked` for if it has a sampler."""
    model = policy(family)
    (stage,) = model.stages()
    forms = asked if isinstance(stage.module, FlowSampler) else ("one pass",)
    for form in forms:
        options = GraphOptions(precision=precision, sampler="unrolled" if form == "unrolled" else "loop")
        row = Row(family, form, precision.value)
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            try:
                graph = export_stage(stage, Path(scratch), options=options)
            except ExportError as error:
                yield Row(family, form, precision.value, outcome=f"refused: {error}")
                continue
            size = graph.parameters_bytes + graph.path.stat().st_size
            known = {"nodes": graph.nodes, "bytes": size, "export_s": round(time.perf_counter() - started, 1)}
            row = Row(**{**asdict(row), **known})
            yield judged(model, stage, graph, graph.path, row)
            if precision is Precision.FP32 and form != "unrolled":
                broken = Path(scratch) / "broken.onnx"
                scale_one_weight(graph.path, broken)
                yield judged(model, stage, graph, broken, Row(**{**asdict(row), "form": "broken"}))


def scale_one_weight(source: Path, target: Path) -> None:
    """The largest matrix that a `MatMul` reads, scaled by 1.001."""
    graph = onnx.load(str(source))
    bodies = [a.g for node in graph.graph.node if node.op_type == "Loop" for a in node.attribute]
    read = {n for part in (graph.graph, *bodies) for node in part.node if node.op_type == "MatMul" for n in node.input}
    weight = max((t for t in graph.graph.initializer if t.name in read), key=lambda t: int(np.prod(t.dims)))
    weight.CopyFrom(numpy_helper.from_array(np.float32(1.001) * numpy_helper.to_array(weight), weight.name))
    onnx.save(graph, str(target))


def main() -> None:
    """Print the table, and write it as JSON after every row."""
    names = (*NAMES, DIFFUSION)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument("--precision", nargs="+", choices=[p.value for p in PRECISIONS], help="only these")
    parser.add_argument(
        "--form", nargs="+", choices=FORMS, default=FORMS, help="only these, of policies with a sampler"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    given = parser.parse_args()
    packages = {name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime", "onnxscript")}
    made: list[Row] = []
    print(HEAD)
    for family in given.family:
        for precision in [Precision(p) for p in given.precision or [p.value for p in PRECISIONS]]:
            for row in rows(family, precision, given.form):
                made.append(row)
                print(row.line(), flush=True)
                given.out.write_text(
                    json.dumps({"packages": packages, "rows": [asdict(r) for r in made]}, indent=2) + "\n"
                )


if __name__ == "__main__":
    main()
