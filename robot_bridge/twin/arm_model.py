"""The UR30 as MJCF, built from its DH table: links as tubes, no meshes, any calibrated table.

Body i turns about the z axis of DH frame i-1 and carries what stands fixed to frame i; so the simulated chain is
``RotZ(q_i + theta_i) TransZ(d_i) TransX(a_i) RotX(alpha_i)`` exactly, deltas included. Masses are the maker's;
inertias follow from tubes of those masses; the drives are position servos with the rotors' reflected inertia.
The base is bolted to the table (z = 0); the arm reaches towards -x at q1 = 0.

Collision bits: 1 table, 2 arm and gripper, 4 objects. The arm does not collide with itself.
"""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element

from robot_bridge.twin.mjcf import add
from robot_bridge.ur_kinematics import DhTable

ARM_BIT, TABLE_BIT, OBJECT_BIT = 2, 1, 4
COLLISION_GROUP = 3
"""Geoms of this group are felt, not seen."""
JOINTS = tuple(f"joint{i}" for i in range(1, 7))
BASE_MASS_KG = 4.0
LINK_MASS_KG = (16.343, 28.542, 7.156, 3.054, 3.126, 0.926)
EFFORT_LIMIT_NM = (738.0, 738.0, 433.0, 107.0, 107.0, 107.0)
ROTOR_INERTIA_KGM2 = (3.0, 3.0, 1.5, 0.25, 0.25, 0.25)
"""Rotor inertia seen behind the gears; of the size of harmonic drives with ratio 100, not a published figure."""
DRIVE_INERTIA_KGM2 = (30.0, 30.0, 9.0, 0.9, 0.6, 0.4)
"""Inertia for which the drives are tuned: about the largest each joint moves within the workspace."""
DRIVE_BANDWIDTH_RADPS = 80.0
DRIVE_DAMPING_RATIO = 1.0

_UPPER_ARM_ASIDE_M = 0.215
_FOREARM_ASIDE_M = 0.055
_HALF_PI = math.pi / 2


def drive_gains() -> tuple[tuple[float, float], ...]:
    """Stiffness Nm/rad and damping Nm s/rad of the six drives."""
    return tuple(
        (inertia * DRIVE_BANDWIDTH_RADPS**2, 2.0 * DRIVE_DAMPING_RATIO * inertia * DRIVE_BANDWIDTH_RADPS)
        for inertia in DRIVE_INERTIA_KGM2
    )


def add_materials(asset: Element) -> None:
    """Colours of arm and gripper."""
    add(asset, "material", name="ur_grey", rgba=(0.80, 0.82, 0.84, 1.0), specular=0.35, shininess=0.5)
    add(asset, "material", name="ur_joint", rgba=(0.66, 0.68, 0.70, 1.0), specular=0.35, shininess=0.5)
    add(asset, "material", name="ur_cap", rgba=(0.36, 0.60, 0.80, 1.0), specular=0.3, shininess=0.4)
    add(asset, "material", name="gripper_dark", rgba=(0.13, 0.13, 0.15, 1.0), specular=0.4, shininess=0.4)
    add(asset, "material", name="gripper_metal", rgba=(0.55, 0.56, 0.58, 1.0), specular=0.6, shininess=0.6)
    add(asset, "material", name="pad_rubber", rgba=(0.24, 0.24, 0.26, 1.0), specular=0.05, shininess=0.1)


def add_arm(worldbody: Element, dh: DhTable) -> Element:
    """Append base and six links; returns the body ``tool0`` (the flange frame), to which the gripper is mounted."""
    base = add(worldbody, "body", name="base")
    _tube(base, (0, 0, 0), (0, 0, 0.06), 0.115, "ur_joint", mass=BASE_MASS_KG)
    _tube(base, (0, 0, 0.06), (0, 0, 0.10), 0.095, "ur_grey")
    parent, a, d, alpha = base, 0.0, 0.0, 0.0
    for i in range(6):
        # Frame i-1 relative to body i-1 (which already carries its own rotation), then this joint's zero offset.
        hinge = add(parent, "body", name=f"link{i + 1}", pos=(a, 0.0, d), quat=_rot_x_z(alpha, dh.theta[i]), gravcomp=1)
        add(
            hinge,
            "joint",
            name=JOINTS[i],
            type="hinge",
            axis=(0, 0, 1),
            range=(-2 * math.pi, 2 * math.pi),
            limited=True,
            armature=ROTOR_INERTIA_KGM2[i],
            damping=1.0,
        )
        add(hinge, "site", name=f"feel{i + 1}", type="sphere", size=(5.0,), group=4)
        _LINKS[i](hinge, dh, LINK_MASS_KG[i])
        a, d, alpha = dh.a[i], dh.d[i], dh.alpha[i]
        parent = hinge
    return add(parent, "body", name="tool0", pos=(a, 0.0, d), quat=_rot_x_z(alpha, 0.0), gravcomp=1)


def add_drives(actuator: Element) -> None:
    """Six position servos; control i is the desired angle plus damping/stiffness times the desired velocity."""
    for joint, (stiffness, damping), effort in zip(JOINTS, drive_gains(), EFFORT_LIMIT_NM, strict=True):
        add(
            actuator,
            "general",
            name=joint,
            joint=joint,
            gainprm=(stiffness, 0, 0),
            biastype="affine",
            biasprm=(0, -stiffness, -damping),
            forcerange=(-effort, effort),
            forcelimited=True,
        )


