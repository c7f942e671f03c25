"""Where the camera is: the arm moves a board before a fixed camera, or a camera on the tool over a board on the table.

  prophrl calibrate hand-eye --cell ur30e --camera-pose "-1.27 0 0.6 1.32 -1.32 1.12"
  prophrl calibrate hand-eye --cell twin --camera-seed 7        a twin whose camera stands at a secret place
  prophrl calibrate hand-eye --resume                           go on after an interruption
  prophrl calibrate hand-eye --manual                           a person moves the arm, services take the samples
  prophrl calibrate hand-eye --solve runs/calibration           only solve what was sampled, no robot needed

Starts launch/calibrate.launch.yaml; NAME:=VALUE sets what that file takes besides. Exit code 1 when refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prophrl_nodes.cli.output import print_json


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("assignments", nargs="*", metavar="NAME:=VALUE", help="further launch arguments")
    parser.add_argument("--cell", default="twin", help="cell, by name or path (default: twin)")
    parser.add_argument("--host", default="", help="address that replaces {host} in the cell file")
    parser.add_argument("--domain", default="", help="ROS domain")
    parser.add_argument(
        "--mode", choices=("eye_to_hand", "eye_in_hand"), default="eye_to_hand", help="where the camera is"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/calibration"), help="folder (default: runs/calibration)"
    )
    parser.add_argument("--poses", type=int, default=15, metavar="N", help="views at most (default: 15)")
    parser.add_argument("--target-sigma", type=float, default=0.4, metavar="MM", help="good enough (default: 0.4 mm)")
    parser.add_argument(
        "--camera-pose", default="", metavar="POSE", help="rough guess 'x y z rx ry rz' (m, rotation vector)"
    )
    parser.add_argument(
        "--board-pose", default="", metavar="POSE", help="rough guess of the board's centre on its mount"
    )
    parser.add_argument("--camera-seed", type=int, default=-1, metavar="N", help="twin: secret place of the camera")
    parser.add_argument("--resume", action="store_true", help="go on with the samples in the output folder")
    parser.add_argument("--manual", action="store_true", help="a person moves the arm")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that would be run, start nothing")
    parser.add_argument("--solve", type=Path, metavar="FOLDER", help="solve the samples of an earlier run again")
    parser.add_argument(
        "--refine-intrinsics", action="store_true", help="with --solve: adjust focal length and centre too"
    )
    parser.add_argument("--json", action="store_true", help="with --solve: print JSON")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl calibrate hand-eye``."""
    if options.solve is not None:
        return _solve(options)
    from prophrl_nodes.cli import launch

    board = "board_pose" if options.mode == "eye_to_hand" else "table_board_pose"
    values = {
        "cell": options.cell,
        "host": options.host,
        "domain": options.domain,
        "mode": options.mode,
        "output": str(options.output),
        "poses": str(options.poses),
        "target_sigma_mm": str(options.target_sigma),
        "camera_pose": options.camera_pose,
        board: options.board_pose,
        "camera_seed": str(options.camera_seed) if options.camera_seed >= 0 else "",
        "resume": "true" if options.resume else "",
        "drive": "manual" if options.manual else "",
    }
    assignments = [f"{name}:={value}" for name, value in values.items() if value]
    return launch.run(
        argparse.Namespace(
            file="calibrate",
            assignments=assignments + options.assignments,
            show_args=False,
            dry_run=options.dry_run,
            own_runner=False,
        )
    )


def _solve(options: argparse.Namespace) -> int:
    from calibration.hand_eye import DegenerateSamples, HandEyeSettings, solve
    from prophrl_nodes.calibrating.outcome import gate_lines, save_outcome
    from prophrl_nodes.calibrating.run import Outcome
    from prophrl_nodes.calibrating.samples import load_samples

    session, views = load_samples(options.solve)
    setup = session.setup
    settings = HandEyeSettings(refine_intrinsics=options.refine_intrinsics)
    try:
        result = solve(
            [view.sample() for view in views], setup.board.corners_board_N3, setup.camera, setup.mode, settings
        )
    except DegenerateSamples as error:
        outcome = Outcome(None, str(error), len(views))
        print(outcome.verdict)
        return 1
    outcome = Outcome(result, "solved again", len(views))
    saved = save_outcome(options.solve, session, outcome)
    if options.json:
        print_json({"verdict": outcome.verdict, "accepted": outcome.accepted, "file": saved.file,
                    "calibration_id": saved.calibration_id, "sigma_mm": result.sigma_mm, "sigma_deg": result.sigma_deg,
                    "gates": gate_lines(result.gates)})  # fmt: skip
    else:
        print(outcome.verdict)
        for line in gate_lines(result.gates):
            print(f"  {line}")
        for index, reason in result.removed:
            print(f"  view {index + 1} was left out: {reason}")
        if saved.file:
            print(f"{saved.file} (id {saved.calibration_id}); copy it to camera.calibration_file of the cell to use it")
    return 0 if outcome.accepted else 1
