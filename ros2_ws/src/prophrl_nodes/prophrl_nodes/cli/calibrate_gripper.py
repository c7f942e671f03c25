"""Calibrate the gripper's scale: the counts at which it is fully open and fully closed.

  prophrl calibrate gripper --cell ur30e            closes and opens the empty gripper slowly, twice, then checks
  prophrl calibrate gripper --output gripper.yaml   where to write it (default: gripper.calibration_file of the cell)
  prophrl calibrate gripper --verify-only           only the check of what is in force

The gripper moves, the arm does not. The arm must be powered on; nothing else may command the gripper meanwhile.
Nothing is stored when the check fails; the file of before is kept under its date. Exit code 0 passed, 1 refused.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone

from prophrl_nodes.cli.output import print_json, table


class GripperUsageError(ValueError):
    """Arguments that cannot be used."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--cell", default="twin", help="cell, by name or path (default: twin)")
    parser.add_argument("--host", default="127.0.0.1", help="address that replaces {host} in the cell file")
    parser.add_argument(
        "--output", metavar="FILE", help="file to write (default: gripper.calibration_file of the cell)"
    )
    parser.add_argument("--cycles", type=int, default=2, help="strokes to measure (default: 2)")
    parser.add_argument("--speed", type=int, default=40, help="speed register 0 to 255 while measuring (default: 40)")
    parser.add_argument("--force", type=int, default=20, help="force register 0 to 255 while measuring (default: 20)")
    parser.add_argument("--allow-contact", action="store_true", help="fingertips touch before the stroke ends")
    parser.add_argument("--verify-only", action="store_true", help="check the counts that are in force")
    parser.add_argument("--yes", action="store_true", help="begin at once, without asking")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output, the rest on standard error")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl calibrate gripper``."""
    from robot_bridge.cell_files import open_cell
    from robot_bridge.gripper_calibration import check_scale, measure_ends
    from robot_bridge.gripper_scale import GripperScale, calibrated, save_scale

    for name, value, low in (
        ("--cycles", options.cycles, 1),
        ("--speed", options.speed, 0),
        ("--force", options.force, 0),
    ):
        if not low <= value <= 255:
            raise GripperUsageError(f"{name} must be {low} to 255, got {value}")
    config = open_cell(options.cell, options.host).gripper
    output = options.output or config.calibration_file
    stream = sys.stderr if options.json else sys.stdout

    def say(line: str) -> None:
        print(line, file=stream, flush=True)

    if not options.yes:
        print("The gripper will close and open: take everything out of it, hands too, then press Enter ",
              end="", file=sys.stderr, flush=True)  # fmt: skip
        if not sys.stdin.readline():
            raise GripperUsageError("nobody presses Enter here (no terminal); use --yes")
    opened: list[int] = []
    closed: list[int] = []
    if options.verify_only:
        in_force = calibrated(config)
        scale = GripperScale(in_force.open_count, in_force.closed_count)
    else:
        say(f"measuring the ends at {config.host}:{config.port}, slowly")
        scale, opened, closed = measure_ends(
            config, cycles=options.cycles, speed=options.speed, force=options.force,
            allow_contact=options.allow_contact, say=say,
        )  # fmt: skip
    say("checking the scale")
    check = check_scale(config, scale)
    saved = kept = None
    checked = {
        "passed": check.passed,
        "asked": [round(value, 3) for value in check.asked],
        "read": [round(value, 3) for value in check.read],
        "ends": list(check.ends),
        "largest_error": round(check.largest_error, 4),
        "monotonic": check.monotonic,
        "reasons": list(check.reasons),
    }
    if check.passed and output and not options.verify_only:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        measured = {"at": now, "open_counts": opened, "closed_counts": closed, "check": checked}
        kept, saved = save_scale(output, scale, measured=measured), output
    if options.json:
        print_json(
            {
                "open_count": scale.open_count,
                "closed_count": scale.closed_count,
                "open_counts": opened,
                "closed_counts": closed,
                "check": checked,
                "saved": saved,
                "kept": kept,
            }
        )
        return 0 if check.passed else 1
    rows = [[f"{a:.2f}", f"{r:.3f}"] for a, r in zip(check.asked, check.read, strict=True)]
    print("\n" + table([["asked", "read"], *rows], right=(0, 1)))
    print(f"fully open at count {scale.open_count}, fully closed at {scale.closed_count}")
    for reason in check.reasons:
        print(f"FAIL  {reason}")
    print(
        f"check {'passed' if check.passed else 'failed'}: largest error {100 * check.largest_error:.1f} % of the stroke"
    )
    if saved:
        print(f"stored in {saved}" + (f"; the file of before is {kept}" if kept else ""))
    elif not options.verify_only and check.passed:
        print("not stored: give --output FILE and set gripper.calibration_file to it, or write into the cell file:\n"
              f"  gripper: {{open_count: {scale.open_count}, closed_count: {scale.closed_count}}}")  # fmt: skip
    return 0 if check.passed else 1
