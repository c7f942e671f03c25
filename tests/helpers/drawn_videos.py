"""Drawn pick-and-place videos: an arm from above takes a red cube to a blue bowl, or does not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TASK = "put the red cube into the bowl"
HEIGHT, WIDTH, FRAMES = 48, 64, 40
GRASP, RELEASE = 12, 26
"""Frames in which the hand has closed, and in which it has opened again."""
RED, BLUE, DARK = (205, 40, 30), (50, 90, 200), (30, 30, 34)


def carry(seed: int, *, moves_cube: bool = True) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Frames [40, 48, 64, 3] and states [40, 7] of a hand that goes to the cube, to the bowl and away.

    With ``moves_cube`` the cube goes with it into the bowl, otherwise it stays where it is.
    """
    rng = np.random.default_rng(seed)
    cube = np.array([rng.integers(6, 22), rng.integers(30, 42)], float)
    bowl = np.array([rng.integers(38, 56), rng.integers(30, 40)], float)
    above = np.array([0.0, -14.0])
    path = [*_line((32, 8), cube, GRASP), *_line(cube, bowl, RELEASE - GRASP), *_line(bowl, bowl + above, 14)]
    frames, states = [], []
    for step, hand in enumerate(path):
        held = GRASP <= step < RELEASE
        place = cube if not moves_cube or step < GRASP else hand if held else bowl
        frames.append(_picture(hand, place, bowl))
        states.append([hand[0] / 100, 0.0, -hand[1] / 100, 0, 0, 0, 0.4 if held else 1.0])
    return np.array(frames, np.uint8), np.array(states, np.float32)


def _line(start: NDArray[np.float64] | tuple[int, int], end: NDArray[np.float64], count: int) -> list[np.ndarray]:
    share = np.linspace(0.0, 1.0, count + 1)[1:, None]
    return list(np.asarray(start) * (1 - share) + end * share)


def _picture(hand: NDArray[np.float64], cube: NDArray[np.float64], bowl: NDArray[np.float64]) -> NDArray[np.uint8]:
    image = np.full((HEIGHT, WIDTH, 3), (188, 160, 128), np.uint8)
    image[::6] -= 8
    _box(image, bowl, 6, 4, BLUE)
    _box(image, cube, 2, 2, RED)
    x, y = np.round(hand).astype(int)
    image[: max(y - 3, 0), max(x - 2, 0) : x + 3] = DARK
    return image


def _box(
    image: NDArray[np.uint8], centre: NDArray[np.float64], half_x: int, half_y: int, colour: tuple[int, ...]
) -> None:
    x, y = np.round(centre).astype(int)
    image[max(y - half_y, 0) : max(y + half_y, 0), max(x - half_x, 0) : max(x + half_x, 0)] = colour
