# SPDX-License-Identifier: Apache-2.0
"""Would the tests notice? Small faults are put into a module one at a time; a fault that no test sees has survived.

    python benchmarks/mutants.py --per-module 16 --json out.json                       the modules of TESTS
    python benchmarks/mutants.py runtime/contract/dsse.py --per-module 0               every mutant of one of them
    python benchmarks/mutants.py runtime/safety/shapes.py --tests tests/test_filter_kinematics.py --per-module 40
    python benchmarks/mutants.py --again out.json                                      do its survivors still survive?

The tracked files are copied to a temporary folder; only the copy is changed, and the tests run there. Faults: another
comparison, its boundary, a condition negated or left out, `and` for `or`, `min` for `max`, `any` for `all`, + for -, a
number changed, a raise or a call whose value nobody uses removed. Texts of errors are left alone. A mutant has died
when a test fails, nothing can be imported, or the tests take much longer than without it. For each one a process is
forked that has imported the libraries already, and never our own code.
A survivor is a missing test, or makes no difference: docs/mutants.md says which. Its `id` does not depend on the seed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mutations import Mutant, mutants_of

REPO = Path(__file__).resolve().parent.parent
LIBRARIES = (
    "numpy.testing", "pytest", "hypothesis.strategies", "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.serialization",
)  # fmt: skip
OURS = ("runtime", "compress")
SLACK, LEAST_S = 5.0, 20.0  # a mutant may take this many times as long as the tests without it, and at least so long

_ADMISSION, _SIGNED = ("tests/test_admission.py",), ("tests/test_signed.py",)
_STATS = ("tests/test_gate_stats.py", "tests/test_gate_panel_verdict.py", "tests/test_gate_law.py")
_PANELS = ("tests/test_gate_panels.py", "tests/test_gate_judge.py")
_GUARD, _LOOP = "tests/test_control_guard.py", "tests/test_control_loop.py"
_TICK, _STATE = "tests/test_control_tick.py", "tests/test_control_state.py"
_FOLLOWING, _TWIST = "tests/test_control_following.py", "tests/test_safety_twist.py"
_FILTER, _PATH, _BRIDGE = "tests/test_safety_filter.py", "tests/test_filter_path.py", "tests/test_filter_bridge.py"
_PROPERTIES, _CURVE = "tests/test_filter_properties.py", ("tests/test_curve_laws.py", "tests/test_filter_stop.py")
_JOINTS = ("tests/test_joint_stops.py", "tests/test_joint_commands.py", "tests/test_joint_path.py")
_INVERSE, _KINEMATICS = "tests/test_filter_inverse.py", "tests/test_filter_kinematics.py"
TESTS: dict[str, tuple[str, ...]] = {
    "runtime/contract/admission.py": _ADMISSION,
    "runtime/contract/panel_checks.py": _ADMISSION,
    "runtime/contract/station_policy.py": _ADMISSION,
    "runtime/contract/signed.py": _ADMISSION,
    "runtime/contract/trust_store.py": (*_SIGNED, *_ADMISSION),
    "runtime/contract/statements.py": _SIGNED,
    "runtime/contract/dsse.py": _SIGNED,
    "compress/gate/stats.py": _STATS,
    "compress/gate/bets.py": _STATS,
    "compress/gate/sequence.py": _STATS[1:],
    "compress/gate/vetoes.py": ("tests/test_gate_vetoes.py", "tests/test_gate_judge.py"),
    "compress/gate/verdict.py": _PANELS,
    "compress/gate/panels.py": _PANELS,
    "runtime/control/permission.py": ("tests/test_control_permission.py", _LOOP),
    "runtime/control/guard.py": (_GUARD,),
    "runtime/control/state.py": (_STATE, _LOOP),
    "runtime/control/following.py": (_FOLLOWING, _LOOP),
    "runtime/control/scheduler.py": (_STATE, _TICK, _LOOP),
    "runtime/control/loop.py": (_TICK, _LOOP, _FOLLOWING),
    "runtime/control/clock_watch.py": ("tests/test_clock_watch.py",),
    "runtime/control/task.py": (_TICK, _LOOP),
    "runtime/safety/filter.py": ("tests/test_filter_account.py", "tests/test_clock_watch.py", _TWIST, _FILTER),
    "runtime/safety/motion.py": ("tests/test_safety_motion.py", "tests/test_filter_account.py", _TWIST),
    "runtime/safety/twist.py": (_TWIST, "tests/test_clock_watch.py", _FILTER),
    "runtime/safety/plausibility.py": ("tests/test_safety_plausibility.py",),
    "runtime/safety/trajectory.py": ("tests/test_safety_motion.py", _FILTER),
    "runtime/safety/limits.py": ("tests/test_safety_limits.py", "tests/test_limits_digest.py"),
    "runtime/safety/reference.py": (_BRIDGE, _PATH),
    "runtime/safety/bridge.py": (_BRIDGE, _PATH),
    "runtime/safety/places.py": ("tests/test_filter_places.py",),
    "runtime/safety/monitor.py": ("tests/test_monitor_numbers.py", "tests/test_filter_monitor.py"),
    "runtime/safety/curve.py": (*_CURVE, _BRIDGE, _PROPERTIES),
    "runtime/safety/profiles.py": (*_CURVE, _PROPERTIES),
    "runtime/safety/joints.py": (*_JOINTS, _PATH, _PROPERTIES, _FILTER),
    "runtime/safety/joint_plan.py": ("tests/test_joint_parts.py", *_JOINTS),
    "runtime/safety/joint_rows.py": ("tests/test_joint_parts.py", "tests/test_joint_path.py", _INVERSE, _FILTER),
    "runtime/safety/inverse.py": ("tests/test_inverse_rows.py", _INVERSE),
    "runtime/safety/kinematics.py": ("tests/test_kinematics_any_arm.py", _KINEMATICS, "tests/test_cell_shapes.py"),
    "runtime/safety/shapes.py": ("tests/test_cell_shapes.py", "tests/test_kinematics_any_arm.py", _KINEMATICS),
    "runtime/safety/cell.py": ("tests/test_cell_file.py",),
    "runtime/control/observation.py": ("tests/test_observation_edges.py", "tests/test_control_observation.py"),
    "runtime/control/blend.py": ("tests/test_blend_rows.py", "tests/test_control_blend.py"),
    "ros2_ws/src/dropgate_controller/dropgate_controller/gatekeeper.py": ("tests/test_gatekeeper.py",),
}


@dataclass(frozen=True)
class Result:
    """What became of a mutant: `killed`, `timeout` (killed too) or `survived`; `by` is the test that saw it."""

    module: str
    mutant: Mutant
    outcome: str
    by: str
    seconds: float


class Shadow:
    """A copy of the tracked files in which one module at a time is another."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stamp = int(time.time())
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, check=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (REPO / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPO / name, root / name)

    @contextlib.contextmanager
    def holding(self, module: str, source: str) -> Iterator[None]:
        """`module` with this content; compiled anew, because no two contents have one time."""
        path = self.root / module
        before = path.read_text()
        try:
            self._write(path, source)
            yield
        finally:
            self._write(path, before)

    def _write(self, path: Path, source: str) -> None:
        path.write_text(source)
        self._stamp += 1
        os.utime(path, (self._stamp, self._stamp))

    def passes(self, tests: Sequence[str], limit_s: float) -> tuple[str, str, float]:
        """(`survived`, `killed` or `timeout`; the test that failed; seconds)."""
        began, log = time.monotonic(), self.root / "mutant.log"
        child = os.fork()
        if child == 0:
            self._child(tests, log)
        while time.monotonic() - began < limit_s:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                took = time.monotonic() - began
                return ("survived", "", took) if status == 0 else ("killed", _failed(log.read_text()), took)
            time.sleep(0.02)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "timeout", f"no end within {limit_s:.0f} s", time.monotonic() - began

    def _child(self, tests: Sequence[str], log: Path) -> None:
        """Never returns."""
        os.setsid()
        code = 3
        try:
            with log.open("wb") as stream:
                for descriptor in (1, 2):
                    os.dup2(stream.fileno(), descriptor)
            os.chdir(self.root)
            sys.path[:] = [str(self.root), *(p for p in sys.path if p and not Path(p).resolve().is_relative_to(REPO))]
            os.environ["PYTHONPATH"] = str(self.root)
            import pytest

            options = ["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-m", "not slow"]
            code = int(pytest.main([*options, *tests]))
            sys.stdout.flush()
        finally:
            os._exit(code)


