# SPDX-License-Identifier: Apache-2.0
"""Policies that fill a GPU, or several: what is kept in memory, and how processes share the work.

    one GPU        compress recover RECIPE
    four GPUs      torchrun --nproc-per-node 4 -m compress recover RECIPE

Settings that decide it are the recipe's: `recover.parallel`, `recover.activation_checkpointing`, `recover.param_dtype`.
`compress run RECIPE --dry-run` says beforehand what fits.

Seen so far: two processes over gloo on CPUs, most families (tests/test_parallel.py). Not seen: GPUs, NCCL, several
machines; the branches for them (devices, gathering in bfloat16) have never run.
"""
