"""The thread that owns the arm: one setpoint every 2 ms, moves, recovery, reconnection.

ur_rtde's control interface is not thread safe, so a single thread talks to it. Everybody else puts targets into the
setpoint generator (under a lock held for microseconds) or hands over a job and waits for it. The rules:

- The controller's watchdog is fed by this thread only. When the process dies, the controller ends the program.
- Setpoints flow while the generator is engaged or still braking; at rest the loop leaves servo mode.
- Any stop of the robot stops the generator. Nothing moves again before ``recover`` and a new ``engage``.
- An arm that is not heard is led no farther: setpoints wait for measurements.
- An arm that the pendant's speed slider slows is led as slowly: setpoints would run away from it.
- A lost connection is reopened for measuring only; powering the arm and loading the program is ``recover``'s job.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

import numpy as np

from robot_bridge.arm_clearance import ArmClearance, path_problem
from robot_bridge.arm_types import PROGRAM_ENDED, ArmError, ArmLink, ArmState, MoveFailed, MoveRefused, PaceMeter
from robot_bridge.cell import RobotConfig, SafetyConfig
from robot_bridge.pacer import Pacer
from robot_bridge.servo import ServoGenerator, ServoState
from robot_bridge.ur_kinematics import Kinematics

logger = logging.getLogger(__name__)

OBSERVE_EVERY = 100
"""Five times a second the difference of nominal and measured TCP pose is noted."""
KEEP_ALIVE_EVERY = 10
REST_PERIODS = 100
"""After this many periods at rest and disengaged the loop leaves servo mode."""
RECONNECT_EVERY_S = 0.5
MAX_DEBT_PERIODS = 2
"""A loop that falls farther behind skips periods; the generator's motion then slows instead of jumping."""
BLIND_PERIODS = 15
"""After this many periods (30 ms) without a measurement, of which every fourth brings one, the setpoint holds.

On the twin a network that stalls for 0.1 s to 0.3 s while the base turns at 0.36 rad/s made the arm catch up at 0.8 to
1.2 rad/s without this, at 0.5 rad/s with 25 periods, at no more than 0.39 rad/s with 12.
"""
UNEXPLAINED_PERIODS = 15
"""So long (30 ms) a program that has ended waits for its cause: a safety stop is seen one or two packets after it."""
MOVE_SPEED_SHARE = 0.5
"""Moves of our own keep this share of the envelope's joint speed."""
MOVE_ACCELERATION_RADPS2 = 1.0
MOVE_TIMEOUT_S = 60.0
ARRIVED_RAD = 0.01
LIFT_BELOW_M = 0.15
"""A move home that starts lower lifts the tool to this height first, straight up."""


