# SPDX-License-Identifier: Apache-2.0
"""Simulation for the gate and for demonstrations: LIBERO's engine, the embedded tabletop suite, a scripted expert.

`libero_setup` owns everything that must happen before LIBERO is imported; nothing here imports it at module level.
"""
