# SPDX-License-Identifier: Apache-2.0
"""The one place that reads torch's own file format, which is a pickle: published state dicts, LIBERO's initial states,
and the training state that this machine wrote itself.

Only with `weights_only`: torch's own small reader, which builds tensors and plain containers and runs no code from the
file. All else is safetensors, npz or JSON. `tests/test_no_code_from_files.py` keeps it the only place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def load_tensors(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """Tensors and plain containers of one file, on the CPU; `allowed` are further types that it may hold.

    Whatever torch raises for a damaged file or one that holds something else is the caller's to name.
    """
    import torch

    with torch.serialization.safe_globals(list(allowed)):
        return torch.load(path, map_location="cpu", weights_only=True)
