# SPDX-License-Identifier: Apache-2.0
"""The whole attack suite once: `python tests/attack_run.py COUNT SEED BUNDLES` prints JSON.

People run benchmarks/attack_suite.py.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import attack_mutations
from attack_bundles import ACCEPTED, Bundle, bundles
from attack_list import ATTACKS
from signing_factory import NOW

AGES = (timedelta(0), timedelta(minutes=-4), timedelta(days=90, seconds=-1))  # of a release of 90 days


def false_refusals(good: list[Bundle], scratch: Path) -> list[str]:
    """Good bundles that a station refuses while they count."""
    found = []
    for bundle in good:
        case = bundle.write(scratch / "good")
        for age in AGES:
            case.now = NOW + age
            answer = case.answer()
            if answer != ACCEPTED:
                found.append(f"{bundle.name} at {age}: {answer}")
        shutil.rmtree(case.root)
    return found


def wrong_reasons(good: list[Bundle], scratch: Path) -> list[str]:
    """Attacks by name that are accepted, or refused for a reason that is not theirs."""
    found = []
    for attack in ATTACKS:
        case = good[0].write(scratch / "named")
        attack.act(case, good[1])
        answer = case.answer()
        if not re.search(attack.reason, answer):
            found.append(f"{attack.name}: {answer}")
        shutil.rmtree(case.root)
    return found


def main(count: int, seed: int, number: int) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        scratch, good = Path(folder), bundles(number)
        tally = attack_mutations.run(good, count, seed, scratch)
        return {
            "good": len(good),
            "named": len(ATTACKS),
            "false refusals": false_refusals(good, scratch),
            "wrong reasons": wrong_reasons(good, scratch),
            "by_kind": dict(tally.by_kind),
            "by_error": dict(tally.by_error),
            "accepted": tally.accepted,
            "foreign": tally.foreign,
            "seconds": time.monotonic() - began,
        }


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:]))))
