"""What the operator's view shows over a camera picture: the tool's action frame, and where the chunk will take it.

Pure and clockless: stamps and times are passed in. The tool's pose is taken at the picture's stamp, between the two
measurements around it: a picture is some ten milliseconds old when it arrives, in which the tool moves by pixels.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.action_frame import STYLE, draw_over, render_action_frames
from calibration.action_frame_drawing import ActionFrameStyle
from calibration.camera import PinholeCamera
from calibration.poses import integrate_chunk, interpolate, inverse
from calibration.storage import CameraCalibration
from prophrl_nodes.chunk_player import Chunk

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

STEP_STYLE = ActionFrameStyle(
    axis_m=0.03, radius_px=10.0, radius_min_px=4.0, radius_max_px=20.0, line_px=2.0, dot_px=3.0, rim_px=1.0
)
"""A future step of the chunk: small, so that twenty of them leave the scene visible."""
HISTORY_NS = 2_000_000_000
STALE_NS = 500_000_000
"""A pose further from the picture than this is not drawn: the tool may be anywhere by now."""


class OverlayError(ValueError):
    """This picture cannot be drawn on; the message says why and what to do."""


@dataclass(frozen=True)
class ChunkPath:
    """The executed part of a chunk: poses [M, 4, 4] and openings [M] reached ``due_s`` [M] after ``began_s``."""

    poses_M44: Array
    openings_M: Array
    due_s: Array
    began_s: float

    @classmethod
    def of(cls, chunk: Chunk, now_s: float) -> ChunkPath:
        """The path of a chunk that begins now."""
        rows = chunk.actions_CHD[: chunk.execute_length]
        poses = integrate_chunk(chunk.T_base_reference, rows, chunk.convention)
        due_s: Array = np.arange(1, len(rows) + 1, dtype=np.float64) / chunk.rate_hz
        return cls(poses, rows[:, 6], due_s, now_s)

    def ahead(self, now_s: float) -> tuple[Array, Array]:
        """Poses and openings not reached yet."""
        coming = self.due_s > now_s - self.began_s
        return self.poses_M44[coming], self.openings_M[coming]


class OverlayScene:
    """Keeps the newest poses, opening and chunk, and draws them.

    Attributes:
        opening: of the gripper, 0 closed .. 1 open; NaN while unknown.
    """

    def __init__(self) -> None:
        self.opening = float("nan")
        self._poses: deque[tuple[int, Array]] = deque()
        self._path: ChunkPath | None = None

    def push_pose(self, stamp_ns: int, T_base_tcp: Array) -> None:
        """Take a measured pose; one that is older than the newest is ignored."""
        if self._poses and stamp_ns <= self._poses[-1][0]:
            if self._poses[-1][0] - stamp_ns < HISTORY_NS:
                return
            self._poses.clear()  # the clock was set back
        self._poses.append((stamp_ns, T_base_tcp))
        while stamp_ns - self._poses[0][0] > HISTORY_NS:
            self._poses.popleft()

    def begin_chunk(self, chunk: Chunk, now_s: float) -> None:
        """Show where this chunk leads, from now on; it replaces the one before."""
        self._path = ChunkPath.of(chunk, now_s)

    def steps_ahead(self, now_s: float) -> int:
        """Steps of the chunk that are still drawn."""
        return 0 if self._path is None else len(self._path.ahead(now_s)[0])

    def pose_at(self, stamp_ns: int) -> Array:
        """``T_base_tcp`` [4, 4] at a time, between measurements if it lies between two.

        Raises:
            OverlayError: no measurement within half a second of it.
        """
        if not self._poses:
            raise OverlayError("no TCP pose yet; start the arm node, or see what it says here")
        before, after = self._poses[0], self._poses[-1]
        for pose in reversed(self._poses):
            if pose[0] <= stamp_ns:
                before = pose
                break
            after = pose
        nearest_ns = min(abs(stamp_ns - before[0]), abs(stamp_ns - after[0]))
        if nearest_ns > STALE_NS:
            raise OverlayError(
                f"the nearest TCP pose is {nearest_ns * 1e-9:.1f} s from the picture's stamp; "
                "is the arm node alive, and do arm and camera machine share a clock?"
            )
        if not before[0] < stamp_ns < after[0]:
            return after[1] if stamp_ns >= after[0] else before[1]
        return interpolate(before[1], after[1], (stamp_ns - before[0]) / (after[0] - before[0]))

    def draw(self, image_HW3: Image, stamp_ns: int, calibration: CameraCalibration, now_s: float) -> Image:
        """The picture with the tool's action frame and the chunk's coming steps, as a new array.

        Raises:
            OverlayError: no pose for this picture, or a picture that the calibration is not for.
        """
        T_base_tcp = self.pose_at(stamp_ns)
        camera = camera_of(calibration, T_base_tcp, image_HW3.shape[1], image_HW3.shape[0])
        result = image_HW3
        if self._path is not None:
            poses, openings = self._path.ahead(now_s)
            if len(poses):
                # Farthest in time first, so that the next step lies on top; all in one picture, as arms would be.
                steps = render_action_frames(poses[None, ::-1], openings[None, ::-1], camera, style=STEP_STYLE)
                result = draw_over(result, steps[0])
        frame = render_action_frames(T_base_tcp[None], np.array([self.opening]), camera, style=STYLE)
        return draw_over(result, frame[0])


def camera_of(calibration: CameraCalibration, T_base_tcp: Array, width: int, height: int) -> PinholeCamera:
    """The calibrated camera for pictures of this size, where it is while the tool is at ``T_base_tcp``.

    Raises:
        OverlayError: the size is not the calibrated one, enlarged or reduced.
    """
    camera = calibration.camera
    if calibration.T_tool_camera is not None:
        camera = replace(camera, T_camera_base=inverse(T_base_tcp @ calibration.T_tool_camera))
    if (camera.width, camera.height) == (width, height):
        return camera
    if abs(width * camera.height - height * camera.width) > 0.01 * height * camera.width:
        raise OverlayError(
            f"pictures of {width}x{height} px are no enlargement of the calibrated {camera.width}x{camera.height}: "
            "set the camera to a profile of that shape, or calibrate it at this one"
        )
    return camera.resized(width, height)
