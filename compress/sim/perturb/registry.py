# SPDX-License-Identifier: Apache-2.0
"""Every axis by name, and the perturbation of one episode."""

from __future__ import annotations

from compress.sim.perturb.background import Background
from compress.sim.perturb.base import BadPerturbation, Perturbation
from compress.sim.perturb.camera import Camera
from compress.sim.perturb.language import Language
from compress.sim.perturb.layout import Layout
from compress.sim.perturb.light import Light
from compress.sim.perturb.robot_pose import RobotPose
from compress.sim.perturb.sensor_noise import SensorNoise

_ORDER: tuple[type[Perturbation], ...] = (RobotPose, Camera, Light, Background, Layout, Language, SensorNoise)
AXES: dict[str, type[Perturbation]] = {kind.axis: kind for kind in _ORDER}


def perturbation(axis: str, task: int, state: int, seed: int, strength: float | None = None) -> Perturbation:
    """The perturbation of one episode; `strength` None takes the axis's default. Raises BadPerturbation."""
    if axis not in AXES:
        raise BadPerturbation(f"no robustness axis {axis!r}. Available: {', '.join(AXES)}")
    kind = AXES[axis]
    return kind(kind.default if strength is None else strength, task, state, seed)
