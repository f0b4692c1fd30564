# SPDX-License-Identifier: Apache-2.0
"""Conventions as values: every choice that people get silently wrong is an enum, checked at load, never guessed
from data.

An image arrives *as the spec says*: layout, colour order and orientation describe the array handed to the policy, which
is also what it was trained on. Turning a raw camera frame into that is the job of the source (environment or ROS node).
"""

from __future__ import annotations

from enum import Enum


class Layout(str, Enum):
    """Axis order of an image array."""

    HWC = "HWC"
    CHW = "CHW"


class ColourOrder(str, Enum):
    """Channel order of an image array."""

    RGB = "RGB"
    BGR = "BGR"


class Orientation(str, Enum):
    """How the image handed to the policy stands relative to the raw camera frame."""

    AS_CAMERA = "as_camera"
    ROTATED_180 = "rotated_180"


class PixelDtype(str, Enum):
    """Element type of an image array."""

    UINT8 = "uint8"


class Unit(str, Enum):
    """Physical unit of one state or action dimension."""

    METRE = "m"
    RADIAN = "rad"
    METRE_PER_SECOND = "m/s"
    RADIAN_PER_SECOND = "rad/s"
    RATIO = "ratio"


class DimRole(str, Enum):
    """What one action dimension moves."""

    TRANSLATION = "translation"
    ROTATION = "rotation"
    JOINT = "joint"
    GRIPPER = "gripper"


class ActionKind(str, Enum):
    """What an arm action means; grippers are always absolute commands."""

    ABSOLUTE = "absolute"
    DELTA = "delta"
    VELOCITY = "velocity"


class Frame(str, Enum):
    """Frame in which a pose, delta or velocity is expressed."""

    BASE = "base"
    EEF = "eef"
    WORLD = "world"
    JOINT = "joint"


class RotationConvention(str, Enum):
    """Parametrisation of a rotation; NONE where no dimension rotates."""

    AXIS_ANGLE = "axis_angle"
    EULER_XYZ = "euler_xyz"
    QUATERNION_XYZW = "quaternion_xyzw"
    QUATERNION_WXYZ = "quaternion_wxyz"
    ROTATION_6D = "rotation_6d"
    NONE = "none"


class GripperSign(str, Enum):
    """Which end of the gripper command opens; NONE where there is no gripper."""

    NEGATIVE_OPENS = "negative_opens"
    POSITIVE_OPENS = "positive_opens"
    NONE = "none"


class HoldRule(str, Enum):
    """What "do nothing" means: ZERO_MOTION zeroes arm dimensions and keeps the last gripper command.

    REPEAT_LAST keeps all.
    """

    ZERO_MOTION = "zero_motion"
    REPEAT_LAST = "repeat_last"


class NormMethod(str, Enum):
    """Which statistics map physical values to model range."""

    Q01_Q99 = "q01_q99"
    MIN_MAX = "min_max"
    MEAN_STD = "mean_std"
    IDENTITY = "identity"


class TensorDtype(str, Enum):
    """Element type of a graph tensor, named as numpy names it."""

    FLOAT32 = "float32"
    INT64 = "int64"


class Precision(str, Enum):
    """Arithmetic of the exported weights; INT4 and INT8 of the weight matrices, the rest is float32."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"


class FileRole(str, Enum):
    """What a file of the artifact is for; MODEL, MODEL_DATA, TOKENIZER and NORMALIZATION decide behaviour."""

    MODEL = "model"
    MODEL_DATA = "model_data"
    TOKENIZER = "tokenizer"
    NORMALIZATION = "normalization"
    GOLDEN = "golden"
    RECIPE = "recipe"
    EVIDENCE = "evidence"
    REPORT = "report"
    BOM = "bom"


class Verdict(str, Enum):
    """Outcome of the simulation gate; missing evidence is HOLD."""

    PROMOTE = "promote"
    HOLD = "hold"
