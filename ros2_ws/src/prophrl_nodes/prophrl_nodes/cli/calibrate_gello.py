"""Calibrate a GELLO leader arm: servo zeros, directions and trigger range, checked against the robot.

  prophrl calibrate gello --cell ur30e              asks for each step: jig, six joints, jig again, trigger, check
  prophrl calibrate gello --second-pose 30,-60,60,-60,-45,30     directions also from a second jig pose
  prophrl calibrate gello --verify-only             compare the stored calibration with the robot's present pose
  prophrl calibrate gello --yes --json              no keys: gives --pause seconds a step, prints JSON

The robot is only read, never moved. Stop the gello node first: the serial port belongs to one program at a time.
Nothing is stored when the check fails; the file of before is kept under its date. Exit code 0 passed, 1 refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prophrl_nodes.cli.output import print_json, table

if TYPE_CHECKING:
    from prophrl_nodes.studies.leader_calibration import Measured
    from robot_bridge.cell import CellConfig
    from robot_bridge.leader_offsets import LeaderOffsets
    from robot_bridge.leader_verification import Verification


class GelloUsageError(ValueError):
    """Arguments that cannot be used; the message names the valid ones."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--cell", default="twin", help="cell, by name or path (default: twin)")
    parser.add_argument("--host", default="127.0.0.1", help="address that replaces {host} in the cell file")
    parser.add_argument("--jig", metavar="DEG", help="six joint angles of the jig (default: the cell's home pose)")
    parser.add_argument("--second-pose", metavar="DEG", help="a second jig pose: gives the directions as well")
    parser.add_argument(
        "--signs", default="", metavar="S", help="known directions, six of 1 or -1; default: every joint is turned once"
    )
    parser.add_argument("--no-wiggles", action="store_true", help="directions from --second-pose alone")
    parser.add_argument("--placements", type=int, default=2, help="times the leader is seated in the jig (default: 2)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement (default: 2)")
    parser.add_argument("--output", metavar="FILE", help="offsets file (default: leader.offsets_file of the cell)")
    parser.add_argument("--limit", type=float, default=1.0, metavar="DEG", help="largest difference that passes (1)")
    checks = parser.add_mutually_exclusive_group()
    checks.add_argument("--verify-only", action="store_true", help="measure nothing, check what is stored")
    checks.add_argument("--no-verify", action="store_true", help="do not compare with the robot (it is not there)")
    parser.add_argument("--yes", action="store_true", help="wait for no key; each step begins after --pause seconds")
    parser.add_argument("--pause", type=float, default=None, help="seconds for each step with --yes (3; on the twin 0)")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output, the rest on standard error")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl calibrate gello``."""
    from calibration.poses import from_ur
    from prophrl_nodes.studies.leader_calibration import Follower, LeaderCalibrator
    from prophrl_nodes.studies.leader_hands import Person, TwinHand
    from robot_bridge.cell_files import open_cell
    from robot_bridge.dynamixel_port import servo_set_name
    from robot_bridge.gello import Gello
    from robot_bridge.leader_jig import jig_picture
    from robot_bridge.leader_offsets import NOMINAL, load_offsets, save_offsets
    from robot_bridge.ur_kinematics import Kinematics

    cell = open_cell(options.cell, options.host)
    plan = _plan(options, cell)
    say = _printer(options)
    output = options.output or cell.leader.offsets_file
    name = servo_set_name(cell.leader.port)
    kinematics = Kinematics(tool=from_ur(cell.robot.tcp_offset))
    stored = load_offsets(output, name) if options.verify_only and output else NOMINAL
    follower = None if options.no_verify else Follower(cell.robot)  # missed now, not after the person's work
    gello = Gello(cell.leader, offsets=stored)
    try:
        report = gello.connect()
        pause_s = options.pause if options.pause is not None else 3.0 if cell.twin is None else 0.0
        person = Person(kinematics, say, None if options.yes else _key, pause_s)
        _introduce(say, report.changes, name, output, options)
        for index, pose in enumerate(plan.poses if not options.verify_only else ()):
            say(f"\nThe jig pose{f' {index + 1}' if len(plan.poses) > 1 else ''}:\n\n{jig_picture(kinematics, pose)}\n")
        work = LeaderCalibrator(gello, person if cell.twin is None else TwinHand(cell, person), say)
        measured = None if options.verify_only else work.measure(plan)
        offsets = stored if measured is None else measured.offsets
        check = None
        if follower is not None:
            check = work.check(offsets, follower, kinematics, jig_q_6=plan.poses[0], limit_deg=options.limit)
    finally:
        gello.close()
        if follower is not None:
            follower.close()

    saved = kept = None
    if measured is not None and output and (check is None or check.passed):
        kept = save_offsets(output, name, offsets, measured={**measured.record(), "check": _plain_check(check)})
        saved = output
    if options.json:
        print_json(_document(name, offsets, measured, check, saved, kept))
    else:
        _print_result(offsets, measured, check, saved, kept, bool(output))
    return 0 if check is None or check.passed else 1


