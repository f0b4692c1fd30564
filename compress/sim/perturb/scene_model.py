# SPDX-License-Identifier: Apache-2.0
"""What the axes ask of a compiled scene: free objects, the arm's joints, and a scratch copy to try a state in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from compress.sim.envs import TaskEnv

_FREE = 0  # mjtJoint


@dataclass(frozen=True)
class SceneModel:
    """MuJoCo's own model and data behind a `TaskEnv`; valid until its next reset."""

    model: Any
    data: Any
    arm: np.ndarray

    @classmethod
    def of(cls, env: TaskEnv) -> SceneModel:
        """The scene as it was compiled in the last reset."""
        sim, robot = env.libero.env.sim, env.libero.robots[0]
        return cls(sim.model._model, sim.data._data, np.asarray(robot._ref_joint_pos_indexes))

    def free_objects(self) -> list[int]:
        """Position address in qpos of every object that nothing holds."""
        return [int(self.model.jnt_qposadr[j]) for j in range(self.model.njnt) if self.model.jnt_type[j] == _FREE]

    def scratch(self, state: np.ndarray) -> Any:
        """A new MjData in the flattened state (S,), forwarded; the environment's own data stay untouched."""
        import mujoco

        data, nq = mujoco.MjData(self.model), self.model.nq
        data.qpos[:], data.qvel[:] = state[1 : 1 + nq], state[1 + nq : 1 + nq + self.model.nv]
        mujoco.mj_forward(self.model, data)
        return data

    def rests(self, state: np.ndarray, steps: int, tolerance_m: float) -> bool:
        """Whether every free object stays where the state puts it for so many physics steps, the arm held still."""
        import mujoco

        data = self.scratch(state)
        hold, places = data.qpos[self.arm].copy(), self.free_objects()
        before = np.array([data.qpos[p : p + 3] for p in places])
        for _ in range(steps):
            mujoco.mj_step(self.model, data)
            data.qpos[self.arm] = hold
            data.qvel[self.arm] = 0.0
        after = np.array([data.qpos[p : p + 3] for p in places])
        return bool(np.linalg.norm(after - before, axis=1).max(initial=0.0) <= tolerance_m)

    def arm_is_free(self, state: np.ndarray) -> bool:
        """Whether no part of robot or gripper touches anything in this state (its own links apart)."""
        data = self.scratch(state)
        robot = {g for g in range(self.model.ngeom) if self._of_robot(g)}
        pairs = [{int(g) for g in data.contact.geom[i]} for i in range(data.ncon)]
        return not any(len(pair & robot) == 1 for pair in pairs)

    def _of_robot(self, geom: int) -> bool:
        name = self.model.body(int(self.model.geom_bodyid[geom])).name
        return str(name).startswith(("robot0_", "gripper0_"))
