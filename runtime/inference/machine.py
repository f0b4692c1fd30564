# SPDX-License-Identifier: Apache-2.0
"""On what was it measured: processor, versions, load, and this process's memory. A number without them says nothing."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("dropgate", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch")


def facts() -> dict[str, Any]:
    """System, architecture, processor and number of CPUs that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": platform.system(), "machine": platform.machine(), "cpus": usable or 0, "cpu": cpu_name()}


def versions() -> dict[str, str]:
    """Python, and those of `PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def load_average() -> float | None:
    """Processes that wanted a CPU, averaged over the last minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def memory() -> dict[str, int]:
    """Resident memory of this process [bytes]: `rss` now, `rss_peak` the most since it started; empty outside Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    kept = dict(line.split(":", 1) for line in lines)
    wanted = {"rss": "VmRSS", "rss_peak": "VmHWM"}
    return {name: int(kept[key].split()[0]) * 1024 for name, key in wanted.items() if key in kept}


def cpu_name() -> str:
    """As the system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
