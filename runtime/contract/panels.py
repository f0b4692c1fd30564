# SPDX-License-Identifier: Apache-2.0
"""The panels that a gate can hold, by name: what a station may demand and what a report may answer."""

from __future__ import annotations

PRIMARY = "in_distribution"
PANELS = (
    PRIMARY,
    "robot_pose",
    "camera",
    "light",
    "background",
    "layout",
    "language",
    "sensor_noise",
    "instruction_swap",
)