def _plan(options: argparse.Namespace, cell: CellConfig) -> Any:
    from prophrl_nodes.studies.leader_calibration import Plan

    poses = [_angles(options.jig, "--jig") if options.jig else tuple(cell.robot.home_rad)]
    if options.second_pose:
        poses.append(_angles(options.second_pose, "--second-pose"))
    signs = None
    if options.signs:
        words = options.signs.replace("+", "").split(",")
        if len(words) != 6 or any(word.strip() not in ("1", "-1") for word in words):
            raise GelloUsageError(f"--signs takes six of 1 or -1, as in --signs=1,1,-1,1,1,1, got {options.signs!r}")
        signs = tuple(int(word) for word in words)
    if options.no_wiggles and signs is None and len(poses) < 2:
        raise GelloUsageError("--no-wiggles needs --second-pose or --signs: something must tell the directions")
    if options.placements < 1 or not 0.3 <= options.seconds <= 60.0:
        raise GelloUsageError(
            f"--placements must be at least 1 and --seconds 0.3 to 60, got {options.placements}, {options.seconds}"
        )
    return Plan(tuple(poses), signs, not options.no_wiggles, options.placements, options.seconds)


def _angles(text: str, option: str) -> tuple[float, ...]:
    import math

    try:
        angles = tuple(math.radians(float(word)) for word in text.split(","))
    except ValueError:
        angles = ()
    if len(angles) != 6 or not all(math.isfinite(angle) for angle in angles):
        raise GelloUsageError(f"{option} takes six angles in degrees, as in {option}=0,-90,90,-90,-90,0, got {text!r}")
    return angles


def _printer(options: argparse.Namespace) -> Callable[[str], None]:
    stream = sys.stderr if options.json else sys.stdout

    def say(line: str) -> None:
        print(line, file=stream, flush=True)

    return say


def _key(request: str) -> None:
    print(f"{request}, then press Enter ", end="", file=sys.stderr, flush=True)
    if not sys.stdin.readline():
        raise GelloUsageError("nobody presses Enter here (no terminal); use --yes")


def _introduce(
    say: Callable[[str], None], changes: tuple[str, ...], name: str, output: str, options: argparse.Namespace
) -> None:
    for change in changes:
        say(change)
    say(f"leader {name}: seven servos answer, torque is off")
    if not output and not options.verify_only:
        say("the result will be shown but not stored: leader.offsets_file of the cell is empty, or give --output FILE")


def _plain_check(check: Verification | None) -> dict[str, Any] | None:
    if check is None:
        return None
    return {
        "passed": check.passed,
        "difference_deg": [round(float(value), 3) for value in check.difference_deg_6],
        "tcp_mm": round(check.tcp_mm, 2),
        "tcp_deg": round(check.tcp_deg, 3),
        "limit_deg": check.limit_deg,
        "directions_not_seen": list(check.blind),
        "reasons": list(check.reasons),
    }


def _document(
    name: str, offsets: LeaderOffsets, measured: Measured | None, check: Verification | None, saved: Any, kept: Any
) -> dict[str, Any]:
    return {
        "servo_set": name,
        "zero_raw": [joint.zero_raw for joint in offsets.joints],
        "signs": [joint.sign for joint in offsets.joints],
        "trigger": {"open_raw": offsets.trigger.open_raw, "closed_raw": offsets.trigger.closed_raw},
        "measured": measured.record() if measured else None,
        "remarks": list(measured.remarks) if measured else [],
        "check": _plain_check(check),
        "saved": str(saved) if saved else None,
        "kept": str(kept) if kept else None,
    }


def _print_result(
    offsets: LeaderOffsets, measured: Measured | None, check: Verification | None, saved: Any, kept: Any, stores: bool
) -> None:
    from robot_bridge.leader_calibration import SERVO_NAMES

    heading = ["joint", "zero (counts)", "direction"]
    rows = [[n, f"{j.zero_raw:.1f}", f"{j.sign:+d}"] for n, j in zip(SERVO_NAMES, offsets.joints, strict=False)]
    if measured is not None:
        heading += ["noise (deg)", "sigma (deg)", "repeats (deg)"]
        figures = zip(measured.noise_deg_6, measured.sigma_deg_6, measured.spread_deg_6, strict=True)
        for row, (noise, sigma, spread) in zip(rows, figures, strict=True):
            row += [f"{noise:.3f}", f"{sigma:.3f}", f"{spread:.2f}" if measured.plan.placements > 1 else "-"]
    if check is not None:
        heading.append("leader - robot (deg)")
        for row, difference in zip(rows, check.difference_deg_6, strict=True):
            row.append(f"{difference:+.2f}")
    print("\n" + table([heading, *rows], right=range(1, len(heading))))
    print(f"trigger: released {offsets.trigger.open_raw:.0f}, pulled {offsets.trigger.closed_raw:.0f} counts")
    for remark in measured.remarks if measured else ():
        print(f"note: {remark}")
    if check is not None:
        print(f"at the TCP the leader is {check.tcp_mm:.1f} mm and {check.tcp_deg:.2f} degrees away from the robot")
        for reason in check.reasons:
            print(f"FAIL  {reason}")
        if check.passed and check.blind:
            print(
                f"note: the robot stands as in the jig at {', '.join(check.blind)}: this check cannot see their "
                "directions. Move it to another pose and run --verify-only"
            )
        print(f"check {'passed' if check.passed else 'failed'} (limit {check.limit_deg:.1f} degrees a joint)")
    if saved:
        print(f"stored in {saved}" + (f"; the file of before is {kept}" if kept else ""))
    elif measured is not None and stores:
        print("nothing was stored; what was there before is in force")
