"""How one action frame looks: disc, dot, axes and rim, drawn with OpenCV into the pixels of one picture.

Two layers start black: the disc goes on one, everything else on the other, and their weighted sum is the action frame
(design specification, section 3.3). Only the rectangle that a frame touches is blended, which gives the very bytes
that blending the whole picture would. Pixel (0, 0) is the centre of the top-left pixel; colours are RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
Point = tuple[float, float]
Color = tuple[int, int, int]

AXIS_COLORS: tuple[Color, Color, Color] = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
WHITE: Color = (255, 255, 255)
PLUMB_COLOR: Color = (255, 255, 0)
FOOT_COLOR: Color = (255, 0, 255)
UNKNOWN_OPENING: Color = (128, 128, 128)
_SHIFT = 4
"""Sub-pixel bits of OpenCV's coordinates: a sixteenth of a pixel."""
_REACH = 4.0
"""Lines are cut this many picture sizes away from the picture: OpenCV's coordinates are 32-bit integers."""


@dataclass(frozen=True)
class ActionFrameStyle:
    """Measures of an action frame. The pixel sizes hold for a picture ``design_height_px`` high and scale with it.

    Attributes:
        axis_m: length of each axis in metres.
        radius_px, depth_m: a disc at ``depth_m`` metres has this radius; nearer discs are larger, as 1 / depth.
        radius_min_px, radius_max_px: limits of that radius.
        line_px, dot_px, rim_px: thickness of the axes, radius of the centre dot, thickness of the disc's rim.
        plumb_px, foot_px: thickness of a line from the TCP straight down to the plane z = 0 of the base, 0 for none as
            in the paper, and radius of the dot where it ends.
        disc_share: weight of the disc's layer in the sum; the layer with dot, axes and rim has the rest.
        design_height_px: height of the picture these pixel sizes were chosen for; None: as they are, at any size.
        whole_pixels: round centres and tips to whole pixels and radii down, as the paper's pictures were drawn;
            otherwise they are good to a sixteenth of a pixel.
    """

    axis_m: float = 0.15
    radius_px: float = 40.0
    depth_m: float = 1.0
    radius_min_px: float = 8.0
    radius_max_px: float = 140.0
    line_px: float = 8.0
    dot_px: float = 8.0
    rim_px: float = 2.0
    plumb_px: float = 0.0
    foot_px: float = 12.0
    disc_share: float = 0.35
    design_height_px: int | None = 480
    whole_pixels: bool = False

    def __post_init__(self) -> None:
        sizes = (self.axis_m, self.radius_px, self.depth_m, self.radius_min_px, self.line_px, self.dot_px, self.rim_px)
        if min(*sizes, self.foot_px) <= 0.0 or self.radius_max_px < self.radius_min_px:
            raise ValueError(f"sizes must be positive and radius_min <= radius_max, got {self}")
        if self.plumb_px < 0.0 or not 0.0 <= self.disc_share <= 1.0:
            raise ValueError(f"plumb_px must not be negative and disc_share lies in 0 .. 1, got {self}")

    def for_height(self, height_px: int) -> ActionFrameStyle:
        """The same style with pixel sizes for a picture of this height (and no further scaling)."""
        if self.design_height_px is None:
            return self
        scale = height_px / self.design_height_px
        return replace(
            self,
            radius_px=self.radius_px * scale,
            radius_min_px=self.radius_min_px * scale,
            radius_max_px=self.radius_max_px * scale,
            line_px=self.line_px * scale,
            dot_px=self.dot_px * scale,
            rim_px=self.rim_px * scale,
            plumb_px=self.plumb_px * scale,
            foot_px=self.foot_px * scale,
            design_height_px=None,
        )

    def radii_px(self, depth_m: ArrayLike) -> Array:
        """Disc radii in pixels of centres at these depths in metres; the smallest for depths that are none."""
        depth = np.asarray(depth_m, dtype=np.float64)
        valid = np.isfinite(depth) & (depth > 1e-6)
        radii = self.radius_px * self.depth_m / np.where(valid, depth, 1.0)
        radii = np.where(valid, np.clip(radii, self.radius_min_px, self.radius_max_px), self.radius_min_px)
        return np.floor(radii) if self.whole_pixels else radii


@dataclass(frozen=True)
class Mark:
    """One end effector in one picture: centre and three axis tips in pixels, disc radius in pixels, disc colour, and
    where its plumb line ends; None: it has none."""

    centre: Point
    tips: tuple[Point, Point, Point]
    radius: float
    color: Color
    foot: Point | None = None


def opening_colors(opening_N: ArrayLike) -> list[Color]:
    """RGB of gripper openings: TURBO, 0 (closed) dark blue .. 1 (open) dark red; NaN (unknown) is grey.

    Openings outside [0, 1] count as the nearer end.
    """
    opening = np.asarray(opening_N, dtype=np.float64).reshape(-1)
    unknown = np.isnan(opening)
    index = np.rint(255.0 * np.clip(np.where(unknown, 0.0, opening), 0.0, 1.0)).astype(np.intp)
    colors: list[Color] = [(int(r), int(g), int(b)) for r, g, b in _TURBO_RGB[index].tolist()]
    return [UNKNOWN_OPENING if nothing else color for color, nothing in zip(colors, unknown, strict=True)]


