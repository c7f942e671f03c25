"""The world's state and the camera's frames in shared memory files, between the processes of one lab.

``world.bin`` holds the newest state behind a sequence lock: the writer makes the counter odd, writes, makes it even;
a reader copies and starts again when the counter was odd or moved. Neither side ever waits for the other.
``frames.bin`` is a ring of camera frames with one such counter per slot.

A writer creates its file under another name and renames it, so that a reader never maps half a file; a reader whose
file was replaced (the writer was restarted) maps the new one by itself.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot_bridge.twin.tasks import TASK_IDS, TASKS

Array = NDArray[np.float64]

MAX_QPOS = 64
MAX_OBJECTS = 4
_MAGIC = 0x50524F5048524C31
_COUNTER = np.dtype("<u8")

_WORLD = np.dtype(
    [
        ("magic", "<u8"),
        ("sequence", "<u8"),
        ("tick", "<u8"),
        ("stamp_ns", "<i8"),
        ("task_index", "<i4"),
        ("scene_revision", "<i4"),
        ("robot_mode", "<i4"),
        ("safety_mode", "<i4"),
        ("nq", "<i4"),
        ("object_detected", "<i4"),
        ("gripper_opening", "<f8"),
        ("gripper_target", "<f8"),
        ("q", "<f8", (6,)),
        ("qd", "<f8", (6,)),
        ("T_base_tcp", "<f8", (4, 4)),
        ("objects", "<f8", (MAX_OBJECTS, 4, 4)),
        ("qpos", "<f8", (MAX_QPOS,)),
    ]
)


class SharedStateError(RuntimeError):
    """The shared file is missing, foreign, or its writer died in the middle of a write."""


@dataclass(frozen=True)
class WorldState:
    """One tick of the world; ``objects`` are ``T_base_object`` by name, in the order of the task's objects."""

    tick: int
    stamp_ns: int
    task: str
    scene_revision: int
    qpos: Array
    q: Array
    qd: Array
    T_base_tcp: Array
    gripper_opening: float
    gripper_target: float
    object_detected: bool
    objects: dict[str, Array]
    robot_mode: int
    safety_mode: int


class WorldStateWriter:
    """Owner of ``<directory>/world.bin``; about 10 us per write."""

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / "world.bin"
        self._map = _create(self.path, _WORLD.itemsize)
        self._record = np.ndarray((1,), dtype=_WORLD, buffer=self._map)[0:1]
        self._fields: dict[str, Any] = {name: self._record[name][0:1] for name in _WORLD.names or ()}
        self._fields["magic"][0] = _MAGIC
        self._sequence = 0

    def write(
        self,
        *,
        tick: int,
        stamp_ns: int,
        task: str,
        scene_revision: int,
        qpos: ArrayLike,
        q: ArrayLike,
        qd: ArrayLike,
        T_base_tcp: ArrayLike,
        gripper_opening: float,
        gripper_target: float,
        object_detected: bool,
        objects: Mapping[str, Array],
        robot_mode: int,
        safety_mode: int,
    ) -> None:
        """Publish one state; ``stamp_ns`` is ``time.time_ns()`` at the tick."""
        fields = self._fields
        positions = np.asarray(qpos)
        if len(positions) > MAX_QPOS or len(objects) > MAX_OBJECTS:
            raise ValueError(
                f"at most {MAX_QPOS} positions and {MAX_OBJECTS} objects fit, got {len(positions)} and {len(objects)}"
            )
        fields["sequence"][0] = self._sequence + 1
        fields["tick"][0] = tick
        fields["stamp_ns"][0] = stamp_ns
        fields["task_index"][0] = TASK_IDS.index(task)
        fields["scene_revision"][0] = scene_revision
        fields["robot_mode"][0] = robot_mode
        fields["safety_mode"][0] = safety_mode
        fields["nq"][0] = len(positions)
        fields["object_detected"][0] = object_detected
        fields["gripper_opening"][0] = gripper_opening
        fields["gripper_target"][0] = gripper_target
        fields["q"][0] = q
        fields["qd"][0] = qd
        fields["T_base_tcp"][0] = T_base_tcp
        for k, pose in enumerate(objects.values()):
            fields["objects"][0, k] = pose
        fields["qpos"][0, : len(positions)] = positions
        self._sequence += 2
        fields["sequence"][0] = self._sequence

    def close(self) -> None:
        """Unmap and remove the file."""
        self._fields.clear()
        del self._record
        self._map.close()
        self.path.unlink(missing_ok=True)


