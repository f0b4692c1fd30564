# SPDX-License-Identifier: Apache-2.0
"""The sections of a recipe that no stage owns: one frozen dataclass each, the only place of its defaults and ranges.

The others are the stages' own: `plan.PlanSpec`, `dtr.spec.RecoverSpec`, `gate.spec.GateSpec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from compress.data.values import ValueMap
from compress.models.registry import FAMILIES
from compress.settings import SettingsError, check_ranges, number, to_plain

Metric = Literal["gateprobe", "uniform", "random", "magnitude", "cosine", "taylor", "fisher", "loo"]
SuiteName = Literal["dropgate_tabletop", "libero_spatial", "libero_object", "libero_goal", "libero_10"]
Trim = Literal["rows", "kv"]
MAX_PIXELS = 4096


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

    `compress data inspect PATH` shows the keys of a data set.

    Attributes:
        format: of the files at `path`. `libero_hdf5` needs no mapping: its keys are known; what is given replaces them.
        path: a data set's folder, or one file.
        generate: what to make instead; made once, kept in the cache folder.
        cameras: the policy's camera -> the data set's.
        state: the data set's vectors that are joined to the state, in order; `KEY[0:7]` takes a part.
        action: the vector that is the action, or several that are joined to it.
        action_values: by the policy's name of an action dimension, two numbers of the data set and what they are to the
            policy: `{gripper: {data: [-1, 1], policy: [1, 0]}}`. For signs, offsets and units that differ.
        image_size: pixels, one number or [height, width]: the policy's own. Unset leaves pictures as they are.
        rotate_180: turn every picture; unset is true for `libero_hdf5`, false otherwise.
        instruction_key: where the sentence stands; unset is the format's own place.
        instruction: one sentence for every episode, for data without any.
    """

    format: Literal["libero_hdf5", "robomimic_hdf5", "lerobot", "rlds"] = "libero_hdf5"
    path: Path | None = None
    generate: GenerateSection | None = None
    cameras: Mapping[str, str] = field(default_factory=dict)
    state: tuple[str, ...] | None = None
    action: str | tuple[str, ...] | None = None
    action_values: Mapping[str, ValueMap] = field(default_factory=dict)
    image_size: int | tuple[int, ...] | None = None
    rotate_180: bool | None = None
    instruction_key: str | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.generate is None):
            given = "both are set" if self.path is not None else "neither is set"
            raise SettingsError(f"set exactly one of `path` and `generate`: {given}")
        if self.generate is not None and self.format != "libero_hdf5":
            raise SettingsError(f"`format` is {self.format!r}, and what `generate` makes is libero_hdf5")
        if self.instruction_key is not None and self.instruction is not None:
            raise SettingsError("set at most one of `instruction_key` and `instruction`")
        size = (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
        if size is not None and not (len(size) == 2 and all(1 <= pixels <= MAX_PIXELS for pixels in size)):
            raise SettingsError(
                f"`image_size` is {to_plain(self.image_size)}, expected pixels or [height, width], 1 to {MAX_PIXELS}"
            )

    @property
    def mapped(self) -> bool:
        """Whether anything is said about keys or pictures; if not, LIBERO's own files are read as they are."""
        given = (self.state, self.action, self.image_size, self.rotate_180, self.instruction_key, self.instruction)
        some = bool(self.cameras or self.action_values)
        return self.format != "libero_hdf5" or some or any(value is not None for value in given)


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
        precision: of the graph's weights and arithmetic; its inputs and outputs stay float32. bf16 needs an engine that
            is built on the station.
        sampler: of flow policies: its steps as a loop in the graph, or unrolled.
        batch: robots ask for one chunk at a time; `dynamic` leaves the first axis open.
        guided: of flow policies: the graph takes the previous chunk too, for real-time chunking; each step then costs a
            backward pass through the action expert.
        trims: exact trims of the graph; `[]` leaves it as the network is.
        tasks: a closed list of instructions, or `gate` for those of the gate's suite: the graph keeps the token rows of
            their prompts only, and the robot refuses any other instruction. Empty: any instruction.
        quantize: weight matrices of the candidate in fewer bits; int8 is for CPUs, int4 is opset 21.
        quantize_budget: largest error of any action dimension that this may cost, in commands; what stays above it is
            refused, and the golden check on a robot allows as much.
        golden: frames whose inputs and outputs travel with the artifact.
        threads: CPU threads of the latency measurement.
        bench_runs: timed calls per engine.
        convertible: ask TensorRT's builder (package `tensorrt-rtx`, no GPU) whether it takes the graph: where it is
            installed, always (no package is an error), or never.
    """

    target: Literal["onnx"] = "onnx"
    opset: int = number(20, low=18, high=22)
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    sampler: Literal["loop", "unrolled"] = "loop"
    batch: Literal["fixed", "dynamic"] = "fixed"
    guided: bool = False
    trims: tuple[Trim, ...] = ("rows", "kv")
    tasks: Literal["gate"] | tuple[str, ...] = ()
    quantize: Literal["none", "int8", "int4"] = "none"
    quantize_budget: float = number(0.05, low=1e-4, high=0.25)
    golden: int = number(8, low=8, high=256)
    threads: int = number(1, low=1, high=1024)
    bench_runs: int = number(50, low=1, high=100_000)
    convertible: Literal["auto", "require", "off"] = "auto"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.tasks != "gate" and not all(task.strip() for task in self.tasks):
            raise SettingsError(f"`tasks` is {to_plain(self.tasks)}, expected instructions, none of them empty")
