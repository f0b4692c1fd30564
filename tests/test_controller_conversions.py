# SPDX-License-Identifier: Apache-2.0
"""Messages become the policy's inputs and commands become messages without a wrong axis, colour, unit or order."""

from dataclasses import replace

import numpy as np
import pytest

pytestmark = [pytest.mark.ros]
pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros")

from artifact_factory import action_spec, image_spec  # noqa: E402
from dropgate_controller import conversions  # noqa: E402
from dropgate_controller.conversions import ConversionError  # noqa: E402
from geometry_msgs.msg import PoseStamped  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402

from runtime.contract.chunk import ActionChunk  # noqa: E402
from runtime.contract.conventions import ColourOrder, Layout, Orientation  # noqa: E402
from runtime.safety.filter import SafetyFilter  # noqa: E402
from runtime.safety.limits import CartesianLimits, JointLimits  # noqa: E402
from runtime.safety.motion import Measured, Situation  # noqa: E402

AS_SEEN = image_spec(orientation=Orientation.AS_CAMERA)
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 12, 3), dtype=np.uint8)


def image(pixels: np.ndarray, encoding: str = "rgb8", padding: int = 0) -> Image:
    rows = pixels.reshape(len(pixels), -1)
    data = np.pad(rows, ((0, 0), (0, padding)))
    return Image(height=len(pixels), width=pixels.shape[1], encoding=encoding, step=data.shape[1], data=data.tobytes())


def test_an_image_arrives_as_it_was_sent_also_with_padded_rows():
    assert np.array_equal(conversions.image_from(image(PIXELS), AS_SEEN), PIXELS)
    assert np.array_equal(conversions.image_from(image(PIXELS, padding=5), AS_SEEN), PIXELS)


@pytest.mark.parametrize("encoding", ["bgr8", "rgba8", "bgra8"])
def test_other_encodings_give_the_same_colours(encoding):
    colours = PIXELS[:, :, ::-1] if encoding.startswith("bgr") else PIXELS
    if encoding.endswith("a8"):
        colours = np.dstack([colours, np.full(PIXELS.shape[:2], 7, np.uint8)])
    assert np.array_equal(conversions.image_from(image(colours, encoding), AS_SEEN), PIXELS)


def test_the_policys_own_convention_is_met():
    spec = replace(AS_SEEN, colour_order=ColourOrder.BGR, layout=Layout.CHW, orientation=Orientation.ROTATED_180)
    found = conversions.image_from(image(PIXELS), spec)
    assert np.array_equal(found, np.moveaxis(PIXELS[::-1, ::-1, ::-1], 2, 0))


def test_a_larger_image_is_cropped_to_the_centre_and_averaged():
    large = np.kron(PIXELS, np.ones((4, 4, 1), np.uint8))
    wide = np.concatenate([np.zeros((64, 8, 3), np.uint8), large, np.zeros((64, 8, 3), np.uint8)], axis=1)
    assert np.array_equal(conversions.image_from(image(large), AS_SEEN), PIXELS)
    assert np.array_equal(conversions.image_from(image(wide), AS_SEEN), PIXELS)


