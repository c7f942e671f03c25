"""The recorder node: one MCAP bag per episode, started by an action, ended by a service.

``record_episode`` (action): accepted means recording; the goal lasts until the episode is over. ``recorder/finish``
files it: accepted under its task, or discarded (kept, but elsewhere). An episode that ended otherwise (cancelled,
too long, disk nearly full, recorder stopped) keeps everything recorded in ``incomplete/`` and can still be filed
with ``recorder/finish`` until the next one starts. ``recorder/status`` tells rates and gaps all the time.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prophrl_interfaces.action import RecordEpisode
from prophrl_interfaces.msg import RecorderStatus
from prophrl_interfaces.srv import FinishEpisode
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.task import Future

from prophrl_nodes.qos import STATE
from prophrl_nodes.recorder.episode import EpisodeError, EpisodeInfo, EpisodeStore, check_outcome
from prophrl_nodes.recorder.feeds import Arrival, TopicFeed
from prophrl_nodes.recorder.parameters import PARAMETERS
from prophrl_nodes.recorder.recording import Recording
from prophrl_nodes.recorder.status import TopicRates, status_message
from prophrl_nodes.recorder.writer import BagWriteError
from prophrl_nodes.ros import Health, Level, ProphNode, Refused
from robot_bridge.cell_files import open_cell

TICK_S = 0.25
_WATCH_EVERY = 2
_STATUS_EVERY = 2


class RecorderNode(ProphNode):
    """See the module's docstring; parameters are described in ``recorder/parameters.py``."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("recorder", PARAMETERS, **node_arguments)
        self._cell = open_cell(self.value("cell"), self.value("host"))
        self._store = EpisodeStore(Path(self.value("output")).expanduser(), int(self.value("disk_reserve_gb") * 1e9))
        self._feeds: dict[str, TopicFeed] = {}
        self._recording: Recording | None = None
        self._undecided: Recording | None = None
        self._closing: Recording | None = None
        self._goal: _Goal | None = None
        self._busy = False
        self._trouble = ""
        self._ticks = 0
        self._rates = TopicRates()

    # ---- lifecycle

    def setup(self) -> None:
        """Subscribe to what is there and offer the action and the service."""
        depth = self.value("depth")
        for topic in self.value("topics"):
            feed = TopicFeed(self, topic, self._on_message, depth=depth, callback_group=self.callbacks)
            self._feeds[feed.name] = feed
        self._required = [self.resolve_topic_name(t) for t in self.value("required_topics") if t]
        self._status = self.publisher(RecorderStatus, "recorder/status", STATE)
        self._service = self.create_service(
            FinishEpisode, "recorder/finish", self._on_finish, callback_group=self.callbacks
        )
        self._action = ActionServer(
            self,
            RecordEpisode,
            "record_episode",
            self._execute,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
            callback_group=self.callbacks,
        )
        self.timer(TICK_S, self._tick)

    def start(self) -> None:
        """Look for publishers at once instead of at the next tick."""
        self._watch()

    def halt(self) -> None:
        """End a running episode; what was recorded stays in ``incomplete/``."""
        recording, self._recording = self._recording or self._closing, None
        if recording is not None:
            recording.close("the recorder was stopped", self._feeds)  # waits where a thread is already closing it
            self._end(recording)

    def teardown(self) -> None:
        """Drop subscriptions, action and service."""
        for feed in self._feeds.values():
            feed.close()
        if self._feeds:
            self._action.destroy()
            self.destroy_service(self._service)
        self._feeds.clear()

    def health(self) -> Health:
        """ERROR when the disk is nearly full or the last bag broke, WARN while topics of the list are silent."""
        free_gb = self._store.free_bytes() / 1e9
        values: dict[str, str | int | float | bool] = {"output": str(self._store.root), "disk_free_gb": free_gb}
        for name, feed in self._feeds.items():
            values[name] = feed.problem or f"{self._rates.rate_hz(name):.1f} Hz"
        if self._recording is not None:
            values["episode"] = self._recording.folder.episode_id
        if self._trouble:
            return Health(Level.ERROR, self._trouble, values)
        if free_gb * 1e9 < self._store.reserve_bytes:
            message = f"disk nearly full: {free_gb:.1f} GB left; nothing can be recorded until space is made"
            return Health(Level.ERROR, message, values)
        missing = [f"{name} ({why})" for name, why in self._missing().items()]
        if missing:
            return Health(Level.WARN, f"required topics are missing: {', '.join(missing)}", values)
        return Health(Level.OK, "recording" if self._recording else "ready to record", values)

    # ---- messages

    def _on_message(self, feed: TopicFeed, arrival: Arrival) -> None:
        recording = self._recording
        if recording is None:
            return
        try:
            recording.write(feed, arrival)
        except BagWriteError as error:
            self._trouble = str(error)
            self._stop(str(error))

    def _tick(self) -> None:
        self._ticks += 1
        self._store.reserve_bytes = int(self.value("disk_reserve_gb") * 1e9)
        if self._ticks % _WATCH_EVERY == 0:
            self._watch()
        recording = self._recording
        if recording is not None:
            try:
                recording.writer.flush_if_due()
            except BagWriteError as error:
                self._trouble = str(error)
                self._stop(str(error))
            if recording.overdue:
                self._stop("the longest duration asked for has passed")
            if self._store.free_bytes() < self._store.reserve_bytes:
                self._stop("the disk is nearly full")
        if self._ticks % _STATUS_EVERY == 0:
            self._publish_status()

    def _watch(self) -> None:
        for feed in self._feeds.values():
            feed.watch()

    # ---- start of an episode

    async def _on_goal(self, goal: Any) -> GoalResponse:
        try:
            if not self.active:
                raise Refused("the recorder is not active; activate it first")
            if self._busy or self._recording is not None:
                raise Refused("an episode is being recorded; end it with recorder/finish first")
            self._busy = True
            try:
                await self._begin(goal)
            finally:
                self._busy = False
        except (Refused, EpisodeError, OSError) as error:
            self._trouble = f"recording refused: {error}"
            self.get_logger().warning(self._trouble)
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    async def _begin(self, goal: Any) -> None:
        await self._wait_for_publishers()
        info = EpisodeInfo(
            task=goal.task,
            instruction=goal.instruction,
            operator=goal.operator_name,
            episode_id=goal.episode_id,
            cell=self._cell.name,
            placement=_mapping("placement_json", goal.placement_json),
            metadata=_mapping("metadata_json", goal.metadata_json),
            calibration_file=self._calibration_file(),
        )
        recording: Recording = await self.in_thread(
            lambda: Recording(
                self._store,
                info,
                max_duration_s=goal.max_duration_s,
                flush_period_s=self.value("flush_period_s"),
                sync_period_s=self.value("sync_period_s"),
            )
        )
        recording.begin(self._feeds)
        if not self.active:
            recording.close("the recorder was stopped", self._feeds)
            raise Refused("the recorder was stopped")
        self._undecided, self._trouble = None, ""
        self._goal = _Goal(recording, Future(executor=self.executor))
        self._recording = recording
        silent = [f"{f.name} ({f.problem})" for f in self._feeds.values() if f.problem]
        self.get_logger().info(f"recording {recording.folder.path}{'; without ' if silent else ''}{', '.join(silent)}")

    async def _wait_for_publishers(self) -> None:
        """Give required topics a moment to be discovered."""
        deadline = time.monotonic() + self.value("publisher_wait_s")
        while True:
            self._watch()
            missing = [f"{name} ({why})" for name, why in self._missing().items()]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise Refused(f"required topics are missing: {', '.join(missing)}; start their nodes")
            await self.in_thread(lambda: time.sleep(0.1))

    def _missing(self) -> dict[str, str]:
        """Required topics that cannot be recorded now, and why."""
        why = {n: self._feeds[n].problem if n in self._feeds else "it is not in topics" for n in self._required}
        return {name: reason for name, reason in why.items() if reason}

    def _calibration_file(self) -> str:
        camera = self._cell.camera
        if camera.calibration_file:
            return str(Path(camera.calibration_file).expanduser())
        written_by_twin = Path(camera.frames_path, "camera.yaml")
        return str(written_by_twin) if camera.frames_path and written_by_twin.is_file() else ""

    # ---- end of an episode

    def _stop(self, reason: str) -> None:
        """End the running episode without a verdict; closing happens in a thread, the rest goes on."""
        recording, self._recording = self._recording, None
        if recording is None:
            return
        self.get_logger().warning(f"episode {recording.folder.episode_id} ended: {reason}")
        self._busy, self._closing = True, recording

        def closed(future: Future[Any]) -> None:
            self._busy, self._closing = False, None
            self._end(recording)
            future.result()

        self.in_thread(lambda: recording.close(reason, self._feeds)).add_done_callback(closed)

    def _end(self, recording: Recording) -> None:
        self._undecided = recording
        if self._goal is not None and not self._goal.ended.done():
            self._goal.ended.set_result(None)

    async def _on_finish(self, request: Any, response: Any) -> Any:
        try:
            path = await self._file(request)
            response.success, response.bag_path = True, str(path)
            response.message = f"{'kept' if request.accept else 'discarded'}: {path}"
            self.get_logger().info(response.message)
        except (Refused, EpisodeError, OSError) as error:
            response.success, response.message = False, str(error)
            self.get_logger().warning(f"recorder/finish refused: {error}")
        return response

    async def _file(self, request: Any) -> Path:
        if self._busy:
            raise Refused("an episode is just being started or saved; try again in a moment")
        check_outcome(request.outcome or "unknown")  # a misspelt verdict must not end the recording
        recording, self._recording = self._recording, None
        if recording is None and self._undecided is None:
            raise Refused("no episode is being recorded, and the last one is already filed")
        self._busy = True
        try:
            if recording is not None:
                self._closing = recording
                await self.in_thread(lambda: recording.close("finished by the operator", self._feeds))
                self._closing, self._undecided = None, recording
            undecided = self._undecided
            assert undecided is not None
            if undecided.writer.failure:
                raise Refused(f"{undecided.writer.failure} {undecided.folder.path}")
            file = self._store.accept if request.accept else self._store.discard
            path: Path = await self.in_thread(
                lambda: file(undecided.folder, request.outcome or "unknown", request.note)
            )
            self._undecided = None
        finally:
            self._busy = False
            if recording is not None and self._goal is not None and not self._goal.ended.done():
                self._goal.ended.set_result(None)
        return path

    # ---- the action

    async def _execute(self, goal_handle: Any) -> Any:
        """Wait for the end of the episode begun in ``_on_goal`` and report it."""
        goal = self._goal
        assert goal is not None
        goal.handle = goal_handle
        await goal.ended
        goal.handle, recording = None, goal.recording
        if goal_handle.is_cancel_requested:
            goal_handle.canceled()
        elif recording.writer.failure or not self.active:
            goal_handle.abort()
        else:
            goal_handle.succeed()
        record = recording.folder.record
        return RecordEpisode.Result(
            episode_id=recording.folder.episode_id,
            bag_path=str(recording.folder.path),
            outcome=str(record["outcome"]),
            duration_s=float(record["duration_s"] or 0.0),
            messages=recording.writer.messages,
            message=recording.stop_reason,
        )

    def _on_cancel(self, _goal_handle: Any) -> CancelResponse:
        self._stop("cancelled")
        return CancelResponse.ACCEPT

    # ---- status

    def _publish_status(self) -> None:
        self._rates.sample(self._feeds)
        message = status_message(self._feeds, self._rates, self._recording, self._store.free_bytes())
        self._status.publish(message)
        if self._recording is not None and self._goal is not None and self._goal.handle is not None:
            feedback = RecordEpisode.Feedback(
                elapsed_s=message.elapsed_s,
                messages=message.messages,
                bytes=message.bytes,
                disk_free_bytes=message.disk_free_bytes,
            )
            self._goal.handle.publish_feedback(feedback)


@dataclass
class _Goal:
    """The action goal behind a recording: ``ended`` is done when the recording is, ``handle`` is rclpy's."""

    recording: Recording
    ended: Future[None]
    handle: Any = None


def _mapping(name: str, text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise Refused(f"{name} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refused(f"{name} must be a JSON object, got {type(value).__name__}")
    return value
