# SPDX-License-Identifier: Apache-2.0
"""Arguments that pass through FSDP untouched.

FSDP looks for tensors inside what a block is given and builds dataclasses anew around them. A cache that blocks fill as
they run would then be filled in a copy. So dataclasses travel in a box from the caller to the block's own forward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

from torch import nn


class Box:
    """One argument."""

    def __init__(self, held: Any) -> None:
        self.held = held


def seal(block: nn.Module) -> None:
    """Box the dataclasses that `block` is called with; to be called when FSDP's own hooks are in place."""
    block.register_forward_pre_hook(_box, with_kwargs=True, prepend=True)
    block.forward = _opened(block.forward)


def _box(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(_boxed, args)), {name: _boxed(value) for name, value in kwargs.items()}


def _boxed(value: Any) -> Any:
    return Box(value) if is_dataclass(value) and not isinstance(value, type) else value


def _opened(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        return forward(*map(_open, args), **{name: _open(value) for name, value in kwargs.items()})

    return run


def _open(value: Any) -> Any:
    return value.held if isinstance(value, Box) else value
