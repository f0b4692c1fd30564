# SPDX-License-Identifier: Apache-2.0
"""A model in true float64: the reference that both torch's own float32 and the exported graph are measured against.

`module.double()` is not enough: transformers computes norms, softmax and rotary angles in float32 on purpose
(`x.to(torch.float32)`), so a "double" forward still carries float32 rounding. `Float64Mode` lifts those casts as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LOW = (torch.float16, torch.bfloat16, torch.float32)
CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)


class Float64Mode(TorchFunctionMode):
    """Inside this mode every request for a smaller float type gets float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func` with each low-precision dtype argument replaced, and casts turned into `double`."""
        if func in CASTS:
            return args[0].double()
        lifted = tuple(_lift(value) for value in args)
        return func(*lifted, **{name: _lift(value) for name, value in (kwargs or {}).items()})


def _lift(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in LOW else value


Module = TypeVar("Module", bound=nn.Module)
HALF = (torch.float16, torch.bfloat16)


def cpu_copy(module: Module, dtype: torch.dtype) -> Module:
    """An evaluation-mode copy on the CPU in `dtype`; the original keeps its mode, device and type.

    Below float32 only weights shrink. Buffers that are none (in no state dict: rotary frequencies, features of time,
    start noise) stay as they are, as they do where transformers loads a checkpoint in half precision: a frequency
    rounded to eight bits turns the hundredth token by a visible angle.
    """
    copied = copy.deepcopy(module).to("cpu").eval().requires_grad_(False)
    kept = _constants(copied) if dtype in HALF else {}
    copied.to(dtype)
    for name, value in kept.items():
        parent, _, leaf = name.rpartition(".")
        setattr(copied.get_submodule(parent), leaf, value)
    return copied


def _constants(module: nn.Module) -> dict[str, Tensor]:
    """Buffers with content that are in no state dict, by dotted path, cloned."""
    weights = set(module.state_dict())
    return {
        name: value.clone()
        for name, value in module.named_buffers(remove_duplicate=False)
        if name not in weights and value.numel() > 0 and value.is_floating_point()
    }


def narrowed(inputs: Iterable[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Floating inputs (float32) in the dtype of a model's weights."""
    return [value.to(dtype) if value.is_floating_point() else value for value in inputs]


@torch.no_grad()
def forward_in(module: nn.Module, inputs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """What torch itself answers with weights in `dtype`, float32 in and out; `module` from `cpu_copy`."""
    answer = module(*narrowed(inputs, dtype))
    return (answer if isinstance(answer, Tensor) else answer[0]).float()


@torch.no_grad()
def forward_float32(module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """What torch itself answers in float32; `module` from `cpu_copy`."""
    answer = module(*inputs)
    return answer if isinstance(answer, Tensor) else answer[0]


@torch.no_grad()
def forward_float64(module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """The answer in float64 throughout; floating inputs (float32) are widened exactly. `module` from `cpu_copy`."""
    wide = [value.double() if value.is_floating_point() else value for value in inputs]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Float64Mode():
            answer = module(*wide)
    finally:
        torch.set_default_dtype(default)
    return answer if isinstance(answer, Tensor) else answer[0]
