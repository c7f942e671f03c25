"""The camera's process: pictures of the world at the camera's rate, in shared memory.

    python -m robot_bridge.twin.frames --cell config/cells/twin.yaml --host 127.0.0.1

Draws from the published world state alone, so it can be killed and started again at any time. Frames are numbered by
their place in the schedule: when rendering cannot keep up, or a fault drops a frame, the consumer sees a gap in the
numbers as it does with a real camera. Prints one line with "ready" once the first frame is out.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import time
from pathlib import Path

import numpy as np

from calibration.camera import PinholeCamera
from calibration.poses import inverse
from calibration.storage import Calibration, CalibrationFileError, load_calibration, save, save_camera
from robot_bridge.cell import CellConfig, load_cell
from robot_bridge.cell_overrides import add_override_argument, overrides_of
from robot_bridge.twin.camera_place import CameraPlace, nominal_pose
from robot_bridge.twin.faults import Faults
from robot_bridge.twin.render import D455Noise, Renderer, RenderError, twin_camera
from robot_bridge.twin.shared_state import FrameRingWriter, SharedStateError, WorldState, WorldStateReader
from robot_bridge.ur_kinematics import DhDeltas

CAMERA_FILE = "camera.yaml"


def camera_serial(seed: int) -> str:
    """Serial number of the camera of the twin cell with this seed; no real camera has letters in it."""
    return f"TWIN{seed:08d}"


class CameraTwin:
    """Renders one cell's camera until stopped.

    Args:
        cell: must have a ``twin`` section; ``camera`` gives size and rate.

    Raises:
        ValueError: the cell has no twin.
    """

    def __init__(self, cell: CellConfig) -> None:
        if cell.twin is None:
            raise ValueError(f"cell {cell.name!r} has no twin section: its camera is real hardware")
        self._camera = cell.camera
        self._deltas = DhDeltas.random(cell.twin.seed) if cell.twin.dh_deltas else None
        directory = Path(cell.twin.directory)
        self._world = WorldStateReader(directory)
        self._faults = Faults(directory)
        self._random = np.random.default_rng(cell.twin.seed)
        self._seed = cell.twin.seed
        self._model = twin_camera(cell.camera.width, cell.camera.height)
        self._place = CameraPlace(cell.twin, self._faults)
        self._aimed_at = np.zeros(6)
        self._noise = D455Noise(self._random, focal_px=self._model.fx)
        self._renderer: Renderer | None = None
        self._stopping = False
        self._announced = False
        _write_camera_file(directory / CAMERA_FILE, self._model, camera_serial(cell.twin.seed), cell.twin.camera_mount)
        self._ring = FrameRingWriter(directory, cell.camera.width, cell.camera.height)

    def stop(self) -> None:
        """Make ``run`` return after the present frame; may be called from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Render until ``stop``."""
        period_s = 1.0 / self._camera.rate_hz
        start_s = time.monotonic()
        frame_number = 0
        try:
            while not self._stopping:
                # The next place in the schedule that is not past yet; those skipped are lost frames.
                frame_number = max(frame_number + 1, int((time.monotonic() - start_s) / period_s) + 1)
                time.sleep(max(0.0, start_s + frame_number * period_s - time.monotonic()))
                self._faults.poll()
                if not self._faults.on("frame_freeze"):
                    self._expose(frame_number, period_s)
        finally:
            if self._renderer is not None:
                self._renderer.close()
            self._ring.close()

    def _expose(self, frame_number: int, period_s: float) -> None:
        try:
            state = self._world.read()
        except SharedStateError:
            # The controller is starting or was killed: a camera without a world to look at delivers nothing.
            return
        renderer = self._renderer_for(state)
        # A world that stands still (killed controller) is still looked at now, not when it stopped.
        now_ns = time.time_ns()
        stamp_ns = state.stamp_ns if now_ns - state.stamp_ns < period_s * 1e9 else now_ns
        rgb, depth_m = renderer.render(state.qpos)
        z16 = self._noise.apply(depth_m)
        lost = self._faults.value("frame_drop")
        if lost and self._random.random() < lost:
            return
        self._ring.write(frame_number, stamp_ns, rgb, z16)
        if not self._announced:
            self._announced = True
            size = f"{self._camera.width}x{self._camera.height}"
            print(f"camera ready, {size} at {self._camera.rate_hz} Hz", flush=True)

    def _renderer_for(self, state: WorldState) -> Renderer:
        if self._renderer is None or self._renderer.task_id != state.task:
            if self._renderer is not None:
                self._renderer.close()
            self._renderer = Renderer(
                state.task, self._camera.width, self._camera.height, deltas=self._deltas, seed=self._seed
            )
            if self._place.on_tool or not self._place.is_nominal or self._aimed_at.any():
                self._aim(self._renderer)
        if not np.array_equal(self._place.nudge_6, self._aimed_at):
            self._aim(self._renderer)
        return self._renderer

    def _aim(self, renderer: Renderer) -> None:
        T_mount_camera = self._place.T_mount_camera()
        if self._place.on_tool:
            renderer.ride(T_mount_camera)
        else:
            renderer.aim(dataclasses.replace(self._model, T_camera_base=inverse(T_mount_camera)))
        self._aimed_at = self._place.nudge_6


def _write_camera_file(path: Path, camera: PinholeCamera, serial: str, mount: str) -> None:
    """What is known about the camera before anybody calibrated it: its intrinsics and its nominal place.

    A calibration of this camera that was put there while the lab runs stays when this process is started again.
    """
    try:
        there = load_calibration(path)
    except CalibrationFileError:
        there = None
    size = (camera.width, camera.height)
    mode = "eye_in_hand" if mount == "tool" else "eye_to_hand"
    if (
        there is not None
        and (there.serial, there.mode) == (serial, mode)
        and (there.camera.width, there.camera.height) == size
    ):
        return
    if mount == "tool":
        save(path, Calibration.from_solution(camera, "eye_in_hand", nominal_pose(mount), None, camera_serial=serial))
    else:
        save_camera(path, camera, serial=serial)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description="Camera of the digital lab: renders RGB-D into shared memory.")
    parser.add_argument("--cell", required=True, type=Path, help="cell file (YAML)")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address of this lab (default 127.0.0.1)")
    add_override_argument(parser)
    options = parser.parse_args(arguments)
    try:
        twin = CameraTwin(load_cell(options.cell, host=options.host, overrides=overrides_of(options)))
    except (ValueError, OSError) as error:
        print(f"camera: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: twin.stop())
    try:
        twin.run()
    except RenderError as error:
        print(f"camera: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
