"""The UR arm behind ur_rtde: the only file that imports its modules.

Quirks of ur_rtde 1.6.5 handled here (measured against the genuine control script):

- Its constructors hold the interpreter lock, so a plain socket first finds out whether anybody answers.
- ``reuploadScript`` leaves the last command in the controller's registers, where the fresh program finds and executes
  it: the arm would drive to a servo target of before the stop. Reconnecting clears them.
- Destroying an interface holds the interpreter lock for half a second; ``disconnect`` and ``reconnect`` do not. So the
  objects are kept as long as the arm.
- The servo thread of its control program holds the last target for ever; the watchdog ends that.
- ``unlockProtectiveStop`` exists on the dashboard only; ``getForwardKinematics(q)`` and ``getStepTime`` return stale
  registers and are not used.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Sequence

import numpy as np
from dashboard_client import DashboardClient
from numpy.typing import ArrayLike, NDArray
from rtde_control import RTDEControlInterface
from rtde_receive import RTDEReceiveInterface

from calibration.poses import from_ur, to_ur
from robot_bridge.arm_types import (
    PROGRAM_ENDED,
    REMEDIES,
    SAFE_MODES,
    ArmError,
    ArmState,
    ControllerInUse,
    ControllerUnreachable,
    NotInRemoteControl,
    RobotMode,
)
from robot_bridge.cell import RobotConfig, SafetyConfig
from robot_bridge.servo import ServoSnapshot
from robot_bridge.ur_kinematics import Kinematics
from robot_bridge.ur_ready import make_running
from robot_bridge.ur_servo_loop import ServoLoop

Array = NDArray[np.float64]

RTDE_PORT, DASHBOARD_PORT = 30004, 29999
CONTROL_RATE_HZ = 500.0
MEASURE_RATE_HZ = 125.0
WATCHDOG_HZ = 2.5
"""The controller ends the program when nothing was written to it for 400 ms. The arm stands by then anyway: without
new setpoints servoj stays at the last one. A tighter watchdog would trip on a busy machine, not stop sooner."""
SILENCE_S = 1.0
"""Measurements older than this mean that the connection is dead, before the client library notices (2.5 s)."""
STOP_DECELERATION_RADPS2 = 2.0
MEASURED_FIELDS = [
    "timestamp", "actual_q", "actual_qd", "actual_TCP_pose", "actual_TCP_speed",
    "robot_mode", "safety_mode", "runtime_state", "speed_scaling", "target_speed_fraction",
]  # fmt: skip


class RtdeLink:
    """The three connections to one controller. Used by the servo loop's thread (and before it starts)."""

    def __init__(self, config: RobotConfig, watchdog_hz: float = WATCHDOG_HZ) -> None:
        self._config = config
        self._watchdog_hz = watchdog_hz
        self._receive: RTDEReceiveInterface | None = None
        self._control: RTDEControlInterface | None = None
        self._timestamp_s = -1.0
        self._heard_s = 0.0
        self._operation_before = -1

    # --- measuring ---

    def reconnect(self) -> None:
        """Open the measuring connection; the control connection of before is closed. Raises ControllerUnreachable."""
        host = self._config.host
        _disconnect(self._control)
        _disconnect(self._receive)
        _knock(host, RTDE_PORT)
        try:
            if self._receive is None:
                self._receive = RTDEReceiveInterface(host, MEASURE_RATE_HZ, MEASURED_FIELDS)
            elif not self._receive.reconnect():
                raise RuntimeError("no data came")
        except RuntimeError as error:
            raise ControllerUnreachable(f"the controller at {host} refused its RTDE stream: {error}") from error
        self._heard_s = time.monotonic()

    def connected(self) -> bool:
        """Measurements arrive."""
        if self._receive is None or not self._receive.isConnected():
            return False
        return time.monotonic() - self._heard_s < SILENCE_S

    def sample(self) -> ArmState | None:
        """The newest measurement, None when nothing new came."""
        receive = self._receive
        if receive is None:
            return None
        for _ in range(3):  # the getters read one after the other: all must belong to one cycle
            timestamp_s = float(receive.getTimestamp())
            if timestamp_s == self._timestamp_s:
                return None
            stamp_ns = time.time_ns()
            q, qd, pose, speed = (
                receive.getActualQ(),
                receive.getActualQd(),
                receive.getActualTCPPose(),
                receive.getActualTCPSpeed(),
            )
            modes = receive.getRobotMode(), receive.getSafetyMode(), receive.getRuntimeState()
            scaling = receive.getSpeedScalingCombined()
            if receive.getTimestamp() == timestamp_s:
                break
        self._timestamp_s, self._heard_s = timestamp_s, time.monotonic()
        return ArmState(tuple(q), tuple(qd), from_ur(pose), tuple(speed), *modes, float(scaling), timestamp_s, stamp_ns)

    def safe(self) -> bool:
        """No stop of the safety system is active."""
        return self._receive is not None and self._receive.getSafetyMode() in SAFE_MODES

    def stop_cause(self) -> str:
        """Why the arm cannot be commanded now, with the remedy; empty when it can."""
        if not self.connected() or self._receive is None:
            return f"no data from the controller at {self._config.host} for {SILENCE_S} s; check it, then recover"
        safety_mode = self._receive.getSafetyMode()
        if safety_mode not in SAFE_MODES:
            return REMEDIES.get(safety_mode, f"safety mode {safety_mode}; look at the pendant, then recover")
        robot_mode = self._receive.getRobotMode()
        if robot_mode != RobotMode.RUNNING:
            return f"the arm is not running (robot mode {robot_mode}); recover powers it on"
        if self._control is None or not self._control.isConnected() or not self._control.isProgramRunning():
            return PROGRAM_ENDED
        return ""

    # --- getting ready ---

    def recover(self) -> None:
        """Unlock, power on, load the program: whatever is missing. Raises ArmError when a person has to act."""
        if not self.connected():
            self.reconnect()
        if self._config.dashboard:
            self._ready_robot()
        self._start_program()

    def _ready_robot(self) -> None:
        dashboard = self._open_dashboard()
        try:
            make_running(dashboard, self._config.host)
        finally:
            with contextlib.suppress(RuntimeError):
                dashboard.disconnect()

    def _open_dashboard(self) -> DashboardClient:
        host = self._config.host
        _knock(host, DASHBOARD_PORT)
        dashboard = DashboardClient(host)
        try:
            dashboard.connect(2000)
        except RuntimeError as error:
            raise ControllerUnreachable(f"the dashboard at {host}:{DASHBOARD_PORT} does not answer: {error}") from error
        return dashboard

    def _start_program(self) -> None:
        control = self._control
        if control is not None and control.isConnected() and control.isProgramRunning():
            # Its servo thread may still hold a target; two movers would end the program.
            control.servoStop(STOP_DECELERATION_RADPS2)
        else:
            control = self._control = self._open_control()
        until_s = time.monotonic() + 6.0
        while not control.isProgramRunning():
            if time.monotonic() > until_s:
                raise ArmError("the control program does not start; look at the log on the pendant")
            time.sleep(0.01)
        done = (
            control.setTcp(list(self._config.tcp_offset)),
            control.setPayload(self._config.payload_kg, list(self._config.payload_cog_m)),
            control.setWatchdog(self._watchdog_hz),
        )
        if not all(done):
            raise ArmError("the control program did not take tool, payload and watchdog; recover again")

    def _open_control(self) -> RTDEControlInterface:
        host = self._config.host
        try:
            if self._control is None:
                return RTDEControlInterface(host, CONTROL_RATE_HZ, RTDEControlInterface.FLAG_UPLOAD_SCRIPT)
            _disconnect(self._control)
            if not self._control.reconnect():
                raise RuntimeError("it does not reconnect")
            return self._control
        except RuntimeError as error:
            text = str(error)
            if "already in use" in text:
                raise ControllerInUse(
                    f"the RTDE inputs of the controller at {host} belong to someone else. Another program of this "
                    "project or ur_rtde script is connected: stop it. Or the EtherNet/IP adapter, PROFINET or a MODBUS "
                    "unit is enabled: disable it on the pendant under Installation, Fieldbus"
                ) from error
            if "remote" in text.lower():
                raise NotInRemoteControl(
                    f"the robot at {host} is in local control; switch the pendant to Remote Control and try again"
                ) from error
            raise ArmError(f"the control program cannot be started on {host}: {text}") from error

    # --- commanding ---

    def servo(self, q: list[float]) -> bool:
        """One servoj setpoint; speed and acceleration arguments are ignored by the controller."""
        config = self._config
        return self._control is not None and bool(
            self._control.servoJ(q, 0.0, 0.0, 1.0 / config.servo_rate_hz, config.servo_lookahead_s, config.servo_gain)
        )

    def end_servo(self) -> None:
        """Leave servo mode."""
        if self._control is not None:
            self._control.servoStop(STOP_DECELERATION_RADPS2)

    def keep_alive(self) -> None:
        """Feed the watchdog."""
        if self._control is not None:
            self._control.kickWatchdog()

    def start_move(self, q: list[float], speed_radps: float, acceleration_radps2: float) -> None:
        """Start a joint move."""
        self._note_operation()
        if self._control is None or not self._control.moveJ(q, speed_radps, acceleration_radps2, True):
            raise ArmError(f"the controller did not take the move: {self.stop_cause() or 'recover and try again'}")

    def start_line(self, T_base_tcp: Array, speed_mps: float, acceleration_mps2: float) -> None:
        """Start a straight TCP line."""
        self._note_operation()
        pose = [float(value) for value in to_ur(T_base_tcp)]
        if self._control is None or not self._control.moveL(pose, speed_mps, acceleration_mps2, True):
            raise ArmError(f"the controller did not take the line: {self.stop_cause() or 'recover and try again'}")

    def moving(self) -> bool:
        """The started move or its stop goes on (or has not begun: the controller reports it a cycle later)."""
        if self._control is None:
            return False
        status = self._control.getAsyncOperationProgressEx()
        return status.operationId() == self._operation_before or bool(status.isAsyncOperationRunning())

    def stop_move(self) -> None:
        """Brake a started move."""
        if self._control is not None:
            self._note_operation()
            self._control.stopJ(STOP_DECELERATION_RADPS2, True)

    def _note_operation(self) -> None:
        if self._control is not None:
            self._operation_before = int(self._control.getAsyncOperationProgressEx().operationId())

    def close(self) -> None:
        """End the program and all connections."""
        if self._control is not None and self.connected():
            with contextlib.suppress(RuntimeError):
                self._control.stopScript()
        _disconnect(self._control)
        _disconnect(self._receive)
        self._control = self._receive = None


