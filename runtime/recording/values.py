# SPDX-License-Identifier: Apache-2.0
"""Values of the control loop <-> plain JSON, exact to the bit: floats by their shortest repr, arrays by their bytes.

Images are kept by a fingerprint: the loop compares pictures and hands them on, it never looks into them. A picture made
from the fingerprint has the shape of the real one and equals another exactly when the real ones were equal.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime.contract.chunk import ActionChunk
from runtime.control.observation import Joints, Pose
from runtime.errors import ContractError
from runtime.safety.trajectory import SafeTrajectory

PRINT_BYTES = 16
_ODD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def number(value: float) -> float | str:
    """JSON has no NaN and no infinity: these become words."""
    value = float(value)
    return value if math.isfinite(value) else str(value)


def to_number(data: Any) -> float:
    """Inverse of `number`. Raises ContractError."""
    if isinstance(data, str) and data in _ODD:
        return _ODD[data]
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise ContractError(f"recording: found {data!r}, expected a number")
    return float(data)


def array(value: np.ndarray) -> dict[str, Any]:
    """Bytes, type and shape."""
    flat = np.ascontiguousarray(value)
    return {"b64": base64.b64encode(flat.tobytes()).decode(), "dtype": flat.dtype.str, "shape": list(value.shape)}


def to_array(data: Mapping[str, Any]) -> np.ndarray:
    """Inverse of `array`. Raises ContractError; object arrays are refused."""
    try:
        kind = np.dtype(str(data["dtype"]))
        if kind.hasobject:
            raise ValueError(f"dtype {kind}")
        return np.frombuffer(base64.b64decode(data["b64"], validate=True), kind).reshape(data["shape"]).copy()
    except (KeyError, TypeError, ValueError) as error:
        raise ContractError(f"recording: this is not an array ({type(error).__name__}: {error})") from error


def sample(value: Any) -> dict[str, Any]:
    """What a sensor gave: joints, a pose, an image, or something that the loop will refuse."""
    if isinstance(value, Joints):
        return {"joints": {name: number(position) for name, position in value.positions.items()}}
    if isinstance(value, Pose):
        return {"pose": [array(np.asarray(value.position)), array(np.asarray(value.rotation))]}
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        digest = hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=PRINT_BYTES).hexdigest()
        return {"image": digest, "shape": list(value.shape)}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return {"array": array(value)}
    return {"other": type(value).__name__}


def to_sample(data: Mapping[str, Any]) -> Any:
    """Inverse of `sample`; what was none becomes None. Raises ContractError."""
    if "joints" in data:
        return Joints({str(name): to_number(position) for name, position in data["joints"].items()})
    if "pose" in data:
        position, rotation = (to_array(part) for part in data["pose"])
        return Pose(position, rotation)
    if "image" in data:
        pattern = np.frombuffer(bytes.fromhex(data["image"]), np.uint8)
        return np.resize(pattern, tuple(data["shape"]))
    return to_array(data["array"]) if "array" in data else None


def chunk(value: ActionChunk) -> dict[str, Any]:
    """A chunk as the policy gave it."""
    return {
        "values": array(value.values), "stamp_s": number(value.stamp_s), "dt_s": number(value.dt_s),
        "names": list(value.names),
    }  # fmt: skip


def to_chunk(data: Mapping[str, Any]) -> ActionChunk:
    """Inverse of `chunk`."""
    values = to_array(data["values"])
    return ActionChunk(values, to_number(data["stamp_s"]), to_number(data["dt_s"]), tuple(data["names"]))


def command(value: SafeTrajectory) -> dict[str, Any]:
    """A released command, every number of it."""
    return {
        "kind": value.kind.value, "names": list(value.names), "start_s": number(value.start_s),
        "times_s": array(value.times_s), "velocities": array(value.velocities),
        "positions": None if value.positions is None else array(value.positions),
        "gripper": None if value.gripper is None else number(value.gripper), "scale": number(value.scale),
    }  # fmt: skip
