"""The fast lane: the twin's world, servo generator and camera stepped in one process, without sockets or waiting.

What it shares with the full lab is the code itself: ``World``, ``JointServo``, ``ServoGenerator``, ``Renderer``. What
the full lab adds (ROS, RTDE, the real gripper's socket) is present as its delay only. Time is simulated time: a run
depends on its arguments and on nothing else, and takes as long as the computation takes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.poses import ActionConvention, integrate_chunk, interpolate, to_euler, transform
from robot_bridge.cell import RobotConfig, SafetyConfig
from robot_bridge.servo import ServoGenerator
from robot_bridge.twin.motion import JointServo
from robot_bridge.twin.render import Renderer
from robot_bridge.twin.scenes import TIMESTEP_S
from robot_bridge.twin.success import SuccessReport
from robot_bridge.twin.tasks import Placement
from robot_bridge.twin.ur_controller import COLLISION_FORCE_N
from robot_bridge.twin.world import World
from robot_bridge.ur_kinematics import Kinematics

Array = NDArray[np.float64]

IMAGE_WIDTH, IMAGE_HEIGHT = 320, 240
TARGET_TICKS = 5
"""Targets reach the servo generator at 100 Hz, as the executor and the teleoperation node publish them."""
SETPOINT_DELAY_TICKS = 2
"""A setpoint written over RTDE is obeyed two controller cycles later."""
GRIPPER_DELAY_TICKS = 10
"""The gripper's tool bus answers after some 20 ms."""
CORRECTION_TICKS = 50
"""The arm's calibration is observed ten times a second."""
LOG_TICKS = 10
_STOP_DECELERATION_RADPS2 = 20.0


@dataclass(frozen=True)
class FastObservation:
    """What the live policy node would be given: image [240, 320, 3] uint8, state [x y z ex ey ez g] float32."""

    image_HW3: NDArray[np.uint8]
    state_7: NDArray[np.float32]
    stamp_ns: int
    T_base_tcp: Array


