"""Arm and gripper of one cell as the arm node holds them: connected in the background, made ready on request.

Waiting for a controller that still boots is fine; anything a person has to look at (a stop, local control, a second
program) is not tried again by itself: releasing an emergency stop must not set the arm in motion.
"""

from __future__ import annotations

import threading
import time

from prophrl_nodes.node_base import Refused
from robot_bridge.arm_types import ArmError, ControllerUnreachable
from robot_bridge.cell import CellConfig
from robot_bridge.robotiq_gripper import GripperError, GripperReading, RobotiqGripper
from robot_bridge.ur_arm import UrArm

RETRY_S = 1.0


class ArmDevices:
    """The arm's and the gripper's drivers. Blocking calls; safe from any thread.

    Attributes:
        problem: why there is no arm, empty when there is.
        gripper_problem: the same for the gripper.
    """

    def __init__(self, cell: CellConfig) -> None:
        self._cell = cell
        self._arm: UrArm | None = None
        self._gripper: RobotiqGripper | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.problem = "the arm is not powered on; call arm/command with the verb power_on"
        self.gripper_problem = ""

    @property
    def arm(self) -> UrArm | None:
        """The connected arm, None before."""
        return self._arm

    @property
    def connecting(self) -> bool:
        """True while a connection or recovery is in progress."""
        return self._lock.locked()

    def require_arm(self) -> UrArm:
        """The connected arm.

        Raises:
            Refused: not connected; says why.
        """
        if self._arm is None:
            raise Refused(self.problem)
        return self._arm

    def connect_patiently(self, timeout_s: float) -> None:
        """Make ready, waiting up to ``timeout_s`` for the controller to appear; problems are kept, not raised."""
        until_s = time.monotonic() + timeout_s
        while not self._closing.is_set():
            try:
                self.make_ready()
                return
            except ControllerUnreachable as error:
                if time.monotonic() > until_s:
                    self.problem = f"{error}; gave up after {timeout_s:.0f} s, call power_on when it is there"
                    return
                self._closing.wait(RETRY_S)
            except ArmError:
                return  # kept in ``problem``; a person has to act and to say so

    def make_ready(self) -> None:
        """Connect what is not connected, recover what stopped; nothing is engaged by this.

        Raises:
            ArmError: with the remedy; also kept in ``problem``.
        """
        with self._lock:
            if self._closing.is_set():
                raise ArmError("the arm node is stopping")
            try:
                if self._arm is None:
                    self.problem = "connecting to the arm"
                    arm = UrArm(self._cell.robot, self._cell.safety)
                    arm.connect()
                    self._arm = arm
                    if arm.trouble:  # a stop that was there before us: recovering is a person's decision
                        raise ArmError(arm.trouble)
                else:
                    self._arm.recover()
            except ArmError as error:
                self.problem = str(error)
                raise
            self.problem = ""
            self._ready_gripper()

    def set_opening(self, opening: float) -> None:
        """Command the gripper; returns at once.

        Raises:
            Refused: no gripper, or not an opening fraction.
        """
        if self._gripper is None:
            raise Refused(self.gripper_problem or "no gripper is connected; call power_on")
        try:
            self._gripper.set_opening(opening)
        except ValueError as error:
            raise Refused(str(error)) from error

    def gripper_reading(self) -> GripperReading | None:
        """The newest reading, None when the gripper is silent (``gripper_problem`` says why)."""
        if self._gripper is None:
            return None
        try:
            reading = self._gripper.state()
        except GripperError as error:
            self.gripper_problem = str(error)
            return None
        self.gripper_problem = self._gripper.trouble
        return reading

    def close(self) -> None:
        """Brake, end the control program, close all connections."""
        self._closing.set()
        if self._arm is not None:
            self._arm.stop("the arm node ends")  # before waiting for a connection or recovery in progress
        with self._lock:
            arm, gripper, self._arm, self._gripper = self._arm, self._gripper, None, None
        if arm is not None:
            arm.close()
        if gripper is not None:
            gripper.close()

    def _ready_gripper(self) -> None:
        """A gripper that fails is reported; the arm is useful without it."""
        try:
            if self._gripper is None:
                gripper = RobotiqGripper(self._cell.gripper)
                gripper.connect()
                self._gripper = gripper
            self._gripper.activate()
            self.gripper_problem = ""
        except GripperError as error:
            self.gripper_problem = str(error)
