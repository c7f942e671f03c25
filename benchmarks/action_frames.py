#!/usr/bin/env python3
"""Time to draw the action frames of one chunk, beside a straightforward loop of OpenCV calls, in one run.

Both draw 21 steps of one arm (and of two) at 240x320; the two take turns so that both see the same machine. The same
for the paper's way: draw at 480x640 and resize.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.action_frame import PAPER_STYLE, STYLE, render_action_frames, render_at_source
from calibration.action_frame_drawing import ActionFrameStyle
from calibration.camera import PinholeCamera
from calibration.poses import inverse, transform

Array = NDArray[np.float64]
STEPS = 21


def straightforward(
    T_base_tcp_TN44: Array, opening_TN: Array, camera: PinholeCamera, style: ActionFrameStyle = PAPER_STYLE
) -> NDArray[np.uint8]:
    """What one writes first: project point by point with OpenCV, draw on two canvases, blend them; whole pixels."""
    style = style.for_height(camera.height)
    rotation, _ = cv2.Rodrigues(camera.T_camera_base[:3, :3])
    pictures = []
    for poses, openings in zip(T_base_tcp_TN44, opening_TN, strict=True):
        frame = np.zeros((camera.height, camera.width, 3), np.uint8)
        disc = np.zeros_like(frame)
        for T, opening in zip(poses, openings, strict=True):
            points = np.stack([T[:3, 3], *(T[:3, 3] + style.axis_m * T[:3, k] for k in range(3))])
            pixels, _ = cv2.projectPoints(points, rotation, camera.T_camera_base[:3, 3], camera.K, np.zeros(5))
            centre, *tips = [(round(float(u)), round(float(v))) for u, v in pixels[:, 0]]
            depth = float((camera.T_camera_base @ T)[2, 3])
            radius = int(np.clip(style.radius_px * style.depth_m / depth, style.radius_min_px, style.radius_max_px))
            blue, green, red = cv2.applyColorMap(np.uint8([[round(255 * opening)]]), cv2.COLORMAP_TURBO)[0, 0].tolist()
            cv2.circle(disc, centre, radius, (red, green, blue), -1, cv2.LINE_AA)
            cv2.circle(frame, centre, round(style.dot_px), (255, 255, 255), -1, cv2.LINE_AA)
            for tip, color in zip(tips, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
                cv2.line(frame, centre, tip, color, round(style.line_px), cv2.LINE_AA)
            cv2.circle(frame, centre, radius, (255, 255, 255), max(1, round(style.rim_px)), cv2.LINE_AA)
        pictures.append(cv2.addWeighted(disc, style.disc_share, frame, 1 - style.disc_share, 0.0))
    return np.stack(pictures)


def chunk(arms: int, seed: int = 0) -> tuple[Array, Array]:
    """A chunk's poses [T, N, 4, 4] above a table and openings [T, N]."""
    rng = np.random.default_rng(seed)
    down = Rotation.from_euler("x", np.pi)
    T_TN44 = np.empty((STEPS, arms, 4, 4))
    for arm in range(arms):
        start, step = rng.uniform((-0.7, -0.2, 0.1), (-0.55, 0.2, 0.3)), rng.uniform(-0.01, 0.01, 3)
        turn = rng.uniform(-0.03, 0.03, 3)
        for k in range(STEPS):
            T_TN44[k, arm] = transform(start + k * step, Rotation.from_rotvec(k * turn) * down)
    return T_TN44, np.clip(np.linspace(1.2, -0.2, STEPS)[:, None] + np.zeros(arms), 0.0, 1.0)


def camera_in_front(width: int = 320, height: int = 240) -> PinholeCamera:
    """A camera as in the cell: 0.8 m from the workspace, looking back and down at it."""
    s = np.sqrt(0.5)
    T = np.eye(4)
    T[:3, :3] = np.column_stack([(0.0, -1.0, 0.0), (-s, 0.0, -s), (s, 0.0, -s)])
    T[:3, 3] = (-1.2, 0.0, 0.65)
    focal = 212.0 * height / 240
    return PinholeCamera(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height, inverse(T))


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], repeat: int) -> tuple[float, float]:
    """Median milliseconds of both, taking turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeat + 2):
        for work, kept in zip((ours, theirs), times, strict=True):
            start_s = time.perf_counter()
            work()
            if turn >= 2:
                kept.append(1e3 * (time.perf_counter() - start_s))
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=100, help="chunks of each (default 100)")
    parser.add_argument("--threads", type=int, default=1, help="threads OpenCV may use (default 1)")
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    camera = camera_in_front()
    source = camera.resized(640, 480)
    for arms in (1, 2):
        poses, openings = chunk(arms)
        whole = replace(STYLE, whole_pixels=True)

        def plain_at_source(poses: Array = poses, openings: Array = openings) -> list[Any]:
            large = straightforward(poses, openings, source)
            return [cv2.resize(picture, (320, 240), interpolation=cv2.INTER_AREA) for picture in large]

        rows = {
            "at 240x320": (
                lambda p=poses, o=openings: render_action_frames(p, o, camera),
                lambda p=poses, o=openings, w=whole: straightforward(p, o, camera, w),
            ),
            "at 480x640, resized": (
                lambda p=poses, o=openings: render_at_source(p, o, camera, 640, 480),
                plain_at_source,
            ),
        }
        for name, (ours, theirs) in rows.items():
            ours_ms, theirs_ms = compare(ours, theirs, options.repeat)
            report = {
                "drawn": f"{STEPS} steps, {arms} arm{'s' * (arms > 1)}, {name}",
                "batched_ms": round(ours_ms, 2),
                "opencv_loop_ms": round(theirs_ms, 2),
                "ratio": round(theirs_ms / ours_ms, 2),
            }
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
