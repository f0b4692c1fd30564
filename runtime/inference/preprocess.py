# SPDX-License-Identifier: Apache-2.0
"""Observation -> graph tensors, by the spec.

Never guesses: what is missing or different is refused, nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.contract.conventions import Layout
from runtime.contract.graph import PIXELS, STATE
from runtime.contract.normalization import Normalization
from runtime.contract.spec import ImageSpec, ObservationSpec, StateSpec
from runtime.errors import ContractError, ObservationError

Observation = Mapping[str, NDArray[Any]]


class Preprocessor:
    """Turns observations of one spec into `pixels` (1, n_cam, 3, H, W) and `state` (1, S), both float32."""

    def __init__(self, spec: ObservationSpec, state: Normalization) -> None:
        self._spec = spec
        self._state = state

    def tensors(self, observation: Observation) -> dict[str, NDArray[Any]]:
        """Checked and normalised tensors; ObservationError names key, found and expected.

        Keys not in the spec are ignored.
        """
        check_keys(observation, self._spec)
        images = [normalised_image(observation[spec.key], spec) for spec in self._spec.images]
        state = checked_state(observation[self._spec.state.key], self._spec.state)
        try:
            normalised = self._state.apply(state)
        except ContractError as error:
            raise ObservationError(f"observation[{self._spec.state.key!r}]: {error}") from error
        return {PIXELS: np.stack(images)[None], STATE: normalised[None]}


def check_keys(observation: Observation, spec: ObservationSpec) -> None:
    """ObservationError unless every key of the spec is there."""
    missing = [key for key in spec.keys if key not in observation]
    if missing:
        raise ObservationError(
            f"observation: missing {missing}, found {sorted(observation)}, expected {list(spec.keys)}"
        )


def checked_image(image: NDArray[Any], spec: ImageSpec) -> NDArray[np.uint8]:
    """The image as handed over, if it has the spec's dtype and shape; ObservationError names what differs."""
    where = f"observation[{spec.key!r}]"
    if not isinstance(image, np.ndarray):
        raise ObservationError(
            f"{where}: found {type(image).__name__}, expected a numpy array {spec.dtype.value} {spec.shape}"
        )
    if image.dtype.name != spec.dtype.value or image.shape != spec.shape:
        found = f"{image.dtype.name} {image.shape}"
        expected = f"{spec.dtype.value} {spec.shape} ({spec.layout.value}, {spec.colour_order.value})"
        raise ObservationError(f"{where}: found {found}, expected {expected}")
    return image


def normalised_image(image: NDArray[Any], spec: ImageSpec) -> NDArray[np.float32]:
    """One camera image as handed over -> (3, H, W) float32, `(x / 255 - mean) / std` computed in float32."""
    checked = checked_image(image, spec)
    planes = checked.transpose(2, 0, 1) if spec.layout is Layout.HWC else checked
    mean = np.asarray(spec.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(spec.std, dtype=np.float32)[:, None, None]
    normalised: NDArray[np.float32] = (planes.astype(np.float32) / np.float32(255.0) - mean) / std
    return np.ascontiguousarray(normalised)


def checked_state(state: NDArray[Any], spec: StateSpec) -> NDArray[np.float64]:
    """The state (S,) as float64, finite and inside the spec's range; ObservationError names the dimension."""
    where = f"observation[{spec.key!r}]"
    if not isinstance(state, np.ndarray):
        raise ObservationError(f"{where}: found {type(state).__name__}, expected a numpy array of floats ({spec.dim},)")
    if state.dtype not in (np.float32, np.float64) or state.shape != (spec.dim,):
        raise ObservationError(
            f"{where}: found {state.dtype.name} {state.shape}, expected float32 or float64 ({spec.dim},)"
        )
    values = state.astype(np.float64)
    for index, name in enumerate(spec.names):
        if not np.isfinite(values[index]):
            raise ObservationError(
                f"{where}[{name!r}]: found {values[index]}, expected a finite number [{spec.units[index].value}]"
            )
    if spec.low is None or spec.high is None:
        return values
    for name, value, low, high, unit in zip(spec.names, values, spec.low, spec.high, spec.units, strict=True):
        if not low <= value <= high:
            raise ObservationError(f"{where}[{name!r}]: found {value:g}, expected {low:g} to {high:g} [{unit.value}]")
    return values
