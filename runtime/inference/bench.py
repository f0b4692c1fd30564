# SPDX-License-Identifier: Apache-2.0
"""How long do artifacts take here, from observation to chunk, how much memory, and how far is that from the floor?

Every artifact runs in a fresh process of its own (its memory and its load time are then its own), and they take turns
on their golden inputs. The machine's peaks are measured before and after, in this process, while the others wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.contract.artifact import read_artifact
from runtime.contract.manifest import parse_json
from runtime.errors import ContractError
from runtime.inference import machine, peak
from runtime.inference.policy import PROVEN_BACKEND, STAGES
from runtime.inference.roofline import WORK_FILE, Floor, Peak, Work, floor
from runtime.inference.turns import Answer, Contender, take_turns

PERCENTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0}
WARM_UP = 3
NO_WORK = f"the artifact has no {WORK_FILE} (an older export): export again, or use `compress bench`, which counts"


@dataclass(frozen=True)
class ArtifactLatency:
    """One artifact. Times in [ms] unless named otherwise; all but `cold` without the first calls.

    Attributes:
        name, artifact_id, policy_id: which.
        runs: timed calls.
        p50_ms, p95_ms, p99_ms, max_ms, mean_ms: whole calls, image bytes in, commands out.
        cpu_p50_ms: CPU time of a call, all threads, which other jobs disturb less.
        p99_over_p50: how steady it is.
        stages: median of each of `STAGES`.
        cold: `first_ms` (the first call) and `warm_up_ms` (those after it), `load_s` (read, verify, open, warm up on
            zeros), `first_action_s` (from starting the process to the first chunk).
        memory: [bytes] `loaded` once loaded, `rss` at the end, `rss_peak` the most of the fresh process; its own
            libraries included.
        times_first: this one's time over the first artifact's, median of per-round ratios.
        floor: see `roofline`, for the stage `inference` alone; None where `no_floor` says why.
    """

    name: str
    artifact_id: str
    policy_id: str
    runs: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    mean_ms: float
    cpu_p50_ms: float
    p99_over_p50: float
    stages: Mapping[str, float]
    cold: Mapping[str, Any]
    memory: Mapping[str, int]
    times_first: float
    floor: Floor | None
    no_floor: str = ""


@dataclass(frozen=True)
class Bench:
    """Artifacts compared in one run, with the machine that it was.

    Attributes:
        artifacts: in the order given.
        backend, provider, threads: of every artifact; threads None is the engine's own choice.
        machine, versions: where.
        load: average number of processes that wanted a CPU, `before` and `after`; more than `cpus` is a noisy run.
        peaks: artifact -> what the machine reached at most, `Peak` as plain data.
    """

    artifacts: tuple[ArtifactLatency, ...]
    backend: str
    provider: str | None
    threads: int | None
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    load: Mapping[str, float | None]
    peaks: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"schema": "dropgate.bench/1", **asdict(self)}


def bench(
    artifacts: Mapping[str, Path],
    runs: int = 100,
    *,
    backend: str = "onnxruntime",
    threads: int | None = None,
    provider: str | None = None,
    work: Mapping[str, Work] | None = None,
) -> Bench:
    """Time artifacts (drafts too) side by side.

    Args:
        artifacts: name -> directory; the first is what the others are compared with.
        runs: timed calls of each.
        backend, threads, provider: engine; the provider is the manifest's first unless given.
        work: name -> what its graph has to do, where that is known better than by its `evidence/work.json`.

    Raises:
        ContractError: nothing to measure.
        BackendError: an artifact cannot be run here; the message is its process's last line.
    """
    if not artifacts or runs < 1:
        raise ContractError(f"bench runs: found {runs} of {len(artifacts)} artifacts, expected at least 1 of each")
    known = {name: (work or {}).get(name) or counted(folder) for name, folder in artifacts.items()}
    chosen = provider or _first_provider(artifacts, backend)
    before = machine.load_average()
    peaks = _peaks(known, backend, threads, chosen)
    options = ["--backend", backend, *([] if chosen is None else ["--provider", chosen])]
    options += [] if threads is None else ["--threads", str(threads)]
    running: dict[str, Contender] = {}
    try:
        for name, folder in artifacts.items():
            command = ["-m", "runtime.inference.bench_process", str(folder.absolute()), *options]
            running[name] = Contender(name, command)
            running[name].wait_ready()
        first, timed = take_turns(running, runs, WARM_UP)
        memory = {name: contender.ask({})["memory"] for name, contender in running.items()}
    finally:
        for contender in running.values():
            contender.close()
    after = _peaks(known, backend, threads, chosen)
    peaks = {name: found.best(after[name]) for name, found in peaks.items()}
    reference = _column(timed[next(iter(artifacts))], "ms")
    rows = tuple(
        _row(name, running[name].ready, first[name], timed[name], memory[name], reference, known[name], peaks.get(name))
        for name in artifacts
    )
    load = {"before": before, "after": machine.load_average()}
    plain = {name: asdict(found) for name, found in peaks.items()}
    return Bench(rows, backend, chosen, threads, machine.facts(), machine.versions(), load, plain)


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """Artifacts by the shortest end of their paths that tells them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, folders, strict=True))
    return {
        f"{i + 1}:{folder.name}": folder for i, folder in enumerate(folders)
    }  # the same one twice: how noisy is it?


