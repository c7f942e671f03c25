"""The objects of the four tasks as MJCF: bottle, cube, bowl, plate, tissue box.

An object is drawn with smooth surfaces and felt through few simple shapes with exact contacts: a bowl's wall is a ring
of boxes, a round foot is four small balls, a bottle is a capsule. Frames sit at the centre of the foot (z up), the
cube's at its centre.

Simplified: the tissue is three stiff strips on a friction slide rather than cloth; water in the bottle does not slosh.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from xml.etree.ElementTree import Element

from robot_bridge.twin import success
from robot_bridge.twin.arm_model import ARM_BIT, COLLISION_GROUP, OBJECT_BIT, TABLE_BIT
from robot_bridge.twin.mjcf import add, add_mesh, lathe, wavy_sheet

CUBE_HALF_M = 0.0225
BOTTLE_RADIUS_M = 0.028
BOWL_WALL_RADIUS_M = 0.070
TISSUE_BOX_HALF_M = (0.058, 0.055, 0.0425)
TISSUE_GRIP_N = 1.5
"""Friction of the box's slot on the tissue."""
TISSUE_BUOYANCY = 0.85
"""Share of its weight that the air carries: paper falls slowly."""
TISSUE_FREE_M = 0.085
"""Pulled farther than this, the tissue has left the slot."""
TISSUE_SLOT_JOINTS = ("tissue_x", "tissue_y", "tissue_roll", "tissue_pitch", "tissue_yaw")

_FEEL = {"mass": 0, "group": COLLISION_GROUP, "contype": OBJECT_BIT, "conaffinity": ARM_BIT | OBJECT_BIT}
_FEEL_TABLE = _FEEL | {"conaffinity": ARM_BIT | OBJECT_BIT | TABLE_BIT}
SHOW = {"mass": 0, "group": 1, "contype": 0, "conaffinity": 0}


def _free_body(
    worldbody: Element, name: str, mass_kg: float, com_z_m: float, inertia_kgm2: tuple[float, ...]
) -> Element:
    body = add(worldbody, "body", name=name)
    add(body, "freejoint", name=name)
    add(body, "inertial", pos=(0, 0, com_z_m), mass=mass_kg, diaginertia=inertia_kgm2)
    return body


def _add_feet(body: Element, radius_m: float) -> None:
    """Four balls on which a round thing stands: exact, cheap contacts on the table and on a plate."""
    for k in range(4):
        angle = (k + 0.5) * math.pi / 2
        add(
            body,
            "geom",
            type="sphere",
            size=(0.004,),
            pos=(radius_m * math.cos(angle), radius_m * math.sin(angle), 0.004),
            friction=(0.8, 0.01, 0.0005),
            **_FEEL_TABLE,
        )


def _add_bottle(asset: Element, worldbody: Element, equality: Element) -> None:
    r = BOTTLE_RADIUS_M
    profile = [(0, 0), (r - 0.004, 0), (r, 0.004), (r, 0.108), (0.9 * r, 0.122), (0.55 * r, 0.136), (0.013, 0.142)]
    add_mesh(asset, "bottle", lathe([*profile, (0.013, 0.150), (0, 0.150)], 28))
    add_mesh(asset, "bottle_label", lathe([(0, 0.040), (r + 0.0006, 0.040), (r + 0.0006, 0.085), (0, 0.085)], 28))
    add(asset, "material", name="bottle", rgba=(0.10, 0.52, 0.32, 1.0), specular=0.8, shininess=0.8)
    add(asset, "material", name="label", rgba=(0.95, 0.93, 0.85, 1.0), specular=0.1)
    add(asset, "material", name="bottle_cap", rgba=(0.90, 0.36, 0.12, 1.0), specular=0.3)
    body = _free_body(worldbody, "bottle", 0.22, 0.065, (4.5e-4, 4.5e-4, 9.0e-5))
    add(body, "geom", type="mesh", mesh="bottle", material="bottle", **SHOW)
    add(body, "geom", type="mesh", mesh="bottle_label", material="label", **SHOW)
    add(body, "geom", type="cylinder", fromto=(0, 0, 0.146, 0, 0, 0.164), size=(0.015,), material="bottle_cap", **SHOW)
    add(body, "geom", type="capsule", fromto=(0, 0, r + 0.001, 0, 0, 0.118), size=(r,), **_FEEL_TABLE)
    add(body, "geom", type="sphere", pos=(0, 0, 0.150), size=(0.014,), **_FEEL_TABLE)
    _add_feet(body, 0.021)