def run(
    modules: dict[str, tuple[str, ...]], count: int, seed: int, minutes: float, again: frozenset[tuple[str, str]] | None
) -> list[Result]:
    """Every mutant, or `count` per module drawn with `seed`, or those of `again`; stops when the minutes are over."""
    results, until = [], time.monotonic() + 60.0 * minutes
    with tempfile.TemporaryDirectory(prefix="dropgate-mutants-") as folder:
        shadow = Shadow(Path(folder))
        for module, tests in modules.items():
            outcome, by, plain = shadow.passes(tests, 60.0 * minutes)
            if outcome != "survived":
                raise SystemExit(f"{module}: {' '.join(tests)} fail without a mutant: {by}")
            source = (shadow.root / module).read_text()
            chosen = list(mutants_of(source))
            if again is not None:
                chosen = [mutant for mutant in chosen if (module, mutant.change) in again]
            elif count:
                chosen = random.Random(f"{seed} {module}").sample(chosen, min(count, len(chosen)))
            for mutant in sorted(chosen, key=lambda m: (m.line, m.id)):
                if time.monotonic() > until:
                    print(f"time is over at {module}", flush=True)
                    return results
                with shadow.holding(module, mutant.source):
                    outcome, by, took = shadow.passes(tests, LEAST_S + SLACK * plain)
                results.append(Result(module, replace(mutant, source=""), outcome, by, round(took, 1)))
                print(f"{outcome:9s}{module}:{mutant.line} {mutant.kind}: {mutant.change}  {by}", flush=True)
    return results


