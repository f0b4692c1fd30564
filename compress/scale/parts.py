# SPDX-License-Identifier: Apache-2.0
"""Training checkpoints that several processes write together and any number of them reads (DCP, as safetensors).

    checkpoint-000000120/   step 120: one file of tensors per process, and `facts.json`, written last
    .checkpoint-...         half written; removed by the next run

Chosen: DCP's safetensors storage. Rejected: its default one, whose index is a pickle.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.atomic import write_atomic
from compress.scale.world import World

PREFIX, FACTS = "checkpoint-", "facts.json"


class PartsError(ValueError):
    """A checkpoint folder that cannot be read."""


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The folder of the last finished checkpoint and its facts, or None.

    Raises:
        PartsError: its facts are damaged.
    """
    found = sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir())
    if not found:
        return None
    try:
        facts = json.loads((found[-1] / FACTS).read_text())
    except (OSError, ValueError) as error:
        raise PartsError(f"{found[-1]} cannot be read ({error}): delete it to start over") from error
    missing = sorted({"key", "step", "rows", "adam_steps", "files"} - set(facts))
    if missing:
        raise PartsError(f"{found[-1]} is not a training checkpoint (no {', '.join(missing)}): delete it to start over")
    return found[-1], facts


def write(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], world: World) -> None:
    """Write the checkpoint of `step` with all processes, then remove older ones; a kill leaves the older one."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    name = f"{PREFIX}{step:09d}"
    work, final = folder / f".{name}", folder / name
    if world.first:
        clean(folder)
        work.mkdir(parents=True)
    world.barrier()
    writer = HuggingFaceStorageWriter(str(work), save_distributed=True)
    save(dict(tensors), storage_writer=writer, process_group=world.control)
    world.barrier()
    if world.first:
        text = json.dumps({**facts, "files": _files(work)}).encode()
        write_atomic(work / FACTS, lambda handle: handle.write(text))
        if final.exists():
            shutil.rmtree(final)
        work.rename(final)
        discard(folder, but=final)
    world.barrier()


def read(path: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Fill `tensors`, in place, each process its own part.

    Raises:
        PartsError: a tensor is not there or of another shape, or a file is damaged.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(path))
    wanted = json.loads((path / FACTS).read_text())["files"]
    if _files(path) != wanted:  # torch takes a part that is not there for zeros
        raise PartsError(
            f"{path} cannot be read, its files are {_files(path)}, expected {wanted} (bytes): delete it to start over"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process reads alone, as meant
            load(dict(tensors), storage_reader=reader, process_group=world.control, no_dist=world.alone)
    except (Exception, CheckpointException) as error:  # the second one is no Exception
        said = " ".join(str(error).split())[:300]
        raise PartsError(f"{path} cannot be read ({said}): delete it to start over") from error


def _files(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(path.glob("*.safetensors"))}


def discard(folder: Path, but: Path | None = None) -> None:
    """Remove every checkpoint of this kind, except `but`."""
    for path in folder.glob(f"{PREFIX}*"):
        if path != but and path.is_dir():
            shutil.rmtree(path)


def clean(folder: Path) -> None:
    """Remove what a kill in mid-write left behind."""
    for path in folder.glob(f".{PREFIX}*"):
        shutil.rmtree(path)
