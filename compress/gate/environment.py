# SPDX-License-Identifier: Apache-2.0
"""On what a gate run ran: package versions and one line about the machine."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("dropgate", "mujoco", "robosuite", "hf-libero", "bddl", "onnxruntime", "numpy")


def versions() -> dict[str, str]:
    """Installed versions; "missing" where a package is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def hardware() -> str:
    """Processor, cores, operating system and renderer in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    renderer = os.environ.get("MUJOCO_GL", "default")
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, MUJOCO_GL={renderer}"