def draw_marks(picture: Image, spare: Image, marks: Sequence[Mark], style: ActionFrameStyle) -> None:
    """Draw the marks into a black ``picture`` [H, W, 3]; ``spare``, of the same shape, must be and is left black.

    ``style`` must already be meant for this height.
    """
    height, width = picture.shape[:2]
    line, rim = max(1, round(style.line_px)), max(1, round(style.rim_px))
    box = _Box(width, height)
    for mark in marks:
        _draw_plumb_line(picture, mark, style, box)
        centre, radius = _fixed(mark.centre), _fixed_length(mark.radius)
        disc_visible = _disc_touches(mark, rim, width, height)
        if disc_visible:
            cv2.circle(spare, centre, radius, mark.color, cv2.FILLED, cv2.LINE_AA, _SHIFT)
            cv2.circle(picture, centre, _fixed_length(style.dot_px), WHITE, cv2.FILLED, cv2.LINE_AA, _SHIFT)
            box.add(mark.centre, max(mark.radius + rim, style.dot_px))
        for tip, color in zip(mark.tips, AXIS_COLORS, strict=True):
            segment = _near(mark.centre, tip, width, height)
            if segment is not None:
                cv2.line(picture, _fixed(segment[0]), _fixed(segment[1]), color, line, cv2.LINE_AA, _SHIFT)
                box.add(segment[0], line)
                box.add(segment[1], line)
        if disc_visible:
            cv2.circle(picture, centre, radius, WHITE, rim, cv2.LINE_AA, _SHIFT)
    if box.empty:
        return
    area = box.slices()
    cv2.addWeighted(spare[area], style.disc_share, picture[area], 1.0 - style.disc_share, 0.0, dst=picture[area])
    spare[area] = 0


def _draw_plumb_line(picture: Image, mark: Mark, style: ActionFrameStyle, box: _Box) -> None:
    """First of all, so that what the paper draws lies over it."""
    segment = None if mark.foot is None else _near(mark.centre, mark.foot, picture.shape[1], picture.shape[0])
    if segment is None:
        return
    line = max(1, round(style.plumb_px))
    cv2.line(picture, _fixed(segment[0]), _fixed(segment[1]), PLUMB_COLOR, line, cv2.LINE_AA, _SHIFT)
    box.add(segment[0], line)
    box.add(segment[1], line)
    if segment[1] == mark.foot:
        foot = _fixed_length(style.foot_px)
        cv2.circle(picture, _fixed(segment[1]), foot, FOOT_COLOR, cv2.FILLED, cv2.LINE_AA, _SHIFT)
        box.add(segment[1], style.foot_px)


class _Box:
    """The part of the picture that was drawn on."""

    _MARGIN = 3.0  # anti-aliased edges reach beyond the ideal outline

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._low, self._high = [np.inf, np.inf], [-np.inf, -np.inf]

    def add(self, point: Point, reach: float) -> None:
        for axis in (0, 1):
            self._low[axis] = min(self._low[axis], point[axis] - reach - self._MARGIN)
            self._high[axis] = max(self._high[axis], point[axis] + reach + self._MARGIN)

    @property
    def empty(self) -> bool:
        x, y = self._range(0), self._range(1)
        return bool(x.start >= x.stop or y.start >= y.stop)

    def slices(self) -> tuple[slice, slice]:
        return self._range(1), self._range(0)

    def _range(self, axis: int) -> slice:
        low, high = self._low[axis], self._high[axis]
        if low > high:
            return slice(0, 0)
        return slice(int(max(0.0, low)), int(min(float(self._size[axis]), high + 1.0)))


def _disc_touches(mark: Mark, rim: int, width: int, height: int) -> bool:
    (x, y), reach = mark.centre, mark.radius + rim + 2.0
    return -reach < x < width + reach and -reach < y < height + reach


def _near(start: Point, end: Point, width: int, height: int) -> tuple[Point, Point] | None:
    """The part of a segment near the picture, None when there is none; most segments come back untouched."""
    reach_x, reach_y = _REACH * width, _REACH * height
    if abs(start[0]) < reach_x and abs(end[0]) < reach_x and abs(start[1]) < reach_y and abs(end[1]) < reach_y:
        return start, end
    first, last = 0.0, 1.0
    for axis, reach in ((0, reach_x), (1, reach_y)):
        origin, step = start[axis], end[axis] - start[axis]
        if step == 0.0:
            if abs(origin) > reach:
                return None
            continue
        enter, leave = sorted(((-reach - origin) / step, (reach - origin) / step))
        first, last = max(first, enter), min(last, leave)
    if first >= last:
        return None
    at = [(start[0] + s * (end[0] - start[0]), start[1] + s * (end[1] - start[1])) for s in (first, last)]
    return at[0], at[1]


def _fixed(point: Point) -> tuple[int, int]:
    return round(point[0] * (1 << _SHIFT)), round(point[1] * (1 << _SHIFT))


def _fixed_length(length: float) -> int:
    return max(1, round(length * (1 << _SHIFT)))


# OpenCV answers in BGR.
_TURBO_RGB: Image = np.ascontiguousarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(-1, 1), cv2.COLORMAP_TURBO)[:, 0, ::-1]
)
