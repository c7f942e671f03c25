"""A lab directory with a frame ring that tests fill by hand: pictures without rendering."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.camera import PinholeCamera
from calibration.storage import save_camera
from robot_bridge.cell import CameraConfig
from robot_bridge.d455 import _sdk
from robot_bridge.twin.shared_state import FrameRingWriter

WIDTH, HEIGHT = 64, 48
CAMERA = PinholeCamera(51.5, 52.5, 30.25, 24.75, WIDTH, HEIGHT)


class Renderer:
    """Stands where the renderer process stands: writes numbered frames whose content tells their number."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        save_camera(directory / "camera.yaml", CAMERA, serial="TWIN00000007")
        self.ring = FrameRingWriter(directory, WIDTH, HEIGHT)
        self.number = 0
        self._stream: threading.Thread | None = None
        self._stopping = threading.Event()

    def write(self, number: int | None = None) -> int:
        """One frame; returns its stamp."""
        self.number = self.number + 1 if number is None else number
        stamp_ns = time.time_ns()
        color, depth = picture(self.number)
        self.ring.write(self.number, stamp_ns, color, depth)
        return stamp_ns

    def stream(self, period_s: float = 0.01) -> None:
        """Write frames in a thread until ``close``."""

        def run() -> None:
            while not self._stopping.wait(period_s):
                self.write()

        self._stream = threading.Thread(target=run, daemon=True)
        self._stream.start()

    def restart(self) -> None:
        """As a killed renderer that comes back: a new ring file, numbers from 1."""
        self.ring = FrameRingWriter(self.directory, WIDTH, HEIGHT)
        self.number = 0

    def close(self) -> None:
        self._stopping.set()
        if self._stream is not None:
            self._stream.join(5.0)


def picture(number: int) -> tuple[Any, Any]:
    """Colour and depth that differ in every pixel's neighbour and from frame to frame."""
    column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    color = np.stack([column, row, np.full_like(row, number % 256)], axis=2).astype(np.uint8)
    return color, (500 + 10 * row + column + number).astype(np.uint16)


@pytest.fixture
def renderer(tmp_path: Path) -> Iterator[Renderer]:
    renderer = Renderer(tmp_path)
    yield renderer
    renderer.close()


@pytest.fixture
def camera_config(tmp_path: Path) -> CameraConfig:
    return CameraConfig("twin", frames_path=str(tmp_path), width=WIDTH, height=HEIGHT)


@pytest.fixture
def rs() -> Any:
    """The genuine SDK."""
    return _sdk()


@pytest.fixture
def expected() -> Callable[[int], tuple[Any, Any]]:
    return picture
