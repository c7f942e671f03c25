"""Arm and camera of a calibration, through the cell's topics and verbs. For a thread that is not the executor's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from prophrl_interfaces.msg import ServoStatus
from prophrl_interfaces.srv import OperatorVerb
from sensor_msgs.msg import CameraInfo, Image, JointState

from calibration.camera import PinholeCamera
from prophrl_nodes import qos
from prophrl_nodes.calibrating.look import ArmReading, CalibrationStopped, CameraImage
from prophrl_nodes.calls import CallError, call, demand, demand_within, wait_future
from prophrl_nodes.messages import ARM_JOINTS, joint_positions, to_matrix, to_nanoseconds
from prophrl_nodes.node_base import ProphNode
from robot_bridge.arm_types import PROGRAM_ENDED

Array = NDArray[np.float64]

FRESH_S = 0.5
SILENCE_S = 5.0
MOVE_TIMEOUT_S = 75.0
POLL_S = 0.01
CAUSE_S = 1.0
PAIR_NS = 4_000_000
"""Joints and pose whose stamps differ by less belong to one measurement (they come at 125 Hz)."""


class CellHands:
    """Make it in ``setup``. ``cancelled`` is asked all the time; its answer, if not empty, is why the run ends."""

    def __init__(self, node: ProphNode) -> None:
        self.cancelled: Callable[[], str] = lambda: ""
        self.needs_arm = True
        """False while a person moves the arm, with the pendant perhaps: it need not obey us then."""
        self._lock = threading.Lock()
        self._joints: JointState | None = None
        self._pose: PoseStamped | None = None
        self._reading: ArmReading | None = None
        self._image: Image | None = None
        self._info: CameraInfo | None = None
        self._servo: ServoStatus | None = None
        self._arm = node.client(OperatorVerb, "arm/command")
        node.subscribe(JointState, "joint_states", self._on_joints, qos.STREAM)
        node.subscribe(PoseStamped, "tcp_pose_broadcaster/pose", self._on_pose, qos.STREAM)
        node.subscribe(Image, "camera/color/image_raw", self._on_image, qos.IMAGE_LATEST)
        node.subscribe(CameraInfo, "camera/color/camera_info", self._on_info, qos.IMAGE_LATEST)
        node.subscribe(ServoStatus, "servo/status", self._on_servo, qos.STATE)

    # ---- what a run asks

    def check(self) -> None:
        """Raise when the run is cancelled or the arm is stopped."""
        cancelled = self.cancelled()
        if cancelled:
            raise CalibrationStopped(cancelled)
        reason = self.stop_reason() if self.needs_arm else ""
        if reason:
            raise CalibrationStopped(f"the arm stopped: {reason}")

    def arm(self) -> ArmReading:
        """The newest reading of the arm."""
        deadline_s = time.monotonic() + SILENCE_S
        while True:
            with self._lock:
                reading = self._reading
            if reading is not None and (time.time_ns() - reading.stamp_ns) * 1e-9 < FRESH_S:
                return reading
            self._wait(deadline_s, "no joint states and TCP pose of the arm for {:.0f} s; is its node running?")

    def image(self, after_ns: int) -> CameraImage:
        """The newest image, as soon as it was taken after that moment."""
        deadline_s = time.monotonic() + SILENCE_S
        while True:
            with self._lock:
                message = self._image
            if message is not None and to_nanoseconds(message.header.stamp) > after_ns:
                return _camera_image(message)
            self._wait(deadline_s, "no camera image for {:.0f} s; see /diagnostics of the camera node")

    def move(self, q: Array) -> None:
        """Go to joints q [6] rad on a straight path, at the arm's own careful speed; waits until it is there."""
        self.check()
        words = " ".join(f"{angle:.6f}" for angle in q)
        future = self._arm.call_async(OperatorVerb.Request(verb="move_joints", argument=words))
        deadline_s = time.monotonic() + MOVE_TIMEOUT_S
        while not future.done():
            cancelled = self.cancelled()
            if cancelled:
                self.stop()
                raise CalibrationStopped(cancelled)
            if time.monotonic() > deadline_s:
                self.stop()
                raise CalibrationStopped(f"the arm did not answer within {MOVE_TIMEOUT_S:.0f} s and was told to stop")
            time.sleep(POLL_S)
        try:
            response = wait_future(future, 1.0, "arm/command")
        except CallError as error:
            raise CalibrationStopped(str(error)) from error
        if not response.success:
            raise CalibrationStopped(self._cause(response.message))

    def _cause(self, message: str) -> str:
        """The end of the control program is heard of a moment before the safety stop that ended it."""
        deadline_s = time.monotonic() + CAUSE_S
        while PROGRAM_ENDED in message and time.monotonic() < deadline_s:
            reason = self.stop_reason()
            if reason and reason != PROGRAM_ENDED:
                return reason
            time.sleep(POLL_S)
        return message

    # ---- what the node asks

    def newest_image(self) -> CameraImage | None:
        """The newest image without waiting; None before the first."""
        with self._lock:
            message = self._image
        return None if message is None else _camera_image(message)

    def reading(self) -> ArmReading | None:
        """The newest reading of the arm without waiting."""
        with self._lock:
            return self._reading

    def stop_reason(self) -> str:
        """Why the arm is stopped, empty when it is not."""
        with self._lock:
            servo = self._servo
        return str(servo.reason or "stopped") if servo is not None and servo.state == ServoStatus.STOPPED else ""

    def stop(self) -> None:
        """Brake the arm; it needs ``recover`` before it moves again."""
        try:
            call(self._arm, OperatorVerb.Request(verb="stop"), 5.0)
        except CallError as error:
            raise CalibrationStopped(f"cancelled, but the arm could not be told to stop: {error}") from error

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the arm obeys verbs and the camera delivers: the nodes of one launch come up in any order.

        Raises:
            CalibrationStopped: not in time, or cancelled.
        """
        try:
            demand_within(self._arm, lambda: OperatorVerb.Request(verb="disengage"), timeout_s, pause_s=0.5)
        except CallError as error:
            raise CalibrationStopped(f"the arm is not ready: {error}") from error
        deadline_s = time.monotonic() + timeout_s
        while self.newest_image() is None or self._info is None or self.reading() is None:
            self._wait(deadline_s, "no camera image, camera info or arm reading came; see /diagnostics", timeout_s)

    def home(self) -> None:
        """Move to the cell's home pose. Raises ``CalibrationStopped``."""
        try:
            demand(self._arm, OperatorVerb.Request(verb="home"), MOVE_TIMEOUT_S)
        except CallError as error:
            raise CalibrationStopped(str(error)) from error

    def camera(self) -> PinholeCamera:
        """Intrinsics the camera reports of itself, without a pose.

        Raises:
            CalibrationStopped: it has not reported any yet.
        """
        camera = self.intrinsics()
        if camera is None:
            raise CalibrationStopped("no camera_info yet; is the camera node running?")
        return camera

    def intrinsics(self) -> PinholeCamera | None:
        """The same, None before they are known."""
        info = self._info
        if info is None:
            return None
        distortion = np.array(info.d, dtype=np.float64)
        return PinholeCamera(
            fx=float(info.k[0]),
            fy=float(info.k[4]),
            cx=float(info.k[2]),
            cy=float(info.k[5]),
            width=int(info.width),
            height=int(info.height),
            distortion=distortion if distortion.any() else None,
        )

    def _wait(self, deadline_s: float, problem: str, patience_s: float = SILENCE_S) -> None:
        cancelled = self.cancelled()
        if cancelled:
            raise CalibrationStopped(cancelled)
        if time.monotonic() > deadline_s:
            raise CalibrationStopped(problem.format(patience_s))
        time.sleep(POLL_S)

    # ---- topics

    def _on_joints(self, message: JointState) -> None:
        self._joints = message
        self._pair()

    def _on_pose(self, message: PoseStamped) -> None:
        self._pose = message
        self._pair()

    def _pair(self) -> None:
        """Joints and pose of one measurement come in two messages, in either order."""
        joints, pose = self._joints, self._pose
        if joints is None or pose is None:
            return
        stamp_ns = to_nanoseconds(pose.header.stamp)
        if abs(to_nanoseconds(joints.header.stamp) - stamp_ns) > PAIR_NS:
            return
        velocities = JointState(name=joints.name, position=joints.velocity)
        reading = ArmReading(
            joint_positions(joints, ARM_JOINTS), joint_positions(velocities, ARM_JOINTS), to_matrix(pose.pose), stamp_ns
        )
        with self._lock:
            self._reading = reading

    def _on_image(self, message: Image) -> None:
        with self._lock:
            self._image = message

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_servo(self, message: ServoStatus) -> None:
        with self._lock:
            self._servo = message


def _camera_image(message: Image) -> CameraImage:
    if message.encoding not in ("rgb8", "bgr8"):
        raise CalibrationStopped(f"the camera delivers {message.encoding!r} images; rgb8 or bgr8 is needed")
    pixels = np.frombuffer(message.data, dtype=np.uint8).reshape(message.height, message.step)
    image = pixels[:, : 3 * message.width].reshape(message.height, message.width, 3)
    if message.encoding == "bgr8":
        image = image[..., ::-1]
    return CameraImage(np.ascontiguousarray(image), to_nanoseconds(message.header.stamp))