def counted(folder: Path) -> Work | None:
    """What the exporter counted; None for an artifact that does not say.

    Raises:
        ArtifactError, ContractError: the artifact is damaged.
    """
    artifact = read_artifact(folder)
    if WORK_FILE not in {entry.path for entry in artifact.manifest.files}:
        return None
    return Work.from_json(parse_json(artifact.read_bytes(WORK_FILE), WORK_FILE), f"{folder}/{WORK_FILE}")


def _first_provider(artifacts: Mapping[str, Path], backend: str) -> str | None:
    """The first artifact's first, where the engine has providers at all."""
    if backend.partition(":")[0] != PROVEN_BACKEND:
        return None
    return read_artifact(next(iter(artifacts.values()))).manifest.policy.engine.providers[0]


def _peaks(
    known: Mapping[str, Work | None], backend: str, threads: int | None, provider: str | None
) -> dict[str, Peak]:
    """Of every artifact whose work is known: bandwidth depends on the size of its weights."""
    counted_work = {name: work for name, work in known.items() if work is not None}
    if not counted_work:
        return {}
    precisions = sorted({kind for work in counted_work.values() for kind in work.precisions})
    sizes = sorted({work.weight_bytes for work in counted_work.values()})
    found = peak.measure(backend, threads, provider, precisions, sizes)
    return {name: found[work.weight_bytes] for name, work in counted_work.items()}


def _row(
    name: str,
    ready: Answer,
    first: Sequence[Answer],
    timed: Sequence[Answer],
    memory: Mapping[str, int],
    reference: np.ndarray[Any, np.dtype[np.float64]],
    work: Work | None,
    most: Peak | None,
) -> ArtifactLatency:
    wall = _column(timed, "ms")
    percentiles = {key: float(np.percentile(wall, share)) for key, share in PERCENTILES.items()}
    stages = {stage: float(np.median([answer["stages"][stage] for answer in timed])) for stage in STAGES}
    found, why = None, NO_WORK
    if work is not None and most is not None:
        try:
            found, why = floor(work, most, stages["inference"]), ""
        except ContractError as error:
            why = str(error)
    return ArtifactLatency(
        name=name,
        artifact_id=ready["artifact_id"],
        policy_id=ready["policy_id"],
        runs=len(timed),
        **percentiles,
        max_ms=float(wall.max()),
        mean_ms=float(wall.mean()),
        cpu_p50_ms=float(np.median(_column(timed, "cpu_ms"))),
        p99_over_p50=percentiles["p99_ms"] / percentiles["p50_ms"],
        stages=stages,
        cold={
            "first_ms": ready["first_ms"],
            "warm_up_ms": [answer["ms"] for answer in first],
            "load_s": ready["load_s"],
            "first_action_s": ready["first_action_s"],
        },
        memory={"loaded": ready["memory_loaded"].get("rss", 0), **memory},
        times_first=float(np.median(wall / reference)),
        floor=found,
        no_floor=why,
    )


def _column(answers: Sequence[Answer], key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([answer[key] for answer in answers], dtype=np.float64)
