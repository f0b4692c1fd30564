# SPDX-License-Identifier: Apache-2.0
"""What the reference VLA tells the robot: LIBERO's observation, prompt and action conventions (robosuite OSC_POSE)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.contract.action import ActionDim, ActionSpec
from runtime.contract.conventions import (
    ActionKind,
    ColourOrder,
    DimRole,
    Frame,
    GripperSign,
    HoldRule,
    Layout,
    Orientation,
    RotationConvention,
    Unit,
)
from runtime.contract.spec import INSTRUCTION_FIELD, ImageSpec, ObservationSpec, PromptSpec, StateSpec

if TYPE_CHECKING:
    from compress.models.reference_config import ReferenceConfig

DT_S = 0.05  # LIBERO controls at 20 Hz
POSITION_PER_COMMAND_M = 0.05  # OSC_POSE output_max
ROTATION_PER_COMMAND_RAD = 0.5
# ... as an offset of a set point (kp 150 1/s^2, critically damped) that is set anew from the present pose at every row.
# Of a lasting delta the arm then goes 1 - (1 + a) e^-a + a^2 e^-2a / (1 - (1 - a) e^-a), a = sqrt(kp) dt, per row
OSC_FOLLOWS = 0.27
STATE = (
    *((f"eef_{axis}", Unit.METRE) for axis in "xyz"),
    *((f"eef_r{axis}", Unit.RADIAN) for axis in "xyz"),
    ("finger_left", Unit.METRE),
    ("finger_right", Unit.METRE),
)


def prompt_spec(config: ReferenceConfig) -> PromptSpec:
    """The sentence alone, in lower case."""
    return PromptSpec(template=INSTRUCTION_FIELD, max_tokens=config.max_tokens, pad_id=0, lowercase=True)


def observation_spec(config: ReferenceConfig) -> ObservationSpec:
    """Square RGB images turned by 180 degrees (as LIBERO policies are trained) and an 8-D end-effector state."""
    images = tuple(
        ImageSpec(
            key=camera,
            height=config.image_size,
            width=config.image_size,
            layout=Layout.HWC,
            colour_order=ColourOrder.RGB,
            orientation=Orientation.ROTATED_180,
            max_age_s=2 * DT_S,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )
        for camera in config.cameras
    )
    state = StateSpec(
        key="state",
        names=tuple(name for name, _ in STATE[: config.state_dim]),
        units=tuple(unit for _, unit in STATE[: config.state_dim]),
        frame=Frame.WORLD,
        rotation=RotationConvention.AXIS_ANGLE,
        max_age_s=2 * DT_S,
    )
    return ObservationSpec(images=images, state=state, max_skew_s=DT_S)


def action_spec(config: ReferenceConfig) -> ActionSpec:
    """OSC_POSE deltas: command 1.0 is 0.05 m or 0.5 rad; gripper -1 opens, +1 closes."""
    metres, radians = POSITION_PER_COMMAND_M, ROTATION_PER_COMMAND_RAD
    moves = [ActionDim(f"d{a}", DimRole.TRANSLATION, Unit.METRE, -metres, metres, metres) for a in "xyz"]
    turns = [ActionDim(f"dr{a}", DimRole.ROTATION, Unit.RADIAN, -radians, radians, radians) for a in "xyz"]
    gripper = ActionDim("gripper", DimRole.GRIPPER, Unit.RATIO, -1.0, 1.0)
    return ActionSpec(
        dims=(*moves, *turns, gripper),
        kind=ActionKind.DELTA,
        frame=Frame.WORLD,
        rotation=RotationConvention.AXIS_ANGLE,
        gripper=GripperSign.NEGATIVE_OPENS,
        horizon=config.horizon,
        dt_s=DT_S,
        hold=HoldRule.ZERO_MOTION,
        follows=OSC_FOLLOWS,
    )


def specs(config: ReferenceConfig) -> dict[str, Any]:
    """`observation`, `action` and `prompt`."""
    return {"observation": observation_spec(config), "action": action_spec(config), "prompt": prompt_spec(config)}
