"""Watches for a camera that was moved: compares the pictures of every recorded episode with those of a good one.

While the recorder records (``recorder/status``) it keeps twenty frames with their joint angles; at the end of the
episode it says on ``drift/verdict`` (latched, recorded) and on /diagnostics whether the camera still stands where it
was calibrated, in pixels and millimetres, and writes ``drift.json`` beside the bag. The first accepted episode of a new
calibration is the reference, kept in the folder ``drift`` beside the calibration file. Between episodes it listens to
nothing but the recorder; recording never waits for it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from prophrl_interfaces.msg import RecorderStatus

from calibration.board import Board
from calibration.storage import CameraCalibration
from prophrl_nodes import qos
from prophrl_nodes.camera_file import CameraFile
from prophrl_nodes.drift_watch.check import DriftChecker, MarkerFileError, NoReference, camera_for, load_board
from prophrl_nodes.drift_watch.filing import wait_filed, write_verdict
from prophrl_nodes.drift_watch.frames import EpisodeFrames
from prophrl_nodes.drift_watch.listener import EpisodeListener
from prophrl_nodes.drift_watch.references import (
    FOLDER,
    DriftReference,
    DriftReferenceError,
    load_reference,
    reference_path,
    save_reference,
)
from prophrl_nodes.drift_watch.verdict import DriftVerdict
from prophrl_nodes.messages import header
from prophrl_nodes.ros import CELL_PARAMETERS, Health, Level, ParameterSpec, ProphNode, Refused, Value, run
from robot_bridge.cell_files import open_cell

FILING_S = 20.0
"""How long after its end an episode may wait for somebody's verdict and still become the reference."""
FAREWELL_S = 10.0
"""Longest wait for a check when the node is stopped."""

PARAMETERS = (
    *CELL_PARAMETERS,
    ParameterSpec("output", "bags", "folder under which the recorder keeps episodes"),
    ParameterSpec("frames", 20, "frames kept of an episode", 12, 100),
    ParameterSpec(
        "first_check_s", 6.0, "age of an episode at which it is checked a first time; 0: at its end only", 0.0
    ),
    ParameterSpec("references", "", "folder of the references; empty: 'drift' beside the calibration file"),
    ParameterSpec("marker_file", "", "YAML file that describes a board standing in the camera's view; empty: none"),
)


@dataclass
class _Episode:
    """The episode being watched."""

    episode_id: str
    listener: EpisodeListener
    calibration: CameraCalibration | None
    started_s: float
    checked: bool = False


class DriftNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("drift", PARAMETERS, **node_arguments)
        self._episode: _Episode | None = None
        self._verdict: DriftVerdict | None = None
        self._one_at_a_time = threading.Lock()
        self._idle = threading.Condition()
        self._pending = 0
        self._trouble = ""

    def setup(self) -> None:
        """Read the cell and the marker, connect the topics that are always needed."""
        cell = open_cell(self.value("cell"), self.value("host"))
        self._camera_file = CameraFile(cell)
        self._checker = DriftChecker(cell, _board(self.value("marker_file")))
        self._output = Path(self.value("output")).expanduser()
        given = self.value("references")
        self._references = Path(given).expanduser() if given else self._camera_file.path.parent / FOLDER
        self._verdicts = self.publisher(DiagnosticArray, "drift/verdict", qos.STATE)
        self.subscribe(RecorderStatus, "recorder/status", self._on_recorder, qos.STATE)

    def halt(self) -> None:
        """Finish what is begun: a session ends with its last episode, and that one wants its verdict too."""
        if self._episode is not None:
            self._end(self._episode)
        with self._idle:
            if not self._idle.wait_for(lambda: self._pending == 0, FAREWELL_S):
                self.get_logger().warning("stopped before the last episode was checked; see prophrl calibrate check")

    def health(self) -> Health:
        """WARN while the last verdict is that the camera moved, or while nothing can be said."""
        verdict = self._verdict
        values: dict[str, Value] = dict(verdict.figures()) if verdict is not None else {}
        values["watching"] = self._episode.episode_id if self._episode is not None else ""
        if self._trouble:
            return Health(Level.WARN, self._trouble, values)
        if self._on_tool():
            return Health(Level.OK, "nothing to check: the camera rides on the tool", values)
        if verdict is None:
            return Health(Level.OK, "no episode checked yet", values)
        return Health(_level(verdict), _sentence(verdict), values)

    def _on_tool(self) -> bool:
        calibration = self._camera_file.calibration
        return calibration is not None and calibration.mode == "eye_in_hand"

    # ---- an episode

    def _on_recorder(self, status: RecorderStatus) -> None:
        recorded = status.episode_id if status.state == RecorderStatus.RECORDING else ""
        episode = self._episode
        if episode is not None and recorded != episode.episode_id:
            self._end(episode)
            episode = None
        if recorded and episode is None:
            self._begin(recorded)
        elif episode is not None and not episode.checked:
            self._check_early(episode)

    def _begin(self, episode_id: str) -> None:
        self._camera_file.reload_if_changed()
        if self._on_tool():
            return
        listener = EpisodeListener(self, self.value("frames"))
        self._episode = _Episode(episode_id, listener, self._camera_file.calibration, time.monotonic())

    def _end(self, episode: _Episode) -> None:
        self._episode = None
        episode.listener.close()
        self._compute(episode, episode.listener.frames(), provisional=False)

    def _check_early(self, episode: _Episode) -> None:
        """Give a verdict while the bag is still open, so that it holds the one about itself."""
        due_s = self.value("first_check_s")
        if due_s <= 0.0 or time.monotonic() - episode.started_s < due_s:
            return
        episode.checked = True
        self._compute(episode, episode.listener.frames(), provisional=True)

    # ---- verdicts: computed in threads, one after the other, while nodes and recorder go on

    def _compute(self, episode: _Episode, frames: EpisodeFrames | None, *, provisional: bool) -> None:
        def work() -> None:
            try:
                with self._one_at_a_time:
                    if provisional and self._episode is not episode:
                        return  # over before its turn came
                    verdict, wanted = self._judge(episode, frames)
                if provisional:
                    if not wanted:  # without a reference the end of the episode decides
                        self._say(replace(verdict, provisional=True))
                    return
                if not wanted:
                    self._say(verdict)
                verdict, self._trouble = self._file(episode, frames, verdict, wanted)
                if wanted:
                    self._say(verdict)
            except Exception as error:
                self.fail(error)  # the node ends and is started again; recording goes on meanwhile
            finally:
                with self._idle:
                    self._pending -= 1
                    self._idle.notify_all()

        with self._idle:
            self._pending += 1
        threading.Thread(target=work, name="drift-check", daemon=True).start()

    def _judge(self, episode: _Episode, frames: EpisodeFrames | None) -> tuple[DriftVerdict, bool]:
        """The verdict, and whether this episode would be welcome as the reference."""
        unknown = DriftVerdict("unknown", "", episode.episode_id, frames=0 if frames is None else len(frames))
        if frames is None and episode.listener.problem:
            return replace(unknown, reason=episode.listener.problem), False
        if episode.calibration is None:
            return replace(unknown, reason=f"no calibration to check: {self._camera_file.problem}"), False
        unknown = replace(unknown, calibration_id=episode.calibration.id)
        try:
            reference = load_reference(self._reference_path(episode.calibration, frames))
        except (DriftReferenceError, NoReference) as error:
            return replace(unknown, reason=str(error)), False
        if reference is None:
            wait = f"calibration {episode.calibration.id} has no reference yet; the first accepted episode becomes it"
            return replace(unknown, reason=wait), True
        return self._checker.check(frames, reference, episode.episode_id), False

    def _file(
        self, episode: _Episode, frames: EpisodeFrames | None, verdict: DriftVerdict, wanted: bool
    ) -> tuple[DriftVerdict, str]:
        """Write ``drift.json``; keep the episode as the reference where one is wanted. Verdict and trouble."""
        accepted = wait_filed(self._output, episode.episode_id, FILING_S, lambda: not self.active)
        if wanted:
            if accepted:
                with self._one_at_a_time:
                    verdict = self._take_reference(episode, frames, verdict)
            else:
                verdict = replace(verdict, reason=f"{verdict.reason} (this one was not accepted)")
        try:
            written = write_verdict(self._output, verdict)
        except OSError as error:
            return verdict, f"cannot write the verdict of {episode.episode_id}: {error}"
        if written is None:
            return (
                verdict,
                f"episode {episode.episode_id} is not in {self._output}; give this node the recorder's output",
            )
        return verdict, ""

    def _take_reference(self, episode: _Episode, frames: EpisodeFrames | None, verdict: DriftVerdict) -> DriftVerdict:
        assert episode.calibration is not None  # else none would be wanted
        path = self._reference_path(episode.calibration, frames)
        try:
            if load_reference(path) is not None:
                return replace(verdict, reason="the episode before became the reference meanwhile")
            reference: DriftReference = self._checker.reference(frames, episode.calibration, episode.episode_id)
            save_reference(path, reference)
        except (DriftReferenceError, NoReference, OSError) as error:
            return replace(verdict, reason=f"this episode cannot be the reference: {error}")
        marker = "" if reference.marker is None else f", with the marker ({reference.marker.board.name})"
        said = f"this episode is the reference of calibration {episode.calibration.id}{marker}: later ones are compared"
        return replace(verdict, verdict="reference", reason=said, reference_episode=episode.episode_id)

    def _reference_path(self, calibration: CameraCalibration, frames: EpisodeFrames | None) -> Path:
        camera = camera_for(calibration, frames)
        return reference_path(self._references, calibration.id, camera.width, camera.height)

    def _say(self, verdict: DriftVerdict) -> None:
        if not self.active:
            return
        self._verdict = verdict
        status = DiagnosticStatus(
            level=bytes([_level(verdict)]),
            name=f"{self.get_fully_qualified_name().lstrip('/')}: camera",
            message=_sentence(verdict),
            hardware_id=verdict.calibration_id,
            values=[KeyValue(key=key, value=value) for key, value in verdict.figures().items()],
        )
        self._verdicts.publish(DiagnosticArray(header=header(time.time_ns()), status=[status]))
        # Two calls: rclpy ties a line of code to the severity it first logged with.
        if verdict.moved:
            self.get_logger().warning(f"episode {verdict.episode_id}: {_sentence(verdict)}")
        else:
            self.get_logger().info(f"episode {verdict.episode_id}: {_sentence(verdict)}")


def _level(verdict: DriftVerdict) -> Level:
    return Level.WARN if verdict.verdict in ("moved", "unknown") else Level.OK


def _sentence(verdict: DriftVerdict) -> str:
    words = {
        "moved": "the camera was moved",
        "still": "the camera stands where it was calibrated",
        "unknown": "nobody knows whether the camera moved",
        "reference": "reference taken",
    }
    return f"{words[verdict.verdict]}: {verdict.reason}"


def _board(file: str) -> Board | None:
    try:
        return load_board(Path(file)) if file else None
    except MarkerFileError as error:
        raise Refused(f"marker_file: {error}") from error


def main() -> None:
    """Entry point of the executable ``drift``."""
    # Recording and thinking must not feel it: it gets the time that no other process wants. Niceness is not enough: a
    # nice process keeps a core busy, and the others queue for the next one.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    cv2.setNumThreads(1)
    sys.exit(run(DriftNode))


if __name__ == "__main__":
    main()
