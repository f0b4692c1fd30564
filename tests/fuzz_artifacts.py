# SPDX-License-Identifier: Apache-2.0
"""Damage artifacts at random and load each in a process of its own, as the robot would.

    python tests/fuzz_artifacts.py --count 10000 --seed 0 --report FILE

*sealed as it was*: the manifest still has the old digests; nothing of this may load.
*sealed again*: whoever made the damage also made new digests. Then what must be refused (`early`) is refused before an
engine sees it; what is only a note (`neutral`) loads and answers bit-equally; the rest may do either. Nothing, sealed
or not, may crash, hang, use up memory, or raise an error that is not DropGate's.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fuzz_files
import fuzz_onnx
import fuzz_weights  # noqa: F401 - its edits join fuzz_onnx.EDITS
import fuzz_wire
import onnx
import onnxruntime  # noqa: F401 - here, so that not every child imports it
import safetensors.numpy  # noqa: F401
import tokenizers  # noqa: F401
from fuzz_bases import MODEL, Base, Work, base_of, bases

from runtime.contract.artifact import read_artifact, verify_artifact
from runtime.errors import BackendError, DropGateRuntimeError
from runtime.inference.golden import GoldenSample, golden_parity, load_golden
from runtime.inference.policy import Policy

MEMORY_BYTES = 3 << 30  # address space of a child
EVERY = 100  # cases between two reports
CPU_SECONDS = 20  # for one case
SECONDS = 300.0  # by the clock: a machine may be busy, a child may wait for ever


@dataclass
class Found:
    """What one case came to: `outcome` and the error's text or the answer's digest."""

    outcome: str
    detail: str = ""


@dataclass
class Tally:
    """Outcomes by kind of damage, the defects among them, and the texts of what was refused."""

    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    defects: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0


def cases(found: list[Base], rng: random.Random, count: int) -> Iterator[tuple[str, str, Base, Work]]:
    """`count` damaged artifacts: kind, what must come of it, base, work. Kinds take turns."""
    kinds: list[tuple[str, str, Any]] = [(f"unsealed {c.__name__}", "refused", c) for c in fuzz_files.UNSEALED]
    kinds += [(f"resealed {c.__name__}", expect, c) for c, expect in fuzz_files.RESEALED.items()]
    kinds += [(f"resealed onnx {name}", "early", function) for name, function in fuzz_wire.RAW.items()]
    kinds += [(f"resealed onnx {name}", expect, function) for name, (expect, function) in fuzz_onnx.EDITS.items()]
    # random bytes are cheap to think of and many in kind: they get more turns
    kinds += [kind for kind in kinds if kind[0] in ("unsealed bytes_changed", "resealed resealed_graph_bytes",
              "resealed resealed_manifest", "resealed tensor_header", "resealed tokenizer_part")] * 4  # fmt: skip
    for index in range(count):
        kind, expect, function = kinds[index % len(kinds)]
        base = rng.choice(found)
        work = base.work()
        name = function.__name__
        if name in fuzz_wire.RAW:
            work.files[MODEL] = function(rng, work.files[MODEL])
        elif name in fuzz_onnx.EDITS:
            model = onnx.load_from_string(work.files[MODEL])
            function(rng, model)
            work.files[MODEL] = model.SerializeToString()
        else:
            function(rng, work)
        if expect != "refused" and name != "sizes_declared":
            with contextlib.suppress(ValueError, UnicodeError):  # what canonical JSON cannot say stays unsealed
                work.reseal()
        yield kind, expect, base, work


def attempt(folder: Path, sample: GoldenSample) -> Found:
    """Load as the robot does, ask once, run the golden inputs."""
    try:
        policy = Policy.load(folder, threads=1, allow_unsealed=True, require_promoted=False)
    except DropGateRuntimeError as error:
        early = not isinstance(error, BackendError) or "onnxruntime" not in str(error)
        return Found("refused early" if early else "refused by the engine", f"{type(error).__name__}: {error}")
    with policy:
        try:
            answer = policy.infer(sample.observation, sample.instruction, 0.0).values.tobytes().hex()
        except DropGateRuntimeError as error:
            return Found("loads, refuses to answer", f"{type(error).__name__}: {error}")
        with contextlib.suppress(DropGateRuntimeError):
            golden_parity(policy)
        return Found("loads", answer)


def isolated(folder: Path, sample: GoldenSample) -> Found:
    """`attempt` in a child with bounded memory and time: a crash is an outcome."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        _child(folder, sample, sender)
    os.close(sender)
    deadline, said = time.monotonic() + SECONDS, b""
    while (left := deadline - time.monotonic()) > 0 and select.select([receiver], [], [], left)[0]:
        block = os.read(receiver, 1 << 16)
        if not block:
            break
        said += block
    else:
        os.kill(child, signal.SIGKILL)
    os.close(receiver)
    _, status = os.waitpid(child, 0)
    if said and os.waitstatus_to_exitcode(status) == 0:
        return Found(**json.loads(said))
    code = os.waitstatus_to_exitcode(status)
    if time.monotonic() >= deadline or code == -signal.SIGXCPU:
        return Found("hangs", f"more than {SECONDS} s, or {CPU_SECONDS} s of one core")
    return Found("crashes", f"exit {code}")