class FastLane:
    """One robot cell with one task, as fast as the processor allows.

    Args:
        task_id: which scene.
        seed: names the arm unit (its DH deltas), as in ``World``.
        control_rate_hz: rate of actions and observations.
        dh_deltas: whether the arm deviates from nominal DH.
        render: False saves the OpenGL context; ``observe`` then returns black images.
        safety, robot: sections of a cell file; the defaults are those of the twin's.

    Raises:
        ValueError: unknown task, or a control rate that does not divide into 2 ms ticks of 10 ms targets.
    """

    def __init__(
        self,
        task_id: str,
        *,
        seed: int = 0,
        control_rate_hz: float = 10.0,
        dh_deltas: bool = True,
        render: bool = True,
        safety: SafetyConfig | None = None,
        robot: RobotConfig | None = None,
    ) -> None:
        self.robot = robot or RobotConfig(model="ur30", host="127.0.0.1")
        self.control_rate_hz = control_rate_hz
        self._targets_per_action(control_rate_hz)
        self.world = World(task_id, dh_deltas=dh_deltas, seed=seed)
        self.kinematics = Kinematics(tool=transform(self.robot.tcp_offset[:3]))
        self._safety = safety or SafetyConfig()
        self.joint_servo = JointServo(
            period_s=TIMESTEP_S, lookahead_s=self.robot.servo_lookahead_s, gain=self.robot.servo_gain
        )
        self.renderer = Renderer(task_id, IMAGE_WIDTH, IMAGE_HEIGHT, deltas=self.world.deltas) if render else None
        self._black = np.zeros((IMAGE_HEIGHT, IMAGE_WIDTH, 3), dtype=np.uint8)
        self._log: list[Array] = []
        self._begin_episode()

    def close(self) -> None:
        """Release the OpenGL context."""
        if self.renderer is not None:
            self.renderer.close()
            self.renderer = None

    def __enter__(self) -> FastLane:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- episodes ------------------------------------------------------------------------------------------------

    def reset(self, placement: Placement | None = None) -> FastObservation:
        """Set the scene, arm at home, gripper open, nothing engaged; returns the first observation.

        Raises:
            ValueError: the placement belongs to another task.
        """
        self.world.reset(placement, self.robot.home_rad)
        self._begin_episode()
        return self.observe()

    def _begin_episode(self) -> None:
        q = self.world.q.tolist()
        # A new generator: what the last episode taught about the arm's calibration must not colour this one.
        self.servo = ServoGenerator(self.kinematics, self._safety, TIMESTEP_S)
        self.servo.correction.observe(q, self.world.T_base_tcp)
        self.servo.seed(q)
        self.joint_servo.seed(q)
        self._setpoints = deque([q] * SETPOINT_DELAY_TICKS)
        self.opening_target = 1.0
        self._openings = deque([1.0] * GRIPPER_DELAY_TICKS)
        self._T_last = self.world.T_base_tcp
        self._log.clear()
        self.protective_stop = ""
        """Why the controller stopped the arm in this episode; empty while it has not. Only ``reset`` leads out."""

    @property
    def time_s(self) -> float:
        """Simulated seconds since the reset."""
        return self.world.time_s

    @property
    def trajectory(self) -> Array:
        """True TCP poses [N, 4, 4] since the reset, one every 20 ms."""
        return np.array(self._log).reshape(-1, 4, 4)

    def success(self) -> SuccessReport:
        """The judge's verdict now."""
        return self.world.success()

    def observe(self) -> FastObservation:
        """Image and measured state of this instant."""
        T = self.world.T_base_tcp
        state = np.append(to_euler(T), self.world.gripper_opening).astype(np.float32)
        image = self._black if self.renderer is None else self.renderer.render_color(self.world.qpos)
        return FastObservation(image.copy(), state, round(self.time_s * 1e9), T)

    # --- execution -----------------------------------------------------------------------------------------------

    def execute_chunk(
        self, actions_CHD: ArrayLike, convention: ActionConvention, execute_length: int | None = None
    ) -> FastObservation:
        """Execute the first ``execute_length`` rows of a chunk [CH, 7] from the measured pose; observe afterwards.

        Raises:
            ValueError: wrong shape, NaN, or an execute_length outside 1..CH.
        """
        actions = np.asarray(actions_CHD, dtype=np.float64)
        if actions.ndim != 2 or actions.shape[1] != 7 or not np.isfinite(actions).all():
            raise ValueError(f"a chunk must be finite with shape [CH, 7], got shape {actions.shape}; check the policy")
        length = len(actions) if execute_length is None else execute_length
        if not 1 <= length <= len(actions):
            raise ValueError(f"execute_length must lie in 1..{len(actions)}, got {length}")
        poses = integrate_chunk(self.world.T_base_tcp, actions[:length], convention)
        return self.execute_pose_targets(poses, actions[:length, 6], self.control_rate_hz)

    def execute_pose_targets(self, T_N44: ArrayLike, opening_N: ArrayLike, rate_hz: float) -> FastObservation:
        """Move through TCP poses [N, 4, 4] at a rate, as the executor does: 100 Hz targets in between.

        The opening [N] of each row is commanded when the motion towards its pose begins.
        """
        poses = np.asarray(T_N44, dtype=np.float64).reshape(-1, 4, 4)
        openings = np.broadcast_to(np.asarray(opening_N, dtype=np.float64), len(poses))
        per_action = self._targets_per_action(rate_hz)
        if self.protective_stop:
            self.run(len(poses) * per_action * TARGET_TICKS)
            return self.observe()
        self.engage("executor")
        T_from = self.world.T_base_tcp
        for T_to, opening in zip(poses, openings, strict=True):
            self.opening_target = min(max(float(opening), 0.0), 1.0)
            for i in range(per_action):
                self.offer_pose(interpolate(T_from, T_to, (i + 1) / per_action))
                self.run(TARGET_TICKS)
            T_from = T_to
        self._T_last = T_from
        return self.observe()

    def hold(self, seconds: float) -> FastObservation:
        """Wait while the executor keeps publishing its last pose (inference time); observe afterwards."""
        for _ in range(round(seconds / (TARGET_TICKS * TIMESTEP_S))):
            if self.servo.status().source == "executor":
                self.offer_pose(self._T_last)
            self.run(TARGET_TICKS)
        return self.observe()

    def offer_pose(self, T_base_tcp: ArrayLike) -> bool:
        """One TCP target for the servo generator, as of now; False when it was refused."""
        return self.servo.set_pose_target(T_base_tcp, self.time_s, self.time_s)

    def offer_joints(self, q_6: ArrayLike, stamp_s: float) -> bool:
        """One joint target for the servo generator, issued at stamp_s; False when it was refused."""
        return self.servo.set_joint_target(np.asarray(q_6, dtype=np.float64), stamp_s, self.time_s)

    def engage(self, source: str) -> None:
        """Let a source of targets drive the arm, in place of the present one."""
        if self.servo.status().source != source and not self.protective_stop:
            self.servo.disengage("")
            self.servo.engage(source)

    def run(self, ticks: int) -> None:
        """Advance by a number of 2 ms ticks."""
        world, setpoints, openings = self.world, self._setpoints, self._openings
        for _ in range(ticks):
            setpoints.append(self.servo.step(world.time_s))
            openings.append(self.opening_target)
            setpoint = setpoints.popleft()
            if self.protective_stop:
                world.step(self.joint_servo.brake(_STOP_DECELERATION_RADPS2), openings.popleft())
            else:
                world.step(self.joint_servo.step(setpoint), openings.popleft())
                self._watch_collision()
            if world.tick % CORRECTION_TICKS == 0:
                self.servo.correction.observe(world.q, world.T_base_tcp)
            if world.tick % LOG_TICKS == 0:
                self._log.append(world.T_base_tcp)

    def _watch_collision(self) -> None:
        """As the controller: stop at its force limit and let go of the contact."""
        force_n = self.world.arm_collision_force
        if force_n > COLLISION_FORCE_N:
            self.protective_stop = f"collision, {force_n:.0f} N between arm and table"
            self.servo.stop(self.protective_stop)
            self.joint_servo.seed(self.world.q.tolist())

    @staticmethod
    def _targets_per_action(rate_hz: float) -> int:
        per_action = 1.0 / (rate_hz * TARGET_TICKS * TIMESTEP_S) if rate_hz > 0.0 else math.nan
        if not (per_action >= 0.999 and abs(per_action - round(per_action)) < 1e-6):
            raise ValueError(f"the control rate must divide 100 Hz (1, 2, 5, 10, 20, 25, 50, 100), got {rate_hz}")
        return round(per_action)
