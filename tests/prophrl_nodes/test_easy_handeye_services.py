"""Clients of easy_handeye2 find its services on our calibrator.

The message package is on no package index. Where it is not installed, interfaces of the same names and fields are
compiled here with the wheels' own tools.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from prophrl_nodes.calibrating.easy_handeye_services import PACKAGE
from prophrl_nodes.environment import ros_environment

from calibration.easy_handeye import read_calib, read_samples

ROOT = Path(__file__).resolve().parents[2]
CONVERSATION = ROOT / "tests/helpers/handeye_conversation.py"
ALGORITHMS = ["tsai", "park", "horaud", "andreff", "daniilidis", "shah", "li"]

STRINGS = ("name", "calibration_type", "robot_base_frame", "robot_effector_frame", "tracking_base_frame")
INTERFACES = {
    "msg/HandeyeCalibrationParameters.msg": "\n".join(f"string {name}" for name in (*STRINGS, "tracking_marker_frame"))
    + '\nbool freehand_robot_movement\nstring move_group_namespace "/"\nstring move_group "manipulator"',
    "msg/HandeyeCalibration.msg": "HandeyeCalibrationParameters parameters\ngeometry_msgs/Transform transform",
    "msg/Sample.msg": "geometry_msgs/Transform robot\ngeometry_msgs/Transform tracking",
    "msg/SampleList.msg": "HandeyeCalibrationParameters parameters\nSample[] samples",
    "srv/ListAlgorithms.srv": "---\nstring[] algorithms\nstring current_algorithm",
    "srv/SetAlgorithm.srv": "string new_algorithm\n---\nbool success",
    "srv/TakeSample.srv": "---\nSampleList samples",
    "srv/RemoveSample.srv": "int8 sample_index\n---\nSampleList samples",
    "srv/SaveSamples.srv": "---\nbool success",
    "srv/LoadSamples.srv": "---\nbool success\nSampleList samples",
    "srv/ComputeCalibration.srv": "---\nbool valid\nHandeyeCalibration calibration",
    "srv/SaveCalibration.srv": "---\nbool success\nstd_msgs/String filepath",
}
CMAKE = f"""\
cmake_minimum_required(VERSION 3.16)
project({PACKAGE})
find_package(ament_cmake REQUIRED)
find_package(geometry_msgs REQUIRED)
find_package(std_msgs REQUIRED)
find_package(rosidl_default_generators REQUIRED)
rosidl_generate_interfaces(${{PROJECT_NAME}} {" ".join(INTERFACES)} DEPENDENCIES geometry_msgs std_msgs)
ament_package()
"""
PACKAGE_XML = f"""\
<?xml version="1.0"?>
<package format="3"><name>{PACKAGE}</name><version>0.0.0</version><description>For tests.</description>
<maintainer email="maintainers@prophrl.org">prophrl maintainers</maintainer><license>Apache-2.0</license>
<buildtool_depend>ament_cmake</buildtool_depend><buildtool_depend>rosidl_default_generators</buildtool_depend>
<depend>geometry_msgs</depend><depend>std_msgs</depend><member_of_group>rosidl_interface_packages</member_of_group>
<export><build_type>ament_cmake</build_type></export></package>
"""


@pytest.fixture(scope="module")
def handeye_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables under which ``easy_handeye2_msgs`` can be imported."""
    if importlib.util.find_spec(PACKAGE) is not None:
        return {}
    venv = Path(sys.prefix)
    if not (venv / "bin/cmake").is_file():
        pytest.skip(f"neither {PACKAGE} nor the wheels' tools to compile it are installed")
    folder = tmp_path_factory.mktemp(PACKAGE)
    for name, text in {**INTERFACES, "CMakeLists.txt": CMAKE, "package.xml": PACKAGE_XML}.items():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_text(text + "\n")
    prefix, path = folder / "prefix", f"{venv}/bin{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "AMENT_PREFIX_PATH": str(venv), "CMAKE_PREFIX_PATH": str(venv)}
    configure = [
        *(venv / "bin/cmake", "-S", folder / "source", "-B", folder / "build", "-G", "Ninja", "-DBUILD_TESTING=OFF"),
        *("-DCMAKE_CXX_FLAGS=-O0", "-DCMAKE_C_FLAGS=-O0", f"-DCMAKE_INSTALL_PREFIX={prefix}"),
        *(f"-DPython3_EXECUTABLE={sys.executable}", f"-DPROPHRL_NUMPY_INCLUDE={np.get_include()}"),
        f"-DPROPHRL_PYTHON_INCLUDE={sysconfig.get_path('include')}",
        f"-DCMAKE_PROJECT_{PACKAGE}_INCLUDE={ROOT}/ros2_ws/setup/wheel_targets.cmake",
    ]
    for command in (configure, [venv / "bin/cmake", "--build", folder / "build", "--target", "install"]):
        made = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)
        assert made.returncode == 0, (made.stdout + made.stderr)[-3000:]
    (modules,) = prefix.glob("lib/python3*/site-packages")
    return {"PYTHONPATH": str(modules), "LD_LIBRARY_PATH": f"{prefix}/lib", "AMENT_PREFIX_PATH": str(prefix)}


