"""The follower arm and its gripper: measurements out, targets of the engaged source in, operator verbs.

Subscribes to ``servo/target``; publishes what ``arm_publisher`` lists. ``arm/command`` (OperatorVerb) knows the verbs
power_on, home, move_joints <six angles in radians>, engage <source>, disengage, stop, recover, gripper <opening>;
``~/home ~/stop ~/recover ~/disengage`` are the same without argument. Setpoints come from the driver's own 500 Hz
thread; its watchdog holds the arm when targets stop, and the controller's watchdog when this process dies.
"""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from typing import Any

from prophrl_interfaces.msg import ServoTarget
from prophrl_interfaces.srv import OperatorVerb

from prophrl_nodes import qos
from prophrl_nodes.arm_devices import ArmDevices
from prophrl_nodes.arm_publisher import ArmPublisher
from prophrl_nodes.messages import to_matrix, to_nanoseconds
from prophrl_nodes.ros import (
    CELL_PARAMETERS,
    Health,
    Level,
    ParameterSpec,
    PeriodicThread,
    ProphNode,
    RateMeter,
    Refused,
    Value,
    run,
)
from robot_bridge.arm_types import ArmError
from robot_bridge.cell_files import open_cell
from robot_bridge.servo import EngageRefused, ServoSnapshot, ServoState
from robot_bridge.ur_arm import UrArm

VERBS = ("power_on", "home", "move_joints", "engage", "disengage", "stop", "recover", "gripper")
NICENESS = -8
"""Setpoints first, then everything that makes them."""
POLL_S = 0.004
STATE_PERIOD_NS = 7_500_000
"""Measurements closer together than this are not all published: 125 Hz is what the driver takes while it servos."""
GRIPPER_PERIOD_S = 0.02
GRIPPER_STEP = 0.004
"""Smaller changes of the commanded opening are not worth a message to the gripper, which counts 255 steps."""
PACE_PERIOD_S = 5.0
SLOWED_BELOW = 0.99
"""Speed scaling below this is said on /diagnostics: what is recorded or tried then is slower than it seems."""

PARAMETERS = (
    *CELL_PARAMETERS,
    ParameterSpec("tf_prefix", "", "put before joint and frame names, for several cells"),
    ParameterSpec("power_on", True, "power the arm and release its brakes at the start; false waits for the verb"),
    ParameterSpec(
        "connect_timeout", 60.0, "seconds to wait at the start for a controller that is booting", 0.0, 3600.0
    ),
)


class ArmNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("arm", PARAMETERS, **node_arguments)

    def setup(self) -> None:
        """Read the cell and connect the topics; the devices are connected when the node is activated."""
        self._cell = open_cell(self.value("cell"), self.value("host"))
        self._devices = ArmDevices(self._cell)
        self._states, self._targets = RateMeter(), RateMeter()
        self._unobeyed = 0
        self._stamp_ns = 0
        self._opening = math.nan
        self._gripper_due_s = 0.0
        self._pace: dict[str, float] = {}
        self._pace_due_s = 0.0
        self._out = ArmPublisher(self, self.value("tf_prefix"))
        self.subscribe(ServoTarget, "servo/target", self._on_target, qos.COMMAND)
        self.service(OperatorVerb, "arm/command", self._on_command)
        self.verb("home", lambda: self._obey("home", ""))
        self.verb("stop", lambda: self._obey("stop", ""))
        self.verb("recover", lambda: self._obey("recover", ""))
        self.verb("disengage", lambda: self._obey("disengage", ""))
        self._thread: PeriodicThread | None = None

    def start(self) -> None:
        """Start publishing; connect to the arm in the background."""
        gc.freeze()  # a garbage collection over everything imported so far would cost setpoints
        self._devices = ArmDevices(self._cell)
        self._thread = PeriodicThread("arm-state", POLL_S, self._publish, self.fail)
        self._thread.start()
        if self.value("power_on"):
            patience_s = self.value("connect_timeout")
            connect = threading.Thread(target=lambda: self._devices.connect_patiently(patience_s), daemon=True)
            connect.start()

    def halt(self) -> None:
        """Brake, end the control program, close the connections."""
        if self._thread is not None:
            self._thread.stop()
        self._devices.close()

    def health(self) -> Health:
        """The driver's words while the arm cannot be commanded, else whom it obeys."""
        arm = self._devices.arm
        if arm is None:
            level = Level.WARN if self._devices.connecting else Level.ERROR
            return Health(level, self._devices.problem, {"robot": self._cell.robot.host})
        snapshot = arm.status()
        values = self._figures(snapshot)
        if arm.trouble:
            return Health(Level.ERROR, arm.trouble, values)
        if snapshot.state is ServoState.HOLDING and math.isfinite(snapshot.target_age_s):
            message = f"holding: no valid target from {snapshot.source} for {snapshot.target_age_s:.1f} s"
            return Health(Level.WARN, f"{message} ({snapshot.refusal or snapshot.reason})", values)
        if arm.speed_scaling < SLOWED_BELOW:
            slowed = f"the robot slows the arm to {arm.speed_scaling:.0%} (the pendant's speed slider, or its limits)"
            return Health(Level.WARN, f"{slowed}; let it be at 100 % for recordings and trials", values)
        if self._devices.gripper_problem:
            return Health(Level.WARN, f"gripper: {self._devices.gripper_problem}", values)
        if snapshot.source:
            return Health(Level.OK, f"obeying {snapshot.source}", values)
        return Health(Level.OK, "ready to engage", values)

    def _figures(self, snapshot: ServoSnapshot) -> dict[str, Value]:
        now_s = time.monotonic()
        arm = self._devices.arm
        # Sorting the pacing statistics takes milliseconds: not while setpoints of somebody's motion are due.
        if arm is not None and snapshot.state is not ServoState.FOLLOWING and now_s > self._pace_due_s:
            self._pace_due_s = now_s + PACE_PERIOD_S
            self._pace = arm.pace()
        return {
            "robot": self._cell.robot.host,
            "state": snapshot.state.name,
            "source": snapshot.source,
            "state_rate_hz": self._states.rate_hz(now_s),
            "state_age_s": self._states.age_s(now_s),
            "target_rate_hz": self._targets.rate_hz(now_s),
            "target_age_s": snapshot.target_age_s,
            "clamped": snapshot.clamped,
            "refused": snapshot.refused,
            "refusal": snapshot.refusal,
            "stale": snapshot.stale,
            "speed_scaling": 1.0 if arm is None else arm.speed_scaling,
            "targets_not_obeyed": self._unobeyed,
            **{f"setpoint_{name}": value for name, value in self._pace.items()},
        }

    # ---- targets

    def _on_target(self, target: ServoTarget) -> None:
        arm = self._devices.arm
        if arm is None or arm.status().source != target.source:
            self._unobeyed += 1
            return
        now_s = time.monotonic()
        self._targets.tick(now_s)
        # The driver counts ages on the monotonic clock, messages carry the clock of the day.
        stamp_s = now_s - (time.time_ns() - to_nanoseconds(target.header.stamp)) * 1e-9
        try:
            accepted = self._offer(arm, target, stamp_s)
        except ValueError:  # a mode or an orientation that means nothing
            self._unobeyed += 1
            return
        if accepted and math.isfinite(target.gripper_opening):
            self._command_gripper(min(max(float(target.gripper_opening), 0.0), 1.0))

    def _offer(self, arm: UrArm, target: ServoTarget, stamp_s: float) -> bool:
        if target.mode == ServoTarget.JOINT:
            return arm.set_joint_target(target.joint_positions.tolist(), stamp_s)
        if target.mode == ServoTarget.TCP_POSE:
            return arm.set_pose_target(to_matrix(target.pose), stamp_s)
        raise ValueError(f"target mode {target.mode} is neither JOINT nor TCP_POSE")

    def _command_gripper(self, opening: float) -> None:
        at_an_end = opening in (0.0, 1.0) and opening != self._opening
        if at_an_end or not abs(opening - self._opening) < GRIPPER_STEP:
            try:
                self._devices.set_opening(opening)
            except Refused:
                return  # no gripper: /diagnostics says so all the time
            self._opening = opening

    # ---- verbs

    async def _on_command(self, request: Any) -> str:
        return await self._obey(str(request.verb), str(request.argument))

    async def _obey(self, verb: str, argument: str) -> str:
        if verb not in VERBS:
            raise Refused(f"unknown verb {verb!r}, the arm knows {', '.join(VERBS)}")
        if not self.active:
            raise Refused("the arm node is not active; activate it first")
        try:
            return str(await self.in_thread(lambda: self._do(verb, argument)))
        except (ArmError, EngageRefused) as error:
            raise Refused(str(error)) from error

    def _do(self, verb: str, argument: str) -> str:
        """Run one verb; blocks until it is done."""
        if verb in ("power_on", "recover"):
            self._devices.make_ready()
            return f"the arm is ready to engage{self._gripper_remark()}"
        if verb == "gripper":
            self._devices.set_opening(_opening(argument))
            return f"gripper moves to {argument}"
        arm = self._devices.require_arm()
        if verb == "engage":
            arm.engage(argument)
            self._opening = math.nan
            return f"the arm obeys {argument}"
        if verb == "disengage":
            arm.disengage("disengaged by the operator")
            return "the arm obeys nobody"
        if verb == "stop":
            arm.stop("stopped by the operator")
            return "the arm brakes; recover before engaging again"
        if verb == "move_joints":
            arm.move_joints(_angles(argument))
            return "the arm is there"
        arm.move_home()
        return "the arm is at home"

    def _gripper_remark(self) -> str:
        problem = self._devices.gripper_problem
        return f", but the gripper is not: {problem}" if problem else ""

    # ---- measurements

    def _publish(self) -> None:
        """One poll of the publishing thread."""
        arm = self._devices.arm
        if arm is None:
            return
        self._out.servo(arm.status())
        try:
            state = arm.measured()
        except ArmError:
            return  # silence on the topics, the reason on /diagnostics
        if state.stamp_ns - self._stamp_ns >= STATE_PERIOD_NS:
            self._stamp_ns = state.stamp_ns
            self._states.tick(time.monotonic())
            self._out.state(state)
        now_s = time.monotonic()
        if now_s >= self._gripper_due_s:
            self._gripper_due_s = now_s + GRIPPER_PERIOD_S - POLL_S / 2
            reading = self._devices.gripper_reading()
            if reading is not None:
                self._out.gripper(reading)


def _opening(argument: str) -> float:
    try:
        return float(argument)
    except ValueError as error:
        raise Refused(f"gripper needs an opening between 0 (closed) and 1 (open), got {argument!r}") from error


def _angles(argument: str) -> list[float]:
    try:
        angles = [float(word) for word in argument.replace(",", " ").split()]
    except ValueError:
        angles = []
    if len(angles) != 6 or not all(map(math.isfinite, angles)):
        raise Refused(f"move_joints needs six angles in radians, as '0 -1.57 1.57 -1.57 -1.57 0', got {argument!r}")
    return angles


def main() -> None:
    """Entry point of the executable ``arm``."""
    sys.exit(run(ArmNode, niceness=NICENESS))


if __name__ == "__main__":
    main()
