"""Camera frames in a shared memory ring: ``<directory>/frames.bin``, one sequence counter per slot.

The writer makes a slot's counter odd, writes, makes it even; a reader copies the slot and starts again when the
counter was odd or moved. Neither side ever waits for the other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.twin.shared_file import Mapped, SharedStateError, create

_MAGIC = 0x50524F5046524D31
_RING = np.dtype(
    [("magic", "<u8"), ("newest", "<u8"), ("width", "<u4"), ("height", "<u4"), ("slots", "<u4"), ("pad", "<u4")]
)
_SLOT_HEADER = np.dtype([("sequence", "<u8"), ("frame_number", "<u8"), ("stamp_ns", "<i8"), ("pad", "<u8")])


@dataclass(frozen=True)
class Frame:
    """One camera frame: rgb [H, W, 3] uint8, z16 [H, W] uint16 in mm; numbers start at 1 and skip dropped frames."""

    frame_number: int
    stamp_ns: int
    rgb: NDArray[np.uint8]
    z16: NDArray[np.uint16]


class FrameRingWriter:
    """Owner of ``<directory>/frames.bin``."""

    def __init__(self, directory: str | Path, width: int, height: int, slots: int = 6) -> None:
        if slots < 4:
            raise ValueError(f"a frame ring needs at least 4 slots, got {slots}")
        self.path = Path(directory) / "frames.bin"
        self.shape = (height, width)
        self._slot_size = _slot_size(width, height)
        self._slots = slots
        self._map = create(self.path, _RING.itemsize + slots * self._slot_size)
        header = np.zeros(1, dtype=_RING)
        header["magic"], header["width"], header["height"], header["slots"] = _MAGIC, width, height, slots
        self._map[: _RING.itemsize] = header.tobytes()
        self._views: list[tuple[Any, Any, Any]] = []
        for k in range(slots):
            at = _RING.itemsize + k * self._slot_size
            head = np.ndarray((1,), dtype=_SLOT_HEADER, buffer=self._map, offset=at)
            rgb = np.ndarray((height, width, 3), dtype=np.uint8, buffer=self._map, offset=at + _SLOT_HEADER.itemsize)
            z16 = np.ndarray(
                (height, width), dtype=np.uint16, buffer=self._map, offset=at + _SLOT_HEADER.itemsize + rgb.nbytes
            )
            self._views.append((head, rgb, z16))

    def write(self, frame_number: int, stamp_ns: int, rgb: NDArray[np.uint8], z16: NDArray[np.uint16]) -> None:
        """Publish a frame; numbers must rise and start at 1."""
        if rgb.shape != (*self.shape, 3) or z16.shape != self.shape:
            raise ValueError(f"frames of this ring are {self.shape}, got rgb {rgb.shape} and depth {z16.shape}")
        head, rgb_view, z16_view = self._views[frame_number % self._slots]
        sequence = int(head["sequence"][0])
        head["sequence"][0] = sequence + 1
        head["frame_number"][0] = frame_number
        head["stamp_ns"][0] = stamp_ns
        rgb_view[:] = rgb
        z16_view[:] = z16
        head["sequence"][0] = sequence + 2
        self._map[8:16] = frame_number.to_bytes(8, "little")

    def close(self) -> None:
        """Unmap and remove the file."""
        self._views.clear()
        self._map.close()
        self.path.unlink(missing_ok=True)


class FrameRingReader:
    """Reader of ``<directory>/frames.bin``."""

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / "frames.bin"
        self._mapped = Mapped(self.path, "camera frames", "start the lab's renderer")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels.

        Raises:
            SharedStateError: no such file.
        """
        header = np.frombuffer(bytes(self._mapped.buffer()[: _RING.itemsize]), dtype=_RING)[0]
        if int(header["magic"]) != _MAGIC:
            raise SharedStateError(f"{self.path} is not a frame ring of this version; remove it and restart the lab")
        return int(header["width"]), int(header["height"])

    def latest(self) -> Frame | None:
        """The newest frame, or None when none has been written yet.

        Raises:
            SharedStateError: no such file, or the writer died while writing.
        """
        for _ in range(50):
            width, height = self.size
            buffer = self._mapped.buffer()
            newest = int.from_bytes(buffer[8:16], "little")
            if newest == 0:
                return None
            size = _slot_size(width, height)
            slots = int.from_bytes(buffer[24:28], "little")
            at = _RING.itemsize + newest % slots * size
            before = int.from_bytes(buffer[at : at + 8], "little")
            raw = bytes(buffer[at : at + size])
            if before % 2 == 0 and int.from_bytes(buffer[at : at + 8], "little") == before:
                return _decode_frame(raw, width, height)
            time.sleep(0.001)
        raise SharedStateError(f"{self.path}: the newest frame stays half written: its writer died; restart the lab")

    def wait(self, after_frame_number: int, timeout_s: float) -> Frame | None:
        """The newest frame whose number exceeds ``after_frame_number``; None when none came in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            if self.newest_number() > after_frame_number:
                frame = self.latest()
                if frame is not None and frame.frame_number > after_frame_number:
                    return frame
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.001)

    def newest_number(self) -> int:
        """Number of the newest frame without copying it; 0 when there is none."""
        return int.from_bytes(self._mapped.buffer()[8:16], "little")

    def close(self) -> None:
        """Unmap the file."""
        self._mapped.close()


def _decode_frame(raw: bytes, width: int, height: int) -> Frame:
    head = np.frombuffer(raw, dtype=_SLOT_HEADER, count=1)[0]
    rgb = np.frombuffer(raw, dtype=np.uint8, count=3 * width * height, offset=_SLOT_HEADER.itemsize)
    z16 = np.frombuffer(raw, dtype=np.uint16, count=width * height, offset=_SLOT_HEADER.itemsize + rgb.nbytes)
    return Frame(
        int(head["frame_number"]), int(head["stamp_ns"]), rgb.reshape(height, width, 3), z16.reshape(height, width)
    )


def _slot_size(width: int, height: int) -> int:
    payload = _SLOT_HEADER.itemsize + 5 * width * height
    return (payload + 63) // 64 * 64
