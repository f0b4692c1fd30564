# SPDX-License-Identifier: Apache-2.0
"""What every test run needs: markers that skip with a reason, caches outside the home folder, no network."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import ros_domains

if TYPE_CHECKING:
    from rclpy import Context

REPO = Path(__file__).resolve().parent.parent

# set before any test module is imported; a value the user has set is kept. One folder per environment, because LIBERO's
# configuration holds absolute paths into it.
_ENVIRONMENT = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
_SCRATCH = Path(tempfile.gettempdir()) / f"dropgate-tests-{os.getuid()}-{_ENVIRONMENT}"
for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "LIBERO_CONFIG_PATH": str(_SCRATCH / "libero"),
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": str(_SCRATCH / "matplotlib"),
    "OMP_NUM_THREADS": "1",
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "ROS_LOG_DIR": str(_SCRATCH / "ros"),
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(_name, _value)
if "PYTEST_XDIST_WORKER" in os.environ:  # it has inherited its parent's; workers must not hear each other
    os.environ.pop("ROS_DOMAIN_ID", None)
if "ROS_DOMAIN_ID" not in os.environ:
    os.environ["ROS_DOMAIN_ID"] = ros_domains.take(ros_domains.TESTS)

# A runner that starts us in the background (nohup, `&` in a script) hands SIGINT on as ignored, and children inherit
# it: tests that press Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# pytest's own `pythonpath` (pyproject.toml) for the processes that tests start: the nodes as they are in the tree
_NODES = [str(REPO / "ros2_ws" / "src" / package) for package in ("dropgate_controller", "dropgate_sim")]
os.environ["PYTHONPATH"] = os.pathsep.join([*_NODES, *filter(None, [os.environ.get("PYTHONPATH")])])

_NEEDS = {"sim": ("libero", "robosuite", "mujoco"), "ros": ("rclpy", "dropgate_interfaces"), "gpu": ("torch",)}
_FIX = {
    "sim": "make install (extra `sim`, then hf-libero)",
    "ros": "make install-ros ros-build; with a sourced ROS 2 make ros-build, then source ros2_ws/install/setup.bash",
    "gpu": "a machine with a CUDA device and a CUDA build of torch",
}


def _why_not(marker: str) -> str:
    """The reason why tests with this marker cannot run here, or ''."""
    missing = [name for name in _NEEDS[marker] if importlib.util.find_spec(name) is None]
    if missing:
        return f"{marker}: {', '.join(missing)} not installed. Next: {_FIX[marker]}"
    if marker == "gpu":
        import torch

        if not torch.cuda.is_available():
            return f"gpu: torch {torch.__version__} finds no CUDA device. Next: {_FIX[marker]}"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons: dict[str, str] = {}
    for item in items:
        for marker in _NEEDS:
            if item.get_closest_marker(marker) is None:
                continue
            if marker not in reasons:
                reasons[marker] = _why_not(marker)
            if reasons[marker]:
                item.add_marker(pytest.mark.skip(reason=reasons[marker]))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository root."""
    return REPO


@pytest.fixture
def context() -> Iterator[Context]:
    """A life of rclpy of the test's own."""
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)
