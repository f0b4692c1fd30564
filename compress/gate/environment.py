# SPDX-License-Identifier: Apache-2.0
"""On what a gate run ran: package versions and one line about the machine."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from runtime.inference.machine import cpu_name

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
    model, renderer = cpu_name() or platform.machine(), os.environ.get("MUJOCO_GL", "default")
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, MUJOCO_GL={renderer}"
