"""Files of easy_handeye2: the same bytes as its own, the same meaning, and what it could not read is refused."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from calibration.easy_handeye import (
    CalibFile,
    EasyHandeyeError,
    HandeyeParameters,
    HandeyeSample,
    HandeyeTransform,
    SamplesFile,
    poses,
    read_calib,
    read_samples,
    sample_of_poses,
    write_calib,
    write_samples,
)
from calibration.poses import inverse, transform

CALIB = """\
parameters:
  name: lab
  calibration_type: eye_on_base
  robot_base_frame: base
  robot_effector_frame: tool0
  tracking_base_frame: camera_color_optical_frame
  tracking_marker_frame: board
  freehand_robot_movement: true
  move_group_namespace: /
  move_group: manipulator
transform:
  translation:
    x: -1.25
    y: 1.0e-05
    z: 0.6000000000000001
  rotation:
    x: -0.8
    y: 0.0
    z: -0.0
    w: 0.6
"""

SAMPLES = """\
parameters:
  name: ''
  calibration_type: ''
  robot_base_frame: ''
  robot_effector_frame: ''
  tracking_base_frame: ''
  tracking_marker_frame: ''
  freehand_robot_movement: false
  move_group_namespace: /
  move_group: manipulator
samples:
- robot:
    translation:
      x: 0.1
      y: 0.2
      z: 0.3
    rotation:
      x: 0.0
      y: 0.0
      z: 0.0
      w: 1.0
  tracking:
    translation:
      x: 0.0
      y: 0.0
      z: 0.75
    rotation:
      x: 1.0
      y: 0.0
      z: 0.0
      w: -2.5e-09
