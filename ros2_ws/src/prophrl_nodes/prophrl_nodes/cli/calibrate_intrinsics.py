"""The camera's lens: focal length, centre and distortion from pictures of the board.

  prophrl calibrate intrinsics images/                      pictures that are there already (PNG, JPEG)
  prophrl calibrate intrinsics --live --cell ur30e          move the board by hand before the cell's camera
  prophrl launch calibrate intrinsics:=runs/intrinsics.yaml     use the result instead of the factory's values

The factory's values of a D455 are good to a pixel; calibrate when the hand-eye gates corner_noise or held_out_px fail,
or for a camera without factory values. Show the board near, tilted, and in every corner of the image. Live: a picture
is kept whenever the board stands still somewhere new. Stop the camera node first. Exit code 1 when refused.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prophrl_nodes.cli.board_arguments import add_board_arguments, board_of
from prophrl_nodes.cli.output import print_json

if TYPE_CHECKING:
    from calibration.board import Board, BoardView
    from calibration.intrinsics import IntrinsicsResult

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
STILL_PX, NEW_PX = 0.5, 40.0
"""A live picture is kept when corners moved less than the first since the last picture and more than the second since
every kept one."""


class PictureError(ValueError):
    """Pictures that cannot be used; the message says why and what to do."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="pictures, or folders of them")
    parser.add_argument("--live", action="store_true", help="take the pictures from the cell's camera")
    parser.add_argument("--cell", default="twin", help="with --live: cell, by name or path (default: twin)")
    parser.add_argument("--host", default="", help="with --live: address that replaces {host} in the cell file")
    parser.add_argument("--camera-profile", default="848x480@5", help="with --live: size and rate (default: 848x480@5)")
    parser.add_argument(
        "--views", type=int, default=16, metavar="N", help="with --live: pictures to keep (default: 16)"
    )
    parser.add_argument("--patience", type=float, default=300.0, metavar="S", help="with --live: give up after (300 s)")
    parser.add_argument("--model", choices=("pinhole", "radial", "brown"), default="radial", help="(default: radial)")
    parser.add_argument("--output", type=Path, default=Path("runs/intrinsics.yaml"), metavar="FILE")
    parser.add_argument("--serial", default="", help="serial number of the camera, kept with the result")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_board_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl calibrate intrinsics``."""
    from calibration.intrinsics import calibrate_intrinsics
    from calibration.intrinsics_file import save_intrinsics

    board = board_of(options)
    serial = options.serial
    if options.live:
        names, views, found_serial = _live(options, board)
        serial = serial or found_serial
    else:
        names, views = _from_files(_files(options.images), board)
    result = calibrate_intrinsics(views, board, model=options.model)
    if result.ok:
        save_intrinsics(options.output, result, serial=serial)
    if options.json:
        print_json(_document(result, names, str(options.output) if result.ok else ""))
    else:
        _print(result, names)
        print(f"{options.output} written" if result.ok else "refused, nothing written")
    return 0 if result.ok else 1


def _files(paths: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        else:
            found.append(path)
    if not found:
        raise PictureError("no pictures: name files or a folder, or take them with --live")
    return found


def _from_files(files: list[Path], board: Board) -> tuple[list[str], list[BoardView]]:
    import cv2
    import numpy as np

    from calibration.board import detect, explain_absence

    names, views = [], []
    problem = ""
    for file in files:
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise PictureError(f"{file} is not a picture that OpenCV can read")
        pixels = np.asarray(image, dtype=np.uint8)
        view = detect(pixels, board)
        if view is None:
            problem = f"{file}: {explain_absence(pixels, board)}"
            print(f"left out {problem}", file=sys.stderr)
            continue
        names.append(file.name)
        views.append(view)
    if not views:
        raise PictureError(f"the board was found in none of {len(files)} pictures; the last: {problem}")
    return names, views


def _live(options: argparse.Namespace, board: Board) -> tuple[list[str], list[BoardView], str]:
    import cv2

    from calibration.board import detect
    from robot_bridge.cell_files import open_cell
    from robot_bridge.d455 import D455, NoFrames

    camera = D455(open_cell(options.cell, options.host, camera_profile=options.camera_profile).camera)
    folder = options.output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    views: list[BoardView] = []
    before: BoardView | None = None
    serial = camera.start().serial
    print(f"show the board: near, tilted, and in every corner of the image; hold it still until it counts ({serial})")
    deadline_s = time.monotonic() + options.patience
    try:
        while len(views) < options.views and time.monotonic() < deadline_s:
            try:
                color = camera.wait(1.0).color
            except NoFrames as silence:
                print(silence)
                continue
            view = detect(color, board)
            if view is not None and before is not None and _is_new(view, before, views):
                names.append(f"{len(views) + 1:03d}.png")
                cv2.imwrite(str(folder / names[-1]), color[..., ::-1])
                views.append(view)
                print(f"{len(views)} of {options.views}: {len(view.ids_N)} corners")
            before = view
    except KeyboardInterrupt:
        print("no more pictures, computing with those there are")
    finally:
        camera.stop()
    return names, views, serial


def _is_new(view: BoardView, before: BoardView, kept: list[BoardView]) -> bool:
    from prophrl_nodes.calibrating.look import disagreement_px

    return disagreement_px(view, before) < STILL_PX and all(disagreement_px(view, other) > NEW_PX for other in kept)


def _print(result: IntrinsicsResult, names: list[str]) -> None:
    camera = result.camera
    print(f"fx {camera.fx:.2f} fy {camera.fy:.2f} cx {camera.cx:.2f} cy {camera.cy:.2f} px, {result.model}")
    errors = ", ".join(f"{name} {value:.2g}" for name, value in result.standard_errors.items())
    print(f"standard errors: {errors}")
    print(f"residual {result.rms_px:.3f} px, on corners not used {result.held_out_rms_px:.3f} px, of each picture:")
    print("  " + "  ".join(f"{n} {r:.2f}" for n, r in zip(names, result.per_view_rms_px, strict=True)))
    print("corners in each part of the image:")
    for row in result.coverage:
        print("  " + " ".join(f"{count:4d}" for count in row))
    for reason in result.refusals:
        print(f"refused: {reason}")
    for warning in result.warnings:
        print(f"note: {warning}")


def _document(result: IntrinsicsResult, names: list[str], file: str) -> dict[str, Any]:
    camera = result.camera
    return {
        "ok": result.ok,
        "file": file,
        "fx": float(camera.fx),
        "fy": float(camera.fy),
        "cx": float(camera.cx),
        "cy": float(camera.cy),
        "distortion": None if camera.distortion is None else [float(k) for k in camera.distortion.ravel()],
        "rms_px": result.rms_px,
        "held_out_rms_px": result.held_out_rms_px,
        "per_view_rms_px": dict(zip(names, map(float, result.per_view_rms_px), strict=True)),
        "coverage": result.coverage.tolist(),
        "standard_errors": result.standard_errors,
        "refusals": list(result.refusals),
        "warnings": list(result.warnings),
    }