def _add_cube_and_bowl(asset: Element, worldbody: Element, equality: Element) -> None:
    add(asset, "material", name="cube", rgba=(0.86, 0.12, 0.10, 1.0), specular=0.3, shininess=0.4)
    h = CUBE_HALF_M
    body = add(worldbody, "body", name="cube")
    add(body, "freejoint", name="cube")
    add(
        body,
        "geom",
        name="cube",
        type="box",
        size=(h, h, h),
        mass=0.08,
        material="cube",
        group=1,
        contype=OBJECT_BIT,
        conaffinity=ARM_BIT | OBJECT_BIT | TABLE_BIT,
        friction=(0.7, 0.01, 0.0005),
    )
    _add_bowl(asset, worldbody, (0.25, 0.50, 0.82, 1.0))


def _add_bowl(asset: Element, worldbody: Element, rgba: tuple[float, ...]) -> None:
    """Bowl of 146 mm diameter and 50 mm height, steep at the rim so that two fingers can hold its wall."""
    rim, mid = success.BOWL_RIM_HEIGHT_M, BOWL_WALL_RADIUS_M
    outside = [
        (0, 0),
        (0.036, 0),
        (0.037, 0.004),
        (0.052, 0.009),
        (0.066, 0.020),
        (mid + 0.002, 0.034),
        (mid + 0.0025, rim),
    ]
    inside = [(mid - 0.0015, rim), (mid - 0.002, 0.034), (0.060, 0.020), (0.048, 0.011), (0.034, 0.007), (0, 0.007)]
    add_mesh(asset, "bowl", lathe([*outside, *inside], 40))
    add(asset, "material", name="bowl", rgba=rgba, specular=0.5, shininess=0.6)
    body = _free_body(worldbody, "bowl", 0.15, 0.022, (3.2e-4, 3.2e-4, 5.2e-4))
    add(body, "geom", type="mesh", mesh="bowl", material="bowl", **SHOW)
    add(body, "geom", type="box", pos=(0, 0, 0.0045), size=(0.034, 0.034, 0.0025), **_FEEL)
    count = 12
    for k in range(count):
        angle = 2 * math.pi * k / count
        c, s = math.cos(angle), math.sin(angle)
        half_angle = math.pi / count
        add(  # upper, upright band: what the fingers hold
            body,
            "geom",
            type="box",
            pos=(mid * c, mid * s, 0.5 * (0.020 + rim)),
            euler=(0, 0, angle),
            size=(0.0022, mid * math.tan(half_angle), 0.5 * (rim - 0.020)),
            friction=(0.7, 0.01, 0.0005),
            **_FEEL,
        )
        slope = math.atan2(0.016, 0.034)  # lower, sloping band: guides what falls in towards the middle
        add(
            body,
            "geom",
            type="box",
            pos=(0.052 * c, 0.052 * s, 0.0125),
            friction=(0.4, 0.01, 0.0005),
            xyaxes=(c * math.cos(slope), s * math.cos(slope), math.sin(slope), -s, c, 0.0),
            size=(0.019, 0.069 * math.tan(half_angle), 0.002),
            **_FEEL,
        )
    _add_feet(body, 0.031)


def _add_bowl_and_plate(asset: Element, worldbody: Element, equality: Element) -> None:
    _add_bowl(asset, worldbody, (0.93, 0.62, 0.10, 1.0))
    height = success.PLATE_HEIGHT_M
    profile = [
        (0, 0),
        (0.060, 0),
        (0.090, 0.010),
        (0.098, 0.017),
        (0.098, 0.019),
        (0.088, height + 0.002),
        (0.066, height),
    ]
    add_mesh(asset, "plate", lathe([*profile, (0, height)], 40))
    add(asset, "material", name="plate", rgba=(0.93, 0.94, 0.96, 1.0), specular=0.5, shininess=0.6)
    add(asset, "material", name="plate_ring", rgba=(0.22, 0.36, 0.66, 1.0), specular=0.4)
    body = _free_body(worldbody, "plate", 0.45, 0.008, (1.1e-3, 1.1e-3, 2.2e-3))
    add(body, "geom", type="mesh", mesh="plate", material="plate", **SHOW)
    add(body, "geom", type="cylinder", pos=(0, 0, height - 0.0005), size=(0.066, 0.0008), material="plate_ring", **SHOW)
    add(body, "geom", type="cylinder", pos=(0, 0, height + 0.0001), size=(0.060, 0.0004), material="plate", **SHOW)
    add(
        body,
        "geom",
        type="cylinder",
        pos=(0, 0, height / 2),
        size=(0.088, height / 2),
        friction=(0.8, 0.01, 0.0005),
        **_FEEL_TABLE,
    )


