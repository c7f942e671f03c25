"""Calibrate a cell: the camera's place, its lens, the leader arm, the gripper; and check that nothing has moved since.

  prophrl calibrate board --output board.pdf        print it at 100 %, glue it on something flat and stiff
  prophrl calibrate hand-eye --cell ur30e           the arm moves the board before the camera by itself
  prophrl calibrate hand-eye --solve runs/calibration    solve samples that were taken earlier again
  prophrl calibrate intrinsics images/              the lens, from pictures of the board
  prophrl calibrate gello --cell ur30e              the leader arm in its jig
  prophrl calibrate gripper --cell ur30e            the gripper's counts at its two ends
  prophrl calibrate resolve NAME                    judge and re-solve a calibration of easy_handeye2
  prophrl calibrate check runs/collect/bags         has the camera moved between episodes?

The procedure, what good numbers are, and what to do when a gate fails: docs/calibration.md.
"""

from __future__ import annotations

import argparse
import importlib

_VERBS = {
    "hand-eye": ("calibrate_hand_eye", "where the camera is, from views of a board"),
    "intrinsics": ("calibrate_intrinsics", "focal length, centre and distortion, from pictures of a board"),
    "board": ("calibrate_board", "write the board as PDF or PNG, true to scale"),
    "gello": ("calibrate_gello", "the leader arm's zeros, directions and trigger"),
    "gripper": ("calibrate_gripper", "the gripper's counts when closed and open"),
    "resolve": ("calibrate_resolve", "judge and re-solve somebody's easy_handeye2 calibration"),
    "check": ("calibrate_drift", "has the camera moved between recordings?"),
}


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands; what they need beyond argparse is imported when they run."""
    verbs = parser.add_subparsers(dest="calibrate_verb", required=True, metavar="{" + ",".join(_VERBS) + "}")
    for name, (module, summary) in _VERBS.items():
        command = importlib.import_module(f"prophrl_nodes.cli.{module}")
        sub = verbs.add_parser(
            name,
            help=summary,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.register(sub)


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl calibrate``."""
    module = importlib.import_module(f"prophrl_nodes.cli.{_VERBS[options.calibrate_verb][0]}")
    return int(module.run(options))
