"""Takes back, in pictures, what a hand has put down: a failure made from a success.

After a release the hand leaves and what it put down stays. So pixels that are the same in all late frames but differ
from the first frame show either where the object lies now or where it is missing. Painting the first frame's pixels
over both undoes it; pasting the object's pixels a little to the side puts it beside its place.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from prophrl_models.reward.judge import Video

_SAME, _OTHER = 24, 28
"""Differences of a channel (0-255) up to which pixels are the same, and from which they have changed."""
_SMALLEST, _LARGEST = 4e-4, 0.05
"""Share of the image that a changed place covers; smaller ones are noise, larger ones the arm."""
_STILL = 0.7
"""Share of a changed place that must look alike in all late frames; pieces of the arm, which moves, have less."""
_ASIDE = (0.09, 0.2)
"""How far a misplaced object lies from its place, as shares of the image width."""


def changed_places(first_HW3: Video, late_THW3: Video) -> list[NDArray[np.bool_]]:
    """Masks [H, W] of places that look alike in all late frames but unlike the first one, without the arm.

    Changed pixels of the last frame are grouped with their neighbours. The arm is the group that reaches the upper
    border, and whatever else has moved.
    """
    late = late_THW3.astype(np.int16)
    still = (late.max(axis=0) - late.min(axis=0)).max(axis=-1) <= _SAME
    changed = np.abs(late[-1] - first_HW3).max(axis=-1) >= _OTHER
    count, labels, stats, _ = cv2.connectedComponentsWithStats(changed.astype(np.uint8), connectivity=8)
    places = []
    for group in range(1, count):
        place = (labels == group) & changed
        share = place.mean()
        if stats[group, cv2.CC_STAT_TOP] > 0 and _SMALLEST <= share <= _LARGEST and still[place].mean() >= _STILL:
            places.append(place & still)
    return places


def came_and_left(
    places: list[NDArray[np.bool_]], first_HW3: Video, last_HW3: Video
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Of the two largest changed places the one that the object came to and the one that it left.

    What lay at the place it left in the first frame has the colour of what lies at the place it came to in the last
    one. None where that does not tell them apart, or where there are fewer than two places.
    """
    if len(places) < 2:
        return None
    a, b = sorted(places, key=np.count_nonzero, reverse=True)[:2]

    def unlike(left: NDArray[np.bool_], came: NDArray[np.bool_]) -> float:
        return float(np.linalg.norm(first_HW3[left].mean(axis=0) - last_HW3[came].mean(axis=0)))

    a_to_b, b_to_a = unlike(a, b), unlike(b, a)
    if min(a_to_b, b_to_a) > 0.5 * max(a_to_b, b_to_a):
        return None
    return (b, a) if a_to_b < b_to_a else (a, b)


def undone(first_HW3: Video, late_THW3: Video, shown_THW3: Video, rng: np.random.Generator) -> Video | None:
    """``shown_THW3`` without what was put down: it never left its place, or it lies beside the one where it belongs.

    Args:
        first_HW3: before anything was moved.
        late_THW3: several frames of the hand leaving, spread over as long a time as there is.
        shown_THW3: frames of that time.

    Returns:
        New frames, or None where the place it left and the one it came to cannot be told from the arm and each other:
        then what was done might still be seen.
    """
    found = came_and_left(changed_places(first_HW3, late_THW3), first_HW3, late_THW3[-1])
    if found is None:
        return None
    came, left = found
    aside = rng.random() < 0.5
    image = _painted(shown_THW3, first_HW3, came if aside else came | left)
    return np.clip(np.round(_beside(image, late_THW3, came, rng) if aside else image), 0, 255).astype(np.uint8)


def _painted(frames_THW3: Video, over_HW3: Video, place_HW: NDArray[np.bool_]) -> NDArray[np.float32]:
    """``over_HW3`` painted on a place of all frames, a pixel further than it and with a soft edge."""
    wider = cv2.dilate(place_HW.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    alpha = cv2.GaussianBlur(wider, (0, 0), 0.6)[..., None]
    return np.asarray(frames_THW3 * (1.0 - alpha) + over_HW3 * alpha, dtype=np.float32)


def _beside(
    image_THW3: NDArray[np.float32], late_THW3: Video, place_HW: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float32]:
    """What lies at a place in the late frames, pasted some way off in any direction."""
    height, width = place_HW.shape
    angle, distance = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(*_ASIDE) * width
    move = np.array([[1, 0, distance * np.cos(angle)], [0, 1, distance * np.sin(angle)]], np.float32)
    typical = np.median(late_THW3, axis=0).astype(np.float32)
    moved = cv2.warpAffine(typical, move, (width, height), borderMode=cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(place_HW.astype(np.float32), (0, 0), 0.5)
    where = cv2.warpAffine(soft, move, (width, height))[..., None]
    return np.asarray(image_THW3 * (1.0 - where) + moved * where, dtype=np.float32)
