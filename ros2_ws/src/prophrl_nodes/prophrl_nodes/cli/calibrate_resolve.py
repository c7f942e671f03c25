"""Solve somebody's easy_handeye2 samples again, and judge the calibration they gave.

  prophrl calibrate resolve --samples lab.samples --mode eye_on_base
  prophrl calibrate resolve lab                          both files from ~/.ros2/easy_handeye2
  prophrl calibrate resolve --check lab.calib --samples lab.samples
  prophrl calibrate resolve lab --output-calib better.calib
  prophrl calibrate resolve lab --output camera.yaml --intrinsics old_camera.yaml --cell ur30e

Errors are of the board's pose in views that took no part in the solution. Exit code 1 when a gate fails.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prophrl_nodes.cli.output import print_json, table

if TYPE_CHECKING:
    from calibration.easy_handeye import CalibFile, HandeyeParameters
    from calibration.hand_eye_types import Array, Gate, HandEyeResult, Mode
    from calibration.resolve import MethodRow

TYPES = ("eye_on_base", "eye_in_hand")


class ResolveError(ValueError):
    """Arguments that do not fit together; the message says what to add."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", nargs="?", help="name of a calibration below ~/.ros2/easy_handeye2")
    parser.add_argument("--samples", type=Path, metavar="FILE", help=".samples file (default: that of NAME)")
    parser.add_argument(
        "--check", type=Path, metavar="FILE", help=".calib file to judge (default: that of NAME, if any)"
    )
    parser.add_argument("--mode", choices=TYPES, help="where the camera is, when no file says so")
    parser.add_argument("--output-calib", type=Path, metavar="FILE", help="write the new result as a .calib file")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the new result as a calibration of our own")
    parser.add_argument(
        "--intrinsics", type=Path, metavar="FILE", help="calibration file with this camera's intrinsics"
    )
    parser.add_argument("--cell", metavar="CELL", help="its tcp_offset places the TCP when the effector is tool0")
    parser.add_argument("--base-frame", choices=("base", "base_link"), help="what the robot's base frame is")
    parser.add_argument("--camera-frame", metavar="FRAME", help="name of the camera's frame, if the files are wrong")
    parser.add_argument("--force", action="store_true", help="write files even though a gate failed")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl calibrate resolve``."""
    from calibration.easy_handeye import poses, read_calib, read_samples
    from calibration.hand_eye import solve_poses
    from calibration.hand_eye_types import HandEyeSettings
    from calibration.resolve import check, compare_methods

    samples_file, calib_file = _files(options)
    content = read_samples(samples_file)
    calib = read_calib(calib_file) if calib_file else None
    parameters = _parameters(options, calib.parameters if calib else content.parameters, samples_file)
    mode = parameters.mode
    assert mode is not None  # by _parameters
    T_base_tool, T_camera_board = poses(content.samples, mode)
    settings = HandEyeSettings()
    result = solve_poses(T_base_tool, T_camera_board, mode, settings=settings)
    rows = compare_methods(T_base_tool, T_camera_board, mode)
    verdict = check(calib.transform.matrix, result, T_base_tool, T_camera_board, settings.gates) if calib else ()
    if options.json:
        print_json(_document(result, rows, verdict, parameters))
    else:
        print(f"{samples_file}: {len(content.samples)} samples, {parameters.calibration_type}\n")
        print(_methods_table(result, rows, calib))
        print(f"\nOur joint solution\n{_gates_table(result.gates)}")
        if calib:
            print(f"\n{calib_file}\n{_gates_table(verdict)}")
    passed = result.accepted or options.force
    if passed:
        _write(options, result, parameters)
    elif options.output or options.output_calib:
        print("\nnothing was written: gates failed; take better samples, or write all the same with --force")
    return 0 if result.accepted and all(gate.passed for gate in verdict) else 1


def _files(options: argparse.Namespace) -> tuple[Path, Path | None]:
    from calibration.easy_handeye import calib_path, samples_path

    samples, calib = options.samples, options.check
    if options.name:
        samples = samples or samples_path(options.name)
        if calib is None and calib_path(options.name).is_file():
            calib = calib_path(options.name)
    if samples is None:
        raise ResolveError("which samples? give the name of a calibration of easy_handeye2, or --samples FILE")
    return samples, calib


def _parameters(options: argparse.Namespace, said: HandeyeParameters, file: Path) -> HandeyeParameters:
    """What the files and the arguments say together; the arguments win."""
    changes = {"calibration_type": options.mode, "robot_base_frame": options.base_frame}
    changes |= {"tracking_base_frame": options.camera_frame}
    parameters = replace(said, **{name: value for name, value in changes.items() if value})
    if parameters.mode is None:
        raise ResolveError(
            f"{file} does not say where the camera is (easy_handeye2 leaves that out of its samples); add --mode "
            f"{' or --mode '.join(TYPES)}, or --check with the .calib file that belongs to it"
        )
    return parameters


def _write(options: argparse.Namespace, result: HandEyeResult, parameters: HandeyeParameters) -> None:
    from calibration.easy_handeye import CalibFile, HandeyeTransform, write_calib
    from calibration.resolve import to_calibration, to_house_frames
    from calibration.storage import load, save

    if options.output_calib:
        named = replace(parameters, name=options.output_calib.stem)
        write_calib(options.output_calib, CalibFile(named, HandeyeTransform.from_matrix(result.X)))
        print(f"wrote {options.output_calib}")
    if options.output:
        if options.intrinsics is None:
            raise ResolveError("samples hold no intrinsics; add --intrinsics with a calibration file of this camera")
        known = load(options.intrinsics)
        house = to_house_frames(result, parameters, _effector_tcp(options, parameters, result.mode))
        calibration = to_calibration(
            house, known.camera, known.camera_serial, "prophrl calibrate resolve, joint on poses"
        )
        print(f"wrote {options.output}, id {save(options.output, calibration)}")


def _effector_tcp(options: argparse.Namespace, parameters: HandeyeParameters, mode: Mode) -> Array | None:
    """The TCP in the frame the samples call the effector; None when that is the TCP."""
    from calibration.poses import from_ur
    from robot_bridge.cell_files import open_cell

    effector = parameters.robot_effector_frame
    if effector.endswith("tcp"):
        return None
    if effector.endswith("tool0") and options.cell:
        return from_ur(open_cell(options.cell).robot.tcp_offset)
    action = "add --cell, whose tcp_offset says where the TCP is in tool0" if effector.endswith("tool0") else ""
    raise ResolveError(
        f"the effector is {effector!r}, our calibrations are given at the TCP; "
        f"{action or 'take the samples with the effector tool0 or tcp'} (--output-calib works without)"
    )


# ---- what is printed


def _methods_table(result: HandEyeResult, rows: list[MethodRow], calib: CalibFile | None) -> str:
    from calibration.tangent import local

    def line(name: str, X: Array | None, millimetres: float, degrees: float, problem: str = "") -> tuple[str, ...]:
        if X is None:
            return (name, "", "", "", "", "", problem)
        off = local(result.X, X)
        away = (1e3 * math.hypot(*off[:3]), math.degrees(math.hypot(*off[3:])))
        position = " ".join(f"{1e3 * value:.1f}" for value in X[:3, 3])
        held_out = ("", "") if math.isnan(millimetres) else (f"{millimetres:.2f}", f"{degrees:.3f}")
        figures = (f"{away[0]:.2f}", f"{away[1]:.3f}", *held_out)
        return (name, position, *figures, problem)

    lines: list[tuple[str, ...]] = [("method", "position mm", "from joint mm", "deg", "held out mm", "deg", "")]
    lines += [line(row.method, row.X, row.held_out.millimetres, row.held_out.degrees, row.problem) for row in rows]
    sigma = f"+- {result.sigma_mm:.2f} mm, {result.sigma_deg:.3f} deg"
    lines.append(line("joint", result.X, result.held_out.millimetres_rms, result.held_out.degrees_rms, sigma))
    if calib:
        lines.append(line(".calib file", calib.transform.matrix, math.nan, math.nan, "as checked below"))
    return table(lines, right=(1, 2, 3, 4, 5))


def _gates_table(gates: tuple[Gate, ...]) -> str:
    rows = [(("ok" if g.passed else "FAILED"), g.name, f"{g.value:.3g}", f"{g.limit:.3g}", g.reason) for g in gates]
    return table([("", "gate", "value", "limit", ""), *rows], right=(2, 3))


def _document(
    result: HandEyeResult, rows: list[MethodRow], verdict: tuple[Gate, ...], parameters: HandeyeParameters
) -> dict[str, Any]:
    return {
        "accepted": result.accepted and all(gate.passed for gate in verdict),
        "parameters": vars(parameters),
        "X": result.X.tolist(),
        "Y": result.Y.tolist(),
        "sigma_mm": result.sigma_mm,
        "sigma_deg": result.sigma_deg,
        "held_out": {"millimetres": result.held_out.millimetres_rms, "degrees": result.held_out.degrees_rms},
        "gates": [vars(gate) for gate in result.gates],
        "check": [vars(gate) for gate in verdict],
        "closed_forms": [
            {
                "method": row.method,
                "X": None if row.X is None else row.X.tolist(),
                "held_out": vars(row.held_out),
                "problem": row.problem,
            }
            for row in rows
        ],
    }
