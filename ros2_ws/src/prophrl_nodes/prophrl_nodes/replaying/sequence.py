"""One replay on a cell: scene, home, first pose, engage, replay, let go, judge. The same on twin and hardware."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prophrl_nodes.cell_calls import CellCalls
from prophrl_nodes.replaying.outcome import Replayed
from prophrl_nodes.replaying.plan import ReplayMode, ReplayPlan, scene_of
from prophrl_nodes.replaying.track import Track, TrackError
from prophrl_nodes.scene_host import SceneHost, Verdict

Array = NDArray[np.float64]

MOVE_TIMEOUT_S = 70.0
SETTLE_S = 3.0
"""After the last target the scene may come to rest this long before it is judged."""
STEADY_S = 0.6
POLL_S = 0.05
LIMIT_SHARE = 3.0
LIMIT_S = 10.0
"""A replay that takes so many times as long as its plan, and this time more, is stuck; a busy machine is slow."""


class Streamer(Protocol):
    """The node's side: sends the targets of a plan and notes what the arm does meanwhile."""

    def gate(self, q_first_6: Array) -> None:
        """Refuse unless the arm stands at the first pose.

        Raises:
            CallError: it does not, or does not say where it stands.
        """

    def begin(self, plan: ReplayPlan, gripper_delay_s: float) -> None:
        """Engage and start sending; from now on samples are noted."""

    def done(self) -> bool:
        """All targets were sent."""

    def lost_reason(self) -> str:
        """Why the arm no longer obeys; empty while it does."""

    def end(self) -> None:
        """Send nothing more and let go of the arm; safe to call twice."""

    def track(self) -> Track:
        """What the arm did since ``begin``.

        Raises:
            TrackError: a device was silent.
        """


class ReplaySequence:
    """Replays plans one after the other; ``on_phase`` hears where it is."""

    def __init__(
        self, cell: CellCalls, scene: SceneHost, streamer: Streamer, on_phase: Callable[[str], None]
    ) -> None:  # fmt: skip
        self._cell, self._scene, self._streamer, self._on_phase = cell, scene, streamer, on_phase

    def run(self, plan: ReplayPlan, gripper_delay_s: float, should_stop: Callable[[], bool]) -> Replayed:
        """Replay one plan; whatever happens, nothing is sent any more when it returns.

        Raises:
            ReplayError: no scene is known for the episode.
            CallError, SceneError, LabError: the cell could not be prepared, or broke.
        """
        wall_started_s = time.monotonic()
        placement = scene_of(plan)
        self._on_phase("homing")
        self._cell.home()
        self._on_phase("placing the objects")
        self._scene.place(placement)
        self._on_phase("moving to the first pose")
        self._cell.arm("gripper", f"{plan.target_opening_N[0]:.4f}")
        self._cell.arm("move_joints", " ".join(f"{angle:.9f}" for angle in plan.q_first_6), timeout_s=MOVE_TIMEOUT_S)
        self._streamer.gate(plan.q_first_6)
        self._on_phase(f"replaying {plan.mode.value}")
        self._scene.start_trial()
        started_s = self._scene.clock_s()
        try:
            self._streamer.begin(plan, gripper_delay_s)
            stop_reason = self._watch(plan, should_stop)
            verdict = None if stop_reason else self._settle(should_stop)
        finally:
            self._streamer.end()
        duration_s = self._scene.clock_s() - started_s
        self._on_phase("judging")
        verdict = verdict or self._scene.try_verdict() or self._judge(stop_reason)
        try:
            track: Track | None = self._streamer.track()
        except TrackError as error:
            track, stop_reason = None, stop_reason or str(error)
        return Replayed(
            track, verdict.success and not stop_reason, verdict.reason, verdict.judge, stop_reason, duration_s,
            time.monotonic() - wall_started_s,
        )  # fmt: skip

    def _watch(self, plan: ReplayPlan, should_stop: Callable[[], bool]) -> str:
        """Wait until all targets were sent; why not, or nothing."""
        deadline_s = time.monotonic() + LIMIT_SHARE * plan.duration_s + LIMIT_S
        while not self._streamer.done():
            if reason := self._cell.stopped_reason() or self._streamer.lost_reason():
                return f"arm stopped: {reason}"
            if should_stop():
                return "cancelled"
            if time.monotonic() > deadline_s:
                mode = "the executor has not finished" if plan.mode is ReplayMode.ACTIONS else "targets were not sent"
                return f"{mode} {LIMIT_SHARE * plan.duration_s + LIMIT_S:.0f} s after the start"
            time.sleep(POLL_S)
        return ""

    def _settle(self, should_stop: Callable[[], bool]) -> Verdict | None:
        """Wait for a success that lasts, at most ``SETTLE_S`` of the scene's time."""
        deadline_s = self._scene.clock_s() + SETTLE_S
        steady_since_s: float | None = None
        verdict = self._scene.try_verdict()
        while self._scene.clock_s() < deadline_s and not should_stop():
            verdict = self._scene.try_verdict()
            now_s = self._scene.clock_s()
            if verdict is not None and verdict.success:
                steady_since_s = now_s if steady_since_s is None else steady_since_s
                if now_s - steady_since_s >= STEADY_S:
                    return verdict
            else:
                steady_since_s = None
            time.sleep(2 * POLL_S)
        return verdict

    def _judge(self, stop_reason: str) -> Verdict:
        """A person is not asked about a replay that did not reach its end."""
        return Verdict(False, stop_reason, "nobody") if stop_reason else self._scene.verdict()
