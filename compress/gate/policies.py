# SPDX-License-Identifier: Apache-2.0
"""Who acts in an episode: an artifact in the runtime that the robot runs, or a policy object made by a function."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from compress.gate.spec import GateSpec
from runtime.contract.chunk import ActionChunk

if TYPE_CHECKING:
    from compress.sim.envs import TaskEnv
    from runtime.contract.policy_spec import PolicySpec


class UnusablePolicy(ValueError):
    """The artifact (or policy factory) cannot be run in this simulation at all."""


class PolicyLike(Protocol):
    """What the gate asks of a policy; `runtime.inference.policy.Policy` is one. `needs_images = False` saves time."""

    def infer(self, observation: Mapping[str, np.ndarray], instruction: str, stamp_s: float) -> ActionChunk:
        """Commands for `instruction`, given the observation taken at `stamp_s` [s]."""

    def close(self) -> None:
        """Free everything; more calls are harmless."""


@runtime_checkable
class Privileged(Protocol):
    """A scripted reference that looks into the simulator; told about it after each reset."""

    def attach(self, env: TaskEnv) -> None:
        """A new episode begins in `env`."""


@dataclass(frozen=True)
class PolicySource:
    """How a worker gets a policy.

    Attributes:
        identity: what the verdict will be about (policy id of an artifact).
        artifact: its folder; or
        factory: `module:function`, called with `options`.
        image_size: pixels the policy was made for; None if it does not care.
    """

    identity: str
    artifact: str = ""
    factory: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    image_size: int | None = None

    def open(self) -> PolicyLike:
        """Load it here, on one thread. Raises UnusablePolicy or an error of the runtime."""
        if self.artifact:
            from runtime.inference.policy import Policy

            return Policy.load(self.artifact, threads=1, allow_unsealed=True, require_promoted=False)
        module, _, name = self.factory.partition(":")
        make: Callable[..., PolicyLike] = getattr(importlib.import_module(module), name)
        return make(**self.options)

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "identity": self.identity,
            "artifact": self.artifact,
            "factory": self.factory,
            "options": dict(self.options),
            "image_size": self.image_size,
        }


def artifact_source(folder: Path, spec: GateSpec) -> PolicySource:
    """The verified artifact as a source. Raises UnusablePolicy if it is damaged or made for other conventions."""
    from runtime.contract.artifact import read_artifact
    from runtime.errors import DropGateRuntimeError

    try:
        artifact = read_artifact(folder)
    except (DropGateRuntimeError, OSError) as error:
        raise UnusablePolicy(f"{folder}: {error}") from error
    policy = artifact.manifest.policy
    wrong = misfits(policy, spec)
    if wrong:
        raise UnusablePolicy(
            f"{folder} does not fit the simulation: {'; '.join(wrong)}. Next: export it with LIBERO's conventions"
        )
    return PolicySource(
        artifact.manifest.policy_id, artifact=str(artifact.root), image_size=policy.observation.images[0].height
    )


def misfits(policy: PolicySpec, spec: GateSpec) -> list[str]:
    """Where the policy's conventions differ from the simulator's (`compress.sim.envs`); each as found and expected."""
    from compress.sim import envs

    cameras = tuple(envs.IMAGE_KEYS.values())
    scale = [0.05] * 3 + [0.5] * 3 + [1.0]  # OSC_POSE: metres and radians of command 1.0
    action, images = policy.action, policy.observation.images
    checks: list[tuple[str, object, object]] = [
        ("actions", action.dim, envs.ACTION_DIM),
        ("action kind", action.kind.value, "delta"),
    ]
    checks += [("gripper", action.gripper.value, "negative_opens"), ("rotation", action.rotation.value, "axis_angle")]
    checks += [("state values", policy.observation.state.dim, 8), ("state key", policy.observation.state.key, "state")]
    for image in images:
        found = (image.layout.value, image.colour_order.value, image.orientation.value, image.height == image.width)
        checks.append(
            (f"image {image.key!r} (layout, colours, orientation, square)", found, ("HWC", "RGB", "rotated_180", True))
        )
    wrong = [f"{what}: found {found!r}, expected {expected!r}" for what, found, expected in checks if found != expected]
    if not set(policy.observation.image_keys) <= set(cameras):
        wrong.append(f"cameras: found {list(policy.observation.image_keys)}, available {list(cameras)}")
    if abs(action.dt_s * envs.CONTROL_HZ - 1.0) > 1e-6:
        wrong.append(f"dt_s: found {action.dt_s}, expected {1 / envs.CONTROL_HZ}")
    if action.dim == envs.ACTION_DIM and not np.allclose(action.scale, scale):
        wrong.append(f"action scale: found {action.scale.tolist()}, expected {scale}")
    if action.horizon < spec.open_loop:
        wrong.append(f"horizon: found {action.horizon} rows, expected at least open_loop = {spec.open_loop}")
    if spec.image_size is not None and images[0].height != spec.image_size:
        wrong.append(f"image size: found {images[0].height} pixels, the gate was told {spec.image_size}")
    return wrong
