"""The physical world of the twin: one MuJoCo step per 2 ms controller tick.

The world knows nothing of protocols: the controller process and the fast lane both hand it the desired joints and the
gripper target of each tick and read back what sensors of a real cell would say, plus the truth for judging. The arm
may carry DH deltas like a real calibrated arm; then ``T_base_tcp`` is the true pose, as a UR controller reports it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot_bridge.twin.arm_model import JOINTS, drive_gains
from robot_bridge.twin.gripper_model import FINGERS, HALF_STROKE_M, GripperDrive
from robot_bridge.twin.scene_objects import CUBE_HALF_M, TISSUE_FREE_M, TISSUE_GRIP_N, TISSUE_SLOT_JOINTS
from robot_bridge.twin.scenes import TIMESTEP_S, build_model
from robot_bridge.twin.success import SceneState, SuccessReport
from robot_bridge.twin.tasks import Placement, Scene, Task, get_scene
from robot_bridge.ur_kinematics import JOINT_SPEED_LIMITS_RADPS, DhDeltas

Array = NDArray[np.float64]

HOME_Q_RAD = (0.0, -np.pi / 2, np.pi / 2, -np.pi / 2, -np.pi / 2, 0.0)
SETTLE_TICKS = 150
JUDGE_EVERY_TICKS = 25
"""The success predicate is asked every 50 ms for its dwell time."""
_WILD_SPEED = 500.0
"""m/s or rad/s; nothing in the cell can move like that."""
_REST_HEIGHT_M = {"cube": CUBE_HALF_M}


# MuJoCo would append its warnings to a file MUJOCO_LOG.TXT in whatever folder the process was started from.
mujoco.set_mju_user_warning(logging.getLogger(__name__).warning)


class WorldDiverged(RuntimeError):
    """The simulation no longer holds numbers that mean anything."""


class World:
    """Arm, gripper and one scene's objects.

    Args:
        task_id: which scene, of ``tasks.SCENE_IDS``.
        dh_deltas: give the arm calibration deltas drawn from ``seed`` (attribute ``deltas``); False for nominal DH.
        seed: names this arm unit, and the mount of the board in a calibration scene.

    Raises:
        ValueError: unknown task.
    """

    def __init__(self, task_id: str, *, dh_deltas: bool = True, seed: int = 0) -> None:
        self.task: Scene = get_scene(task_id)
        self.seed = seed
        self.deltas: DhDeltas | None = DhDeltas.random(seed) if dh_deltas else None
        self.model = build_model(task_id, self.deltas, seed=seed)
        self.data = mujoco.MjData(self.model)
        self.gripper = GripperDrive(TIMESTEP_S)
        self.tick = 0
        self.scene_revision = 0
        self._kinematics_tick: int | None = None
        self._lead_s = tuple(damping / stiffness for stiffness, damping in drive_gains())
        self._index_model()
        self.reset(None)

    def _index_model(self) -> None:
        model = self.model
        self._finger_qpos = [int(model.joint(name).qposadr[0]) for name in FINGERS]
        self._finger_dof = [int(model.joint(name).dofadr[0]) for name in FINGERS]
        if [int(model.joint(name).qposadr[0]) for name in JOINTS] != list(range(6)):
            raise RuntimeError("the arm's joints must come first in the model; add objects after the arm")
        self._tcp_site = int(model.site("tcp").id)
        self._flange_site = int(model.site("flange_sensor").id)
        self._bodies = {name: int(model.body(name).id) for name in self.task.objects}
        self._free_qpos = {spec.name: int(model.joint(spec.name).qposadr[0]) for spec in self.task.placed}
        self._touch = slice(int(model.sensor("touch2").adr[0]), int(model.sensor("touch6").adr[0]) + 1)
        gripper = int(model.body("gripper").id)
        self._gripper_mass_kg = float(model.body_subtreemass[gripper])
        self._tissue = "tissue" in self.task.objects
        if self._tissue:
            self._tissue_qpos = int(model.joint("tissue_pull").qposadr[0])
            self._tissue_dof = int(model.joint("tissue_pull").dofadr[0])
            self._tissue_joint = int(model.joint("tissue_pull").id)
            self._slot_locks = [int(model.equality(name).id) for name in TISSUE_SLOT_JOINTS]

    # --- life of a scene -----------------------------------------------------------------------------------------

    def reset(self, placement: Placement | None, q: ArrayLike | None = None, gripper_opening: float = 1.0) -> None:
        """Set the objects on the table and let them settle, arm and gripper at rest.

        ``tick`` and ``time_s`` start at 0 again. The same arguments give the same world, bit by bit.

        Args:
            placement: where the objects stand; None for a fixed default.
            q: joints [6] rad, default home; pass ``world.q`` to change the scene under a live arm.
            gripper_opening: 0 closed to 1 open.

        Raises:
            ValueError: the placement belongs to another task.
        """
        if placement is None:
            placement = self._default_placement()
        if placement.task != self.task.id:
            raise ValueError(
                f"this world holds {self.task.id}, the placement is for {placement.task}; build another World"
            )
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        start = np.asarray(HOME_Q_RAD if q is None else q, dtype=np.float64)
        data.qpos[:6] = start
        data.qpos[self._finger_qpos] = HALF_STROKE_M * gripper_opening
        for name, (x, y, yaw) in placement.objects.items():
            adr = self._free_qpos[name]
            data.qpos[adr : adr + 3] = (x, y, _REST_HEIGHT_M.get(name, 0.0))
            data.qpos[adr + 3 : adr + 7] = (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
        if self._tissue:
            self._hold_tissue(True)
        self.placement = placement
        self.scene_revision += 1
        self.gripper.reset(gripper_opening)
        self._q_last = [float(value) for value in start]
        self._held_since_tick = -1
        self._start_poses: dict[str, Array] = {}
        self._kinematics_tick = None
        self.tick = -SETTLE_TICKS
        while self.tick < 0:
            self.step(self._q_last, gripper_opening)
        self._start_poses = self.object_poses()
        self._held_since_tick = -1

    def _default_placement(self) -> Placement:
        if not isinstance(self.task, Task):
            return Placement(self.task.id)
        x, y = sum(self.task.primary.x_m) / 2, 0.0
        others = {spec.name: (x, 0.20, 0.0) for spec in self.task.placed[1:]}
        return Placement(self.task.id, {self.task.primary.name: (x, y, 0.0), **others})

    def step(self, q_desired: Sequence[float], gripper_opening_target: float) -> None:
        """Advance by one tick of 2 ms; the drives follow ``q_desired`` [6] rad, the fingers an opening in [0, 1].

        Raises:
            ValueError: a desired joint or the opening is not a finite number; the world has not moved.
            WorldDiverged: the physics blew up; only ``reset`` helps.
        """
        data = self.data
        last, lead = self._q_last, self._lead_s
        control = []
        for i in range(6):
            speed = (q_desired[i] - last[i]) / TIMESTEP_S
            limit = JOINT_SPEED_LIMITS_RADPS[i]
            speed = limit if speed > limit else -limit if speed < -limit else speed
            control.append(q_desired[i] + lead[i] * speed)
        if not math.isfinite(sum(control) + gripper_opening_target):
            raise ValueError(
                f"cannot follow joints {list(q_desired)} and opening {gripper_opening_target!r}: not finite"
            )
        self._q_last = [float(value) for value in q_desired]
        qpos, qvel = data.qpos, data.qvel
        a, b = self._finger_qpos
        c, d = self._finger_dof
        control.append(
            self.gripper.force(gripper_opening_target, 0.5 * (qpos[a] + qpos[b]), 0.5 * float(qvel[c] + qvel[d]))
        )
        data.ctrl[:] = control
        mujoco.mj_step(self.model, data)
        self.tick += 1
        if self._tissue and qpos[self._tissue_qpos] > TISSUE_FREE_M and data.eq_active[self._slot_locks[0]]:
            self._hold_tissue(False)
        if self.tick % JUDGE_EVERY_TICKS == 0 and self.tick > 0:
            if not np.isfinite(data.qpos).all() or abs(data.qvel).max() > _WILD_SPEED:
                raise WorldDiverged(
                    f"the physics of {self.task.id} diverged at {self.time_s:.3f} s (placement "
                    f"{self.placement.to_json()}); reset the scene"
                )
            self._judge()

    def _hold_tissue(self, in_slot: bool) -> None:
        """In the slot the tissue only slides along it; once out it is free."""
        self.data.eq_active[self._slot_locks] = in_slot
        self.model.dof_frictionloss[self._tissue_dof] = TISSUE_GRIP_N if in_slot else 0.0
        self.model.jnt_range[self._tissue_joint, 0] = 0.0 if in_slot else -10.0

    # --- what the robot's sensors say ----------------------------------------------------------------------------

    @property
    def time_s(self) -> float:
        """Simulated seconds since the reset."""
        return self.tick * TIMESTEP_S

    @property
    def q(self) -> Array:
        """Joint angles [6] rad."""
        q: Array = self.data.qpos[:6].copy()
        return q

    @property
    def qd(self) -> Array:
        """Joint velocities [6] rad/s."""
        qd: Array = self.data.qvel[:6].copy()
        return qd

    @property
    def T_base_tcp(self) -> Array:
        """True TCP pose [4, 4], DH deltas included."""
        self._refresh()
        T = np.eye(4)
        T[:3, :3] = self.data.site_xmat[self._tcp_site].reshape(3, 3)
        T[:3, 3] = self.data.site_xpos[self._tcp_site]
        return T

    @property
    def tcp_velocity(self) -> Array:
        """Linear then angular TCP velocity [6] in base, m/s and rad/s."""
        self._refresh()
        mujoco.mj_comPos(self.model, self.data)
        jacobian = np.zeros((6, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], self._tcp_site)
        velocity: Array = jacobian[:, :6] @ self.data.qvel[:6]
        return velocity

    @property
    def gripper_opening(self) -> float:
        """Measured opening: 0 closed, 1 open."""
        a, b = self._finger_qpos
        qpos = self.data.qpos
        return min(max(float(qpos[a] + qpos[b]) / (2.0 * HALF_STROKE_M), 0.0), 1.0)

    @property
    def gripper_object_detected(self) -> bool:
        """The fingers stalled before their target, as the real gripper's OBJ 1 or 2."""
        return self.gripper.object_detected

    def tcp_force(self) -> Array:
        """External wrench [6] on the gripper, N and Nm about the flange, base axes, gripper weight removed.

        Positive z means that something pushes the gripper up. What the gripper carries counts as external, as on a
        robot whose payload is set to the empty gripper. Values are those of the last step.
        """
        R = self.data.site_xmat[self._flange_site].reshape(3, 3)
        force = -(R @ self.data.sensordata[0:3])
        torque = -(R @ self.data.sensordata[3:6])
        force[2] += self._gripper_mass_kg * 9.81
        return np.concatenate([force, torque])

    @property
    def arm_collision_force(self) -> float:
        """Force (N) with which arm or gripper push against table or objects in the last step: the largest of the
        contact forces on each link and of the external force on the gripper. Squeezing an object is not a collision.
        """
        data = self.data.sensordata
        fx, fy, fz = self.tcp_force()[:3].tolist()
        touch: list[float] = data[self._touch].tolist()
        return max(math.sqrt(fx * fx + fy * fy + fz * fz), *touch)

    # --- the truth -----------------------------------------------------------------------------------------------

    def object_poses(self) -> dict[str, Array]:
        """True poses ``T_base_object`` [4, 4] in the order of ``task.objects``."""
        self._refresh()
        poses = {}
        for name, body in self._bodies.items():
            T = np.eye(4)
            T[:3, :3] = self.data.xmat[body].reshape(3, 3)
            T[:3, 3] = self.data.xpos[body]
            poses[name] = T
        return poses

    def scene_state(self) -> SceneState:
        """What the success predicate looks at."""
        poses = self.object_poses()
        tcp_speed_mps = float(np.linalg.norm(self.tcp_velocity[:3]))
        mujoco.mj_comVel(self.model, self.data)
        speeds = {name: self._body_speed(body) for name, body in self._bodies.items()}
        return SceneState(
            poses=poses,
            start_poses=self._start_poses or poses,
            speed_mps=speeds,
            T_base_tcp=self.T_base_tcp,
            tcp_speed_mps=tcp_speed_mps,
            gripper_opening=self.gripper_opening,
            object_detected=self.gripper_object_detected,
        )

    def success(self) -> SuccessReport:
        """The verdict now: every condition holds and has held for the task's dwell time."""
        terms = self._judge()
        missing = [name for name, holds in terms.items() if not holds]
        if missing:
            return SuccessReport(False, "not: " + "; ".join(missing), terms)
        held_s = (self.tick - self._held_since_tick) * TIMESTEP_S
        if held_s < self.task.dwell_s:
            return SuccessReport(
                False, f"all conditions hold, but only for {held_s:.2f} of {self.task.dwell_s} s", terms
            )
        return SuccessReport(True, f"all conditions have held for {held_s:.1f} s", terms)

    def _judge(self) -> dict[str, bool]:
        terms = self.task.judge(self.scene_state())
        if not all(terms.values()):
            self._held_since_tick = -1
        elif self._held_since_tick < 0:
            self._held_since_tick = self.tick
        return terms

    def _body_speed(self, body: int) -> float:
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(self.model, self.data, mujoco.mjtObj.mjOBJ_XBODY, body, velocity, 0)
        return float(np.linalg.norm(velocity[3:]))

    @property
    def qpos(self) -> Array:
        """All generalised positions [nq]: what a renderer needs."""
        qpos: Array = self.data.qpos.copy()
        return qpos

    def set_qpos(self, qpos: ArrayLike) -> None:
        """Put the world at a recorded ``qpos`` [nq], at rest (for renderers and replays, not for control)."""
        values = np.asarray(qpos, dtype=np.float64)
        if values.shape != (self.model.nq,):
            raise ValueError(f"{self.task.id} has {self.model.nq} positions, got shape {values.shape}")
        self.data.qpos[:] = values
        self.data.qvel[:] = 0.0
        self._q_last = [float(value) for value in values[:6]]
        self._kinematics_tick = None
        mujoco.mj_forward(self.model, self.data)

    def _refresh(self) -> None:
        """Body poses of the positions reached by the last step (the engine leaves those of its beginning)."""
        if self._kinematics_tick != self.tick:
            mujoco.mj_kinematics(self.model, self.data)
            self._kinematics_tick = self.tick
