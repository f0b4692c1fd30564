# SPDX-License-Identifier: Apache-2.0
"""Is any forged, changed, exchanged, old or revoked artifact accepted, or any good one refused?

    python benchmarks/attack_suite.py --count 2200 --seed 0 --bundles 24

The attacks by name, then random ones, on good bundles (a released artifact and the station that trusts it); what each
does is in tests/attack_list.py and tests/attack_mutations.py. Everything runs the code of `python -m runtime verify
--trust`. Prints a table; exit 1 if anything was accepted, refused for another reason, or failed with a foreign error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run the suite of the tests at low priority and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2200, help="random mutations (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundles", type=int, default=24, help="different good bundles (default: %(default)s)")
    options = parser.parse_args()
    os.nice(10)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(REPO)}
    command = [sys.executable, str(REPO / "tests/attack_run.py"), str(options.count), str(options.seed)]
    done = subprocess.run([*command, str(options.bundles)], env=environment, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    print("\n".join(table(found)))
    for name in ("false refusals", "wrong reasons", "accepted", "foreign"):
        for defect in found[name]:
            print(f"{name}: {json.dumps(defect, sort_keys=True)}")
    return int(any(found[name] for name in ("false refusals", "wrong reasons", "accepted", "foreign")))


def table(found: dict[str, object]) -> list[str]:
    """Markdown: what was tried, and how it ended."""
    kinds: dict[str, int] = found["by_kind"]  # type: ignore[assignment] # JSON
    lines = ["| tried | number | not as it must be |", "|---|---|---|"]
    lines.append(
        f"| good bundles, at 3 times each, must be accepted | {found['good']} | {len(found['false refusals'])} |"
    )  # type: ignore[arg-type]
    lines.append(
        f"| attacks by name, must be refused with their reason | {found['named']} | {len(found['wrong reasons'])} |"
    )  # type: ignore[arg-type]
    accepted: list[dict[str, str]] = found["accepted"]  # type: ignore[assignment]
    for kind, refused in kinds.items():
        passed = sum(case["kind"] == kind for case in accepted)
        lines.append(f"| random: {kind} | {refused + passed} | {passed} |")
    lines.append(f"| random, all | {sum(kinds.values()) + len(accepted)} | {len(accepted)} |")
    lines.append(f"\n{found['seconds']:.0f} s; refused as: {found['by_error']}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