class ServoLoop:
    """Owner thread of one arm.

    Args:
        link: the connected arm.
        config: robot section of the cell.
        safety: envelope of the cell.
        kinematics: nominal kinematics with the cell's tool.
    """

    def __init__(self, link: ArmLink, config: RobotConfig, safety: SafetyConfig, kinematics: Kinematics) -> None:
        self.link = link
        self.generator = ServoGenerator(kinematics, safety, 1.0 / config.servo_rate_hz)
        self.lock = threading.Lock()
        self.pace = PaceMeter(1.0 / config.servo_rate_hz)
        self._config = config
        self._safety = safety
        self._kinematics = kinematics
        self._clearance = ArmClearance(kinematics)
        self._period_s = 1.0 / config.servo_rate_hz
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], Future[None]]] = queue.SimpleQueue()
        self._state: ArmState | None = None
        self._trouble = ""
        self._cancel = threading.Event()
        self._closing = threading.Event()
        self._servoing = False
        self._rest = 0
        self._unheard = 0
        self._ended = 0
        self._pacer = Pacer()
        self._retry_s = 0.0
        self._thread = threading.Thread(target=self._run, name="ur-servo-loop", daemon=True)

    # --- for other threads ---

    def start(self) -> None:
        """Take the first measurement, seed the generator and start the thread."""
        self._measure()
        if self._state is None:
            raise ArmError("the controller sent no measurement; is another program stopping its RTDE stream?")
        self._trouble = self.link.stop_cause()
        with self.lock:
            self.generator.correction.observe(self._state.q, self._state.T_base_tcp)
            self.generator.seed(self._state.q)
        self._thread.start()

    def close(self) -> None:
        """Stop the generator, brake, end the program and the connections."""
        self.stop("closed")
        self._closing.set()
        self._cancel.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)
        self.link.close()

    @property
    def state(self) -> ArmState | None:
        """The newest measurement."""
        return self._state

    @property
    def trouble(self) -> str:
        """Why the arm cannot be engaged now; empty when it can."""
        return self._trouble

    def engage(self, source: str) -> None:
        """Let a source command the arm. Raises ArmError or EngageRefused."""
        if self._trouble:
            raise ArmError(f"cannot engage {source!r}: {self._trouble}")
        with self.lock:
            if self.generator.status().state is ServoState.IDLE and not self._servoing and self._state is not None:
                self.generator.seed(self._state.q)
            self.generator.engage(source)

    def stop(self, reason: str) -> None:
        """Brake now; nothing moves before ``recover`` and ``engage``."""
        self._cancel.set()
        with self.lock:
            self.generator.stop(reason)
        if not self._trouble:
            self._trouble = f"stopped: {reason}; recover first"

    def do(self, job: Callable[[], None], timeout_s: float) -> None:
        """Run a job in the owner thread and wait for it. Raises what the job raises, ArmError on time-out."""
        future: Future[None] = Future()
        if not self._thread.is_alive():
            raise ArmError("the arm's driver is closed; connect first")
        self._cancel.clear()
        self._jobs.put((job, future))
        try:
            future.result(timeout=timeout_s)
        except FutureTimeout as error:
            self._cancel.set()
            raise ArmError(f"the arm did not finish within {timeout_s:.0f} s and was told to stop") from error

    # --- the thread ---

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            # Nobody commands the arm any more: its watchdog ends the program. Say so instead of dying quietly.
            self._halt(f"the arm's driver failed ({type(error).__name__}: {error}); restart it")
            raise

    def _loop(self) -> None:
        tick = 0
        deadline_s = time.monotonic()
        while not self._closing.is_set() or self._servoing:
            deadline_s += self._period_s
            now_s = time.monotonic()
            if now_s < deadline_s:
                time.sleep(deadline_s - now_s)
                now_s = time.monotonic()
            elif now_s - deadline_s > MAX_DEBT_PERIODS * self._period_s:
                self.pace.skipped += int((now_s - deadline_s) / self._period_s)
                deadline_s = now_s
            late_s = now_s - deadline_s
            tick += 1
            try:
                self._period(tick, now_s, late_s)
            except ArmError as error:
                self._halt(str(error))
            except RuntimeError as error:  # the client library raises plain RuntimeErrors on broken connections
                self._halt(f"{type(error).__name__} of the robot client: {error}; recover")
                logger.warning("arm: %s", error)
            if self._run_job():
                deadline_s = time.monotonic()

    def _period(self, tick: int, now_s: float, late_s: float) -> None:
        self._measure()
        cause = self._stop_cause()
        if cause:
            self._halt(cause)
            if not self.link.connected() and not self._closing.is_set():
                self._reconnect(now_s)
        if cause or self._ended:
            return
        if tick % OBSERVE_EVERY == 0 and self._state is not None:
            self._observe(self._state)
        with self.lock:
            self.generator.set_blind(self._unheard > BLIND_PERIODS)
            status = self.generator.status()
            engaged = status.state in (ServoState.FOLLOWING, ServoState.HOLDING)
            if not engaged and not self._servoing:
                q = None
            else:
                if not self._servoing:
                    self._pacer.start(status.q_target)
                q = self._pacer.next(self._speed_share(), lambda: self.generator.step(now_s))
                moving = self._pacer.moving
        if q is None:
            if tick % KEEP_ALIVE_EVERY == 0:
                self.link.keep_alive()
            return
        self.pace.add(late_s)
        self._servoing = True
        if not self.link.servo(q):
            cause = self.link.stop_cause() or "the controller refused a setpoint; recover"
            if cause != PROGRAM_ENDED:  # that is said by the next period
                self._halt(cause)
            return
        self._rest = 0 if engaged or moving else self._rest + 1
        if self._rest >= REST_PERIODS or (self._closing.is_set() and self._rest > 0):
            self._end_servo()

    def _measure(self) -> None:
        sample = self.link.sample()
        self._unheard += 1  # counted, not timed: a loop that was held up itself has measurements waiting
        if sample is not None:
            self._state, self._unheard = sample, 0

    def _observe(self, state: ArmState) -> None:
        if max(map(abs, state.qd)) > 0.3:
            return  # joints and pose are of one cycle, but a fast arm is no place to learn an offset
        try:
            with self.lock:
                self.generator.correction.observe(state.q, state.T_base_tcp)
        except ValueError as error:
            raise ArmError(str(error)) from error

    def _stop_cause(self) -> str:
        """Why the robot has stopped; empty while it obeys, and for a moment in which only the effect is known."""
        cause = self.link.stop_cause()
        self._ended = self._ended + 1 if cause == PROGRAM_ENDED else 0
        return "" if 0 < self._ended <= UNEXPLAINED_PERIODS else cause

    def _halt(self, reason: str) -> None:
        """The robot stopped, or cannot be commanded: stop the generator and forget servo mode."""
        with self.lock:
            if self.generator.status().state is not ServoState.STOPPED:
                self.generator.stop(reason)
                logger.warning("arm stopped: %s", reason)
        self._trouble = reason
        self._servoing = False
        self._cancel.set()

    def _speed_share(self) -> float:
        return 1.0 if self._state is None else self._state.speed_scaling

    def _end_servo(self) -> None:
        self._servoing = False
        self._rest = 0
        self.link.end_servo()

    def _reconnect(self, now_s: float) -> None:
        if now_s < self._retry_s:
            return
        self._retry_s = now_s + RECONNECT_EVERY_S
        try:
            self.link.reconnect()
            self._measure()
        except ArmError as error:
            self._trouble = str(error)

    def _run_job(self) -> bool:
        try:
            job, future = self._jobs.get_nowait()
        except queue.Empty:
            return False
        try:
            job()
        except BaseException as error:  # handed to the caller who waits for it
            future.set_exception(error)
        else:
            future.set_result(None)
        return True

    # --- jobs (run in the thread) ---

    def recover(self) -> None:
        """After any stop: make the arm ready, seed the generator at the measured joints; engaging is up to a person."""
        if self._servoing:
            self._settle()
        self.link.recover()
        self._measure()
        if self._state is None:
            raise ArmError("recovered, but the controller sends no measurement; check its RTDE interface")
        with self.lock:
            self.generator.stop("recovering")
            self.generator.seed(self._state.q)
        self._trouble = ""

    def move_home(self) -> None:
        """Lift if the tool is low, then a joint move to the cell's home pose, within the envelope's TCP speed."""
        state = self._ready_to_move("move home")
        home = list(self._config.home_rad)
        T = state.T_base_tcp.copy()
        if T[2, 3] < LIFT_BELOW_M and max(abs(a - b) for a, b in zip(state.q, home, strict=True)) > ARRIVED_RAD:
            T[2, 3] = LIFT_BELOW_M
            self.link.start_line(T, self._safety.tcp_speed_mps, 0.5)
            self._follow_move()
        self._move_to(home, "the move home")

    def move_joints(self, q_goal: Sequence[float]) -> None:
        """A straight joint move, slow as the move home, if the path is clear of table and arm and inside the box."""
        state = self._ready_to_move("move")
        problem = path_problem(state.q, q_goal, self._clearance, self._safety)
        if problem:
            raise MoveRefused(f"the move is refused: {problem}")
        self._move_to([float(angle) for angle in q_goal], "the move")

    def _ready_to_move(self, what: str) -> ArmState:
        """Nobody engaged, at rest, out of servo mode; the state to start from."""
        if self._trouble:
            raise ArmError(f"cannot {what}: {self._trouble}")
        with self.lock:
            status = self.generator.status()
            if status.state in (ServoState.FOLLOWING, ServoState.HOLDING):
                raise ArmError(f"cannot {what} while {status.source!r} is engaged; disengage it first")
        if self._servoing:
            self._settle()
        self._measure()
        if self._state is None:
            raise ArmError("no measurement of the arm; connect first")
        return self._state

    def _move_to(self, goal: list[float], what: str) -> None:
        assert self._state is not None
        speed = self._move_speed(self._state.q, goal)
        self.link.start_move(goal, speed, MOVE_ACCELERATION_RADPS2)
        self._follow_move()
        off = max(abs(a - b) for a, b in zip(self._state.q, goal, strict=True))
        if off > ARRIVED_RAD:
            raise MoveFailed(f"{what} ended {off:.3f} rad away from its goal; check the path and move again")
        with self.lock:
            self.generator.seed(self._state.q)

    def _follow_move(self) -> None:
        """Watch a started move to its end; brake when cancelled or late."""
        until_s = time.monotonic() + MOVE_TIMEOUT_S
        try:
            while self.link.moving():
                if self._cancel.is_set():
                    raise MoveFailed("the move was cancelled; the arm stands where it was stopped")
                if time.monotonic() > until_s:
                    raise MoveFailed(f"the move took longer than {MOVE_TIMEOUT_S:.0f} s; is the speed slider low?")
                self._watch_job()
        except MoveFailed:
            self.link.stop_move()
            while self.link.moving():
                self._watch_job()
            raise
        self._watch_job()

    def _watch_job(self) -> None:
        self._measure()
        cause = self._stop_cause()
        if cause:
            self._halt(cause)
            raise ArmError(cause)
        if not self._ended:
            self.link.keep_alive()
        time.sleep(2 * self._period_s)

    def _settle(self) -> None:
        """Brake to rest and leave servo mode."""
        for _ in range(int(5.0 / self._period_s)):
            with self.lock:
                q = self._pacer.next(self._speed_share(), lambda: self.generator.step(time.monotonic()))
            if not self._pacer.moving or not self.link.servo(q):
                break
            self._measure()
            time.sleep(self._period_s)
        # The controller's own smoothing is behind the last setpoint; the arm must stand before servo mode ends.
        for _ in range(250):
            self._measure()
            if self._state is None or max(map(abs, self._state.qd)) < 0.005:
                break
            with contextlib.suppress(ArmError):
                self.link.servo(list(q))
            time.sleep(self._period_s)
        self._end_servo()

    def _move_speed(self, start: Sequence[float], goal: Sequence[float]) -> float:
        """Speed of the leading joint at which the TCP stays within the envelope on the whole joint line."""
        longest = max(abs(b - a) for a, b in zip(start, goal, strict=True))
        wanted = MOVE_SPEED_SHARE * self._safety.joint_speed_radps
        if longest < 1e-6:
            return wanted
        points = [
            self._kinematics.forward([a + s * (b - a) for a, b in zip(start, goal, strict=True)])[:3, 3]
            for s in np.linspace(0.0, 1.0, 60)
        ]
        steepest = max(float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(points)) * 59.0
        return min(wanted, self._safety.tcp_speed_mps * longest / steepest) if steepest > 1e-9 else wanted