@pytest.mark.parametrize(
    ("package_xml", "dependency"),
    [("package.xml", "easy_handeye2"), ("ros2_ws/src/prophrl_nodes/package.xml", "easy_handeye2_msgs")],
)
def test_the_genuine_package_is_a_dependency_of_those_who_ask_for_it(package_xml: str, dependency: str) -> None:
    package = pytest.importorskip("catkin_pkg.package").parse_package(str(ROOT / package_xml))
    for environment, wanted in (({}, False), ({"PROPHRL_EASY_HANDEYE2": "1"}, True)):
        package.evaluate_conditions(environment)
        needed = {depend.name for depend in package.exec_depends if depend.evaluated_condition}
        assert (dependency in needed) is wanted and "python3-numpy" in needed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_client_of_easy_handeye2_calibrates_with_our_calibrator(
    handeye_environment: dict[str, str], ros_domain: int, tmp_path: Path
) -> None:
    environment = ros_environment(ros_domain) | {"HOME": str(tmp_path), "ROS_LOG_DIR": str(tmp_path / "ros_log")}
    for name, value in handeye_environment.items():
        environment[name] = os.pathsep.join(part for part in (value, environment.get(name, "")) if part)
    environment["PYTHONPATH"] = os.pathsep.join([environment.get("PYTHONPATH", ""), str(ROOT)]).strip(os.pathsep)
    done = subprocess.run(
        [sys.executable, str(CONVERSATION), str(ros_domain)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    calib_file = tmp_path / ".ros2/easy_handeye2/calibrations/lab.calib"
    assert (seen["too_early"], seen["without_views"]) == (False, False)
    assert seen["current"] == 1 and seen["out_of_sight"] == 0
    assert seen["counts"] == [1, 2, 3, 4, 5, 6, 6]  # the seventh view is refused, the list stays
    assert (seen["removed"], seen["removed_nothing"]) == (5, 5)
    assert (seen["button_remove_sample"], seen["button_take_sample"]) == (4, 5)
    assert seen["saved_samples"] is True and seen["loaded"] == [True, 5]
    assert seen["algorithms"] == [[f"prophrl/{name}" for name in ALGORITHMS], "prophrl/park"]
    assert (seen["unknown_algorithm"], seen["known_algorithm"]) == (False, True)
    assert seen["current_algorithm"] == "prophrl/daniilidis"
    assert seen["valid"] is True and seen["type"] == "eye_on_base"
    np.testing.assert_allclose(seen["position"], [-1.2, 0.1, 0.6], atol=1e-6)
    assert seen["saved"] is True and seen["filepath"] == str(calib_file)
    assert (tmp_path / "ours.yaml").is_file()
    np.testing.assert_allclose(read_calib(calib_file).transform.translation, [-1.2, 0.1, 0.6], atol=1e-6)
    assert len(read_samples(tmp_path / ".ros2/easy_handeye2/samples/lab.samples").samples) == 5
