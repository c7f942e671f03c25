"""The fault that moves the camera: six numbers, read by whoever shares the lab's directory, undone by clearing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robot_bridge.cell import TwinConfig
from robot_bridge.twin.camera_place import NUDGE, CameraPlace, nudged, secret_pose
from robot_bridge.twin.faults import FaultError, Faults

DELTA = [0.005, 0.0, -0.001, 0.0, 0.01, 0.0]


def test_nudge_reaches_the_other_processes_and_is_undone_by_clearing(tmp_path: Path) -> None:
    here, there = Faults(tmp_path), Faults(tmp_path)
    place = CameraPlace(TwinConfig(directory=str(tmp_path), camera_seed=4), there)
    np.testing.assert_array_equal(place.T_mount_camera(), secret_pose("fixed", 4))
    here.set(NUDGE, DELTA)
    assert there.poll()
    np.testing.assert_array_equal(there.pose(NUDGE), DELTA)
    np.testing.assert_array_equal(place.T_mount_camera(), nudged(secret_pose("fixed", 4), DELTA))
    here.set("frame_drop", 0.5)
    there.poll()
    np.testing.assert_array_equal(there.pose(NUDGE), DELTA)
    here.clear()
    there.poll()
    np.testing.assert_array_equal(place.T_mount_camera(), secret_pose("fixed", 4))


def test_nudge_is_told_among_the_faults(tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    faults.set(NUDGE, tuple(DELTA))
    assert {entry["name"]: entry["value"] for entry in faults.describe()}[NUDGE] == DELTA
    assert Faults(tmp_path).pose(NUDGE).tolist() == DELTA


@pytest.mark.parametrize("value", [True, 0.1, [0.0] * 5, [0.0] * 5 + [float("nan")]])
def test_nudge_that_is_no_pose_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(FaultError, match="takes six numbers"):
        Faults(tmp_path).set(NUDGE, value)  # type: ignore[arg-type]


def test_pose_is_not_taken_for_a_number_nor_a_number_for_a_pose(tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    faults.set(NUDGE, DELTA)
    with pytest.raises(TypeError, match=r"read it with pose\(\)"):
        faults.value(NUDGE)
    with pytest.raises(FaultError, match="'frame_drop' takes a fraction, got"):
        faults.set("frame_drop", DELTA)


def test_camera_on_the_tool_is_moved_in_its_own_frame(tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    place = CameraPlace(TwinConfig(directory=str(tmp_path), camera_mount="tool"), faults)
    T_base_tool = secret_pose("fixed", 9)
    faults.set(NUDGE, DELTA)
    expected = T_base_tool @ nudged(secret_pose("tool", 0), DELTA)
    np.testing.assert_allclose(place.T_base_camera(T_base_tool), expected, atol=1e-12)
