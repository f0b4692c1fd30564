# SPDX-License-Identifier: Apache-2.0
"""What a run needs of this machine, tried for real, each with its fix.

Whatever can crash, hang or print (graphics, torch, LIBERO) is tried in a process of its own: a crash is a finding.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.disk import free_bytes, human

INSTALL = "make install (it installs the extras compress and sim, then hf-libero alone)"
NEEDED_DISK, WANTED_RAM, TIMEOUT_S = 5_000_000_000, 6_000_000_000, 180
STATES = ("ok", "warn", "bad")

MUJOCO = """
from compress.sim.renderer import choose_renderer
name = choose_renderer()
import mujoco
scene = "<worldbody><light pos='0 0 3'/><geom size='1' rgba='1 0 0 1'/></worldbody>"
model = mujoco.MjModel.from_xml_string(f"<mujoco>{scene}</mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    image = renderer.render()
assert image.max() > image.min(), "the picture is blank"
print(f"{name}, mujoco {mujoco.__version__}, drew 32 x 32 pixels")
"""
LIBERO = """
from compress.sim.suites import open_suite
suite = open_suite("dropgate_tabletop")
import importlib.metadata as m
versions = f"hf-libero {m.version('hf-libero')}, robosuite {m.version('robosuite')}"
print(f"{versions}; dropgate_tabletop has {len(suite.tasks)} tasks")
"""
ASSETS = """
from compress.sim.libero_setup import prepare_libero
setup = prepare_libero()
assert setup.assets is not None, "looked at " + "; ".join(map(str, setup.searched))
print(setup.assets)
"""
TORCH = """
import torch
assert (torch.ones(8, 8) @ torch.ones(8, 8)).sum() == 512
where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
print(f"{torch.__version__}, {where}")
"""
TRANSFORMERS = """
import transformers
from transformers import LlamaModel, SiglipVisionModel
print(transformers.__version__)
"""
ENGINE = """
import onnxruntime, onnx
providers = ", ".join(onnxruntime.get_available_providers())
print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}; providers: {providers}")
"""
FILES = """
import h5py, av, cryptography, pyarrow, tokenizers, safetensors, yaml, rich
print(f"h5py {h5py.__version__}, pyarrow {pyarrow.__version__}, av {av.__version__}, "
      f"tokenizers {tokenizers.__version__}, cryptography {cryptography.__version__}")
"""
BUILTIN = """
from compress.models.registry import checkpoint_path
print(checkpoint_path("reference", "builtin"))
"""


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was tried.
        state: `ok`, `warn` (works, slower or with less) or `bad` (a run will fail).
        found: what was seen.
        fix: what to do; empty if ok.
    """

    name: str
    state: str
    found: str
    fix: str = ""


Probe = Callable[[str], "tuple[bool, str]"]


def in_process(code: str) -> tuple[bool, str]:
    """Run `code` in a fresh interpreter: (it ended well, its last line of output or of error)."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_root()), os.environ.get("PYTHONPATH", "")])),
    }
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=TIMEOUT_S,
            env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"no answer within {TIMEOUT_S} s"
    if done.returncode == 0:
        lines = done.stdout.strip().splitlines()
        return True, lines[-1] if lines else "ok"
    lines = done.stderr.strip().splitlines()
    last = lines[-1] if lines else ""
    return False, last if done.returncode > 0 else f"killed by signal {-done.returncode}: {last}"


def examine(folder: Path, probe: Probe = in_process) -> tuple[Check, ...]:
    """Try everything.

    Args:
        folder: where runs will be written.
        probe: how code is tried; tests plant failures here.
    """
    return (
        python_version(),
        processors(),
        memory(),
        disk(folder),
        tried("torch", TORCH, probe, INSTALL),
        transformers_imports(probe),
        tried("onnx runtime", ENGINE, probe, INSTALL),
        tried("file formats", FILES, probe, INSTALL),
        tried(
            "offscreen GL",
            MUJOCO,
            probe,
            "apt-get install libosmesa6, or libegl1 libgl1-mesa-dri; then MUJOCO_GL=osmesa or egl",
        ),
        tried("LIBERO", LIBERO, probe, INSTALL),
        tried(
            "LIBERO assets",
            ASSETS,
            probe,
            "only for LIBERO's own suites: set LIBERO_ASSETS to the folder of the dataset lerobot/libero-assets",
            "warn",
        ),
        tried(
            "built-in policy",
            BUILTIN,
            probe,
            "compress reference demos DEMOS, then compress reference train DEMOS RUN",
            "warn",
        ),
    )


def tried(name: str, code: str, probe: Probe, fix: str, otherwise: str = "bad") -> Check:
    """One piece of code that must run."""
    fine, said = probe(code)
    return Check(name, "ok", said) if fine else Check(name, otherwise, said, fix)


def transformers_imports(probe: Probe) -> Check:
    """transformers imports torchvision where there is one, and fails with it if it belongs to another torch."""
    fine, said = probe(TRANSFORMERS)
    if fine:
        return Check("transformers", "ok", said)
    works, why = probe("import torchvision")
    if not works and "No module named 'torchvision'" not in why:
        fix = "pip uninstall -y torchvision (it belongs to another torch; DropGate does not use it)"
        return Check("transformers", "bad", f"the installed torchvision breaks it: {why}", fix)
    return Check("transformers", "bad", said, INSTALL)


def python_version() -> Check:
    """Which interpreter this is; one that is too old cannot import DropGate at all."""
    return Check("python", "ok", f"{platform.python_version()} in {sys.prefix}")


def processors() -> Check:
    """Cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        return Check("processor cores", "warn", f"{cores}", "the gate is about twice as fast with two or more cores")
    return Check("processor cores", "ok", f"{cores}")


def memory() -> Check:
    """What can be had now, without swapping."""
    available = _available_memory()
    if available is None:
        return Check("memory", "warn", "not known on this system", f"a run wants about {human(WANTED_RAM)}")
    if available < WANTED_RAM:
        fix = (
            f"a run wants about {human(WANTED_RAM)}: fewer gate.workers and gate.envs_per_worker, fewer demonstrations"
        )
        return Check("memory", "warn", f"{human(available)} available", fix)
    return Check("memory", "ok", f"{human(available)} available")


def disk(folder: Path) -> Check:
    """Room for a run and its cached demonstrations."""
    free = free_bytes(folder.absolute())
    if free < NEEDED_DISK:
        return Check(
            "disk space",
            "bad",
            f"{human(free)} free at {folder.absolute()}",
            f"a run needs about {human(NEEDED_DISK)}: free some, or use --output",
        )
    return Check("disk space", "ok", f"{human(free)} free at {folder.absolute()}")


def table(checks: Sequence[Check]) -> list[str]:
    """For people: one line per check, its fix below it, a summary at the end."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<5} {check.name:<{width}}  {check.found}")
        if check.fix:
            lines.append(f"{'':<5} {'':<{width}}  fix: {check.fix}")
    bad = [check.name for check in checks if check.state == "bad"]
    lines.append(f"not ready: {', '.join(bad)}" if bad else "ready: compress run recipes/quick.yaml")
    return lines


def _available_memory() -> int | None:
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _root() -> Path:
    """The folder that holds the package, for interpreters that do not have it installed."""
    return Path(__file__).resolve().parent.parent
