# SPDX-License-Identifier: Apache-2.0
"""Ten thousand damaged artifacts: how many are refused, and does any crash the loader, hang it, or load?

    python benchmarks/fuzz_loading.py --count 10000 --seed 0
    python benchmarks/fuzz_loading.py --count 1000 --artifact DRAFT    a real export, too

Each artifact is loaded in a child process with 3 GiB of address space and 20 s of one core. What is done to them and
what must come of it: `tests/fuzz_artifacts.py`. Prints the counts per kind as a table; exit 1 if there is a defect.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
OUTCOMES = (
    "refused early",
    "refused by the engine",
    "loads, refuses to answer",
    "loads, equal",
    "loads, other answer",
)


def main() -> int:
    """Run the fuzzer of the tests at low priority and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="damaged artifacts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--artifact", action="append", default=[], help="an artifact directory to damage, too")
    parser.add_argument("--report", type=Path, help="JSON file for counts and defects")
    options = parser.parse_args()
    os.nice(10)
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment = {**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(REPO)}
    with tempfile.TemporaryDirectory() as scratch:
        report = options.report or Path(scratch) / "report.json"
        command = [sys.executable, str(REPO / "tests/fuzz_artifacts.py"), "--report", str(report)]
        command += ["--count", str(options.count), "--seed", str(options.seed)]
        for artifact in options.artifact:
            command += ["--artifact", artifact]
        code = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode
        found = json.loads(report.read_text())
    print("\n".join(table(found)))
    for defect in found["defects"]:
        print(json.dumps(defect, sort_keys=True))
    return code


def table(found: dict[str, object]) -> list[str]:
    """Markdown: one row per kind of damage."""
    kinds: dict[str, dict[str, int]] = found["by_kind"]  # type: ignore[assignment] # JSON
    other = sorted({name for counts in kinds.values() for name in counts} - set(OUTCOMES))
    columns = [*OUTCOMES, *other]
    lines = ["| damage [must be] | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for kind, counts in [*kinds.items(), (f"all {found['count']}", found["totals"])]:
        lines.append(f"| {kind} | " + " | ".join(str(counts.get(name, "")) for name in columns) + " |")  # type: ignore[attr-defined]
    return lines


if __name__ == "__main__":
    sys.exit(main())
