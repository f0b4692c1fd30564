# SPDX-License-Identifier: Apache-2.0
"""The sections of a recipe that no stage owns: one frozen dataclass each, the only place of its defaults and ranges.

The others are the stages' own: `plan.PlanSpec`, `dtr.spec.RecoverSpec`, `gate.spec.GateSpec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compress.models.registry import FAMILIES
from compress.settings import SettingsError, check_ranges, number

Metric = Literal["gateprobe", "uniform", "random", "magnitude", "cosine", "taylor", "fisher", "loo"]
SuiteName = Literal["dropgate_tabletop", "libero_spatial", "libero_object", "libero_goal", "libero_10"]


@dataclass(frozen=True)
class ModelSection:
    """Which policy to compress.

    Attributes:
        family: the adapter.
        checkpoint: a checkpoint folder, or `builtin` for the one that ships with the package.
    """

    family: str = "reference"
    checkpoint: str = "builtin"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise SettingsError(f"`family` is {self.family!r}, expected one of: {', '.join(sorted(FAMILIES))}")


@dataclass(frozen=True)
class GenerateSection:
    """Demonstrations made by the scripted expert.

    Attributes:
        suite: the simulated tasks.
        episodes_per_task: successful episodes per task.
        seed: of initial states and noise.
        noise: largest standard deviation of the disturbance on the executed commands, in commands.
        image_size: pixels, square.
    """

    suite: SuiteName = "dropgate_tabletop"
    episodes_per_task: int = number(12, low=1, high=10_000)
    seed: int = number(0, low=0, high=3999)
    noise: float = number(0.2, low=0.0, high=0.5)
    image_size: int = number(128, low=16, high=1024)

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class DataSection:
    """Demonstrations for the probe and the recovery: `path`, or `generate`.

    Attributes:
        format: of the files at `path`.
        path: a folder of demonstration files, or one file.
        generate: what to make instead; made once, kept in the cache folder.
    """

    format: Literal["libero_hdf5"] = "libero_hdf5"
    path: Path | None = None
    generate: GenerateSection | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.generate is None):
            given = "both are set" if self.path is not None else "neither is set"
            raise SettingsError(f"set exactly one of `path` and `generate`: {given}")


@dataclass(frozen=True)
class ProbeSection:
    """How blocks are scored.

    Attributes:
        metric: what the plan goes by.
        samples: calibration frames.
        batch_size: frames per forward pass.
        seed: of their choice.
        compare: other metrics to score beside it, for the report; the plan does not read them.
    """

    metric: Metric = "gateprobe"
    samples: int = number(256, low=2, high=1_000_000)
    batch_size: int = number(8, low=1, high=4096)
    seed: int = number(0, low=0)
    compare: tuple[Metric, ...] = ("uniform", "magnitude", "cosine")

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class ExportSection:
    """What is shipped.

    Attributes:
        target: the graph format.
        opset: ONNX operator set; 20 is the portable choice.
        golden: frames whose inputs and outputs travel with the artifact.
        threads: CPU threads of the latency measurement.
        bench_runs: timed calls per engine.
    """

    target: Literal["onnx"] = "onnx"
    opset: int = number(20, low=18, high=22)
    golden: int = number(8, low=8, high=256)
    threads: int = number(1, low=1, high=1024)
    bench_runs: int = number(50, low=1, high=100_000)

    def __post_init__(self) -> None:
        check_ranges(self)
