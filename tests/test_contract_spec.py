# SPDX-License-Identifier: Apache-2.0
"""Specs are valid once constructed: every refusal names the field, what was found and what is allowed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from artifact_factory import action_spec, image_spec, lineage, policy_spec, prompt_spec, state_spec

from runtime.contract.action import ActionDim, ActionSpec
from runtime.contract.codec import decode, encode
from runtime.contract.conventions import DimRole, HoldRule, Layout, Orientation
from runtime.contract.graph import GraphSpec, TensorSpec
from runtime.contract.lineage import KeptStack, PlanSummary, SourceModel
from runtime.contract.policy_spec import EngineConstraints
from runtime.contract.spec import ObservationSpec, orient
from runtime.errors import ContractError

RATIO = ActionDim("a", "gripper", "ratio", -1.0, 1.0)

REFUSALS = {
    "unknown enum": (lambda: image_spec(layout="NHWC"), r"ImageSpec.layout: found 'NHWC', allowed: 'HWC', 'CHW'"),
    "colour": (lambda: image_spec(colour_order="rgb"), r"colour_order: found 'rgb', allowed: 'RGB', 'BGR'"),
    "float image": (lambda: image_spec(dtype="float32"), r"dtype: found 'float32', allowed: 'uint8'"),
    "bool as int": (lambda: image_spec(height=True), r"ImageSpec.height: found True \(bool\), expected int"),
    "text as number": (lambda: image_spec(max_age_s="0.1"), r"max_age_s: found '0.1' \(str\), expected a number"),
    "nan": (lambda: image_spec(max_age_s=float("nan")), r"max_age_s: found nan, expected a finite number"),
    "zero size": (lambda: image_spec(width=0), r"width: found 0, expected a number above zero"),
    "zero std": (lambda: image_spec(std=(1, 0, 1)), r"std: found 0.0, expected a number above zero"),
    "two means": (lambda: image_spec(mean=(0, 0)), r"ImageSpec.mean: found 2 items, expected 3"),
    "odd key": (lambda: image_spec(key="a b"), r"ImageSpec.key: found 'a b'"),
    "lone surrogate": (lambda: prompt_spec(template="\ud800{instruction}"), r"expected text that UTF-8 can encode"),
    "text as tuple": (lambda: state_spec(names="xyz"), r"StateSpec.names: found 'xyz' \(str\), expected a sequence"),
    "units": (lambda: state_spec(units=("m",)), r"StateSpec.units: found 1, expected 8 units"),
    "state twice": (lambda: state_spec(names=("x",) * 8), r"StateSpec.names: found \['x'\], expected every name once"),
    "half range": (lambda: state_spec(low=(0.0,) * 8), r"StateSpec.low/high: found .* expected both or neither"),
    "short range": (lambda: state_spec(low=(0.0,), high=(1.0,)), r"StateSpec.low/high: found .* expected 8 numbers"),
    "range order": (
        lambda: state_spec(low=(1,) * 8, high=(0,) * 8),
        r"low/high\[x\]: found \(1.0, 0.0\), expected low",
    ),
    "template": (
        lambda: prompt_spec(template="go"),
        r"template: found 'go', expected text with \{instruction\} exactly",
    ),
    "pad": (lambda: prompt_spec(pad_id=-1), r"pad_id: found -1, expected a token id >= 0"),
    "no camera": (lambda: ObservationSpec((), state_spec(), 0.1), r"images: found \(\), expected at least one camera"),
    "same key": (lambda: ObservationSpec((image_spec("state"),), state_spec(), 0.1), r"keys: found \['state'\]"),
    "two sizes": (
        lambda: ObservationSpec((image_spec("a"), image_spec("b", height=8)), state_spec(), 0.1),
        r"images: found \[\(8, 12\), \(16, 12\)\], expected one height and width",
    ),
    "not a spec": (
        lambda: ObservationSpec(({},), state_spec(), 0.1),
        r"images\[0\]: found \{\} \(dict\), expected ImageSpec",
    ),
    "dim range": (lambda: ActionDim("a", "joint", "rad", 1, 1), r"ActionDim\[a\].low/high: found \(1.0, 1.0\)"),
    "dim scale": (lambda: ActionDim("a", "joint", "rad", 0, 1, 0), r"ActionDim\[a\].scale: found 0.0"),
    "no dims": (lambda: action_spec(dims=()), r"ActionSpec.dims: found \(\), expected at least one"),
    "no rotation": (lambda: action_spec(rotation="none"), r"ActionSpec.rotation: found 'none', expected a convention"),
    "no gripper": (
        lambda: action_spec(dims=action_spec().dims[:6]),
        r"gripper: found 'negative_opens', expected 'none'",
    ),
    "repeat delta": (lambda: action_spec(hold="repeat_last"), r"hold: found 'repeat_last', expected 'zero_motion'"),
    "zero absolute": (lambda: action_spec(kind="absolute"), r"hold: found 'zero_motion', expected 'repeat_last'"),
    "follows nothing": (lambda: action_spec(follows=0.0), r"ActionSpec.follows: found 0.0, expected a share in"),
    "follows places": (
        lambda: action_spec(kind="absolute", hold="repeat_last", follows=0.5),
        r"ActionSpec.follows: found 0.5, expected none: the actions are absolute",
    ),
    "no time": (lambda: action_spec(dt_s=0), r"ActionSpec.dt_s: found 0.0, expected a number above zero"),
    "kept order": (lambda: KeptStack("s", 4, (2, 1)), r"KeptStack\[s\].kept: found \(2, 1\), expected ascending"),
    "kept range": (lambda: KeptStack("s", 4, (0, 4)), r"KeptStack\[s\].kept: found \(0, 4\), expected indices in 0..3"),
    "kept none": (lambda: KeptStack("s", 4, ()), r"KeptStack\[s\].kept: found \(\)"),
    "digest": (lambda: SourceModel("m", "r", "A" * 64), r"SourceModel.sha256: found 'A+', expected 64 lower-case"),
    "stack twice": (
        lambda: PlanSummary("a" * 64, (KeptStack("s", 1, (0,)), KeptStack("s", 1, (0,)))),
        r"PlanSummary.stacks names: found \['s'\]",
    ),
    "batch": (lambda: EngineConstraints(17, ("CPU",), batch=2), r"EngineConstraints.batch: found 2, expected 1"),
    "no provider": (lambda: EngineConstraints(17, ()), r"providers: found \(\), expected at least one provider"),
    "tensor shape": (lambda: TensorSpec("x", "float32", (0,)), r"TensorSpec\[x\].shape: found \(0,\)"),
    "graph path": (
        lambda: GraphSpec("../p.onnx", (), ()),
        r"GraphSpec.file: found '../p.onnx', expected a relative POSIX",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_wrong_spec_is_refused_by_name(name: str) -> None:
    build, message = REFUSALS[name]
    with pytest.raises(ContractError, match=message):
        build()


def test_graph_that_disagrees_with_specs_is_refused() -> None:
    spec = policy_spec()
    longer = dataclasses.replace(spec.prompt, max_tokens=11)
    with pytest.raises(ContractError, match=r"graph.inputs: found .*\(1, 10\).* expected by the specs .*\(1, 11\)"):
        dataclasses.replace(spec, prompt=longer)


def test_strings_become_enum_members() -> None:
    spec = image_spec(layout="CHW", orientation="as_camera")
    assert (spec.layout, spec.orientation) == (Layout.CHW, Orientation.AS_CAMERA)
    assert spec.shape == (3, 16, 12)


def test_whole_numbers_become_floats() -> None:
    assert image_spec(max_age_s=1) == image_spec(max_age_s=1.0)
    assert type(image_spec(max_age_s=np.float32(1)).max_age_s) is float


@pytest.mark.parametrize("layout", [Layout.HWC, Layout.CHW])
def test_rotation_by_180_turns_both_image_axes(layout: Layout) -> None:
    spec = image_spec(layout=layout)
    frame = np.arange(np.prod(spec.shape), dtype=np.uint8).reshape(spec.shape)
    turned = orient(frame, spec)
    first, last = ((0, 0), (-1, -1)) if layout is Layout.HWC else ((slice(None), 0, 0), (slice(None), -1, -1))
    np.testing.assert_array_equal(turned[first], frame[last])
    np.testing.assert_array_equal(orient(turned, spec), frame)
    assert orient(frame, image_spec(layout=layout, orientation="as_camera")) is frame


def test_commands_and_physical_units_round_trip() -> None:
    spec = action_spec()
    command = np.array([1.0, -1.0, 0.5, 1.0, 0.0, -0.2, 1.0])
    physical = spec.to_physical(command)
    np.testing.assert_allclose(physical, [0.05, -0.05, 0.025, 0.5, 0.0, -0.1, 1.0])
    np.testing.assert_allclose(spec.to_command(physical), command)
    assert (spec.to_physical(np.ones(7)) == spec.high).all()


def test_deltas_that_were_followed_in_part_are_as_short_as_the_motion_that_they_caused() -> None:
    spec, command = action_spec(follows=0.25), np.array([1.0, -1.0, 0.5, 1.0, 0.0, -0.4, -1.0])
    meant, moved = spec.to_physical(command), spec.as_motion().to_physical(command)
    assert moved[:6] == pytest.approx(meant[:6] / 4)
    assert moved[6] == meant[6], "a gripper's command is no way"
    assert spec.as_motion().high.tolist() == [0.0125] * 3 + [0.125] * 3 + [1.0]
    assert spec.as_motion().as_motion() == spec.as_motion(), "shortened once"
    assert action_spec().as_motion() == action_spec()


def test_a_spec_without_a_share_leaves_no_key_behind() -> None:
    assert "follows" not in encode(action_spec())
    assert decode(ActionSpec, encode(action_spec()), "action").follows is None
    assert decode(ActionSpec, encode(action_spec(follows=0.27)), "action").follows == 0.27


def test_hold_of_delta_stops_arm_and_keeps_gripper() -> None:
    last = np.array([0.3, 0.2, 0.1, 0.3, 0.2, 0.1, -1.0])
    assert action_spec().hold_action(last).tolist() == [0.0] * 6 + [-1.0]
    assert last[0] == 0.3


def test_hold_of_absolute_repeats_everything() -> None:
    dims = (ActionDim("j1", DimRole.JOINT, "rad", -3, 3), RATIO)
    spec = action_spec(dims=dims, kind="absolute", hold=HoldRule.REPEAT_LAST, rotation="none", frame="joint")
    assert spec.hold_action(np.array([1.2, 1.0])).tolist() == [1.2, 1.0]


@pytest.mark.parametrize("last", [np.full(7, np.nan), np.zeros(6)])
def test_hold_without_valid_history_is_refused(last: np.ndarray) -> None:
    with pytest.raises(ContractError, match="expected 7 finite numbers: the last command sent"):
        action_spec().hold_action(last)


def test_prompt_is_lowered_only_when_told() -> None:
    assert prompt_spec().render("Pick UP") == "task: pick up"
    assert prompt_spec(lowercase=False).render("Pick UP") == "task: Pick UP"


def test_lineage_is_valid_as_built() -> None:
    assert lineage().plan.stacks[0].kept == (0, 1, 2, 5, 7)
