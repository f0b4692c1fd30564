# SPDX-License-Identifier: Apache-2.0
"""`compress run RECIPE --dry-run`: memory and hours of a recipe on this machine, before anything is loaded."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compress.verbs.answer import ERROR, OK, Answer

if TYPE_CHECKING:
    from compress.estimate import Device
    from compress.recipe import Recipe

MEASURE_S = 0.5
PARTS = ("weights", "gradients", "optimizer", "average", "copies", "teacher", "activations", "total")


def dry_run(options: argparse.Namespace) -> Answer:
    """Exit code 0 if the recipe fits, 2 if not; writes nothing."""
    from compress.recipe import load_recipe
    from compress.settings import SettingsError

    if options.processes < 1:
        raise SettingsError(f"--processes is {options.processes}, expected 1 or more")
    recipe = load_recipe(options.recipe)
    if options.output is not None:
        recipe = replace(recipe, output=options.output.absolute())
    return answer(recipe, device_at_hand(), options.processes)


def answer(recipe: Recipe, device: Device, processes: int = 1) -> Answer:
    """The numbers as a table, what to change where they do not fit, and a warning where they are close."""
    from compress.estimate import GIB, estimate

    data = estimate(recipe, device, processes)
    model, own = data["model"], recipe.recover
    lines = [
        f"model     {model['parameters'] / 1e6:,.1f} M parameters, {model['bytes'] / GIB:.2f} GiB, "
        f"{model['flops_per_sample'] / 1e9:,.1f} GFLOP per sample; after the plan "
        f"{data['pruned']['parameters'] / 1e6:,.1f} M",
        f"device    {device.name}, {device.memory / GIB:.1f} GiB free, {device.flops / 1e12:.2f} TFLOP/s measured, "
        f"{processes} process{'es' if processes > 1 else ''}",
        "",
        f"{'GiB per process':<26}" + "".join(f"{part[:11]:>12}" for part in PARTS),
        _row("probe", data["probe"]),
        _row(f"recover, as written ({own.method})", data["recover"]),
    ]
    for row in data["choices"]:
        again = ", checkpointing" if row["activation_checkpointing"] else ""
        lines.append(_row(f"  {row['method']}{again}", row))
    hours = data["hours"]
    lines += ["", f"time      probe {_long(hours['probe'])}, recover {_long(hours['recover'])}, both about"]
    lines += [f"close     {name} needs more than 80 % of what is free; it may fail" for name in data["close"]]
    lines += [f"refused   {text}" for text in data["refusals"]]
    return Answer(ERROR if data["refusals"] else OK, data, lines)


def device_at_hand() -> Device:
    """The GPU if there is one, else the CPU; its matrix products are timed for half a second."""
    import torch

    from compress.estimate import Device

    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Device(torch.cuda.get_device_name(), float(free), _rate("cuda", torch.bfloat16, 8192))
    return Device(f"CPU, {torch.get_num_threads()} threads", _free_memory(), _rate("cpu", torch.float32, 512))


def _rate(device: str, dtype: Any, side: int) -> float:
    import torch

    a = torch.ones(side, side, device=device, dtype=dtype)
    for _ in range(3):
        a @ a
    if device == "cuda":
        torch.cuda.synchronize()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < MEASURE_S:
        a @ a
        done += 1
        if device == "cuda":
            torch.cuda.synchronize()
    return 2.0 * side**3 * done / (time.perf_counter() - start)


def _free_memory() -> float:
    """Bytes that this process may still take."""
    import os

    try:
        with open("/proc/meminfo") as file:
            found = dict(line.split(":", 1) for line in file)
        return float(found["MemAvailable"].split()[0]) * 1024.0
    except (OSError, KeyError, ValueError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _row(name: str, memory: dict[str, Any]) -> str:
    return f"{name:<26}" + "".join(f"{memory[part] / (1 << 30):>12.2f}" for part in PARTS)


def _long(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"
