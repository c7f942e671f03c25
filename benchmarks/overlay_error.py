#!/usr/bin/env python3
"""How well action frames sit on the gripper after a calibration of ours: in pixels of the policy image, and to look at.

    prophrl launch calibrate cell:=twin camera_seed:=7 output:=runs/calibration
    python benchmarks/overlay_error.py runs/calibration/calibration.yaml --camera-seed 7 --picture overlay.png

The twin's camera stands where the seed puts it; the calibration file says where we think it stands. The tool centre is
measured in the picture (a mark painted by the renderer, the arm made invisible) and compared with its projection
through the file. The nominal, uncalibrated camera is judged on the same poses.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray

from calibration.action_frame import draw_over, project_action_frames, render_action_frames
from calibration.camera import PinholeCamera
from calibration.poses import interpolate, inverse
from calibration.storage import load_camera
from robot_bridge.twin.camera_place import nominal_T_base_camera, secret_pose
from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.render import Renderer, twin_camera

WIDTH, HEIGHT = 320, 240
OVERSAMPLE = 2
"""The mark is measured at twice the policy's resolution and counted in the policy's pixels."""
LOW_M, HIGH_M = (-0.75, -0.20, 0.08), (-0.50, 0.20, 0.30)
CHANGED = 30
SHOWN = 3


def main() -> None:
    """Print one JSON line; with --picture also write raw, nominal and calibrated overlays side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("calibration", type=Path, nargs="?", help="calibration file; left out: the nominal place")
    parser.add_argument("--camera-seed", type=int, default=7, help="secret place of the twin's camera (default 7)")
    parser.add_argument("--poses", type=int, default=25, help="tool poses (default 25)")
    parser.add_argument("--picture", type=Path, help="write the overlays here (PNG)")
    options = parser.parse_args()
    true = replace(twin_camera(848, 480), T_camera_base=inverse(secret_pose("fixed", options.camera_seed)))
    nominal = replace(true, T_camera_base=inverse(nominal_T_base_camera()))
    ours = nominal if options.calibration is None else load_camera(options.calibration)
    errors, rows = measure(true, {"nominal": nominal, "calibrated": ours}, options.poses)
    report = {
        name: {"mean_px": round(float(e.mean()), 3), "max_px": round(float(e.max()), 3)} for name, e in errors.items()
    }
    print(json.dumps({"poses": options.poses, "image": f"{WIDTH}x{HEIGHT}", **report}), flush=True)
    if options.picture:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(options.picture), np.vstack(rows)[:, :, ::-1])
        print(f"raw picture, nominal camera, calibrated camera: {options.picture}")


def measure(
    true: PinholeCamera, known: dict[str, PinholeCamera], poses: int
) -> tuple[dict[str, NDArray[np.float64]], list[NDArray[np.uint8]]]:
    """Distances [poses] in policy pixels for each camera, and picture rows of some poses."""
    rng = np.random.default_rng(1)
    errors: dict[str, list[float]] = {name: [] for name in known}
    rows = []
    with FastLane("place_cube", seed=3, render=False) as lane:
        lane.reset()
        plain, marked = (Renderer("place_cube", 848, 480, deltas=lane.world.deltas, camera=true) for _ in range(2))
        picture = Renderer("place_cube", 848, 480, deltas=lane.world.deltas, camera=true)
        _only_the_tool_centre(plain, show=False)
        _only_the_tool_centre(marked, show=True)
        for i in range(poses):
            opening = float(rng.uniform(0.0, 1.0))
            _go(lane, rng.uniform(LOW_M, HIGH_M), opening)
            T, qpos = lane.world.T_base_tcp, lane.world.qpos
            found = _mark(plain.render_color(qpos), marked.render_color(qpos))
            for name, camera in known.items():
                centre = project_action_frames(T, camera).centre_px_M2[0]
                errors[name].append(float(np.linalg.norm(centre - found)) / OVERSAMPLE)
            if i % max(poses // SHOWN, 1) == 1 and len(rows) < SHOWN:
                rows.append(_row(picture.render_color(qpos), T, lane.world.gripper_opening, known))
        for renderer in (plain, marked, picture):
            renderer.close()
    return {name: np.array(values) for name, values in errors.items()}, rows


def _only_the_tool_centre(renderer: Renderer, *, show: bool) -> None:
    """Hide every surface, and let the renderer paint the tool-centre site or nothing."""
    model, option = renderer._model, renderer._option
    model.geom_rgba[:, 3] = 0.0
    model.geom_matid[:] = -1
    model.site_rgba[:] = 0.0
    if show:
        option.sitegroup[:] = 1
        tcp = model.site("tcp").id
        model.site_type[tcp], model.site_size[tcp] = mujoco.mjtGeom.mjGEOM_SPHERE, 0.008
        model.site_rgba[tcp] = (1.0, 0.0, 1.0, 1.0)


def _mark(plain_HW3: NDArray[np.uint8], marked_HW3: NDArray[np.uint8]) -> NDArray[np.float64]:
    changed = np.abs(plain_HW3.astype(int) - marked_HW3).sum(axis=-1) > CHANGED
    v, u = np.nonzero(changed)
    if len(u) < 20:
        raise RuntimeError("the tool centre is not in the picture; choose another camera seed")
    return 0.5 * np.array([u.min() + u.max(), v.min() + v.max()], dtype=np.float64)


def _go(lane: FastLane, position_m: NDArray[np.float64], opening: float) -> None:
    T_from = lane.world.T_base_tcp
    T_to = T_from.copy()
    T_to[:3, 3] = position_m
    lane.execute_pose_targets([interpolate(T_from, T_to, (k + 1) / 20) for k in range(20)], opening, 10.0)
    lane.hold(0.4)


def _row(
    image_HW3: NDArray[np.uint8], T: NDArray[np.float64], opening: float, known: dict[str, PinholeCamera]
) -> NDArray[np.uint8]:
    tiles = [image_HW3]
    for camera in known.values():
        tiles.append(draw_over(image_HW3, render_action_frames(T[None], [opening], camera)[0]))
    tiles = [cv2.resize(tile[:, 104:744], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for tile in tiles]
    return np.hstack(tiles)


if __name__ == "__main__":
    main()