def add_arm_sensors(root: Element) -> None:
    """Sum of the contact forces on each link that can touch anything (sensors ``touch2`` to ``touch6``)."""
    sensor = root.find("sensor")
    if sensor is None:
        sensor = add(root, "sensor")
    for i in range(2, 7):
        add(sensor, "touch", name=f"touch{i}", site=f"feel{i}")


def _shoulder(body: Element, dh: DhTable, mass: float) -> None:
    d1 = dh.d[0]
    _tube(body, (0, 0, 0.10), (0, 0, d1 + 0.02), 0.092, "ur_grey", mass=mass)
    _tube(body, (0, 0.10, d1), (0, -0.12, d1), 0.088, "ur_joint")
    _tube(body, (0, 0.10, d1), (0, 0.125, d1), 0.086, "ur_cap")


def _upper_arm(body: Element, dh: DhTable, mass: float) -> None:
    a2, u = dh.a[1], _UPPER_ARM_ASIDE_M
    _tube(body, (0, 0, 0.12), (0, 0, u + 0.085), 0.090, "ur_grey")
    _tube(body, (0, 0, u + 0.085), (0, 0, u + 0.105), 0.087, "ur_cap")
    _tube(body, (0, 0, u), (a2, 0, u), 0.070, "ur_grey", mass=mass)
    _tube(body, (a2, 0, 0.12), (a2, 0, u + 0.075), 0.080, "ur_grey")
    _tube(body, (a2, 0, u + 0.075), (a2, 0, u + 0.095), 0.077, "ur_cap")
    _feeler(body, (0, 0, u), (a2, 0, u), 0.080)


def _forearm(body: Element, dh: DhTable, mass: float) -> None:
    a3, f = dh.a[2], _FOREARM_ASIDE_M
    _tube(body, (0, 0, -0.03), (0, 0, 0.12), 0.078, "ur_joint")
    _tube(body, (0, 0, f), (a3, 0, f), 0.058, "ur_grey", mass=mass)
    _tube(body, (a3, 0, -0.015), (a3, 0, 0.115), 0.060, "ur_grey")
    _tube(body, (a3, 0, -0.035), (a3, 0, -0.015), 0.057, "ur_cap")
    _feeler(body, (0, 0, f), (a3, 0, f), 0.062)


def _wrist1(body: Element, dh: DhTable, mass: float) -> None:
    d4 = dh.d[3]
    _tube(body, (0, 0, 0.115), (0, 0, d4 + 0.055), 0.056, "ur_joint", mass=mass)
    _tube(body, (0, 0, d4 + 0.055), (0, 0, d4 + 0.072), 0.054, "ur_cap")
    _tube(body, (0, 0.0, d4), (0, -0.075, d4), 0.056, "ur_grey")
    _feeler(body, (0, 0, 0.13), (0, 0, d4), 0.06)


def _wrist2(body: Element, dh: DhTable, mass: float) -> None:
    d5 = dh.d[4]
    _tube(body, (0, 0, 0.075), (0, 0, d5 + 0.055), 0.056, "ur_joint", mass=mass)
    _tube(body, (0, 0, d5 + 0.055), (0, 0, d5 + 0.072), 0.054, "ur_cap")
    _tube(body, (0, 0, d5), (0, 0.075, d5), 0.056, "ur_grey")
    _feeler(body, (0, 0, 0.06), (0, 0, d5), 0.06)


def _wrist3(body: Element, dh: DhTable, mass: float) -> None:
    d6 = dh.d[5]
    _tube(body, (0, 0, 0.075), (0, 0, d6), 0.048, "ur_joint", mass=mass)
    _feeler(body, (0, 0, 0.05), (0, 0, d6 - 0.05), 0.05)


_LINKS = (_shoulder, _upper_arm, _forearm, _wrist1, _wrist2, _wrist3)


def _tube(
    body: Element,
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radius: float,
    material: str,
    mass: float = 0.0,
) -> None:
    """A visible cylinder that touches nothing; one tube of each link carries the link's mass."""
    add(
        body,
        "geom",
        type="cylinder",
        fromto=(*start, *end),
        size=(radius,),
        material=material,
        mass=mass,
        contype=0,
        conaffinity=0,
        group=1,
    )


def _feeler(body: Element, start: tuple[float, float, float], end: tuple[float, float, float], radius: float) -> None:
    """An invisible capsule with which a link touches the table and the objects."""
    add(
        body,
        "geom",
        type="capsule",
        fromto=(*start, *end),
        size=(radius,),
        mass=0,
        contype=ARM_BIT,
        conaffinity=TABLE_BIT,
        group=COLLISION_GROUP,
        rgba=(1, 0, 0, 0.3),
    )


def _rot_x_z(alpha: float, theta: float) -> tuple[float, float, float, float]:
    """Quaternion wxyz of RotX(alpha) RotZ(theta)."""
    cx, sx = math.cos(alpha / 2), math.sin(alpha / 2)
    cz, sz = math.cos(theta / 2), math.sin(theta / 2)
    return cx * cz, sx * cz, -sx * sz, cx * sz
