"""The views of one calibration on disk, written as they are taken, so that an interrupted run loses nothing.

<folder>/session.json            what is calibrated: mode, board, camera model, guesses
<folder>/samples/samples.jsonl   one line per view; a later line {"removed": index} takes one back
<folder>/samples/0001.png        the image of each view, so that corners can be found again
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.board import Board, BoardView
from calibration.camera import PinholeCamera
from calibration.hand_eye import MODES, HandEyeSample, Mode
from prophrl_models.data.lines import LineError, append_line, read_lines
from robot_bridge.view_poses import ViewSetup

Array = NDArray[np.float64]
FORMAT = "prophrl-calibration-samples/1"


class SampleError(ValueError):
    """A folder of samples that cannot be used; the message names it and the next action."""


@dataclass(frozen=True)
class View:
    """One view of the board: where the arm stood (q [6], ``T_base_tool`` [4, 4]) and where the corners were seen."""

    q: Array
    T_base_tool: Array
    view: BoardView
    stamp_ns: int
    frames: int
    """Images the corners are averaged over."""

    def sample(self) -> HandEyeSample:
        """As the solver takes it."""
        return HandEyeSample(self.T_base_tool, self.view.ids_N, self.view.corners_px_N2, self.stamp_ns)


@dataclass(frozen=True)
class Session:
    """What a folder of samples belongs to; ``setup`` holds the guesses the run began with."""

    setup: ViewSetup
    camera_serial: str
    robot: str


class SampleFolder:
    """Samples of one session; ``views`` is what counts now."""

    def __init__(self, folder: str | Path, session: Session, *, resume: bool = False) -> None:
        """Open a folder for writing.

        Raises:
            SampleError: it holds samples already and ``resume`` is false, or they belong to another set-up.
        """
        self.folder = Path(folder)
        self._lines = self.folder / "samples" / "samples.jsonl"
        self._views: dict[int, View] = {}
        self._next = 1
        if self._lines.is_file():
            if not resume:
                raise SampleError(
                    f"{self._lines} holds samples of an earlier run; choose another output folder, or go on with them "
                    "(resume:=true)"
                )
            earlier, self._views, self._next = _load(self.folder)
            _check_same(self.folder, earlier, session)
        self._lines.parent.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "session.json", _session_to_json(session))

    @property
    def views(self) -> list[View]:
        """Views in the order taken."""
        return list(self._views.values())

    def append(self, view: View, image: NDArray[np.uint8]) -> int:
        """Keep one view and its image [H, W, 3] RGB; safely on disk when this returns. Its number."""
        index = self._next
        name = f"{index:04d}.png"
        written, png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if not written:
            raise SampleError(f"OpenCV could not encode the image of sample {index}")
        (self._lines.parent / name).write_bytes(png.tobytes())
        append_line(
            self._lines,
            {
                "index": index,
                "stamp_ns": view.stamp_ns,
                "q": [float(angle) for angle in view.q],
                "T_base_tool": view.T_base_tool.tolist(),
                "ids": [int(i) for i in view.view.ids_N],
                "corners_px": [[float(x), float(y)] for x, y in view.view.corners_px_N2],
                "width": view.view.width,
                "height": view.view.height,
                "frames": view.frames,
                "image": name,
            },
        )
        self._views[index] = view
        self._next += 1
        return index

    def remove(self, place: int = -1) -> int:
        """Take a view back, by its place in ``views`` (the newest by default); its number. The image stays.

        Raises:
            SampleError: there is none.
        """
        if not self._views:
            raise SampleError("there is no sample to remove")
        index = sorted(self._views)[place]
        append_line(self._lines, {"removed": index})
        del self._views[index]
        return index


def load_samples(folder: str | Path) -> tuple[Session, list[View]]:
    """Session and views of a folder.

    Raises:
        SampleError: no such folder.
        LineError: a sample is damaged (half a line at the end, of a run that was killed, is no damage).
    """
    session, views, _ = _load(Path(folder))
    return session, list(views.values())


def write_result(folder: str | Path, result: dict[str, Any]) -> Path:
    """Put the outcome of a run beside its samples as ``result.json``."""
    path = Path(folder) / "result.json"
    _write(path, result)
    return path


def _load(folder: Path) -> tuple[Session, dict[int, View], int]:
    session_path, lines_path = folder / "session.json", folder / "samples" / "samples.jsonl"
    if not session_path.is_file():
        raise SampleError(f"no calibration samples in {folder}: session.json is missing; pass the output of a run")
    try:
        session = _session_from_json(json.loads(session_path.read_text()))
    except (KeyError, TypeError, ValueError) as error:
        raise SampleError(f"{session_path}: {type(error).__name__}: {error}; start in a new folder") from error
    views: dict[int, View] = {}
    count = 0
    for number, raw in read_lines(lines_path):
        try:
            if "removed" in raw:
                views.pop(int(raw["removed"]), None)
                continue
            index, view = int(raw["index"]), _view(raw)
        except (KeyError, TypeError, ValueError) as error:
            raise LineError(lines_path, number, error) from error
        views[index] = view
        count = max(count, index)
    return session, views, count + 1


def _view(raw: dict[str, Any]) -> View:
    view = BoardView(
        np.array(raw["ids"], dtype=np.int32),
        np.array(raw["corners_px"], dtype=np.float64).reshape(-1, 2),
        int(raw["width"]),
        int(raw["height"]),
    )
    T = np.array(raw["T_base_tool"], dtype=np.float64)
    if T.shape != (4, 4) or len(view.ids_N) != len(view.corners_px_N2):
        raise ValueError("pose or corners are incomplete")
    return View(np.array(raw["q"], dtype=np.float64), T, view, int(raw["stamp_ns"]), int(raw["frames"]))


def _session_to_json(session: Session) -> dict[str, Any]:
    setup = session.setup
    camera = setup.camera
    return {
        "format": FORMAT,
        "mode": setup.mode,
        "board": setup.board.to_dict(),
        "camera": {
            "fx": camera.fx, "fy": camera.fy, "cx": camera.cx, "cy": camera.cy,
            "width": camera.width, "height": camera.height,
            "distortion": None if camera.distortion is None else [float(k) for k in np.ravel(camera.distortion)],
        },
        "X_guess": setup.X.tolist(),
        "Y_guess": setup.Y.tolist(),
        "camera_serial": session.camera_serial,
        "robot": session.robot,
    }  # fmt: skip


def _session_from_json(raw: dict[str, Any]) -> Session:
    if raw.get("format") != FORMAT:
        raise ValueError(f"format {raw.get('format')!r} is not {FORMAT!r}")
    mode: Mode = raw["mode"]
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}")
    camera = dict(raw["camera"])
    distortion = camera.pop("distortion")
    model = PinholeCamera(**camera)
    if distortion is not None:
        model = replace(model, distortion=np.array(distortion, dtype=np.float64))
    X, Y = np.array(raw["X_guess"], dtype=np.float64), np.array(raw["Y_guess"], dtype=np.float64)
    setup = ViewSetup(mode, model, Board.from_dict(raw["board"]), X, Y)
    return Session(setup, str(raw["camera_serial"]), str(raw["robot"]))


def _check_same(folder: Path, earlier: Session, now: Session) -> None:
    before, after = earlier.setup, now.setup
    size = (before.camera.width, before.camera.height)
    differences: Sequence[tuple[str, object, object]] = (
        ("mode", before.mode, after.mode),
        ("board", before.board.name, after.board.name),
        ("image size", size, (after.camera.width, after.camera.height)),
        ("camera", earlier.camera_serial, now.camera_serial),
        ("robot", earlier.robot, now.robot),
    )
    for name, was, now_is in differences:
        if was != now_is:
            raise SampleError(
                f"the samples in {folder} were taken with {name} {was}, now it is {now_is}; use another output folder"
            )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)