class UrArm:
    """One UR arm: measured state, servo targets, home, recovery. Safe to call from any thread.

    Args:
        config: robot section of the cell.
        safety: envelope of the cell.
        watchdog_hz: the controller ends the program when this process is silent for longer than one period of it.
    """

    def __init__(self, config: RobotConfig, safety: SafetyConfig, *, watchdog_hz: float = WATCHDOG_HZ) -> None:
        self.config = config
        self.kinematics = Kinematics(tool=from_ur(config.tcp_offset))
        self._link = RtdeLink(config, watchdog_hz)
        self._loop = ServoLoop(self._link, config, safety, self.kinematics)

    def connect(self) -> None:
        """Power the arm on, release the brakes, load the control program, start the servo thread.

        A robot that stands in a stop of its safety system stays in it: measurements come, ``trouble`` names the stop,
        and a person's ``recover`` gets the arm ready.

        Raises:
            ControllerUnreachable, ControllerInUse, NotInRemoteControl, ArmError: with the remedy.
        """
        # Other Python threads give up the interpreter after this long; the default 5 ms would cost setpoints.
        sys.setswitchinterval(min(sys.getswitchinterval(), 0.0005))
        try:
            self._link.reconnect()
            if self._link.safe():
                self._link.recover()
            self._loop.start()
        except (ArmError, ValueError) as error:
            self._link.close()
            raise error if isinstance(error, ArmError) else ArmError(str(error)) from error

    def close(self) -> None:
        """Brake, end the control program, close all connections."""
        self._loop.close()

    def measured(self) -> ArmState:
        """The newest measurement.

        Raises:
            ArmError: never connected, or the newest one is older than ``SILENCE_S``.
        """
        state = self._loop.state
        if state is None:
            raise ArmError("no measurement yet; connect first")
        age_s = (time.time_ns() - state.stamp_ns) * 1e-9
        if age_s > SILENCE_S:
            raise ArmError(f"the newest measurement is {age_s:.1f} s old: {self._loop.trouble or 'connection lost'}")
        return state

    @property
    def trouble(self) -> str:
        """Why the arm cannot be engaged now, with the remedy; empty when it can."""
        return self._loop.trouble

    @property
    def speed_scaling(self) -> float:
        """The share of commanded speeds that slider and limiter of the controller let through; 1 before it is known."""
        state = self._loop.state
        return 1.0 if state is None else state.speed_scaling

    def status(self) -> ServoSnapshot:
        """What the setpoint generator is doing."""
        with self._loop.lock:
            return self._loop.generator.status()

    def pace(self) -> dict[str, float]:
        """Lateness of setpoints (milliseconds), periods sent and skipped."""
        return self._loop.pace.figures()

    def engage(self, source: str) -> None:
        """Let a source ("teleop", "executor") command the arm.

        Raises:
            ArmError, EngageRefused: stopped, not recovered, or engaged by another source.
        """
        self._loop.engage(source)

    def disengage(self, reason: str = "") -> None:
        """Stop obeying targets; brake and hold."""
        with self._loop.lock:
            self._loop.generator.disengage(reason)

    def stop(self, reason: str) -> None:
        """Brake now; needs ``recover`` and ``engage`` before anything moves."""
        self._loop.stop(reason)

    def set_joint_target(self, q: Sequence[float] | Array, stamp_s: float | None = None) -> bool:
        """Offer a joint target [6] rad; ``stamp_s`` on the ``time.monotonic`` clock (default now). False: refused."""
        now_s = time.monotonic()
        with self._loop.lock:
            return self._loop.generator.set_joint_target(q, now_s if stamp_s is None else stamp_s, now_s)

    def set_pose_target(self, T_base_tcp: ArrayLike, stamp_s: float | None = None) -> bool:
        """Offer a TCP pose target [4, 4] as the controller measures it; stamps as for joint targets."""
        now_s = time.monotonic()
        with self._loop.lock:
            return self._loop.generator.set_pose_target(T_base_tcp, now_s if stamp_s is None else stamp_s, now_s)

    def move_home(self, timeout_s: float = 70.0) -> None:
        """Move to the cell's home pose and wait; ``stop`` from another thread cancels it.

        Raises:
            MoveFailed, ArmError: cancelled, stopped, engaged, or ended elsewhere.
        """
        self._loop.do(self._loop.move_home, timeout_s)

    def move_joints(self, q_goal: Sequence[float] | Array, timeout_s: float = 70.0) -> None:
        """Move slowly on a straight joint path to angles [6] rad and wait; ``stop`` from another thread cancels it.

        The TCP keeps to the cell's speed limit. The path is checked against the workspace box, the table and the arm
        itself before anything moves; what stands beside the arm is not known here.

        Raises:
            MoveRefused: the goal or the path is not safe; nothing moved.
            MoveFailed, ArmError: cancelled, stopped, engaged, or ended elsewhere.
        """
        goal = [float(angle) for angle in q_goal]
        self._loop.do(lambda: self._loop.move_joints(goal), timeout_s)

    def recover(self, timeout_s: float = 90.0) -> None:
        """Make the arm ready after any stop; nothing moves before a new ``engage``.

        Raises:
            ArmError: a person has to act first; the message says how.
        """
        self._loop.do(self._loop.recover, timeout_s)


def _disconnect(interface: RTDEControlInterface | RTDEReceiveInterface | None) -> None:
    # From a controller that is gone this raises; there is nothing left to end properly then.
    if interface is not None:
        with contextlib.suppress(RuntimeError):
            interface.disconnect()


def _knock(host: str, port: int) -> None:
    """Whether anybody listens there, found out with the interpreter lock released."""
    try:
        socket.create_connection((host, port), timeout=2.0).close()
    except OSError as error:
        raise ControllerUnreachable(
            f"no UR controller answers at {host}:{port} ({error}). Hardware: check cable, address and that the "
            "controller is on. Twin: start it with `python -m robot_bridge.twin.lab --cell twin`"
        ) from error
