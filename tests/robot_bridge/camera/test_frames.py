"""The renderer process: pictures of the published world, on schedule, with faults."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.storage import load_camera
from robot_bridge.cell import CellConfig, load_cell
from robot_bridge.d455 import D455, NoFrames
from robot_bridge.twin.faults import Faults
from robot_bridge.twin.frames import CameraTwin
from robot_bridge.twin.render import D455Noise
from robot_bridge.twin.shared_state import Frame, FrameRingReader, WorldStateWriter
from robot_bridge.twin.tasks import sample_placement
from robot_bridge.twin.world import World

TWIN_CELL = Path(__file__).parents[3] / "config" / "cells" / "twin.yaml"


@pytest.fixture
def cell(tmp_path: Path) -> CellConfig:
    cell = load_cell(TWIN_CELL)
    assert cell.twin is not None
    return dataclasses.replace(
        cell,
        camera=dataclasses.replace(cell.camera, frames_path=str(tmp_path)),
        twin=dataclasses.replace(cell.twin, directory=str(tmp_path)),
    )


class PublishedWorld:
    """Writes worlds into shared memory as the controller does."""

    def __init__(self, directory: Path) -> None:
        self._writer = WorldStateWriter(directory)
        self._tick = 0
        self.world = World("place_cube")

    def lay_out(self, task: str, seed: int = 0) -> World:
        self.world = World(task)
        self.world.reset(sample_placement(task, np.random.default_rng(seed)))
        self.publish()
        return self.world

    def publish(self, stamp_ns: int | None = None) -> int:
        world, stamp_ns = self.world, stamp_ns or time.time_ns()
        self._tick += 1
        self._writer.write(
            tick=self._tick,
            stamp_ns=stamp_ns,
            task=world.task.id,
            scene_revision=1,
            qpos=world.qpos,
            q=world.q,
            qd=world.qd,
            T_base_tcp=world.T_base_tcp,
            gripper_opening=world.gripper_opening,
            gripper_target=1.0,
            object_detected=False,
            objects=world.object_poses(),
            robot_mode=7,
            safety_mode=1,
        )
        return stamp_ns


@pytest.fixture
def world(tmp_path: Path) -> PublishedWorld:
    world = PublishedWorld(tmp_path)
    world.lay_out("place_cube")
    return world


@pytest.fixture
def camera(cell: CellConfig) -> Iterator[CameraTwin]:
    """The renderer, in a thread that owns its OpenGL context."""
    twin = CameraTwin(cell)
    thread = threading.Thread(target=twin.run, daemon=True)
    thread.start()
    yield twin
    twin.stop()
    thread.join(10.0)
    assert not thread.is_alive()


def _next(ring: FrameRingReader, after: int = 0) -> Frame:
    frame = ring.wait(after, 10.0)
    assert frame is not None, "the renderer delivers no frames"
    return frame


def _wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, "the expected state did not come"
        time.sleep(0.01)


def test_objects_are_seen_where_the_calibration_file_says(
    world: PublishedWorld, camera: CameraTwin, tmp_path: Path
) -> None:
    frame = _next(FrameRingReader(tmp_path))
    model = load_camera(tmp_path / "camera.yaml")
    center = world.world.object_poses()["cube"][:3, 3]
    (pixel,), (distance,) = model.project([center])
    u, v = round(float(pixel[0])), round(float(pixel[1]))
    red, green, blue = (int(value) for value in frame.rgb[v, u])
    assert red > 100 and red > 2 * max(green, blue), f"no red cube at {u},{v}: {red},{green},{blue}"
    # The camera sees the cube's faces, up to half a diagonal (39 mm) nearer than its centre; noise is a few mm.
    assert distance * 1000 - 60 < int(frame.z16[v, u]) < distance * 1000 + 15


def test_depth_image_agrees_with_the_table_plane_within_the_cameras_noise(
    world: PublishedWorld, camera: CameraTwin, tmp_path: Path
) -> None:
    frame = _next(FrameRingReader(tmp_path))
    model = load_camera(tmp_path / "camera.yaml")
    pixels = np.array([[u, 225.0] for u in range(150, 270, 4)])  # the table's near edge: nothing stands there
    depths = frame.z16[225, 150:270:4] * 0.001
    heights = model.unproject(pixels, depths)[:, 2]
    sigma = D455Noise.SUBPIXEL_PX * float(np.mean(depths)) ** 2 / (model.fx * D455Noise.BASELINE_M)
    assert abs(float(np.mean(heights))) < 0.003
    assert 0.2 * sigma < float(np.std(heights)) < 3.0 * sigma


def test_stamp_is_that_of_the_world_state_in_the_picture(
    world: PublishedWorld, camera: CameraTwin, tmp_path: Path
) -> None:
    ring = FrameRingReader(tmp_path)
    for _ in range(5):
        first = ring.newest_number()
        stamp_ns = world.publish()
        frame = _next(ring, first)
        if frame.stamp_ns == stamp_ns:
            return
    pytest.fail("no frame carried the stamp of the state it shows")


def test_world_that_stands_still_is_still_looked_at_now(
    world: PublishedWorld, camera: CameraTwin, tmp_path: Path
) -> None:
    world.publish(stamp_ns=time.time_ns() - 60_000_000_000)
    ring = FrameRingReader(tmp_path)
    frame = _next(ring, _next(ring).frame_number + 1)
    assert abs(frame.stamp_ns - time.time_ns()) < 10_000_000_000


def test_change_of_task_changes_the_picture(world: PublishedWorld, camera: CameraTwin, tmp_path: Path) -> None:
    ring = FrameRingReader(tmp_path)
    _next(ring)
    bottle = world.lay_out("grasp_bottle").object_poses()["bottle"][:3, 3] + np.array([0.0, 0.0, 0.08])
    model = load_camera(tmp_path / "camera.yaml")
    (pixel,), (distance,) = model.project([bottle])
    u, v = round(float(pixel[0])), round(float(pixel[1]))
    _wait_for(lambda: abs(int(_next(ring, ring.newest_number()).z16[v, u]) - distance * 1000) < 60)


def test_world_that_appears_late_is_waited_for(camera: CameraTwin, tmp_path: Path) -> None:
    ring = FrameRingReader(tmp_path)
    assert ring.wait(0, 0.3) is None
    PublishedWorld(tmp_path).lay_out("place_bowl")
    assert _next(ring).frame_number >= 1


def test_frozen_camera_starves_the_driver_and_dropped_frames_leave_gaps(
    world: PublishedWorld, camera: CameraTwin, cell: CellConfig, tmp_path: Path
) -> None:
    faults = Faults(tmp_path)
    with D455(cell.camera) as driver:
        driver.wait(10.0)
        faults.set("frame_freeze", True)
        with pytest.raises(NoFrames):
            while True:
                driver.wait(0.5)
        faults.set("frame_freeze", False)
        driver.wait(10.0)
        faults.set("frame_drop", 0.5)
        numbers = [driver.wait(10.0).frame_number for _ in range(25)]
    assert numbers == sorted(numbers)
    assert numbers[-1] - numbers[0] > 30
