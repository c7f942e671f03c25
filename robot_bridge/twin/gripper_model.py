"""A two-finger gripper of the 2F-85's size as MJCF, and the law by which its motor drives it.

Simplified against the real one: the fingers slide instead of swinging on a four-bar linkage, so that the fingertips
stay at the same height over the whole stroke (the real tips move by about 13 mm along the tool axis). Stroke, speed,
force range and pads are of the real size. Both fingers are coupled; one motor drives their mean.

In frame tool0 (z out of the flange) the fingers close along x; the pads' centre is at the TCP, z = 0.174 m.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from robot_bridge.twin.arm_model import ARM_BIT, COLLISION_GROUP, TABLE_BIT
from robot_bridge.twin.mjcf import add

STROKE_M = 0.085
HALF_STROKE_M = STROKE_M / 2
FULL_SPEED_MPS = STROKE_M / 0.65
"""Change of the opening per second at full speed."""
FORCE_RANGE_N = (20.0, 80.0)
"""Grip force at FOR 0 and 255. The real gripper reaches 235 N; no object here needs it, and contacts stay calm."""
FINGERS = ("finger_right", "finger_left")
TCP_Z_M = 0.174
KNUCKLE_PIVOT_M = (0.030, 0.088)
"""Where the visible knuckle bars turn on the palm: |x| and z in tool0."""
KNUCKLE_LENGTH_M = 0.052

_STIFFNESS_NPM = 8000.0
_DAMPING_NSPM = 110.0
_DRIVE_INERTIA_KG = 0.25
_PRESSING_M = 0.001
"""A reference this far beyond the fingers is force, not lag."""
_PAD = {
    "friction": (1.3, 0.02, 0.0005),
    "condim": 4,
    "priority": 2,
    "solref": (0.006, 1.0),
    "solimp": (0.95, 0.99, 0.001),
}


def add_gripper(tool0: Element) -> None:
    """Mount palm, fingers and the site ``tcp`` on the flange body."""
    add(tool0, "site", name="tcp", pos=(0, 0, TCP_Z_M), group=4)
    gripper = add(tool0, "body", name="gripper", gravcomp=1)
    add(gripper, "site", name="flange_sensor", group=4)
    _visual(gripper, "cylinder", "gripper_metal", fromto=(0, 0, 0, 0, 0, 0.014), size=(0.040,))
    _visual(gripper, "cylinder", "gripper_dark", fromto=(0, 0, 0.014, 0, 0, 0.055), size=(0.036,))
    _visual(gripper, "box", "gripper_dark", pos=(0, 0, 0.072), size=(0.043, 0.030, 0.026))
    _visual(gripper, "cylinder", "gripper_metal", fromto=(-0.030, -0.026, 0.088, -0.030, 0.026, 0.088), size=(0.009,))
    _visual(gripper, "cylinder", "gripper_metal", fromto=(0.030, -0.026, 0.088, 0.030, 0.026, 0.088), size=(0.009,))
    add(
        gripper,
        "geom",
        name="palm",
        type="box",
        pos=(0, 0, 0.056),
        size=(0.045, 0.032, 0.044),
        mass=0.75,
        contype=ARM_BIT,
        conaffinity=TABLE_BIT,
        group=COLLISION_GROUP,
    )
    for name, side in zip(FINGERS, (1.0, -1.0), strict=True):
        _add_finger(gripper, name, side)


def _add_finger(gripper: Element, name: str, side: float) -> None:
    """One finger; at joint value 0 its pad touches the middle plane, at HALF_STROKE_M the gripper is open."""
    pivot_x, pivot_z = KNUCKLE_PIVOT_M
    knuckle = add(gripper, "body", name=f"{name}_knuckle", pos=(side * pivot_x, 0, pivot_z), gravcomp=1)
    for y in (-0.021, 0.021):
        bar = {"pos": (0, y, 0.5 * KNUCKLE_LENGTH_M), "size": (0.007, 0.004, 0.030)}
        _visual(knuckle, "box", "gripper_dark", mass=0.01, **bar)
    finger = add(gripper, "body", name=name, gravcomp=1)
    add(
        finger,
        "joint",
        name=name,
        type="slide",
        axis=(side, 0, 0),
        range=(0.0, HALF_STROKE_M),
        limited=True,
        armature=_DRIVE_INERTIA_KG,
        damping=2.0,
        solreflimit=(0.006, 1.0),
    )
    add(
        finger,
        "geom",
        name=f"{name}_pad",
        type="box",
        pos=(side * 0.0075, 0, 0.154),
        size=(0.0075, 0.011, 0.033),
        mass=0.09,
        contype=ARM_BIT,
        conaffinity=TABLE_BIT,
        group=COLLISION_GROUP,
        **_PAD,
    )
    _visual(finger, "box", "pad_rubber", pos=(side * 0.003, 0, 0.168), size=(0.003, 0.011, 0.0185))
    _visual(finger, "box", "gripper_metal", pos=(side * 0.0105, 0, 0.160), size=(0.0045, 0.0105, 0.026))
    _visual(finger, "box", "gripper_dark", pos=(side * 0.0135, 0, 0.136), size=(0.0085, 0.017, 0.013))


def add_gripper_drive(root: Element) -> None:
    """Coupling, mean-opening tendon, motor and flange force sensor."""
    equality = add(root, "equality")
    add(
        equality,
        "joint",
        joint1=FINGERS[0],
        joint2=FINGERS[1],
        polycoef=(0, 1, 0, 0, 0),
        solref=(0.004, 1.0),
        solimp=(0.97, 0.995, 0.0005),
    )
    fixed = add(add(root, "tendon"), "fixed", name="half_opening")
    for name in FINGERS:
        add(fixed, "joint", joint=name, coef=0.5)
    actuator = root.find("actuator")
    if actuator is None:
        actuator = add(root, "actuator")
    add(
        actuator,
        "general",
        name="gripper",
        tendon="half_opening",
        gainprm=(1, 0, 0),
        biastype="none",
        forcerange=(-2 * FORCE_RANGE_N[1], 2 * FORCE_RANGE_N[1]),
        forcelimited=True,
    )
    sensor = add(root, "sensor")
    add(sensor, "force", name="flange_force", site="flange_sensor")
    add(sensor, "torque", name="flange_torque", site="flange_sensor")


def _visual(body: Element, shape: str, material: str, *, mass: float = 0.0, **where: Sequence[float]) -> None:
    add(body, "geom", type=shape, material=material, mass=mass, contype=0, conaffinity=0, group=1, **where)


class GripperDrive:
    """The gripper's own motor control: constant speed towards the target, limited force, stall means object.

    Openings are fractions (0 closed, 1 open). ``force`` returns the motor force for one period.
    """

    STALL_SPEED_MPS = 0.004
    STALL_TIME_S = 0.05
    REACHED_M = 0.0015
    """Opening error below which the target counts as reached."""

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self.speed_fraction = 1.0
        self.force_fraction = 0.47
        self.reset(1.0)

    def reset(self, opening: float) -> None:
        """Stand still at an opening, nothing held."""
        self.target = opening
        self.reference_m = opening * HALF_STROKE_M
        self.object_detected = False
        self.moving = False
        self._stalled_s = 0.0

    @property
    def grip_force_n(self) -> float:
        """Force of each finger at stall."""
        low, high = FORCE_RANGE_N
        return low + (high - low) * min(max(self.force_fraction, 0.0), 1.0)

    def force(self, target: float, half_opening_m: float, half_speed_mps: float) -> float:
        """Motor force (N on the mean half-opening, so twice a finger's force) for the measured finger state."""
        self.target = target = min(max(target, 0.0), 1.0)
        goal = target * HALF_STROKE_M
        top = 2.0 * self.grip_force_n
        slack = top / _STIFFNESS_NPM + 0.001
        step = 0.5 * FULL_SPEED_MPS * (0.15 + 0.85 * min(max(self.speed_fraction, 0.0), 1.0)) * self.period_s
        reference = self.reference_m
        pressing_m = reference - half_opening_m
        if abs(pressing_m) > _PRESSING_M and (goal - half_opening_m) * pressing_m < 0.0:
            reference = half_opening_m  # turned round while pressing: let go at once
        reference = min(goal, reference + step) if goal > reference else max(goal, reference - step)
        # The reference never runs ahead of a blocked finger farther than full force needs.
        reference = min(max(reference, half_opening_m - slack), half_opening_m + slack)
        velocity = min(max((reference - self.reference_m) / self.period_s, -FULL_SPEED_MPS), FULL_SPEED_MPS)
        self.reference_m = reference
        self._watch(goal - half_opening_m, half_speed_mps)
        wanted = _STIFFNESS_NPM * (reference - half_opening_m) + _DAMPING_NSPM * (velocity - half_speed_mps)
        return min(max(wanted, -top), top)

    def _watch(self, remaining_m: float, half_speed_mps: float) -> None:
        """Stalled away from the target for a while means that something is between (or around) the fingers."""
        if abs(remaining_m) < 0.5 * self.REACHED_M:
            self.object_detected, self.moving, self._stalled_s = False, False, 0.0
        elif abs(half_speed_mps) > self.STALL_SPEED_MPS:
            self.object_detected, self.moving, self._stalled_s = False, True, 0.0
        else:
            self._stalled_s += self.period_s
            if self._stalled_s >= self.STALL_TIME_S:
                self.object_detected, self.moving = True, False
