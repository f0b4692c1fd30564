# SPDX-License-Identifier: Apache-2.0
"""An arm of MuJoCo whose drives follow joint positions, one control cycle at a time. Knows no ROS and no time of day.

The drives are what a vendor's position interface is: torque = M (w^2 (target - q) - 2 w dq) + bias, cut at the joints'
torques. Unhindered, every joint follows as a critically damped second-order system (by 2 / w behind a ramp), without
overshoot; under contact the torques saturate. A target that is not finite is not taken: the one before stays, and is
counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from dropgate_sim.arm_models import ArmModel, Obstacle
from dropgate_sim.jtc_spline import Floats

CYCLE_NS = 2_000_000  # 500 Hz
STIFFNESS_RAD_S = 150.0  # w: 13 ms behind a ramp; vendors look 8 to 40 ms ahead


class MujocoArm:
    """One arm. `step` is one cycle of 2 ms.

    Args:
        model: which.
        start: (n,) [rad]; None for the model's own posture.
        obstacles: fixed boxes around it.
    """

    def __init__(
        self, model: ArmModel, start: Sequence[float] | None = None, obstacles: Sequence[Obstacle] = ()
    ) -> None:
        self.model = model
        self._m = mujoco.MjModel.from_xml_string(model.xml(CYCLE_NS * 1e-9, obstacles))
        self._d = mujoco.MjData(self._m)
        self._d.qpos[:] = model.home if start is None else start
        mujoco.mj_forward(self._m, self._d)
        self.target = self._d.qpos.copy()
        self._mass = np.zeros((self._m.nv, self._m.nv))
        self._most = np.array([link.torque for link in model.links])
        self.accelerations = np.zeros(self._m.nv)
        self.nonfinite = 0  # targets that were not taken

    @property
    def names(self) -> tuple[str, ...]:
        """Joints, in the order of every array."""
        return self.model.joints

    @property
    def positions(self) -> Floats:
        """(n,) [rad]."""
        return self._d.qpos.copy()

    @property
    def velocities(self) -> Floats:
        """(n,) [rad/s]."""
        return self._d.qvel.copy()

    @property
    def tcp_position(self) -> Floats:
        """Of the flange (3,) [m], in the base's frame."""
        return self._d.site("tcp").xpos.copy()

    @property
    def tcp_quaternion(self) -> Floats:
        """(x, y, z, w)."""
        found = np.zeros(4)
        mujoco.mju_mat2Quat(found, self._d.site("tcp").xmat)
        return found[[1, 2, 3, 0]]

    @property
    def contact_force_n(self) -> float:
        """Sum of the normal forces between the arm and its surroundings [N]."""
        total, force = 0.0, np.zeros(6)
        for k in range(self._d.ncon):
            mujoco.mj_contactForce(self._m, self._d, k, force)
            total += abs(float(force[0]))
        return total

    def step(self, target: Floats, powered: bool = True) -> None:
        """One cycle towards `target` (n,) [rad]; without power the brakes hold: the arm stops within the cycle."""
        if np.isfinite(target).all():
            self.target = np.array(target, dtype=np.float64)
        else:
            self.nonfinite += 1
        before = self._d.qvel.copy()
        if powered:
            self._d.ctrl[:] = np.clip(self._torque(), -self._most, self._most)
            mujoco.mj_step(self._m, self._d)
        else:
            self._d.qvel[:] = 0.0
            self.target = self._d.qpos.copy()
            mujoco.mj_forward(self._m, self._d)
        self.accelerations = (self._d.qvel - before) / (CYCLE_NS * 1e-9)

    def _torque(self) -> Floats:
        """As in the module; `qfrc_passive` holds the compensation of gravity."""
        w = STIFFNESS_RAD_S
        wanted = w * w * (self.target - self._d.qpos) - 2.0 * w * self._d.qvel
        mujoco.mj_fullM(self._m, self._mass, self._d.qM)
        return self._mass @ wanted + self._d.qfrc_bias - self._d.qfrc_passive
