"""The world's newest state in shared memory, between the processes of one lab: ``<directory>/world.bin``.

It lies behind a sequence lock: the writer makes the counter odd, writes, makes it even; a reader copies and starts
again when the counter was odd or moved. Neither side ever waits for the other. The camera's frames have their own
file (``frame_ring.py``); both are found here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot_bridge.twin.frame_ring import Frame, FrameRingReader, FrameRingWriter
from robot_bridge.twin.shared_file import Mapped, SharedStateError, create
from robot_bridge.twin.tasks import SCENE_IDS, SCENES

__all__ = [
    "Frame",
    "FrameRingReader",
    "FrameRingWriter",
    "SharedStateError",
    "WorldState",
    "WorldStateReader",
    "WorldStateWriter",
]

Array = NDArray[np.float64]

MAX_QPOS = 64
MAX_OBJECTS = 4
_MAGIC = 0x50524F5048524C31

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
        self._map = create(self.path, _WORLD.itemsize)
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
        fields["task_index"][0] = SCENE_IDS.index(task)
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
        self._mapped = Mapped(self.path, "world state", "start the lab (prophrl twin, or the controller)")

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
            time.sleep(0.0 if before else 0.001)

    def _decode(self, record: Any) -> WorldState:
        if int(record["magic"]) != _MAGIC:
            raise SharedStateError(f"{self.path} is not a world state of this version; remove it and restart the lab")
        task = SCENE_IDS[int(record["task_index"])]
        names = SCENES[task].objects
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
