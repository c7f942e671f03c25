"""Write the calibration board as a file that prints to scale.

  prophrl calibrate board --output board.pdf
  prophrl calibrate board --output board.png --columns 12 --rows 9 --square-mm 15 --marker-mm 11

Print at 100 % ("actual size"), measure the line of 100 mm and a row of squares afterwards, and tell the calibration
what you measured: a board that is 1 % off puts the camera 1 % off. Glue it on glass, aluminium or a stiff composite:
a sheet that bends by a millimetre costs more than any other mistake.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prophrl_nodes.cli.board_arguments import add_board_arguments, board_of


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="ends in .pdf or .png")
    parser.add_argument("--paper", default="", help="a4, a3, a2 or letter; default: the smallest that holds the board")
    add_board_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl calibrate board``."""
    from calibration.board_print import write_board

    board = board_of(options)
    width, height = write_board(options.output, board, paper=options.paper)
    print(f"{options.output}: {board.name}, page {width:.0f} x {height:.0f} mm; print at 100 % and measure it")
    return 0
