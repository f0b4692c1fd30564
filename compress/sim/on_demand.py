# SPDX-License-Identifier: Apache-2.0
"""Draws the cameras only in the steps whose images somebody will look at, with bit-identical images and physics.

Chosen: wrap each camera's sensor function so that it returns the last image unless a new one is due; robosuite's
sampling clock keeps running. Rejected: switching the observables off between queries, because their clocks stop with
them and later images differ (measured).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

Sensor = Callable[[Any], np.ndarray]


class OnDemandCameras:
    """Installs itself into a robosuite environment; `due` says whether the next samples are drawn.

    Args:
        base: the robosuite environment (`ControlEnv.env`).
        names: observable names, such as `agentview_image`.
        shape: (H, W, 3) of every image.
    """

    def __init__(self, base: Any, names: tuple[str, ...], shape: tuple[int, int, int]) -> None:
        self.due = False
        self._names, self._shape = names, shape
        self._original = base._setup_observables
        base._setup_observables = self._setup_observables  # robosuite rebuilds its sensors in every hard reset

    def _setup_observables(self) -> Any:
        observables = self._original()
        for name in self._names:
            observables[name]._sensor = self._wrap(observables[name]._sensor)
        return observables

    def _wrap(self, sensor: Sensor) -> Sensor:
        last = np.zeros(self._shape, dtype=np.uint8)

        @functools.wraps(sensor)
        def sampled(cache: Any) -> np.ndarray:
            nonlocal last
            if self.due:
                last = sensor(cache)
            return last

        return sampled
