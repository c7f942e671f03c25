"""The cell of the twin as MJCF: table, light, camera, the arm with its gripper and the objects of one scene.

Every movable thing has a free joint (or hangs on one), so ``qpos`` alone says what a camera sees.
"""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element, tostring

import mujoco

from robot_bridge.twin.arm_model import COLLISION_GROUP, TABLE_BIT, add_arm, add_arm_sensors, add_drives, add_materials
from robot_bridge.twin.calibration_scene import BOARD_PNG, add_board, board_png
from robot_bridge.twin.gripper_model import add_gripper, add_gripper_drive
from robot_bridge.twin.mjcf import add, wood_png
from robot_bridge.twin.scene_objects import ADD_OBJECTS, SHOW
from robot_bridge.twin.tasks import SCENE_IDS, TASK_IDS, get_scene
from robot_bridge.ur_kinematics import UR30_DH, DhDeltas

TIMESTEP_S = 0.002
CAMERA_POSITION_M = (-1.27, 0.0, 0.600)
CAMERA_PITCH_RAD = math.radians(29.0)
"""The fixed camera stands in front of the robot, looks along base +x and down by this angle."""
CAMERA_FOCAL_PER_HEIGHT = 212.0 / 240.0
"""Focal length in pixels divided by the image height (colour stream of a D455 at 424x240: 212 px)."""
NEAR_M, FAR_M = 0.05, 8.0


def build_model(
    task_id: str, deltas: DhDeltas | None = None, *, width: int = 424, height: int = 240, seed: int = 0
) -> mujoco.MjModel:
    """Compile a scene, with this arm's DH deltas and an off-screen buffer of width x height pixels.

    Args:
        seed: the cell's, decides where the board of a calibration scene really is; tasks do not depend on it.

    Raises:
        ValueError: unknown task.
    """
    assets = {"wood.png": wood_png()}
    if task_id not in TASK_IDS and task_id in SCENE_IDS:
        assets[BOARD_PNG] = board_png()
    return mujoco.MjModel.from_xml_string(scene_xml(task_id, deltas, width, height, seed), assets)


def scene_xml(task_id: str, deltas: DhDeltas | None, width: int, height: int, seed: int = 0) -> str:
    """The scene as MJCF text; it refers to the asset ``wood.png``, with a calibration board also to ``board.png``."""
    get_scene(task_id)
    dh = UR30_DH if deltas is None else deltas.added_to(UR30_DH)
    root = Element("mujoco", model=f"prophrl_{task_id}")
    add(root, "compiler", angle="radian", inertiafromgeom="auto", boundmass=1e-4, boundinertia=1e-8)
    option = add(
        root,
        "option",
        timestep=TIMESTEP_S,
        integrator="Euler",
        cone="elliptic",
        impratio=10,
        iterations=20,
        ls_iterations=20,
        tolerance=1e-7,
    )
    add(option, "flag", autoreset="disable")  # a diverged world is reported by the world, not hidden
    add(root, "size", memory="4M")
    add(root, "statistic", extent=1.0, center=(-0.6, 0.0, 0.2), meansize=0.1)
    visual = add(root, "visual")
    add(visual, "global", offwidth=str(width), offheight=str(height))
    add(visual, "map", znear=NEAR_M, zfar=FAR_M)
    add(visual, "quality", offsamples="0", shadowsize="0", numslices="20", numstacks="10")
    add(visual, "headlight", ambient=(0.42, 0.42, 0.42), diffuse=(0.25, 0.25, 0.25), specular=(0.05, 0.05, 0.05))
    asset = add(root, "asset")
    worldbody = add(root, "worldbody")
    add(root, "actuator")
    add_materials(asset)
    _add_room(asset, worldbody)
    tool0 = add_arm(worldbody, dh)
    add_gripper(tool0)
    actuator = root.find("actuator")
    assert actuator is not None
    add_drives(actuator)
    add_gripper_drive(root)
    add_arm_sensors(root)
    equality = root.find("equality")
    assert equality is not None
    if task_id in TASK_IDS:
        ADD_OBJECTS[task_id](asset, worldbody, equality)
    else:
        add_board(task_id, seed, asset, worldbody, tool0)
    return tostring(root, encoding="unicode")


def _add_room(asset: Element, worldbody: Element) -> None:
    add(
        asset,
        "texture",
        type="skybox",
        builtin="gradient",
        rgb1=(0.86, 0.88, 0.90),
        rgb2=(0.62, 0.65, 0.68),
        width="64",
        height="384",
    )
    add(asset, "texture", name="wood", type="2d", file="wood.png")
    add(asset, "material", name="wood", texture="wood", specular=0.1, shininess=0.2)
    add(asset, "material", name="floor", rgba=(0.50, 0.52, 0.54, 1.0), specular=0.0)
    add(asset, "material", name="wall", rgba=(0.84, 0.85, 0.85, 1.0), specular=0.0)
    add(asset, "material", name="steel", rgba=(0.42, 0.44, 0.47, 1.0), specular=0.2)
    add(
        worldbody,
        "light",
        directional=True,
        pos=(-1.2, 0.8, 2.5),
        dir=(0.35, -0.35, -0.87),
        diffuse=(0.45, 0.45, 0.44),
        specular=(0.2, 0.2, 0.2),
        castshadow=False,
    )
    add(
        worldbody,
        "light",
        directional=True,
        pos=(-1.2, -0.8, 2.0),
        dir=(0.45, 0.5, -0.74),
        diffuse=(0.18, 0.18, 0.20),
        specular=(0.05, 0.05, 0.05),
        castshadow=False,
    )
    s, c = math.sin(CAMERA_PITCH_RAD), math.cos(CAMERA_PITCH_RAD)
    add(
        worldbody,
        "camera",
        name="d455",
        pos=CAMERA_POSITION_M,
        xyaxes=(0, -1, 0, s, 0, c),
        fovy=math.degrees(2.0 * math.atan(0.5 / CAMERA_FOCAL_PER_HEIGHT)),
    )
    add(
        worldbody,
        "geom",
        name="table",
        type="plane",
        size=(3, 3, 0.1),
        contype=TABLE_BIT,
        conaffinity=0,
        group=COLLISION_GROUP,
        friction=(0.8, 0.01, 0.0005),
        solref=(0.01, 1.0),
    )
    add(worldbody, "geom", type="box", pos=(-0.45, 0, -0.02), size=(0.62, 0.62, 0.02), material="wood", **SHOW)
    add(worldbody, "geom", type="box", pos=(-0.45, 0, -0.06), size=(0.60, 0.60, 0.02), material="steel", **SHOW)
    add(worldbody, "geom", type="plane", pos=(0, 0, -0.75), size=(4, 4, 0.1), material="floor", **SHOW)
    add(worldbody, "geom", type="box", pos=(1.6, 0, 1.0), size=(0.02, 4, 1.75), material="wall", **SHOW)