"""

REAL = st.floats(allow_nan=False, allow_infinity=False, width=64)
TURN = st.integers(0, 2**31 - 1).map(lambda seed: tuple(map(float, Rotation.random(random_state=seed).as_quat())))
TRANSFORMS = st.builds(HandeyeTransform, st.tuples(REAL, REAL, REAL), TURN)
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12) | st.sampled_from(
    ["yes", "1.5", "~", "0x1f", "a: b"]
)
PARAMETERS = st.builds(
    HandeyeParameters, TEXT, st.sampled_from(["eye_in_hand", "eye_on_base", ""]), *[TEXT] * 4, st.booleans(), TEXT, TEXT
)


def message_to_yaml(message: Any) -> str:
    """What rosidl_runtime_py prints for a message: ordered mappings, block style, lines of any length."""

    class Dumper(yaml.Dumper):
        pass

    def ordered(dumper: yaml.Dumper, data: OrderedDict[str, Any]) -> yaml.MappingNode:
        items = [(dumper.represent_data(key), dumper.represent_data(value)) for key, value in data.items()]
        return yaml.MappingNode("tag:yaml.org,2002:map", items)

    Dumper.add_representer(OrderedDict, ordered)
    return yaml.dump(message, Dumper=Dumper, allow_unicode=True, width=sys.maxsize, default_flow_style=False)


def message(content: Any) -> Any:
    """The ROS message of one of our objects as ``message_to_ordereddict`` gives it; fields as in the .msg files."""
    if isinstance(content, HandeyeTransform):
        translation = OrderedDict(zip(("x", "y", "z"), content.translation, strict=True))
        rotation = OrderedDict(zip(("x", "y", "z", "w"), content.rotation_xyzw, strict=True))
        return OrderedDict(translation=translation, rotation=rotation)
    if isinstance(content, tuple):
        return [message(item) for item in content]
    if isinstance(content, HandeyeParameters):
        return OrderedDict(vars(content))
    return OrderedDict((name, message(value)) for name, value in vars(content).items())


@pytest.mark.parametrize(
    ("text", "read", "write"), [(CALIB, read_calib, write_calib), (SAMPLES, read_samples, write_samples)]
)
def test_a_file_that_is_read_and_written_keeps_every_byte(
    tmp_path: Path, text: str, read: Callable[[Path], Any], write: Callable[[Path, Any], None]
) -> None:
    (tmp_path / "theirs").write_text(text)
    write(tmp_path / "ours", read(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_text() == text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parameters=PARAMETERS, pose=TRANSFORMS, pairs=st.lists(st.builds(HandeyeSample, TRANSFORMS, TRANSFORMS), max_size=3)
)
def test_any_content_is_written_as_the_message_printer_would_and_read_back(
    tmp_path: Path, parameters: HandeyeParameters, pose: HandeyeTransform, pairs: list[HandeyeSample]
) -> None:
    calib, samples = CalibFile(parameters, pose), SamplesFile(parameters, tuple(pairs))
    write_calib(tmp_path / "a.calib", calib)
    write_samples(tmp_path / "a.samples", samples)
    assert (tmp_path / "a.calib").read_bytes() == message_to_yaml(message(calib)).encode()
    assert (tmp_path / "a.samples").read_bytes() == message_to_yaml(message(samples)).encode()
    assert read_calib(tmp_path / "a.calib") == calib
    assert read_samples(tmp_path / "a.samples") == samples


def test_the_package_itself_writes_these_bytes_and_reads_ours(tmp_path: Path) -> None:
    messages = pytest.importorskip("easy_handeye2_msgs.msg", reason="needs easy_handeye2_msgs, which PyPI lacks")
    printer = pytest.importorskip("rosidl_runtime_py", reason="needs rosidl_runtime_py, which PyPI lacks")
    for text, kind in ((CALIB, messages.HandeyeCalibration), (SAMPLES, messages.SampleList)):
        genuine = kind()
        printer.set_message_fields(genuine, yaml.full_load(text))
        assert printer.message_to_yaml(genuine) == text


def test_fixed_cameras_have_their_robot_poses_stored_inverted() -> None:
    T_base_tool = transform((-0.6, 0.1, 0.4), Rotation.from_euler("xyz", (3.0, 0.2, 1.0)))
    T_camera_board = transform((0.0, 0.1, 0.8), Rotation.from_euler("xyz", (2.9, 0.1, 0.3)))
    fixed = sample_of_poses(T_base_tool, T_camera_board, "eye_to_hand")
    np.testing.assert_allclose(fixed.robot.matrix, inverse(T_base_tool), atol=1e-12)
    on_tool = sample_of_poses(T_base_tool, T_camera_board, "eye_in_hand")
    np.testing.assert_allclose(on_tool.robot.matrix, T_base_tool, atol=1e-12)
    for sample, mode in ((fixed, "eye_to_hand"), (on_tool, "eye_in_hand")):
        robot, tracking = poses([sample, sample], mode)  # type: ignore[arg-type]
        np.testing.assert_allclose(robot, [T_base_tool] * 2, atol=1e-12)
        np.testing.assert_allclose(tracking, [T_camera_board] * 2, atol=1e-12)
    assert poses([], "eye_in_hand")[0].shape == (0, 4, 4)


def test_the_mode_is_told_only_when_the_file_tells_it(tmp_path: Path) -> None:
    (tmp_path / "s").write_text(SAMPLES)
    (tmp_path / "c").write_text(CALIB)
    assert read_samples(tmp_path / "s").parameters.mode is None
    assert read_calib(tmp_path / "c").parameters.mode == "eye_to_hand"
    with pytest.raises(EasyHandeyeError, match="choose one of eye_on_base, eye_in_hand"):
        _ = HandeyeParameters(calibration_type="eye_to_hand").mode


def test_missing_fields_take_the_defaults_of_the_message(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("parameters: {name: old}\ntransform: {translation: {x: 1}}\n")
    calib = read_calib(tmp_path / "c")
    assert calib.parameters == HandeyeParameters(name="old")
    assert calib.transform == HandeyeTransform((1.0, 0.0, 0.0))


def test_another_file_at_the_same_place_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "lab.calib"
    path.write_text(CALIB)
    write_calib(path, read_calib(path))
    assert not (tmp_path / "history").exists()
    write_calib(path, CalibFile(HandeyeParameters(name="lab"), HandeyeTransform()))
    (kept,) = (tmp_path / "history").iterdir()
    assert kept.read_text() == CALIB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CALIB.replace("move_group:", "planner:"), "unknown field 'planner'"),
        (CALIB.replace("w: 0.6", "w: 0.7"), "norm is 1.0630, must be 1"),
        (CALIB.replace("w: 0.6", "w: .nan"), "w must be a finite number"),
        (CALIB.replace("w: 0.6", "w: six"), "w must be a finite number, got 'six'"),
        (CALIB.replace("movement: true", "movement: 3"), "freehand_robot_movement must be a bool"),
        ("transform: [1, 2]", "expected the fields translation, rotation"),
        ("a: [", "not valid YAML"),
        ("just words", "expected the fields parameters, transform"),
    ],
)
def test_what_easy_handeye2_could_not_have_written_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.calib").write_text(text)
    with pytest.raises(EasyHandeyeError, match=message):
        read_calib(tmp_path / "x.calib")


def test_a_bad_sample_is_named_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "x.samples").write_text(SAMPLES.replace("z: 0.75", "z: far"))
    with pytest.raises(EasyHandeyeError, match="sample 0: tracking: translation: z must be"):
        read_samples(tmp_path / "x.samples")
    with pytest.raises(EasyHandeyeError, match="cannot read"):
        read_samples(tmp_path / "none.samples")
