"""One frame of a UR controller: modes, robot program, joint setpoint, physics, measurements. No sockets in here."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from robot_bridge.arm_types import RobotMode, RuntimeState
from robot_bridge.twin.arm_control import PERIOD_S, ArmControl
from robot_bridge.twin.controller_state import ControllerState
from robot_bridge.twin.robot_modes import RobotModes
from robot_bridge.twin.tasks import Placement
from robot_bridge.twin.urscript import Interpreter
from robot_bridge.twin.urscript_builtins import BLOCKING, script_functions
from robot_bridge.twin.urscript_values import invert, pose_of_rows
from robot_bridge.twin.world import World, WorldDiverged
from robot_bridge.ur_kinematics import Kinematics, Rows, multiply

COLLISION_FORCE_N = 200.0
"""Contact force of arm or gripper with the table at which the controller stops. The real threshold depends on the
safety settings and is not a force alone; this is a model."""
STOP_DECELERATION_RADPS2 = 20.0
HISTORY_FRAMES = 1000
_IDENTITY_TOOL = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


class UrController:
    """The controller of one arm standing in one world.

    Args:
        world: the physics; its arm carries the same calibration as this controller's kinematics.
        unlock_delay_s: how long after a protective stop unlocking is refused (5 s on a real robot).
        collision_force_n: contact force that triggers a protective stop.
    """

    def __init__(
        self, world: World, *, unlock_delay_s: float = 0.3, collision_force_n: float = COLLISION_FORCE_N
    ) -> None:
        self.world = world
        self.scene_revision = 1
        self.tick = 0
        self.state = ControllerState()
        self.modes = RobotModes(self._end_program, self._pause_program, unlock_delay_s=unlock_delay_s)
        flange = Kinematics(tool=_IDENTITY_TOOL, deltas=world.deltas)
        self.arm = ArmControl(flange, lambda: self.interpreter.thread)
        self.interpreter = Interpreter(script_functions(self), BLOCKING)
        self.remote_control = True
        self.gripper_target = 1.0
        self.steady_s = 0.0
        self._collision_force_n = collision_force_n
        self._history: deque[list[float]] = deque(maxlen=HISTORY_FRAMES)
        self._force_zero = [0.0] * 6
        self._contact_frames = 0
        self.arm.seed(world.q.tolist())
        self._rows: Rows = self.arm.tcp_rows(self.arm.q)
        self._target_rows: Rows = self._rows
        self._measure()

    # --- the frame ---

    def frame(self) -> None:
        """Advance by 2 ms."""
        self.tick += 1
        state, modes, arm, interpreter = self.state, self.modes, self.arm, self.interpreter
        state.timestamp = self.tick * PERIOD_S
        modes.step(state.timestamp)
        if interpreter.running and state.watchdog_starved():
            self._watchdog()
        arm.speed_fraction = state.target_speed_fraction
        interpreter.frame()
        if not modes.drives_on:
            arm.brake(STOP_DECELERATION_RADPS2)
        try:
            self.world.step(arm.end_frame(), self.gripper_target)
        except WorldDiverged as error:
            interpreter.write_log(str(error))
            modes.protective_stop("the simulated physics diverged; the scene was laid out again")
            self.set_world(self.world)
        self._watch_collision()
        self._measure()

    def _measure(self) -> None:
        state, arm, world = self.state, self.arm, self.world
        q: list[float] = world.data.qpos[:6].tolist()
        qd: list[float] = world.data.qvel[:6].tolist()
        self._history.append(q)
        self.steady_s = self.steady_s + PERIOD_S if max(map(abs, qd)) < 1e-3 else 0.0
        rows, target_rows = arm.tcp_rows(q), arm.tcp_rows(arm.q)
        state.actual_q, state.actual_qd = q, qd
        state.target_q, state.target_qd, state.target_qdd = arm.q, arm.qd, arm.qdd
        state.actual_TCP_pose = pose_of_rows(rows)
        state.target_TCP_pose = pose_of_rows(target_rows)
        state.actual_TCP_speed = _twist(self._rows, rows)
        state.target_TCP_speed = _twist(self._target_rows, target_rows)
        self._rows, self._target_rows = rows, target_rows
        force = world.tcp_force().tolist()
        state.ft_raw_wrench = force
        state.actual_TCP_force = [f - z for f, z in zip(force, self._force_zero, strict=True)]
        state.robot_mode, state.safety_mode = self.modes.robot_mode, self.modes.safety_mode
        state.safety_status_bits = self.modes.safety_status_bits
        playing = self.interpreter.running and not self.interpreter.paused
        state.runtime_state = RuntimeState.STOPPED
        if self.interpreter.running:
            state.runtime_state = RuntimeState.PLAYING if playing else RuntimeState.PAUSED
        state.robot_status_bits = (1 if self.modes.robot_mode >= RobotMode.IDLE else 0) | (2 if playing else 0)
        state.speed_scaling = 1.0 if self.modes.drives_on else 0.0  # of the limiter; the slider comes on top

    def _watch_collision(self) -> None:
        if self.modes.drives_on and self.world.arm_collision_force > self._collision_force_n:
            force = self.world.arm_collision_force
            self.modes.protective_stop(f"collision, {force:.0f} N between arm and table")
            # Let go of the contact: the setpoint may lie far inside the obstacle.
            self.arm.seed(self.world.q.tolist())

    def _watchdog(self) -> None:
        state = self.state
        reason = f"RTDE watchdog: {state.watchdog_variable} was not written for {state.watchdog_period_s * 1e3:.0f} ms"
        if state.watchdog_action == "pause":
            self._pause_program(True)
        else:
            self._end_program(reason)

    # --- programs ---

    def upload(self, text: str) -> bool:
        """A program arrived on a script port; False when the controller does not run it (the log says why)."""
        if not self.remote_control:
            self.interpreter.write_log("program refused: the robot is in local control")
            return False
        if not self.modes.drives_on and not text.lstrip().startswith("sec "):
            self.interpreter.write_log(
                f"program refused: robot mode {self.modes.robot_mode.name}, safety mode {self.modes.safety_mode.name}"
            )
            return False
        self.state.watchdog_variable = ""
        return self.interpreter.upload(text)

    def stop_program(self) -> None:
        """The pendant's or dashboard's stop."""
        self._end_program("stopped by the dashboard")

    def pause_program(self, paused: bool) -> None:
        """The pendant's or dashboard's pause and play."""
        self._pause_program(paused)

    def _end_program(self, reason: str) -> None:
        self.state.watchdog_variable = ""
        self.interpreter.stop(reason)

    def _pause_program(self, paused: bool) -> None:
        if self.interpreter.running:
            self.interpreter.paused = paused

    # --- what script functions ask for ---

    def joints_before(self, frames: int) -> Sequence[float]:
        """Measured joints some frames ago."""
        return self._history[-1 - min(max(frames, 0), len(self._history) - 1)]

    def zero_force(self) -> None:
        """Take the present wrench as zero."""
        self._force_zero = list(self.state.ft_raw_wrench)

    def count_contact(self, touching: bool) -> int:
        """Frames since a contact began, 0 without one."""
        self._contact_frames = self._contact_frames + 1 if touching else 0
        return self._contact_frames

    # --- the lab ---

    def set_world(self, world: World, placement: Placement | None = None) -> None:
        """Lay out a scene (its last placement if none is given) around the arm and gripper, which stay as they are."""
        opening = self.world.gripper_opening
        if not math.isfinite(opening):  # a simulation that diverged
            opening = self.gripper_target
        world.reset(placement or world.placement, q=self.arm.q, gripper_opening=opening)
        self.world = world
        self.scene_revision += 1
        self._force_zero = [0.0] * 6


def _twist(before: Rows, now: Rows) -> list[float]:
    """Velocity [6] that led from one pose to the next within one frame: m/s, rad/s, in base."""
    if before == now:
        return [0.0] * 6
    turn = multiply(now, invert(before))
    rate = 1.0 / PERIOD_S
    # The rotation within a frame is small: its vector is half the antisymmetric part.
    return [
        (now[3] - before[3]) * rate,
        (now[7] - before[7]) * rate,
        (now[11] - before[11]) * rate,
        0.5 * (turn[9] - turn[6]) * rate,
        0.5 * (turn[2] - turn[8]) * rate,
        0.5 * (turn[4] - turn[1]) * rate,
    ]