def _child(folder: Path, sample: GoldenSample, sender: int) -> None:
    """Never returns."""
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        faulthandler.disable()  # a test runner's, which would write much
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the engine's complaints
        found: Found | None = None
        try:
            found = attempt(folder, sample)
            verify_artifact(folder)  # a report or an error of ours, whatever it finds
        except DropGateRuntimeError as error:  # from verify: there is no manifest to report about
            found = found or Found("refused early", f"{type(error).__name__}: {error}")
        except MemoryError as error:
            found = Found("out of memory", str(error))
        except BaseException as error:
            found = Found("foreign error", f"{type(error).__module__}.{type(error).__name__}: {str(error)[:500]}")
        os.write(sender, json.dumps(vars(found), default=str).encode())
    finally:
        os._exit(0)


def defect(expect: str, found: Found, intact: Found) -> str:
    """Why this outcome must not be, or ''."""
    loads = found.outcome.startswith("loads")
    if found.outcome in ("crashes", "hangs", "out of memory", "foreign error"):
        return found.outcome
    if expect in ("refused", "early") and loads:
        return "loads what must be refused"
    if expect in ("refused", "early") and found.outcome != "refused early":
        return "the engine saw what must be refused before"
    if expect == "neutral" and (found.outcome, found.detail) != (intact.outcome, intact.detail):
        return "a note changed the answer"
    return ""


def fuzz(count: int, seed: int, scratch: Path, extra: list[Path], say: Callable[[Tally], None] | None = None) -> Tally:
    """Damage and load `count` artifacts; the same seed gives the same damage. `say` hears of every 100."""
    tally, rng = Tally(), random.Random(seed)
    found = bases(scratch) + [base_of(folder, folder.name) for folder in extra]
    folder = scratch / "case" / "policy"
    samples, intact = {}, {}
    for base in found:
        with _laid(base.work(), folder):
            samples[base.name] = load_golden(read_artifact(folder))[0]
            intact[base.name] = isolated(folder, samples[base.name])
            if intact[base.name].outcome != "loads":
                raise SystemExit(f"base {base.name} must load, found {intact[base.name]}")
    for kind, expect, base, work in cases(found, rng, count):
        with _laid(work, folder):
            outcome = isolated(folder, samples[base.name])
        if outcome.outcome == "loads":
            equal = outcome.detail == intact[base.name].detail
            label = "loads, equal" if equal else "loads, other answer"
        else:
            label = outcome.outcome
        tally.by_kind.setdefault(f"{kind} [{expect}]", Counter())[label] += 1
        if why := defect(expect, outcome, intact[base.name]):
            tally.defects.append({"case": tally.count, "kind": kind, "base": base.name, "why": why,
                                  "detail": outcome.detail[:300]})  # fmt: skip
        tally.count += 1
        if say and tally.count % EVERY == 0:
            say(tally)
    return tally


@contextlib.contextmanager
def _laid(work: Work, folder: Path) -> Iterator[None]:
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        work.write(folder)
        yield
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)


def main() -> int:
    """Exit 1 if there is a defect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--artifact", type=Path, action="append", default=[], help="damage this one, too")
    parser.add_argument("--report", type=Path, help="JSON file for counts and defects")
    options = parser.parse_args()
    started = time.perf_counter()

    def keep(tally: Tally) -> dict[str, Any]:
        """The report so far, also for a run that is stopped."""
        totals: Counter[str] = sum(tally.by_kind.values(), Counter())
        answer = {
            "count": tally.count,
            "seed": options.seed,
            "seconds": round(time.perf_counter() - started, 1),
            "totals": dict(totals),
            "by_kind": {kind: dict(counts) for kind, counts in sorted(tally.by_kind.items())},
            "defects": tally.defects,
        }
        if options.report:
            fresh = options.report.with_suffix(".new")
            fresh.write_text(json.dumps(answer, indent=2, sort_keys=True) + "\n")
            fresh.replace(options.report)
        print(f"{tally.count} of {options.count}, {len(tally.defects)} defects", file=sys.stderr)
        return answer

    with tempfile.TemporaryDirectory(prefix="dropgate-fuzz-") as scratch:
        tally = fuzz(options.count, options.seed, Path(scratch), options.artifact, keep)
    print(json.dumps(keep(tally), indent=2, sort_keys=True))
    return 1 if tally.defects else 0


if __name__ == "__main__":
    sys.exit(main())
