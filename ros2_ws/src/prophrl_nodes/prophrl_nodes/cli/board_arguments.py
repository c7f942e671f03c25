"""The arguments that describe a printed board, shared by the sub-commands of ``prophrl calibrate``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calibration.board import Board


def add_board_arguments(parser: argparse.ArgumentParser) -> None:
    """Kind, squares and sizes; the defaults are the project's board."""
    group = parser.add_argument_group("the board")
    group.add_argument("--kind", choices=("charuco", "chessboard"), default="charuco", help="(default: charuco)")
    group.add_argument("--columns", type=int, default=9, help="squares along the long side (default: 9)")
    group.add_argument("--rows", type=int, default=6, help="squares along the short side (default: 6)")
    group.add_argument("--square-mm", type=float, default=30.0, help="side of a square, as measured (default: 30)")
    group.add_argument("--marker-mm", type=float, default=22.0, help="side of a marker, as measured (default: 22)")
    group.add_argument("--dictionary", default="DICT_5X5_100", help="marker dictionary (default: DICT_5X5_100)")
    group.add_argument("--legacy", action="store_true", help="printed by OpenCV before 4.6")


def board_of(options: argparse.Namespace) -> Board:
    """The board that was described."""
    from calibration.board import Board

    marker_m = 1e-3 * options.marker_mm if options.kind == "charuco" else 0.0
    return Board(
        options.kind,
        options.columns,
        options.rows,
        1e-3 * options.square_mm,
        marker_m,
        options.dictionary,
        options.legacy,
    )
