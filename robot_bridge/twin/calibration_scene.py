"""The calibration scenes of the twin: a bare table and a ChArUco board, held by the tool or lying on the table.

The board's frame is OpenCV's (origin at the outer top-left corner of the squares, z into the board). Its squares are a
texture on one flat face: every square has the same whole number of texels, the margins half as many, so that texel
edges are square edges and a corner lies where the geometry says, at every level of detail.

The board is never exactly where it should be: the cell's seed decides by how much its mount is off.
"""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.board import DEFAULT_BOARD, Board
from calibration.poses import to_quaternion, transform
from robot_bridge.twin.gripper_model import TCP_Z_M
from robot_bridge.twin.mjcf import add
from robot_bridge.twin.scene_objects import SHOW
from robot_bridge.twin.tasks import CALIBRATION, CALIBRATION_TABLE

Array = NDArray[np.float64]

BOARD_PNG = "board.png"
MARGIN_SQUARES = 0.5
THICKNESS_M = 0.003
TEXELS_PER_SQUARE = 128
"""A power of two: the texture halves without a remainder down to half a square a texel."""
TOOL_BOARD_CENTER_M = (0.0, -0.100, -0.060)
TOOL_BOARD_TILT_RAD = math.radians(25.0)
"""On the tool: before the gripper's flat side (tool -y), looking that way and, with the TCP down, a little upwards."""
TABLE_BOARD_CENTER_M = (-0.62, 0.0, 0.010)
TOOL_OFFSET_M, TOOL_OFFSET_RAD = 0.005, math.radians(3.0)
TABLE_OFFSET_M, TABLE_YAW_RAD, TABLE_TILT_RAD = 0.020, math.radians(15.0), math.radians(0.5)
_STREAM = 0xB0A4D


def _centered(center_m: tuple[float, float, float], axes: Array, board: Board) -> Array:
    """Pose of the board's frame when its middle is at a point and its x, y, z axes are the columns of ``axes``."""
    width, height = board.size_m
    return transform(center_m, Rotation.from_matrix(axes)) @ transform((-width / 2, -height / 2, 0.0))


def nominal_T_tool_board(board: Board = DEFAULT_BOARD) -> Array:
    """Where the board is meant to be on the tool [4, 4]."""
    s, c = math.sin(TOOL_BOARD_TILT_RAD), math.cos(TOOL_BOARD_TILT_RAD)
    return _centered(TOOL_BOARD_CENTER_M, np.array([[-1.0, 0.0, 0.0], [0.0, -s, c], [0.0, c, s]]), board)


def nominal_T_base_board(board: Board = DEFAULT_BOARD) -> Array:
    """Where the board is meant to lie on the table [4, 4]: upright for the fixed camera."""
    return _centered(TABLE_BOARD_CENTER_M, np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]]), board)


def secret_T_tool_board(seed: int, board: Board = DEFAULT_BOARD) -> Array:
    """Where the board on the tool of this cell really is [4, 4]."""
    draw = np.random.default_rng([seed, _STREAM]).uniform(-1.0, 1.0, 6)
    turn = Rotation.from_rotvec(draw[3:] * TOOL_OFFSET_RAD)
    return nominal_T_tool_board(board) @ transform(draw[:3] * TOOL_OFFSET_M, turn)


def secret_T_base_board(seed: int, board: Board = DEFAULT_BOARD) -> Array:
    """Where the board on the table of this cell really lies [4, 4]."""
    draw = np.random.default_rng([seed, _STREAM, 1]).uniform(-1.0, 1.0, 5)
    width, height = board.size_m
    middle = transform((width / 2, height / 2, 0.0))
    turn = Rotation.from_euler("XYZ", [*draw[2:4] * TABLE_TILT_RAD, draw[4] * TABLE_YAW_RAD])
    shift = transform((*draw[:2] * TABLE_OFFSET_M, 0.0), turn)
    T: Array = nominal_T_base_board(board) @ middle @ shift @ np.linalg.inv(middle)
    return T


def board_png(board: Board = DEFAULT_BOARD) -> bytes:
    """The printed face with its margin as PNG bytes."""
    ok, encoded = cv2.imencode(".png", cv2.cvtColor(board.image(TEXELS_PER_SQUARE, MARGIN_SQUARES), cv2.COLOR_GRAY2BGR))
    if not ok:
        raise RuntimeError("OpenCV could not encode the board's texture as PNG; check the OpenCV installation")
    return encoded.tobytes()


def add_board(
    scene_id: str, seed: int, asset: Element, worldbody: Element, tool0: Element, board: Board = DEFAULT_BOARD
) -> None:
    """Append body ``board`` of a calibration scene; it refers to the asset ``board.png``. Nothing collides with it.

    Raises:
        ValueError: the scene has no board.
    """
    if scene_id == CALIBRATION:
        parent, T = tool0, transform((0.0, 0.0, TCP_Z_M)) @ secret_T_tool_board(seed, board)
    elif scene_id == CALIBRATION_TABLE:
        parent, T = worldbody, secret_T_base_board(seed, board)
    else:
        raise ValueError(f"scene {scene_id!r} has no board; those with one are {CALIBRATION}, {CALIBRATION_TABLE}")
    add(asset, "texture", name="board", type="2d", file=BOARD_PNG)
    add(asset, "material", name="board", texture="board", specular=0.0, shininess=0.0)
    vertices, texture, faces = _slab(board)
    face_text = " ".join(str(int(index)) for index in faces.ravel())
    add(asset, "mesh", name="board", vertex=vertices.ravel(), texcoord=texture.ravel(), face=face_text)
    position, (x, y, z, w) = to_quaternion(T)
    body = add(parent, "body", name="board", pos=position, quat=(w, x, y, z))
    add(body, "geom", name="board", type="mesh", mesh="board", material="board", **SHOW)


def _slab(board: Board) -> tuple[Array, Array, NDArray[np.int64]]:
    """Vertices [V, 3], texture coordinates [V, 2] and faces [F, 3] of a thin box whose face at z = 0 is printed."""
    margin = MARGIN_SQUARES * board.square_m
    width, height = board.size_m
    x = np.array([-margin, width + margin, width + margin, -margin])
    y = np.array([-margin, -margin, height + margin, height + margin])
    front = np.stack([x, y, np.zeros(4)], axis=1)
    back = np.stack([x, y, np.full(4, THICKNESS_M)], axis=1)
    # The face and the rest share no vertex: their normals and their texture differ.
    vertices = np.concatenate([front, front, back])
    white = np.full((8, 2), 0.01)
    texture = np.concatenate([[(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)], white])
    faces = [(0, 3, 2), (0, 2, 1), (8, 9, 10), (8, 10, 11)]
    for k in range(4):
        n = (k + 1) % 4
        faces += [(4 + k, 4 + n, 8 + n), (4 + k, 8 + n, 8 + k)]
    return vertices, texture, np.array(faces)
