"""How far the arm stays from the table, from itself, from its pedestal and from the camera, without a simulator.

Links, gripper and an optional plate on the tool (the calibration board) are capsules: segments with a radius. Distances
are between capsules, so they are a little pessimistic at flat ends. Frames: ``base``; the table is a plane of constant
z in it. Poses that a link cannot leave by turning joints (neighbouring links) are not compared.

The path check samples a straight line in joint space so densely, and subtracts what can happen between two samples,
that the distance it returns holds for the whole path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot_bridge.cell import SafetyConfig
from robot_bridge.ur_kinematics import JOINT_NAMES, JOINT_POSITION_LIMITS_RAD, Kinematics

Array = NDArray[np.float64]

STEP_M = 0.02
"""No point of the arm moves farther than this between two samples of a path."""
COARSE_STEP_M = 0.12
"""Most paths lead through free space: that shows with a sixth of the samples."""
JOINT_MARGIN_RAD = 0.05
MAX_SAMPLES = 800

BASE, SHOULDER, UPPER_ARM, FOREARM, WRIST_1, WRIST_2, WRIST_3, GRIPPER, BOARD, TOOL_CAMERA = (
    "base", "shoulder", "upper arm", "forearm", "wrist 1", "wrist 2", "wrist 3", "gripper", "board", "tool camera",
)  # fmt: skip
_PAIRS = (
    *((SHOULDER, part) for part in (FOREARM, WRIST_1, WRIST_2, WRIST_3, GRIPPER, BOARD, TOOL_CAMERA)),
    *((BASE, part) for part in (FOREARM, WRIST_1, WRIST_2, WRIST_3, GRIPPER, BOARD, TOOL_CAMERA)),
    *((UPPER_ARM, part) for part in (WRIST_1, WRIST_2, WRIST_3, GRIPPER, BOARD, TOOL_CAMERA)),
    *((FOREARM, part) for part in (WRIST_3, GRIPPER, BOARD, TOOL_CAMERA)),
    *((WRIST_1, part) for part in (GRIPPER, BOARD, TOOL_CAMERA)),
    (WRIST_2, BOARD),
)
"""Parts that can touch each other. Others are joined, or kept apart by the joints between them."""
_ABOVE_TABLE = (UPPER_ARM, FOREARM, WRIST_1, WRIST_2, WRIST_3, GRIPPER, BOARD, TOOL_CAMERA)
_MEETS_CAMERA = (FOREARM, WRIST_1, WRIST_2, WRIST_3, GRIPPER, BOARD)


@dataclass(frozen=True)
class Plate:
    """A flat thing on the tool: ``T_tcp_plate`` [4, 4] of its corner, size along that frame's x and y, in metres.

    ``part`` is what it is: a camera sits close to the flange and cannot reach wrist 2, a board may.
    """

    T_tcp_plate: Array
    width_m: float
    height_m: float
    half_thickness_m: float = 0.015
    part: str = BOARD


@dataclass(frozen=True)
class Surroundings:
    """What stands around the arm: the table's height in ``base``, and spheres (centre [3], radius) to stay away from.

    The camera is such a sphere; where its place is only roughly known, the radius holds the doubt.
    """

    table_z_m: float | None = 0.0
    spheres: tuple[tuple[tuple[float, float, float], float], ...] = ()


@dataclass(frozen=True)
class Clearance:
    """Smallest distance in metres (negative: they overlap) and between what."""

    distance_m: float
    between: str


@dataclass(frozen=True)
class _Capsule:
    part: str
    frame: int
    """Body that carries it: 0 the base, i the body that turns with joint i, 7 the flange."""
    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float


def _ur_capsules(kinematics: Kinematics) -> list[_Capsule]:
    """Outlines of the UR30 in the frames of its bodies (frame i-1 turned by joint i), gripper open."""
    d1, _, _, d4, d5, d6 = kinematics.dh.d
    _, a2, a3, _, _, _ = kinematics.dh.a
    return [
        _Capsule(BASE, 0, (0, 0, 0), (0, 0, 0.02), 0.115),
        _Capsule(SHOULDER, 1, (0, 0, 0.10), (0, 0, d1), 0.092),
        _Capsule(SHOULDER, 1, (0, 0.06, d1), (0, -0.06, d1), 0.090),
        _Capsule(UPPER_ARM, 2, (0, 0, 0.19), (0, 0, 0.26), 0.090),
        _Capsule(UPPER_ARM, 2, (0, 0, 0.215), (a2, 0, 0.215), 0.080),
        _Capsule(UPPER_ARM, 2, (a2, 0, 0.18), (a2, 0, 0.26), 0.082),
        _Capsule(FOREARM, 3, (0, 0, 0.03), (0, 0, 0.07), 0.082),
        _Capsule(FOREARM, 3, (0, 0, 0.055), (a3, 0, 0.055), 0.062),
        _Capsule(FOREARM, 3, (a3, 0, 0.01), (a3, 0, 0.075), 0.062),
        _Capsule(WRIST_1, 4, (0, 0, 0.14), (0, 0, d4 + 0.03), 0.060),
        _Capsule(WRIST_2, 5, (0, 0, 0.10), (0, 0, d5 + 0.03), 0.060),
        _Capsule(WRIST_3, 6, (0, 0, 0.095), (0, 0, d6), 0.050),
        _Capsule(GRIPPER, 7, (0, 0, 0.0), (0, 0, 0.09), 0.052),
        _Capsule(GRIPPER, 7, (0.042, 0, 0.10), (0.045, 0, 0.165), 0.024),
        _Capsule(GRIPPER, 7, (-0.042, 0, 0.10), (-0.045, 0, 0.165), 0.024),
    ]


def _plate_capsules(plate: Plate, T_tool0_tcp: Array) -> list[_Capsule]:
    """Parallel bars that fill the plate, each wide enough that no gap is left between them."""
    T = T_tool0_tcp @ plate.T_tcp_plate
    bars = max(2, math.ceil(plate.height_m / 0.045))
    half_gap = 0.5 * plate.height_m / bars
    radius = max(plate.half_thickness_m, half_gap)
    capsules = []
    for i in range(bars):
        y = (2 * i + 1) * half_gap
        inset = min(radius, 0.5 * plate.width_m)
        ends = np.array([[inset, y, 0.0, 1.0], [plate.width_m - inset, y, 0.0, 1.0]]) @ T.T
        start, end = ends[0, :3], ends[1, :3]
        capsules.append(_Capsule(plate.part, 7, tuple(map(float, start)), tuple(map(float, end)), radius))  # type: ignore[arg-type]
    return capsules


@dataclass
class ArmClearance:
    """Distances of one arm with one tool in its surroundings.

    Args:
        kinematics: nominal kinematics with the cell's tool.
        surroundings: table and spheres.
        plate: what is fixed to the tool beside the gripper, None for nothing.
    """

    kinematics: Kinematics
    surroundings: Surroundings = field(default_factory=Surroundings)
    plate: Plate | None = None

    def __post_init__(self) -> None:
        capsules = _ur_capsules(self.kinematics)
        if self.plate is not None:
            capsules += _plate_capsules(self.plate, self.kinematics.T_tool0_tcp)
        self._parts = [capsule.part for capsule in capsules]
        self._frames = np.array([capsule.frame for capsule in capsules])
        self._ends = np.array([[capsule.start, capsule.end] for capsule in capsules], dtype=np.float64)
        self._radii = np.array([capsule.radius for capsule in capsules])
        wanted = set(_PAIRS)
        pairs = [
            (i, j)
            for i, first in enumerate(self._parts)
            for j, second in enumerate(self._parts)
            if (first, second) in wanted
        ]
        self._pairs = np.array(pairs, dtype=np.intp).reshape(-1, 2)
        self._on_table = np.array([i for i, part in enumerate(self._parts) if part in _ABOVE_TABLE])
        self._by_camera = np.array([i for i, part in enumerate(self._parts) if part in _MEETS_CAMERA])

    def at(self, q: ArrayLike) -> Clearance:
        """Smallest distance with joints at q [6] radians."""
        distances, names = self._distances(self._segments(np.asarray(q, dtype=np.float64).reshape(1, 6)))
        worst = int(distances[0].argmin())
        return Clearance(float(distances[0, worst]), names[worst])

    def along(self, q_start: ArrayLike, q_goal: ArrayLike, step_m: float = STEP_M) -> Clearance:
        """Smallest distance on the straight joint path between two configurations [6] radians.

        The distance holds for the whole path; it is too small by at most half of ``step_m``.
        """
        Q = self.path(q_start, q_goal, step_m)
        ends = self._segments(Q)
        distances, names = self._distances(ends)
        worst = int(distances.argmin())
        between = 0.0
        if len(Q) > 1:
            between = 0.5 * float(np.linalg.norm(np.diff(ends, axis=0), axis=-1).max())
        return Clearance(float(distances.ravel()[worst]) - between, names[worst % distances.shape[1]])

    def path(self, q_start: ArrayLike, q_goal: ArrayLike, step_m: float = STEP_M) -> Array:
        """Samples [M, 6] of the straight joint path, at most ``step_m`` apart anywhere on the arm."""
        start, goal = np.asarray(q_start, dtype=np.float64), np.asarray(q_goal, dtype=np.float64)
        reach = np.array([1.6, 1.5, 1.0, 0.6, 0.5, 0.4])  # no point behind the joint is farther from its axis
        count = int(np.clip(math.ceil(float(np.abs(goal - start) @ reach) / step_m), 1, MAX_SAMPLES))
        return np.asarray(start + np.linspace(0.0, 1.0, count + 1)[:, None] * (goal - start))

    # --- geometry ---

    def bodies(self, Q: Array) -> Array:
        """Frames [M, 8, 4, 4] in base for configurations [M, 6]: base, the six turning bodies, the flange tool0."""
        count = len(Q)
        out = np.empty((count, 8, 4, 4))
        out[:, 0] = np.eye(4)
        T = np.broadcast_to(np.eye(4), (count, 4, 4))
        for i in range(6):
            turn = np.zeros((count, 4, 4))
            c, s = np.cos(Q[:, i]), np.sin(Q[:, i])
            turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = c, -s, s, c
            turn[:, 2, 2] = turn[:, 3, 3] = 1.0
            T = T @ turn
            out[:, i + 1] = T
            ca, sa = math.cos(self.kinematics.dh.alpha[i]), math.sin(self.kinematics.dh.alpha[i])
            fixed = np.array(
                [
                    [1, 0, 0, self.kinematics.dh.a[i]],
                    [0, ca, -sa, 0],
                    [0, sa, ca, self.kinematics.dh.d[i]],
                    [0, 0, 0, 1],
                ]
            )
            T = T @ fixed
        out[:, 7] = T
        return out

    def _segments(self, Q: Array) -> Array:
        """End points [M, C, 2, 3] of all capsules in base."""
        frames = self.bodies(Q)[:, self._frames]
        turned = np.einsum("mcij,cej->mcei", frames[..., :3, :3], self._ends)
        return np.asarray(turned + frames[:, :, None, :3, 3])

    def _distances(self, ends: Array) -> tuple[Array, list[str]]:
        """Distances [M, K] of everything that is compared, and what each column compares."""
        i, j = self._pairs[:, 0], self._pairs[:, 1]
        columns = [segment_distance(ends[:, i], ends[:, j]) - self._radii[i] - self._radii[j]]
        names = [f"{self._parts[a]} and {self._parts[b]}" for a, b in self._pairs]
        if self.surroundings.table_z_m is not None:
            low = ends[:, self._on_table][..., 2].min(axis=-1) - self._radii[self._on_table]
            columns.append(low - self.surroundings.table_z_m)
            names += [f"{self._parts[k]} and table" for k in self._on_table]
        for centre, radius in self.surroundings.spheres:
            part = ends[:, self._by_camera]
            columns.append(_point_distance(np.asarray(centre), part) - self._radii[self._by_camera] - radius)
            names += [f"{self._parts[k]} and camera" for k in self._by_camera]
        return np.concatenate(columns, axis=1), names


def path_problem(
    q_start: Sequence[float] | Array,
    q_goal: Sequence[float] | Array,
    clearance: ArmClearance,
    safety: SafetyConfig,
    *,
    margin_m: float = 0.02,
) -> str:
    """Why a straight joint path must not be driven, in words; empty when it may.

    The goal must lie within joint limits and the workspace box; on the way the TCP stays in the box (from outside it
    may only come inwards) and everything keeps ``margin_m``, or does not come nearer than it is at the start.
    """
    goal = np.asarray(q_goal, dtype=np.float64)
    if goal.shape != (6,) or not np.isfinite(goal).all():
        return f"a joint goal needs 6 finite angles, got {np.asarray(q_goal).tolist()}"
    for name, value, limit in zip(JOINT_NAMES, goal, JOINT_POSITION_LIMITS_RAD, strict=True):
        if abs(value) > limit - JOINT_MARGIN_RAD:
            return f"{name} would turn to {value:.2f} rad, its limit is {limit - JOINT_MARGIN_RAD:.2f} rad"
    low, high = np.array(safety.workspace_min_m), np.array(safety.workspace_max_m)
    Q = clearance.path(q_start, goal)
    tool = clearance.bodies(Q)[:, 7] @ clearance.kinematics.T_tool0_tcp
    positions = tool[:, :3, 3]
    bottom, top = np.minimum(low, positions[0]), np.maximum(high, positions[0])
    outside = np.nonzero((positions < bottom - 1e-6) | (positions > top + 1e-6))
    if len(outside[0]):
        at = ", ".join(f"{value:.3f}" for value in positions[outside[0][0]])
        axis = "xyz"[int(outside[1][0])]
        return f"the TCP would leave the workspace box in {axis}, at ({at}) m; choose a goal inside, or a way around"
    if np.any(positions[-1] < low) or np.any(positions[-1] > high):
        at = ", ".join(f"{value:.3f}" for value in positions[-1])
        return f"the goal puts the TCP at ({at}) m in base, outside the workspace box"
    if clearance.along(q_start, goal, COARSE_STEP_M).distance_m >= margin_m:
        return ""
    nearest = clearance.along(q_start, goal)
    if nearest.distance_m < min(margin_m, clearance.at(q_start).distance_m - 0.005):
        return (
            f"{nearest.between} would come within {1e3 * max(nearest.distance_m, 0.0):.0f} mm of each other "
            f"(at least {1e3 * margin_m:.0f} mm are kept)"
        )
    return ""


def segment_distance(first: Array, second: Array) -> Array:
    """Distances [...] of segments given by end points [..., 2, 3], broadcast against each other."""
    p, u = first[..., 0, :], first[..., 1, :] - first[..., 0, :]
    r, v = second[..., 0, :], second[..., 1, :] - second[..., 0, :]
    w = p - r
    a, b, c = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    d, e = (u * w).sum(-1), (v * w).sum(-1)
    parallel = a * c - b * b
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.where(parallel > 1e-12, (b * e - c * d) / parallel, 0.0)
        s = np.clip(s, 0.0, 1.0)
        t = np.where(c > 1e-15, (b * s + e) / c, 0.0)
        t = np.clip(t, 0.0, 1.0)
        s = np.where(a > 1e-15, np.clip((b * t - d) / a, 0.0, 1.0), 0.0)
    gap = w + s[..., None] * u - t[..., None] * v
    return np.asarray(np.linalg.norm(gap, axis=-1))


def _point_distance(point: Array, segments: Array) -> Array:
    """Distances [...] of one point [3] from segments [..., 2, 3]."""
    start, along = segments[..., 0, :], segments[..., 1, :] - segments[..., 0, :]
    square = (along * along).sum(-1)
    t = np.clip(((point - start) * along).sum(-1) / np.maximum(square, 1e-15), 0.0, 1.0)
    return np.asarray(np.linalg.norm(start + t[..., None] * along - point, axis=-1))
