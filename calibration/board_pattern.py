"""The printed calibration board: its geometry and its picture.

Board frame: origin at the outer top-left corner of the printed squares, x right, y down seen from the printed side,
z away from the viewer into the board (OpenCV's). Inner corners are counted row by row from the top left.

A plain chessboard looks the same after half a turn unless columns + rows is odd; other chessboards are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Image = NDArray[np.uint8]


@lru_cache(maxsize=32)
def dictionary(name: str) -> Any:
    """OpenCV's dictionary of a name such as ``DICT_5X5_100``; ValueError for an unknown one."""
    number = getattr(cv2.aruco, name, None) if name.startswith("DICT_") else None
    if number is None:
        choices = ", ".join(n for n in dir(cv2.aruco) if n.startswith("DICT_"))
        raise ValueError(f"unknown dictionary {name!r}; choose one of {choices}")
    return cv2.aruco.getPredefinedDictionary(number)


@dataclass(frozen=True)
class Board:
    """A flat calibration board of columns x rows squares; sizes in metres.

    Raises:
        ValueError: a kind, dictionary or size that no board can have.
    """

    kind: Literal["charuco", "chessboard"]
    columns: int
    rows: int
    square_m: float
    marker_m: float = 0.0
    dictionary: str = "DICT_5X5_100"
    legacy_pattern: bool = False
    """Squares start as OpenCV before 4.6 printed them (matters for an even number of rows)."""

    def __post_init__(self) -> None:
        if self.kind not in ("charuco", "chessboard"):
            raise ValueError(f"board kind must be 'charuco' or 'chessboard', got {self.kind!r}")
        if min(self.columns, self.rows) < 3 or self.square_m <= 0.0:
            raise ValueError(
                f"a board needs at least 3 x 3 squares of positive size, got {self.columns} x {self.rows} of "
                f"{self.square_m} m; count squares, not inner corners"
            )
        if self.kind == "chessboard":
            if (self.columns + self.rows) % 2 == 0:
                raise ValueError(
                    f"a {self.columns} x {self.rows} chessboard looks the same after half a turn; use one with an odd "
                    "and an even side (9 x 6), or a ChArUco board"
                )
            return
        if not 0.0 < self.marker_m < self.square_m:
            raise ValueError(f"marker_m must lie between 0 and square_m = {self.square_m}, got {self.marker_m}")
        available = dictionary(self.dictionary).bytesList.shape[0]
        if self.columns * self.rows // 2 > available:
            raise ValueError(
                f"{self.dictionary} has {available} markers, a {self.columns} x {self.rows} board needs "
                f"{self.columns * self.rows // 2}; choose a larger dictionary"
            )

    @property
    def name(self) -> str:
        """Short description, e.g. ``charuco 9x6 30 mm (markers 22 mm, DICT_5X5_100)``."""
        text = f"{self.kind} {self.columns}x{self.rows} {1e3 * self.square_m:g} mm"
        return text if self.kind == "chessboard" else f"{text} (markers {1e3 * self.marker_m:g} mm, {self.dictionary})"

    @property
    def corner_count(self) -> int:
        """Number of inner corners; ids run from 0 to one less."""
        return (self.columns - 1) * (self.rows - 1)

    @property
    def size_m(self) -> tuple[float, float]:
        """Width and height of the printed squares."""
        return self.columns * self.square_m, self.rows * self.square_m

    @property
    def corners_board_N3(self) -> Array:
        """Inner corners [N, 3] in the board frame, metres, z = 0, by id."""
        y, x = np.mgrid[1 : self.rows, 1 : self.columns]
        return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1) * self.square_m

    def image(self, pixels_per_square: int, margin_squares: float = 0.0) -> Image:
        """The board as printed [H, W] uint8, with a white margin.

        Board point (x, y) lies at pixel ``((x / square_m + margin_squares) * pixels_per_square - 0.5, ...)``.

        Raises:
            ValueError: so few pixels that a marker's modules would not be drawn alike.
        """
        margin = round(margin_squares * pixels_per_square)
        width, height = self.columns * pixels_per_square, self.rows * pixels_per_square
        if self.kind == "charuco":
            modules = dictionary(self.dictionary).markerSize + 2
            if pixels_per_square * self.marker_m / self.square_m < 2 * modules:
                raise ValueError(
                    f"{pixels_per_square} pixels a square leave under 2 pixels a marker module; use at least "
                    f"{int(2 * modules * self.square_m / self.marker_m) + 1}"
                )
            picture = np.asarray(charuco_of(self).generateImage((width, height), marginSize=0, borderBits=1))
        else:
            row, column = np.mgrid[0:height, 0:width] // pixels_per_square
            picture = np.where((row + column) % 2 == 0, 0, 255)
        return np.pad(picture.astype(np.uint8), margin, constant_values=255)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML or JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Board:
        """The board of ``to_dict``.

        Raises:
            ValueError: an unknown or missing key, or values no board can have.
        """
        try:
            return cls(**dict(raw))
        except TypeError as error:
            raise ValueError(f"not a board description: {error}; expected {', '.join(cls.__annotations__)}") from error


DEFAULT_BOARD = Board("charuco", 9, 6, 0.030, 0.022)


@lru_cache(maxsize=8)
def charuco_of(board: Board) -> Any:
    """OpenCV's object of a ChArUco board."""
    made = cv2.aruco.CharucoBoard(
        (board.columns, board.rows), board.square_m, board.marker_m, dictionary(board.dictionary)
    )
    made.setLegacyPattern(board.legacy_pattern)
    return made
