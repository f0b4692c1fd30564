# SPDX-License-Identifier: Apache-2.0
"""Rotation matrices from the conventions of an action spec, and back to a rotation vector."""

from __future__ import annotations

import math

import numpy as np

from runtime.contract.conventions import RotationConvention
from runtime.safety.trajectory import Floats


def rotation_of(values: Floats, convention: RotationConvention) -> Floats:
    """(3, 3). Quaternions are normalised; 6D is the first two columns, made orthonormal; Euler is about fixed x, y, z.

    Raises ValueError for a convention that is none, or a quaternion or column of length zero.
    """
    if convention is RotationConvention.AXIS_ANGLE:
        return exponential(values)
    if convention is RotationConvention.EULER_XYZ:
        x, y, z = (exponential(np.eye(3)[k] * values[k]) for k in range(3))
        return np.asarray(z @ y @ x)
    if convention is RotationConvention.ROTATION_6D:
        first = _unit(values[:3])
        second = _unit(values[3:] - first * float(first @ values[3:]))
        return np.array([first, second, np.cross(first, second)], dtype=np.float64).T
    if convention in (RotationConvention.QUATERNION_XYZW, RotationConvention.QUATERNION_WXYZ):
        ordered = values if convention is RotationConvention.QUATERNION_XYZW else np.roll(values, -1)
        x, y, z, w = _unit(ordered)
        skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        return np.asarray(np.eye(3) + 2.0 * w * skew + 2.0 * skew @ skew)
    raise ValueError(f"rotation_of: found convention {convention.value}")


def exponential(vector: Floats) -> Floats:
    """(3, 3) of a rotation vector (3,) [rad]."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    if angle < 1e-9:
        return np.asarray(np.eye(3) + skew)
    first, second = math.sin(angle) / angle, (1.0 - math.cos(angle)) / angle**2
    return np.asarray(np.eye(3) + first * skew + second * skew @ skew)


def logarithm(rotation: Floats) -> Floats:
    """Rotation vector (3,) [rad], angle in [0, pi]."""
    twice = np.array(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    sine, cosine = float(np.linalg.norm(twice)) / 2.0, (float(np.trace(rotation)) - 1.0) / 2.0
    angle = math.atan2(sine, cosine)
    if angle > math.pi - 1e-4:  # the axis is in the symmetric part
        column = int(np.argmax(np.diag(rotation)))
        axis = _unit((rotation + np.eye(3))[:, column])
        return np.asarray(axis * angle)
    return twice / 2.0 if sine < 1e-9 else np.asarray(twice / 2.0 * (angle / sine))


def _unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector))
    if not length > 1e-9:
        raise ValueError("rotation_of: found a direction of length zero")
    return np.asarray(vector / length)
