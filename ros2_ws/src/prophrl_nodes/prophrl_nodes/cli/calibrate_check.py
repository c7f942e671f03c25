"""Has the camera moved since a recording that is known to be good? Found out from the recordings alone.

  prophrl calibrate check REFERENCE_BAG BAG ...             from the arm and the scenery in the pictures
  prophrl calibrate check REFERENCE_BAG bags/ --marker      from a board that stands fixed in view
  prophrl calibrate check --save reference.npz REFERENCE_BAG
  prophrl calibrate check reference.npz BAG ...

The camera is the calibration copied into the reference bag (--calibration names another file). Exit code 1 when a bag
shows a moved camera, 3 when nothing moved but a bag could not be judged.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prophrl_nodes.cli.board_arguments import add_board_arguments, board_of
from prophrl_nodes.cli.output import print_json, progress, table

if TYPE_CHECKING:
    from prophrl_nodes.studies.drift import DriftFinding


class CheckUsageError(ValueError):
    """Arguments that do not fit together."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("reference", type=Path, help="bag recorded right after calibration, or a saved reference")
    parser.add_argument("bags", nargs="*", type=Path, metavar="BAG", help="bags, or folders of bags, to check")
    parser.add_argument("--marker", action="store_true", help="judge by a board that stands fixed in view")
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="calibration file (default: the bag's own copy)"
    )
    parser.add_argument("--cell", default="twin", help="its tcp_offset belongs to the arm in view (default: twin)")
    parser.add_argument("--frames", type=int, default=20, metavar="N", help="pictures used of each bag (default: 20)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the reference (.npz), not with --marker")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_board_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl calibrate check``."""
    from prophrl_models.data.bag import find_bags
    from prophrl_nodes.studies.drift import MarkerCheck, RobotCheck
    from robot_bridge.cell_files import open_cell

    if not options.bags and options.save is None:
        raise CheckUsageError("nothing to check: name bags after the reference, or --save FILE to keep the reference")
    if options.marker and options.save is not None:
        raise CheckUsageError("--save keeps the reference of the check without marker; leave --marker out")
    if options.marker:
        check: MarkerCheck | RobotCheck = MarkerCheck(
            options.reference, board_of(options), calibration=options.calibration, frames=options.frames
        )
    else:
        cell = open_cell(options.cell)
        check = RobotCheck(options.reference, cell.robot, calibration=options.calibration, frames=options.frames)
        if options.save is not None:
            check.save(options.save)
            print(f"{options.save} written")
    findings = [check.judge(bag) for bag in progress(find_bags(options.bags), "bag")] if options.bags else []
    if options.json:
        print_json([_as_json(finding) for finding in findings])
    elif findings:
        _print(findings)
    if any(finding.verdict == "moved" for finding in findings):
        return 1
    return 3 if any(finding.verdict == "unknown" for finding in findings) else 0


def _print(findings: list[DriftFinding]) -> None:
    rows = [["bag", "verdict", "px", "mm", "sigma px", "sigma mm"]]
    for finding in findings:
        figures = (finding.pixels, finding.millimetres, finding.sigma_px, finding.sigma_mm)
        rows.append([finding.bag.name, finding.verdict, *(f"{value:.2f}" for value in figures)])
    print(table(rows, right=(2, 3, 4, 5)))
    for finding in findings:
        if finding.verdict != "still":
            print(f"{finding.bag.name}: {finding.reason}")


def _as_json(finding: DriftFinding) -> dict[str, Any]:
    return {
        "bag": finding.bag,
        "verdict": finding.verdict,
        "pixels": finding.pixels,
        "millimetres": finding.millimetres,
        "sigma_px": finding.sigma_px,
        "sigma_mm": finding.sigma_mm,
        "reason": finding.reason,
    }
