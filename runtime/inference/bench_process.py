# SPDX-License-Identifier: Apache-2.0
"""One artifact in a fresh process that answers golden inputs when asked; `runtime.inference.bench` starts it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.errors import DropGateRuntimeError
from runtime.inference import machine
from runtime.inference.golden import load_golden
from runtime.inference.policy import Policy
from runtime.inference.turns import Answer, serve, since_started


class Stopwatch:
    """Milliseconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = self._start = time.perf_counter()
        self._cpu = time.process_time()

    def lap(self, name: str) -> None:
        """The time since the lap before, or since the start."""
        now = time.perf_counter()
        self.laps[name] = (now - self._last) * 1e3
        self._last = now

    def answer(self) -> Answer:
        """The whole time, the CPU time of all threads, and the laps [ms]."""
        whole = (time.perf_counter() - self._start) * 1e3
        return {"ms": whole, "cpu_ms": (time.process_time() - self._cpu) * 1e3, "stages": self.laps}


def start(options: argparse.Namespace) -> tuple[Answer, Callable[[Answer], Answer]]:
    """Load as the robot does, and answer one observation; then the first line and what answers further ones."""
    before = time.monotonic()
    policy = Policy.load(
        options.artifact, options.backend, threads=options.threads, provider=options.provider,
        allow_unsealed=True, require_promoted=False, allow_unproven=True,
    )  # fmt: skip
    load_s = time.monotonic() - before
    samples = load_golden(policy.artifact)
    weights = machine.memory()

    def call(number: int) -> Answer:
        sample, watch = samples[number % len(samples)], Stopwatch()
        policy.infer(sample.observation, sample.instruction, 0.0, watch.lap, sample.guidance)
        return watch.answer()

    first = call(0)
    ready: dict[str, Any] = {
        "artifact_id": policy.manifest.artifact_id,
        "policy_id": policy.manifest.policy_id,
        "provider": policy.description,
        "load_s": load_s,
        "first_action_s": since_started(),
        "first_ms": first["ms"],
        "memory_loaded": weights,
    }
    return ready, lambda question: call(question["call"]) if "call" in question else {"memory": machine.memory()}


def main() -> int:
    """Serve until stdin closes; 1 and one sentence on stderr where the artifact cannot be run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--provider", default=None)
    options = parser.parse_args()
    try:
        serve(lambda: start(options))
    except (DropGateRuntimeError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
