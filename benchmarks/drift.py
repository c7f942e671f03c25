#!/usr/bin/env python3
"""Does the drift check notice a camera that was nudged between two episodes, and is it quiet otherwise?

Demonstrations run in the fast lane with random objects and people; each is filmed by the standing camera and by the
same camera after a nudge in a random direction, with other light (+-20 %), sensor noise and 10 ms of timing error. One
episode is the reference. Two checks judge every film: the robot's own (no marker) and that of a chessboard which stands
beside the workspace. Points on the robot come from nominal kinematics; the arm filmed has DH deltas.
"""

from __future__ import annotations

import argparse
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.board import Board, detect
from calibration.camera import PinholeCamera
from calibration.camera_shift import DriftReport, shifted
from calibration.drift import check_marker, make_marker_reference
from calibration.poses import transform
from calibration.robot_drift import RobotDriftSettings, check_robot, make_robot_reference
from robot_bridge.arm_outline import ArmOutline
from robot_bridge.twin.fast_demonstration import record_demonstration
from robot_bridge.twin.fast_lane import FastLane, FastObservation
from robot_bridge.twin.render import Renderer, twin_camera
from robot_bridge.twin.tasks import sample_placement
from robot_bridge.ur_kinematics import Kinematics

Array = NDArray[np.float64]

TASKS = ("place_cube", "grasp_bottle", "place_bowl")
ARM_SEED = 1
FRAMES = 20
TIMING_SIGMA_S = 0.010
JOINT_SIGMA_RAD = np.radians(0.01)
NOISE_GREY = 2.0
STANDING_BOARD = Board("chessboard", 6, 5, 0.040)
BOARD_CENTRE_M = (-0.50, 0.42, 0.12)
"""Upright, facing the camera, left of the workspace."""


@dataclass
class Motion:
    """What one demonstration did, at T moments: positions of the world, joints, joint speeds, gripper opening."""

    task: str
    qpos: Array
    q: Array
    qd: Array
    opening: Array
    stamp_s: Array


class LoggedLane(FastLane):
    """A fast lane that keeps the state of every observation; the pictures are taken afterwards."""

    log: list[tuple[Array, Array, Array, float, float]]

    def observe(self) -> FastObservation:
        if not hasattr(self, "log"):
            self.log = []
        world = self.world
        self.log.append((world.qpos.copy(), world.q.copy(), world.qd.copy(), world.gripper_opening, world.time_s))
        return super().observe()


def demonstrate(episodes: int, first_seed: int) -> list[Motion]:
    """Run demonstrations of changing tasks."""
    motions = []
    lanes = {task: LoggedLane(task, seed=ARM_SEED, render=False) for task in TASKS}
    for i in range(episodes):
        task = TASKS[i % len(TASKS)]
        seed = first_seed + i
        lane = lanes[task]
        lane.log = []
        record_demonstration(task, sample_placement(task, np.random.default_rng(seed)), seed, lane=lane)
        # The first entry is the reset's, the second the same moment again.
        chosen = np.linspace(1, len(lane.log) - 1, FRAMES).astype(int)
        motions.append(Motion(task, *(np.array(part) for part in zip(*[lane.log[k] for k in chosen], strict=True))))
    return motions