class WorldStateReader:
    """Reader of ``<directory>/world.bin``; opens lazily and reopens when the file was replaced."""

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / "world.bin"
        self._mapped = _Mapped(self.path, "world state", "start the lab (prophrl twin, or the controller)")

    def read(self, timeout_s: float = 0.2) -> WorldState:
        """The newest state.

        Raises:
            SharedStateError: no such file, nothing written yet, or the writer died while writing.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            buffer = self._mapped.buffer()
            before = int.from_bytes(buffer[8:16], "little")
            if before and before % 2 == 0:
                record = np.frombuffer(bytes(buffer[: _WORLD.itemsize]), dtype=_WORLD)[0]
                if int.from_bytes(buffer[8:16], "little") == before:
                    return self._decode(record)
            if time.monotonic() > deadline:
                what = "holds no state yet" if before == 0 else "stays half written: its writer died"
                raise SharedStateError(f"{self.path} {what}; restart the lab")
            time.sleep(0.0 if before % 2 else 0.001)

    def _decode(self, record: Any) -> WorldState:
        if int(record["magic"]) != _MAGIC:
            raise SharedStateError(f"{self.path} is not a world state of this version; remove it and restart the lab")
        task = TASK_IDS[int(record["task_index"])]
        names = TASKS[task].objects
        return WorldState(
            tick=int(record["tick"]),
            stamp_ns=int(record["stamp_ns"]),
            task=task,
            scene_revision=int(record["scene_revision"]),
            qpos=record["qpos"][: int(record["nq"])].copy(),
            q=record["q"].copy(),
            qd=record["qd"].copy(),
            T_base_tcp=record["T_base_tcp"].copy(),
            gripper_opening=float(record["gripper_opening"]),
            gripper_target=float(record["gripper_target"]),
            object_detected=bool(record["object_detected"]),
            objects={name: record["objects"][k].copy() for k, name in enumerate(names)},
            robot_mode=int(record["robot_mode"]),
            safety_mode=int(record["safety_mode"]),
        )

    def close(self) -> None:
        """Unmap the file."""
        self._mapped.close()


_RING = np.dtype([("magic", "<u8"), ("newest", "<u8"), ("width", "<u4"), ("height", "<u4"), ("slots", "<u4"), ("pad", "<u4")])
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
        self._map = _create(self.path, _RING.itemsize + slots * self._slot_size)
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
        self._mapped = _Mapped(self.path, "camera frames", "start the lab's renderer")

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


def _create(path: Path, size: int) -> mmap.mmap:
    """A zeroed file of that size, mapped for writing, that appears under its name at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb+") as file:
        file.truncate(size)
        mapped = mmap.mmap(file.fileno(), size)
    os.replace(temporary, path)
    return mapped


class _Mapped:
    """A read-only mapping that follows its file when a restarted writer replaces it."""

    CHECK_EVERY_S = 0.25

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        self._path, self._what, self._remedy = path, what, remedy
        self._map: mmap.mmap | None = None
        self._inode = -1
        self._checked_s = 0.0

    def buffer(self) -> mmap.mmap:
        now = time.monotonic()
        if self._map is not None and now - self._checked_s < self.CHECK_EVERY_S:
            return self._map
        self._checked_s = now
        try:
            inode = os.stat(self._path).st_ino
            if self._map is None or inode != self._inode:
                with open(self._path, "rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    self._inode = os.fstat(file.fileno()).st_ino
        except OSError as error:
            raise SharedStateError(
                f"no {self._what} at {self._path} ({error.strerror}); {self._remedy}, or check the cell's twin.directory"
            ) from error
        return self._map

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
