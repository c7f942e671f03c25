"""Where objects stand in trials of the fast lane: the held-out grid first, then seeded places close to it.

Training placements keep the primary object ``HELD_OUT_CLEARANCE_M`` away from each point of the grid. Whatever stands
within half of that of a grid point is at least the other half away from anything a demonstration began with.
"""

from __future__ import annotations

import math

import numpy as np

from robot_bridge.twin.tasks import HELD_OUT_CLEARANCE_M, Placement, get_task, held_out_placements

GRID = 20
"""Held-out placements whose primary object stands somewhere else each time."""
AROUND_M = HELD_OUT_CLEARANCE_M / 2
"""Radius around a grid point in which further placements are drawn."""
_SEED = 0x0FA57


def fast_placements(task_id: str, count: int, seed: int = 0) -> list[Placement]:
    """``count`` placements, the first 20 those of ``held_out_placements``; a longer list begins as a shorter one.

    Further ones walk the same grid with another yaw and other objects elsewhere, as that function has them, and with
    the primary object moved by up to ``AROUND_M``.

    Args:
        seed: of these moves.

    Raises:
        ValueError: unknown task or count < 1.
    """
    task = get_task(task_id)
    placements = held_out_placements(task_id, count)
    for index in range(GRID, count):
        rng = np.random.default_rng((_SEED, seed, index))
        placements[index] = _moved(placements[index], task.primary.name, task.min_separation_m, rng)
    return placements


def _moved(placement: Placement, primary: str, apart_m: float, rng: np.random.Generator) -> Placement:
    """The placement with its primary object a little beside the grid point, still apart from the others."""
    x, y, yaw = placement.objects[primary]
    others = [pose for name, pose in placement.objects.items() if name != primary]
    for _ in range(1000):
        reach_m, turn_rad = AROUND_M * math.sqrt(rng.uniform()), rng.uniform(0.0, 2.0 * math.pi)
        moved = (x + reach_m * math.cos(turn_rad), y + reach_m * math.sin(turn_rad), yaw)
        if all(math.hypot(moved[0] - a, moved[1] - b) >= apart_m for a, b, _ in others):
            objects = {**placement.objects, primary: moved}
            return Placement(placement.task, objects, placement.cell, int(rng.integers(2**31)))
    raise RuntimeError(f"a placement of {placement.task} leaves no room around grid cell {placement.cell}")
