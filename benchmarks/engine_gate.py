# SPDX-License-Identifier: Apache-2.0
"""The closed loop of another engine: the gate's own paired test, where the candidate is the same artifact elsewhere.

    python benchmarks/engine_gate.py ARTIFACT --backend openvino:bf16 --output DIR [--pairs N] [--workers N]
    python benchmarks/engine_gate.py INT8 --baseline FP32 --output DIR       two artifacts, an engine for the candidate

The baseline runs in ONNX Runtime as always; scenes, seeds, test and evidence are those of `compress gate`. Nothing here
seals or promotes an artifact: an engine's numbers hold for the machine where they were taken. Exit: `compress gate`'s.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from compress.gate.policies import PolicySource, artifact_source
from compress.gate.sim_gate import GateProgress, gate_policies
from compress.gate.spec import GateSpec
from runtime.backends.registry import create_backend
from runtime.errors import BackendError
from runtime.inference.policy import Policy

DEFAULT = "onnxruntime"


def opened(artifact: str, backend: str) -> Policy:
    """What a worker of the gate calls: the artifact in that engine, on one thread."""
    return Policy.load(
        artifact, backend, threads=1, allow_unsealed=True, require_promoted=False, allow_unproven=True
    )  # fmt: skip


def source(artifact: Path, backend: str, spec: GateSpec) -> PolicySource:
    """The verified artifact in an engine; its identity says which, so that evidence of two engines cannot be mixed."""
    found = artifact_source(artifact, spec)
    if backend == DEFAULT:
        return found
    options = {"artifact": found.artifact, "backend": backend}
    return PolicySource(
        f"{found.identity}@{backend}", factory=f"{Path(__file__).stem}:{opened.__name__}", options=options,
        image_size=found.image_size,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="the candidate; drafts are welcome")
    parser.add_argument("--baseline", type=Path, help="what it is compared with (default: the same artifact)")
    parser.add_argument("--backend", default=DEFAULT, help="engine of the candidate, as `python -m runtime bench`")
    parser.add_argument("--output", type=Path, required=True, help="gate.json, gate.md and the episodes")
    parser.add_argument("--tasks", help="names or indices with commas between (default: all of the suite)")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--margin", type=float, default=0.10)
    parser.add_argument("--floor-states", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if given.backend == DEFAULT and given.baseline is None:
        parser.error("both sides would be the same: give --backend or --baseline")
    try:
        create_backend(given.backend, threads=1).close()
    except BackendError as error:
        parser.error(str(error))
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH", ""))))
    tasks = tuple(int(t) if t.isdigit() else t for t in given.tasks.split(",")) if given.tasks else None
    spec = GateSpec(
        tasks=tasks, pairs=given.pairs, margin=given.margin, workers=given.workers, floor_states=given.floor_states,
        panels={}, filmstrips=0,
    )  # fmt: skip
    sides = source(given.artifact, given.backend, spec), source(given.baseline or given.artifact, DEFAULT, spec)
    report = gate_policies(*sides, spec, given.output.absolute(), tell)
    print(f"{report.verdict.value}: {report.reason}; evidence: {given.output}")
    return report.exit_code


def tell(now: GateProgress) -> None:
    print(f"{now.phase} {now.done} of {now.total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