def test_a_png_is_exact_and_broken_data_is_refused():
    import cv2

    data = cv2.imencode(".png", PIXELS[:, :, ::-1])[1].tobytes()
    assert np.array_equal(conversions.image_from_compressed(CompressedImage(format="png", data=data), AS_SEEN), PIXELS)
    for broken in (b"", data[: len(data) // 4], b"no image"):
        with pytest.raises(ConversionError, match="cannot be decoded"):
            conversions.image_from_compressed(CompressedImage(format="png", data=broken), AS_SEEN)


@pytest.mark.parametrize(
    "spoil", [{"encoding": "mono16"}, {"step": 3}, {"height": 17}, {"data": b""}, {"height": 0, "data": b""}]
)
def test_an_image_that_contradicts_itself_is_refused(spoil):
    message = image(PIXELS)
    for name, value in spoil.items():
        setattr(message, name, value)
    with pytest.raises(ConversionError, match="image"):
        conversions.image_from(message, AS_SEEN)


def test_joints_go_by_name_and_lists_must_match():
    found = conversions.joints_from(JointState(name=["b", "a"], position=[2.0, 1.0]))
    assert found.positions == {"a": 1.0, "b": 2.0}
    for names, positions in ((["a"], [1.0, 2.0]), (["a", "a"], [1.0, 2.0]), (["a"], [])):
        with pytest.raises(ConversionError, match="joint state"):
            conversions.joints_from(JointState(name=names, position=positions))


def pose(quaternion, frame: str = "base") -> PoseStamped:
    message = PoseStamped()
    message.header.frame_id = frame
    o = message.pose.orientation
    o.x, o.y, o.z, o.w = map(float, quaternion)
    message.pose.position.x, message.pose.position.y, message.pose.position.z = 1.0, 2.0, 3.0
    return message


def test_a_pose_needs_its_frame_and_a_unit_quaternion():
    assert conversions.pose_from(pose((0, 0, 0, 1)), "base").position.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ConversionError, match="expected 'base'"):
        conversions.pose_from(pose((0, 0, 0, 1), "world"), "base")
    for broken in ((0, 0, 0, 0), (0, 0, 0, 2), (float("nan"), 0, 0, 1)):
        with pytest.raises(ConversionError, match="unit quaternion"):
            conversions.pose_from(pose(broken), "base")


def test_the_rotation_vector_is_the_one_that_policies_are_trained_on():
    from compress.sim.envs import axis_angle

    for seed in range(20):
        q = np.random.default_rng(seed).normal(size=4)
        q /= np.linalg.norm(q)
        assert conversions.rotation_vector(q) == pytest.approx(axis_angle(q), abs=1e-12)


@pytest.mark.parametrize("time_s", [0.0, 1.25, 1_763_000_000.123456, 0.999999999])
def test_stamps_survive_the_way_there_and_back(time_s):
    assert conversions.seconds(conversions.stamp_of(time_s)) == pytest.approx(time_s, abs=1e-6)
    assert 0 <= conversions.stamp_of(time_s).nanosec < 1_000_000_000


def test_a_twist_names_its_frame_and_keeps_every_axis():
    spec = action_spec()
    limits = CartesianLimits(9, 99, 999, 9999, (-9, -9, -9), (9, 9, 9), 1, 1)
    rows = np.tile(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -1], np.float32), (spec.horizon, 1))
    here = Measured(5.0, {}, np.zeros(3), np.zeros(3))
    filter_ = SafetyFilter(spec, limits)
    situation = Situation(5.0, here, here)
    admitted = filter_.admit(ActionChunk(rows, 5.0, spec.dt_s, spec.names), situation)
    message = conversions.twist_from(filter_.command(admitted, 0.0, situation), "tool")
    t = message.twist
    found = [t.linear.x, t.linear.y, t.linear.z, t.angular.x, t.angular.y, t.angular.z]
    assert found == pytest.approx([0.1, 0.2, 0.3, 4.0, 5.0, 6.0], rel=1e-5)
    assert message.header.frame_id == "tool"
    assert conversions.seconds(message.header.stamp) == 5.0
    with pytest.raises(ConversionError, match="twist"):
        conversions.joint_trajectory_from(filter_.brake(Situation(5.02, here, here)))


def test_a_stamp_keeps_nanoseconds_that_a_float64_of_today_does_not_tell():
    now = 1_795_831_200.25
    assert now - 1e-7 == now
    assert conversions.stamp_of(now, -1e-7).nanosec == 249_999_900
    assert conversions.stamp_of(1_795_831_200.0, -1e-9) == conversions.Time(sec=1_795_831_199, nanosec=999_999_999)


def test_a_joint_trajectory_has_ascending_times_and_ends_at_rest():
    from test_safety_filter import ABSOLUTE, JOINTS, joint_chunk, line_to

    assert isinstance(JOINTS, JointLimits)
    here = Measured(0.0, dict.fromkeys(JOINTS.names, 0.0))
    filter_ = SafetyFilter(ABSOLUTE, JOINTS)
    situation = Situation(0.0, here, here)
    command = filter_.command(filter_.admit(joint_chunk(line_to((0.2, 0, 0))), situation), 0.0, situation, 0.5)
    message = conversions.joint_trajectory_from(command)
    assert conversions.seconds(message.header.stamp) == command.start_s + command.times_s[0]
    times = [p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in message.points]
    assert message.joint_names == list(JOINTS.names)
    assert times[0] == 0.0, "the controller plays by absolute time from its first cycle on"
    assert np.all(np.diff(times) > 0.0)
    assert list(message.points[-1].velocities) == [0.0, 0.0, 0.0]