def _add_tissue_box(asset: Element, worldbody: Element, equality: Element) -> None:
    """A box with a slot along its x; the tissue's strips hang on a slide whose friction is the slot's."""
    hx, hy, hz = TISSUE_BOX_HALF_M
    add(asset, "material", name="carton", rgba=(0.25, 0.62, 0.62, 1.0), specular=0.1)
    add(asset, "material", name="carton_band", rgba=(0.93, 0.78, 0.42, 1.0), specular=0.1)
    add(asset, "material", name="slot", rgba=(0.08, 0.10, 0.12, 1.0), specular=0.0)
    add(asset, "material", name="tissue", rgba=(0.98, 0.98, 0.97, 1.0), specular=0.0, emission=0.35)
    box = _free_body(worldbody, "tissue_box", 1.2, 0.03, (2.6e-3, 2.8e-3, 2.6e-3))
    add(box, "geom", type="box", pos=(0, 0, hz), size=(hx, hy, hz), friction=(0.9, 0.01, 0.0005), **_FEEL_TABLE)
    add(box, "geom", type="box", pos=(0, 0, hz), size=(hx, hy, hz), material="carton", **SHOW)
    add(
        box,
        "geom",
        type="box",
        pos=(0, 0, 0.6 * hz),
        size=(hx + 0.0005, hy + 0.0005, 0.010),
        material="carton_band",
        **SHOW,
    )
    add(box, "geom", type="ellipsoid", pos=(0, 0, 2 * hz), size=(0.042, 0.017, 0.0012), material="slot", **SHOW)

    root = add(box, "body", name="tissue_root", pos=(0, 0, 2 * hz), gravcomp=TISSUE_BUOYANCY)
    add(
        root,
        "joint",
        name="tissue_pull",
        type="slide",
        axis=(0, 0, 1),
        range=(0.0, 10.0),
        limited=True,
        frictionloss=TISSUE_GRIP_N,
        damping=0.02,
    )
    for name, kind, axis in zip(TISSUE_SLOT_JOINTS, ("slide", "slide", *["hinge"] * 3), "xyxyz", strict=True):
        slide = kind == "slide"
        # The limit keeps the three hinges off the posture where two of them are one axis; the armature, larger than
        # the paper's own inertia, keeps the loose sheet calm when it is squeezed or stepped on.
        add(
            root,
            "joint",
            name=name,
            type=kind,
            axis=[int(axis == k) for k in "xyz"],
            damping=0.02 if slide else 3e-4,
            armature=0.002 if slide else 2e-5,
            range=(-10.0, 10.0) if slide else (-1.3, 1.3),
            limited=True,
        )
        add(equality, "joint", name=name, joint1=name, polycoef=(0, 0, 0, 0, 0), solref=(0.006, 1.0))
    strips = (("tissue_root", -0.080, 0.020), ("tissue_fold", 0.0, 0.020), ("tissue", -0.010, 0.018))
    widths, waves = ((0.062, 0.066), (0.066, 0.062), (0.062, 0.044)), ((0.003, 0.006), (0.006, 0.011), (0.011, 0.017))
    body = root
    for (name, low, high), width, wave in zip(strips, widths, waves, strict=True):
        if body is not root or name != "tissue_root":
            offset = 0.020 if name == "tissue_fold" else 0.030
            body = add(body, "body", name=name, pos=(0, 0, offset), gravcomp=TISSUE_BUOYANCY)
            add(
                body,
                "joint",
                name=f"{name}_bend",
                type="hinge",
                axis=(1, 0, 0),
                pos=(0, 0, low),
                range=(-1.2, 1.2),
                limited=True,
                stiffness=0.01,
                damping=6e-4,
                armature=2e-5,
            )
        add_mesh(asset, name, wavy_sheet(width, (low, high), wave))
        add(body, "geom", type="mesh", mesh=name, material="tissue", **SHOW)
        add(
            body,
            "geom",
            name=f"{name}_sheet",
            type="box",
            pos=(0, 0, 0.5 * (low + high)),
            size=(0.5 * min(width), 0.0012, 0.5 * (high - low)),
            group=COLLISION_GROUP,
            contype=0,
            conaffinity=ARM_BIT | TABLE_BIT,
            mass=0.004,
            friction=(0.9, 0.01, 0.0005),
        )


ADD_OBJECTS: dict[str, Callable[[Element, Element, Element], None]] = {
    "grasp_bottle": _add_bottle,
    "place_cube": _add_cube_and_bowl,
    "pull_tissue": _add_tissue_box,
    "place_bowl": _add_bowl_and_plate,
}
"""How each task's objects are added: asset, worldbody and equality elements are extended in place."""