def table(results: Sequence[Result]) -> str:
    """Counts per module, then every survivor, as Markdown."""
    lines = ["| module | mutants | killed | survived |", "|---|---|---|---|"]
    for module in dict.fromkeys(result.module for result in results):
        own = [result for result in results if result.module == module]
        left = sum(result.outcome == "survived" for result in own)
        lines.append(f"| `{module}` | {len(own)} | {len(own) - left} | {left} |")
    left = sum(result.outcome == "survived" for result in results)
    lines += [f"| all | {len(results)} | {len(results) - left} | {left} |", ""]
    lines += ["| survivor | change |", "|---|---|"]
    for result in results:
        if result.outcome == "survived":
            change = result.mutant.change.replace("|", "\\|")
            lines.append(f"| `{Path(result.module).name}` `{result.mutant.id}` | `{change}` |")
    return "\n".join(lines)


def _failed(log: str) -> str:
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", log, re.MULTILINE)
    return found[1] if found else " ".join(log.split())[-120:]


def survivors(path: Path) -> frozenset[tuple[str, str]]:
    """(module, change) of the survivors in a file that `--json` wrote; lines may have moved since."""
    found = json.loads(path.read_text())["mutants"]
    return frozenset((m["module"], m["mutant"]["change"]) for m in found if m["outcome"] == "survived")


def main() -> int:
    """Command line; exit code 0 also with survivors: they are for a person to judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help=f"paths; without: {', '.join(TESTS)}")
    parser.add_argument("--tests", nargs="+", help="test files of the modules; without: those of the table TESTS")
    parser.add_argument("--per-module", type=int, default=16, help="mutants drawn from each; 0 = all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="no new mutant after that")
    parser.add_argument("--again", type=Path, metavar="JSON", help="only the survivors of that earlier run")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    modules = {name: tuple(given.tests or TESTS.get(name, ())) for name in given.modules or TESTS}
    again = survivors(given.again) if given.again else None
    if again is not None and not given.modules:
        modules = {name: tests for name, tests in modules.items() if name in {module for module, _ in again}}
    wrong = [name for name, tests in modules.items() if not tests or not (REPO / name).is_file()]
    if wrong:
        parser.error(f"no tests or no file for {wrong}; known: {', '.join(TESTS)}; for others give --tests")
    for name in LIBRARIES:
        importlib.import_module(name)
    if any(name in sys.modules for name in OURS):
        parser.error(f"one of {OURS} is imported already, mutants would not be seen")
    results = run(modules, given.per_module, given.seed, given.minutes, again)
    print(f"\n{table(results)}")
    if given.json:
        from compress.atomic import write_json

        write_json(given.json, {"seed": given.seed, "mutants": [asdict(result) for result in results]})
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
