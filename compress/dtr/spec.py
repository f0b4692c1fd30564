# SPDX-License-Identifier: Apache-2.0
"""How a pruned policy is recovered: plain settings, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from compress.settings import SettingsError, check_ranges, number, to_plain

EXECUTION_FIELDS = ("parallel", "activation_checkpointing")  # how it is carried out; another value resumes the same run


@dataclass(frozen=True)
class RecoverSpec:
    """Settings of one recovery.

    Attributes:
        steps: optimizer steps (of the whole policy, if `compute_matched`); 0 with `heal` is the refit alone.
        batch_size: frames per step.
        lr: peak learning rate.
        method: `full` fine-tuning; `lora` on every linear layer, merged at the end.
        lora_rank: rank of the update; its scale is 1 (alpha = rank).
        freeze: stacks whose towers stay as they are, such as `vision.siglip`; they must not have lost blocks.
        heal: before training, refit the layer in front of every cut in closed form (`dtr.heal`); needs the teacher.
        distill: weight of the L1 error against the teacher's output for the same batch; 0 needs no teacher.
        features: weight of the relative error against the residual streams of the teacher in every stack that was cut.
        ema: decay of the averaged weights that are returned; 0 is none.
        warmup: steps of linear warm-up.
        schedule: of the learning rate after it.
        compute_matched: take as many steps as cost what `steps` would have cost the whole policy (steps / FLOPs share).
        bf16: compute in bfloat16; weights stay float32.
        seed: of the batches and of the LoRA initialisation.
        held_out: share of episodes that are never trained on and measure the action error.
        weight_decay, clip: of AdamW on matrices, and of the gradient norm.
        checkpoint_s: what a killed run loses at most [s].
        log_every: steps between rows of the loss curve.
        parallel: under torchrun, `ddp` (every process holds all) or `fsdp` (each a part); `auto`: ddp for LoRA, fsdp
            for full fine-tuning.
        activation_checkpointing: compute inside blocks twice instead of keeping activations: a third slower, far
            smaller.
        param_dtype: `bfloat16` holds matrices that are not trained in bfloat16 and trained tensors in float32 while
            training (needs bf16); `keep` leaves both as they were loaded.
    """

    steps: int = number(400, low=0)
    batch_size: int = number(16, low=1)
    lr: float = number(3e-4, above=0.0)
    method: Literal["full", "lora"] = "full"
    lora_rank: int = number(16, low=1)
    freeze: tuple[str, ...] = ()
    heal: bool = False
    distill: float = number(0.0, low=0.0)
    features: float = number(0.0, low=0.0)
    ema: float = number(0.99, low=0.0, high=0.999999)
    warmup: int = number(20, low=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    compute_matched: bool = False
    bf16: bool = True
    seed: int = number(0, low=0)
    held_out: float = number(0.1, above=0.0, high=0.9)
    weight_decay: float = number(0.01, low=0.0)
    clip: float = number(1.0, above=0.0)
    checkpoint_s: float = number(30.0, low=0.0)
    log_every: int = number(10, low=1)
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    activation_checkpointing: bool = False
    param_dtype: Literal["keep", "bfloat16"] = "keep"

    @property
    def taught(self) -> bool:
        """Whether it needs the unpruned policy."""
        return bool(self.heal or self.distill or self.features)

    @property
    def spreading(self) -> str:
        """`ddp` or `fsdp`."""
        return self.parallel if self.parallel != "auto" else "ddp" if self.method == "lora" else "fsdp"

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the result, plain."""
        return {name: value for name, value in to_plain(self).items() if name not in EXECUTION_FIELDS}

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.steps == 0 and not self.heal:
            raise SettingsError(
                "`steps` is 0 and `heal` is false: nothing would be recovered; set heal to true, or steps"
            )
        if self.param_dtype == "bfloat16" and not self.bf16:
            raise ValueError("`param_dtype` is bfloat16 and `bf16` is false: set bf16 to true, or param_dtype to keep")
        if self.method not in ("full", "lora"):
            raise ValueError(f"method is {self.method!r}, expected one of: full, lora")