class Studio:
    """Films motions with a camera anywhere, the standing board in view."""

    def __init__(self) -> None:
        with FastLane(TASKS[0], seed=ARM_SEED, render=False) as lane:
            deltas, self.kinematics = lane.world.deltas, Kinematics(tool=transform(lane.robot.tcp_offset[:3]))
        self.outline = ArmOutline(self.kinematics)
        self.camera = twin_camera()
        self._renderers = {task: Renderer(task, 424, 240, deltas=deltas) for task in TASKS}
        margin, pixels = 0.5, 40
        self._texture = STANDING_BOARD.image(pixels, margin)
        # The texture's pixels on the board's plane, and the board before the camera at its place.
        scale = STANDING_BOARD.square_m / pixels
        shift = -margin * STANDING_BOARD.square_m + 0.5 * scale
        self._plane = np.array([[scale, 0.0, shift], [0.0, scale, shift], [0.0, 0.0, 1.0]])
        z = np.array(BOARD_CENTRE_M) - self.camera.T_base_camera[:3, 3]
        z[2] *= 0.3
        z /= np.linalg.norm(z)
        y = np.array([0.0, 0.0, -1.0]) + z[2] * z
        y /= np.linalg.norm(y)
        self.T_base_board = transform(BOARD_CENTRE_M, Rotation.from_matrix(np.column_stack([np.cross(y, z), y, z])))
        width, height = STANDING_BOARD.size_m
        self.T_base_board[:3, 3] -= self.T_base_board[:3, :3] @ [width / 2, height / 2, 0.0]

    def film(self, motion: Motion, camera: PinholeCamera, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Frames [T, 240, 424, 3] of a motion, in today's light."""
        renderer = self._renderers[motion.task]
        renderer.aim(camera)
        gain = rng.uniform(0.8, 1.2) * rng.uniform(0.97, 1.03, 3)
        frames = []
        for qpos in motion.qpos:
            image, depth = renderer.render(qpos)
            image = self._with_board(image, depth, camera).astype(np.float64) * gain * rng.uniform(0.99, 1.01)
            frames.append(np.clip(np.rint(image + rng.normal(0.0, NOISE_GREY, image.shape)), 0, 255).astype(np.uint8))
        return np.stack(frames)

    def points(self, motion: Motion, rng: np.random.Generator) -> Array:
        """What the robot reports for those frames: nominal kinematics, late or early by some milliseconds."""
        late_s = rng.normal(0.0, TIMING_SIGMA_S, (len(motion.q), 1))
        q = motion.q + motion.qd * late_s + rng.normal(0.0, JOINT_SIGMA_RAD, motion.q.shape)
        return self.outline.points(q, motion.opening)

    def _with_board(self, image: NDArray[np.uint8], depth: NDArray[np.float32], camera: PinholeCamera) -> Array:
        """The standing board pasted into a picture, behind what is nearer."""
        T = camera.T_camera_base @ self.T_base_board
        H = camera.K @ T[:3, [0, 1, 3]] @ self._plane
        fine = 4
        up = np.array([[fine, 0.0, (fine - 1) / 2], [0.0, fine, (fine - 1) / 2], [0.0, 0.0, 1.0]])
        size = (fine * camera.width, fine * camera.height)
        inside = np.full_like(self._texture, 255)
        drawn = [
            cv2.resize(
                cv2.warpPerspective(layer, up @ H, size, flags=cv2.INTER_LINEAR).astype(np.float32),
                (camera.width, camera.height),
                interpolation=cv2.INTER_AREA,
            )
            for layer in (self._texture, inside)
        ]
        alpha = np.where(depth > T[2, 3] - 0.05, drawn[1] / 255.0, 0.0)[..., None]
        return np.asarray(image * (1.0 - alpha) + (25.0 + 0.75 * drawn[0][..., None]) * alpha)


def nudge(rng: np.random.Generator, millimetres: float, degrees: float) -> Array:
    """A shift of this size in a random direction, about a random axis."""
    directions = rng.standard_normal((2, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.concatenate([1e-3 * millimetres * directions[0], np.radians(degrees) * directions[1]])


CONDITIONS: dict[str, tuple[float, float]] = {
    "still": (0.0, 0.0),
    "5 mm": (5.0, 0.0),
    "0.5 deg": (0.0, 0.5),
    "2 mm": (2.0, 0.0),
    "0.2 deg": (0.0, 0.2),
    "20 mm + 2 deg": (20.0, 2.0),
}


@dataclass
class Outcome:
    """One judgement: of which way, under which condition, against which truth in pixels."""

    way: str
    condition: str
    report: DriftReport
    true_px: float
    seconds: float


def true_pixels(studio: Studio, points: Array, nudged: PinholeCamera) -> float:
    """Rms displacement of points through a nudge."""
    before, _ = studio.camera.project(points)
    after, _ = nudged.project(points)
    return float(np.sqrt(np.nanmean(np.sum((after - before) ** 2, axis=1))))


def judge_all(motions: list[Motion], first_seed: int, conditions: list[str]) -> list[Outcome]:
    """Film every motion under every condition and ask both checks."""
    studio = Studio()
    rng = np.random.default_rng(first_seed)
    settings = RobotDriftSettings()
    # One demonstration taken right after calibration; its own light, noise and timing.
    reference_motion = demonstrate(1, first_seed + 900_000)[0]
    frames = studio.film(reference_motion, studio.camera, rng)
    robot_reference = make_robot_reference(
        studio.camera, frames, studio.points(reference_motion, rng), studio.outline.link_N, settings=settings
    )
    views = [view for frame in frames if (view := detect(frame, STANDING_BOARD)) is not None]
    marker_reference = make_marker_reference(views, STANDING_BOARD, studio.camera)
    outcomes = []
    for motion in motions:
        points = studio.points(motion, rng)
        for condition in conditions:
            nudged = shifted(studio.camera, nudge(rng, *CONDITIONS[condition]))
            frames = studio.film(motion, nudged, rng)
            start = time.process_time()
            found = check_robot(robot_reference, frames, points, stamp_s_T=motion.stamp_s, settings=settings)
            spent = time.process_time() - start
            on_robot = true_pixels(studio, found_points(studio, points), nudged)
            outcomes.append(Outcome("robot alone", condition, found.robot, on_robot, spent))
            outcomes.append(Outcome("robot + scenery", condition, found.result, on_robot, spent))
            start = time.process_time()
            views = [view for frame in frames[::2] if (view := detect(frame, STANDING_BOARD)) is not None]
            marker = check_marker(marker_reference, views)
            corners = STANDING_BOARD.corners_board_N3 @ studio.T_base_board[:3, :3].T + studio.T_base_board[:3, 3]
            outcomes.append(
                Outcome(
                    "marker",
                    condition,
                    marker,
                    true_pixels(studio, corners, nudged),
                    time.process_time() - start,
                )
            )
    return outcomes


def found_points(studio: Studio, points_TN3: Array) -> Array:
    """Robot points in view, over all frames."""
    pixels, depth = studio.camera.project(points_TN3.reshape(-1, 3))
    with np.errstate(invalid="ignore"):
        inside = (depth > 0.0) & np.all((pixels > 0) & (pixels < [studio.camera.width, studio.camera.height]), axis=1)
    return np.asarray(points_TN3.reshape(-1, 3)[inside][::50])


def table(outcomes: list[Outcome]) -> None:
    """Rates and errors of each way under each condition."""
    print(
        f"{'way':>16} {'condition':>14} {'films':>5} {'flagged':>8} {'unknown':>8} {'true px':>8} {'found px':>9} "
        f"{'sigma px':>8} {'p5 found':>8} {'p95 found':>9} {'s/film':>7}"
    )
    for way in dict.fromkeys(outcome.way for outcome in outcomes):
        for condition in CONDITIONS:
            mine = [o for o in outcomes if o.way == way and o.condition == condition]
            if not mine:
                continue
            found = np.array([o.report.pixels for o in mine])

            def share(verdict: str, mine: list[Outcome] = mine) -> float:
                return 100.0 * sum(o.report.verdict == verdict for o in mine) / len(mine)

            def median(value: Callable[[Outcome], float], mine: list[Outcome] = mine) -> float:
                return float(np.median([value(o) for o in mine]))

            print(
                f"{way:>16} {condition:>14} {len(mine):5d} {share('moved'):7.1f}% {share('unknown'):7.1f}% "
                f"{median(lambda o: o.true_px):8.2f} {np.median(found):9.2f} "
                f"{median(lambda o: o.report.sigma_px):8.3f} "
                f"{np.percentile(found, 5):8.2f} {np.percentile(found, 95):9.2f} {median(lambda o: o.seconds):7.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--conditions", nargs="+", default=["still", "5 mm", "0.5 deg"], choices=tuple(CONDITIONS))
    parser.add_argument("--motions", type=Path, help="keep the demonstrations here, or use those kept")
    parser.add_argument("--outcomes", type=Path, help="add the outcomes to this file and show all of it")
    arguments = parser.parse_args()
    if arguments.motions is not None and arguments.motions.exists():
        motions = pickle.loads(arguments.motions.read_bytes())
    else:
        motions = demonstrate(arguments.episodes, arguments.seed)
        if arguments.motions is not None:
            arguments.motions.write_bytes(pickle.dumps(motions))
    outcomes = judge_all(motions[: arguments.episodes], arguments.seed, arguments.conditions)
    if arguments.outcomes is not None:
        if arguments.outcomes.exists():
            outcomes = pickle.loads(arguments.outcomes.read_bytes()) + outcomes
        arguments.outcomes.write_bytes(pickle.dumps(outcomes))
    table(outcomes)


if __name__ == "__main__":
    main()
