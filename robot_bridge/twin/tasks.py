"""The four tasks: what is said, where objects stand, how a top-down gripper takes them, and when it worked.

A task is a scene with something to do in it. The two calibration scenes are scenes without.

No simulator in here: the operator, the trial plan and the web console read tasks without loading MuJoCo.

Frames: positions are in ``base`` (table top at z = 0). An object's frame sits at the centre of its foot, except the
cube (its centre) and the tissue (the middle of the visible tip, z along the sheet).
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robot_bridge.twin import success
from robot_bridge.twin.grasp_plan import GraspPlan, top_down, yaw_of

__all__ = [
    "CALIBRATION",
    "CALIBRATION_TABLE",
    "SCENES",
    "SCENE_IDS",
    "TASKS",
    "TASK_IDS",
    "GraspPlan",
    "PlacedObject",
    "Placement",
    "Scene",
    "Task",
    "get_scene",
    "get_task",
    "held_out_placements",
    "sample_placement",
    "top_down",
    "yaw_of",
]

WORKSPACE_X_M = (-0.85, -0.48)
WORKSPACE_Y_M = (-0.28, 0.28)
HELD_OUT_CLEARANCE_M = 0.015
"""Training placements keep the primary object at least this far from every held-out position."""
_GRID = (4, 5)
"""Rows (along x) and columns (along y) of the held-out grid."""
_GRID_STRIDE = 13
"""Walks the 20 cells in an order whose every prefix is spread over the table (13 and 20 have no common divisor)."""


@dataclass(frozen=True)
class PlacedObject:
    """An object that a placement sets on the table: centre ranges in metres, yaw range in radians."""

    name: str
    x_m: tuple[float, float] = WORKSPACE_X_M
    y_m: tuple[float, float] = WORKSPACE_Y_M
    yaw_rad: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Scene:
    """What stands on the table. ``objects`` is the order of poses in the shared state."""

    id: str
    instruction: str
    objects: tuple[str, ...]
    placed: tuple[PlacedObject, ...]
    judge: Callable[[success.SceneState], dict[str, bool]]
    success_words: str
    dwell_s: float
    max_duration_s: float = field(default=30.0, kw_only=True)


@dataclass(frozen=True)
class Task(Scene):
    """A scene and what to do in it; the first placed object is the primary one."""

    min_separation_m: float
    grasp: GraspPlan

    @property
    def primary(self) -> PlacedObject:
        """The object whose positions form the held-out grid."""
        return self.placed[0]


@dataclass(frozen=True)
class Placement:
    """Where the objects of one episode stand: name to (x m, y m, yaw rad) in base; ``cell`` is set on the grid.

    In a calibration scene nothing is placed: the board is where the cell's seed has put it.
    """

    task: str
    objects: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    cell: tuple[int, int] | None = None
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; for a calibration scene also where the board is."""
        board = {"board": _BOARD_PLACES[self.task]} if self.task in _BOARD_PLACES else {}
        return board | {
            "task": self.task,
            "objects": {name: list(pose) for name, pose in self.objects.items()},
            "cell": list(self.cell) if self.cell is not None else None,
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, source: Mapping[str, Any] | str) -> Placement:
        """The inverse of ``to_json`` (a mapping or its JSON text).

        Raises:
            ValueError: a key is missing or the objects are not those of the task.
        """
        data: Any = json.loads(source) if isinstance(source, str) else source
        if isinstance(data, Mapping) and "board" in data:
            return cls(_scene_of_board(data["board"]), seed=int(data.get("seed", 0)))
        try:
            task = get_scene(data["task"])
            objects = {name: _triple(name, pose) for name, pose in data["objects"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a placement needs the keys task and objects, got {data!r}") from error
        names = {spec.name for spec in task.placed}
        if set(objects) != names:
            raise ValueError(f"a placement of {task.id} must place {sorted(names)}, got {sorted(objects)}")
        cell = data.get("cell")
        return cls(task.id, objects, None if cell is None else (int(cell[0]), int(cell[1])), int(data.get("seed", 0)))


def _triple(name: str, pose: Any) -> tuple[float, float, float]:
    values = [float(value) for value in pose]
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ValueError(f"the placement of {name!r} must be three finite numbers x, y, yaw, got {pose!r}")
    return values[0], values[1], values[2]


_QUARTER = math.pi / 2
_SMALL_YAW = (-math.radians(15.0), math.radians(15.0))

TASKS: dict[str, Task] = {
    task.id: task
    for task in (
        Task(
            id="grasp_bottle",
            instruction="grasp the bottle and lift it",
            objects=("bottle",),
            placed=(PlacedObject("bottle"),),
            min_separation_m=0.0,
            grasp=GraspPlan(
                object="bottle",
                grasp_offsets_m=((0.0, 0.0, 0.100),),
                follow_yaw=False,
                symmetry_rad=_QUARTER,
                approach_height_m=0.12,
                open_fraction=1.0,
                lift_height_m=0.16,
            ),
            judge=success.judge_grasp_bottle,
            success_words=success.words(success.judge_grasp_bottle),
            dwell_s=0.5,
        ),
        Task(
            id="place_cube",
            instruction="put the red cube into the bowl",
            objects=("cube", "bowl"),
            placed=(PlacedObject("cube", yaw_rad=_SMALL_YAW), PlacedObject("bowl", x_m=(-0.80, -0.50))),
            min_separation_m=0.17,
            grasp=GraspPlan(
                object="cube",
                grasp_offsets_m=((0.0, 0.0, 0.0),),
                follow_yaw=True,
                symmetry_rad=_QUARTER,
                approach_height_m=0.10,
                open_fraction=1.0,
                lift_height_m=0.13,
                target="bowl",
                place_offset_m=(0.0, 0.0, 0.068),
            ),
            judge=success.judge_place_cube,
            success_words=success.words(success.judge_place_cube),
            dwell_s=0.3,
        ),
        Task(
            id="pull_tissue",
            instruction="pull a tissue out of the box",
            objects=("tissue_box", "tissue"),
            placed=(PlacedObject("tissue_box", x_m=(-0.80, -0.50), yaw_rad=_SMALL_YAW),),
            min_separation_m=0.0,
            grasp=GraspPlan(
                object="tissue",
                grasp_offsets_m=((0.0, 0.0, 0.0),),
                follow_yaw=True,
                symmetry_rad=math.pi,
                approach_height_m=0.10,
                open_fraction=0.6,
                lift_height_m=0.15,
            ),
            judge=success.judge_pull_tissue,
            success_words=success.words(success.judge_pull_tissue),
            dwell_s=0.3,
        ),
        Task(
            id="place_bowl",
            instruction="put the bowl onto the plate",
            objects=("bowl", "plate"),
            placed=(PlacedObject("bowl", x_m=(-0.80, -0.50)), PlacedObject("plate", x_m=(-0.80, -0.50))),
            min_separation_m=0.20,
            grasp=GraspPlan(
                object="bowl",
                grasp_offsets_m=((0.0, 0.070, 0.040), (0.0, -0.070, 0.040)),
                follow_yaw=False,
                symmetry_rad=_QUARTER,
                approach_height_m=0.10,
                open_fraction=0.7,
                lift_height_m=0.10,
                target="plate",
                place_offset_m=(0.0, 0.0, 0.055),
            ),
            judge=success.judge_place_bowl,
            success_words=success.words(success.judge_place_bowl),
            dwell_s=0.3,
        ),
    )
}
TASK_IDS = ("grasp_bottle", "place_cube", "pull_tissue", "place_bowl")

CALIBRATION, CALIBRATION_TABLE = "calibration", "calibration_table"
_BOARD_PLACES = {CALIBRATION: "tool", CALIBRATION_TABLE: "table"}
_CALIBRATION_SCENES = {
    scene_id: Scene(
        id=scene_id,
        instruction=f"look at the calibration board on the {place}",
        objects=("board",),
        placed=(),
        judge=success.judge_nothing,
        success_words=success.words(success.judge_nothing),
        dwell_s=0.0,
    )
    for scene_id, place in _BOARD_PLACES.items()
}
SCENES: dict[str, Scene] = {**TASKS, **_CALIBRATION_SCENES}
SCENE_IDS = (*TASK_IDS, *_CALIBRATION_SCENES)
"""The tasks and, after them, the scenes without one."""


def get_task(task_id: str) -> Task:
    """The task of that id.

    Raises:
        ValueError: no such task; the message lists the choices.
    """
    if task_id not in TASKS:
        raise ValueError(f"unknown task {task_id!r}; choose one of {', '.join(TASK_IDS)}")
    return TASKS[task_id]


def get_scene(scene_id: str) -> Scene:
    """The task or calibration scene of that id.

    Raises:
        ValueError: no such scene; the message lists the choices.
    """
    if scene_id not in SCENES:
        raise ValueError(f"unknown task {scene_id!r}; choose one of {', '.join(SCENE_IDS)}")
    return SCENES[scene_id]


def _scene_of_board(place: Any) -> str:
    for scene_id, known in _BOARD_PLACES.items():
        if place == known:
            return scene_id
    raise ValueError(f"the board is on the {' or the '.join(_BOARD_PLACES.values())}, got {place!r}")


def sample_placement(task_id: str, rng: np.random.Generator) -> Placement:
    """A training placement: uniform over the workspace, apart from each other and from the held-out positions.

    Raises:
        ValueError: unknown task.
    """
    task = get_task(task_id)
    held_out = np.array([_grid_position(task, k)[0] for k in range(_GRID[0] * _GRID[1])])
    seed = int(rng.integers(2**31))
    for _ in range(10_000):
        x, y, yaw = _draw(task.primary, rng)
        if np.hypot(held_out[:, 0] - x, held_out[:, 1] - y).min() < HELD_OUT_CLEARANCE_M:
            continue
        objects = _place_others(task, (x, y, yaw), rng)
        if objects is not None:
            return Placement(task.id, objects, None, seed)
    raise RuntimeError(f"no placement of {task_id} found in 10000 draws; its separation does not fit the workspace")


def training_placements(task_id: str, n: int, seed: int) -> list[Placement]:
    """n training placements (``sample_placement``); a longer list begins as a shorter one of the same seed.

    Raises:
        ValueError: unknown task or n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return [sample_placement(task_id, np.random.default_rng((seed, k))) for k in range(n)]


def held_out_placements(task_id: str, n: int = 20) -> list[Placement]:
    """The first n evaluation placements on the predefined table grid, the same on every machine.

    The first 20 visit each grid cell once, in an order whose every prefix is spread over the table; from 21 on the
    cells repeat with other positions of the second object and another yaw.

    Raises:
        ValueError: unknown task or n < 1.
    """
    task = get_task(task_id)
    if n < 1:
        raise ValueError(f"at least one placement is needed, got n={n}")
    cells = _GRID[0] * _GRID[1]
    placements = []
    for index in range(n):
        (x, y), cell = _grid_position(task, index * _GRID_STRIDE % cells)
        seed = zlib.crc32(f"{task.id}/{index}".encode())
        rng = np.random.default_rng(seed)
        for _ in range(10_000):
            objects = _place_others(task, (x, y, float(rng.uniform(*task.primary.yaw_rad))), rng)
            if objects is not None:
                break
        else:
            raise RuntimeError(f"cell {cell} of {task_id} leaves no room for its other objects")
        placements.append(Placement(task.id, objects, cell, seed))
    return placements


def _grid_position(task: Task, index: int) -> tuple[tuple[float, float], tuple[int, int]]:
    """Centre (x, y) of a grid cell of the primary object's range, and the cell (row, column)."""
    i, j = divmod(index, _GRID[1])
    spans = (task.primary.x_m, task.primary.y_m)
    x, y = (low + (high - low) * (k + 0.5) / n for (low, high), k, n in zip(spans, (i, j), _GRID, strict=True))
    return (x, y), (i, j)


def _draw(spec: PlacedObject, rng: np.random.Generator) -> tuple[float, float, float]:
    return float(rng.uniform(*spec.x_m)), float(rng.uniform(*spec.y_m)), float(rng.uniform(*spec.yaw_rad))


def _place_others(
    task: Task, primary: tuple[float, float, float], rng: np.random.Generator
) -> dict[str, tuple[float, float, float]] | None:
    """The primary object's pose plus one draw of the others; None when two stand too close."""
    objects = {task.primary.name: primary}
    for spec in task.placed[1:]:
        pose = _draw(spec, rng)
        if any(math.hypot(pose[0] - x, pose[1] - y) < task.min_separation_m for x, y, _ in objects.values()):
            return None
        objects[spec.name] = pose
    return objects
