"""Drawn demonstrations: a hand reaches for a red square on a table, closes, lifts. Real datasets, drawn pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention, difference, from_euler, inverse
from prophrl_models.data.dataset import DatasetHeader, DatasetWriter
from prophrl_models.data.episode import Episode, EpisodeMetadata, Observation
from prophrl_models.data.quality import EpisodeQuality, topic_timing

INSTRUCTION = "reach for the red square"
CONVENTION = ActionConvention.ABSOLUTE_POSE_DIFFERENCE
RATE_HZ = 10.0
DOWN_EULER = (np.pi, 0.0, np.pi / 2)


def camera() -> PinholeCamera:
    """Looks down at the table from the front at 45 degrees; its pixels are those of the policy image."""
    s = c = np.sqrt(0.5)
    T_base_camera = np.eye(4)
    T_base_camera[:3, 0], T_base_camera[:3, 1], T_base_camera[:3, 2] = (0, -1, 0), (-s, 0, -c), (c, 0, -s)
    T_base_camera[:3, 3] = (-1.2, 0.0, 0.6)
    return PinholeCamera(212.0, 212.0, 159.5, 119.5, 320, 240, inverse(T_base_camera))


def picture(square_xy: Sequence[float], state_7: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RGB uint8 [240, 320, 3] of the table, the square and a dark hand as wide as it is open."""
    image = np.full((240, 320, 3), (150, 130, 110), dtype=np.uint8)
    image[::8] -= 10

    def paint(point: Sequence[float], half: tuple[int, int], colour: tuple[int, int, int]) -> None:
        u, v = camera().project([point])[0][0]
        row, column = round(float(v)), round(float(u))
        rows = slice(max(row - half[0], 0), max(row + half[0], 0))
        image[rows, max(column - half[1], 0) : max(column + half[1], 0)] = colour

    paint((*square_xy, 0.02), (6, 6), (210, 40, 30))
    x, y, z, opening = (float(value) for value in state_7[[0, 1, 2, 6]])
    paint((x, y, z + 0.12), (8, 14), (30, 30, 30))
    for side in (-1, 1):
        paint((x, y + side * (0.01 + 0.035 * opening), z + 0.05), (9, 2), (30, 30, 30))
    return image


def reach(square_xy: Sequence[float], number: int = 0, pause: int = 0) -> Episode:
    """One demonstration: 14 steps down to the square, ``pause`` steps of rest, close, 6 steps up."""
    start, above = np.array([-0.65, 0.0, 0.35]), np.array([*square_xy, 0.02])
    down = [start + (above - start) * (3 * f**2 - 2 * f**3) for f in np.linspace(0, 1, 15)]
    up = [above + np.array([0.0, 0.0, 0.02 * k]) for k in range(1, 7)]
    positions = [*down, *[above] * pause, *[above] * 4, *up]
    command = [1.0] * (len(down) + pause) + [0.0] * (4 + len(up))
    measured = [1.0] * (len(down) + pause) + [0.8, 0.6, 0.4, 0.4] + [0.4] * len(up)
    states = np.array([[*p, *DOWN_EULER, g] for p, g in zip(positions, measured, strict=True)], dtype=np.float32)
    steps = len(states) - 1
    action = np.zeros((steps, 7), dtype=np.float32)
    for t in range(steps):
        action[t, :6] = difference(from_euler(states[t, :6]), from_euler(states[t + 1, :6]), CONVENTION)
        action[t, 6] = command[t + 1]
    stamps = (np.arange(steps + 1) * 100_000_000).astype(np.int64)
    images = np.stack([picture(square_xy, state) for state in states])
    return Episode(
        metadata=EpisodeMetadata(f"reach-{number}", task="reach", instruction=INSTRUCTION, outcome="success"),
        convention=CONVENTION,
        control_rate_hz=RATE_HZ,
        state_T7=states[:-1],
        action_T7=action,
        stamp_ns_T=stamps[:-1],
        source_stamp_ns_T=dict.fromkeys(("color", "tcp_pose", "gripper"), stamps[:-1]),
        valid_T=np.ones(steps, dtype=bool),
        moving_T=np.ones(steps, dtype=bool),
        final=Observation(images[-1], states[-1], INSTRUCTION, int(stamps[-1])),
        quality=_quality(stamps[:-1]),
        color_THW3=images[:-1],
    )


def _quality(stamps_ns: NDArray[np.int64]) -> dict[str, Any]:
    timing = {name: topic_timing(stamps_ns, int(stamps_ns[0])) for name in ("color", "tcp_pose", "gripper")}
    ages = dict.fromkeys(timing, 0.0)
    return EpisodeQuality(timing, timing, ages, (), 0, {}, {}, {}, {}, None, None, None).to_json()


def places(count: int, seed: int) -> NDArray[np.float64]:
    """Square positions [count, 2] in metres, uniform over the table."""
    return np.random.default_rng(seed).uniform([-0.8, -0.2], [-0.5, 0.2], size=(count, 2))


def write_dataset(folder: Path, count: int = 8, seed: int = 0) -> Path:
    """A finished dataset of reaches."""
    writer = DatasetWriter(folder, DatasetHeader(convention=CONVENTION))
    for number, place in enumerate(places(count, seed)):
        writer.add(reach(place, number), f"reach-{seed}-{number}")
    writer.finish()
    return folder
