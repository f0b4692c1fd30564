# SPDX-License-Identifier: Apache-2.0
"""Which TensorRT belongs on which station: one table (`tensorrt_targets.json`), read here and nowhere else.

Why pinned: ONNX Runtime's GPU wheels link TensorRT 10 while the index's newest TensorRT is 11, which has no JetPack;
a station with two TensorRTs of different majors fails at load, or silently computes on the CPU.
"""

from __future__ import annotations

import functools
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from runtime.contract.codec import conform, decode
from runtime.errors import BackendError

TABLE = Path(__file__).with_name("tensorrt_targets.json")
UNLISTED = "unlisted"


@dataclass(frozen=True)
class Target:
    """One kind of station.

    Attributes:
        machine, pythons: how it is recognised: architecture and the Python versions that may run there.
        tensorrt: the version that is meant; `accepts` is what a found version has to start with.
        cuda: major version; `onnxruntime_gpu`: what goes beside it.
        install: the command that brings it.
    """

    name: str
    machine: str
    pythons: tuple[str, ...]
    system: str
    cuda: str
    tensorrt: str
    accepts: str
    onnxruntime_gpu: str
    install: str

    def __post_init__(self) -> None:
        conform(self)


@functools.cache
def targets() -> tuple[Target, ...]:
    """The table."""
    return tuple(decode(Target, row, f"{TABLE.name}[{i}]") for i, row in enumerate(json.loads(TABLE.read_text())))


def target(machine: str | None = None, python: str | None = None) -> Target | None:
    """The row of this station (or of the one described), or None."""
    wanted = (machine or platform.machine(), python or f"{sys.version_info[0]}.{sys.version_info[1]}")
    return next((row for row in targets() if row.machine == wanted[0] and wanted[1] in row.pythons), None)


def install_command() -> str:
    """What brings TensorRT and the CUDA bindings to this station."""
    row = target()
    return row.install if row is not None else f"one of: {'; '.join(sorted({each.install for each in targets()}))}"


def check_version(found: str, allow_other: bool = False, row: Target | None = None) -> str:
    """Name of the target that this TensorRT version fits, for the record.

    `allow_other` lets a version through that the table does not name; it is then recorded as `unlisted`. BackendError
    gives the command that installs the right one.
    """
    row = row or target()
    if row is not None and found.startswith(row.accepts):
        return row.name
    if allow_other:
        return UNLISTED
    if row is None:
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        raise BackendError(
            f"TensorRT {found}: no target for {machine}, available: {[each.name for each in targets()]}; "
            "use one of these, or accept it with --any-version"
        )
    raise BackendError(
        f"TensorRT: found {found}, expected {row.tensorrt} on {row.name} ({row.system}); run: {row.install}; "
        "or accept this one with --any-version"
    )
