"""AgiBot World, DROID, LIBERO, BRIDGE and the own robot."""

from __future__ import annotations

from calibration.poses import ActionConvention
from prophrl_models.data.registry.actions import Representation
from prophrl_models.data.registry.gripper import GripperMap
from prophrl_models.data.registry.spec_types import (
    AGIBOT_SIZE,
    DROID_SIZE,
    SQUARE_SIZE,
    CameraData,
    Columns,
    DatasetSpec,
    Effector,
    Format,
    Layout,
    RecordedAction,
)

_XYZ = (0, 1, 2)
_STATE = "observation.state"
_EULER = (3, 4, 5)

_AGIBOT_STROKE = GripperMap(
    125.0,
    35.0,
    "OpenDriveLab/AgiBot-World issue 133: about 35 when open, about 118 when nearly closed; span 35..125 of A2World",
)


def _agibot(fmt: Format, images: tuple[str, ...], prefix: str, separator: str, text: str, note: str = "") -> Layout:
    """Both arms; published arrays [T, 2, 3], [T, 2, 4] and [T, 2] are read row by row, left arm first."""
    position, orientation, effector = (
        f"{prefix}{separator.join(words)}"
        for words in (("end", "position"), ("end", "orientation"), ("effector", "position"))
    )
    arms = tuple(
        Effector(
            position=Columns(position, tuple(range(3 * arm, 3 * arm + 3))),
            orientation=Columns(orientation, tuple(range(4 * arm, 4 * arm + 4))),
            representation=Representation.QUATERNION_XYZW,
            measured=(Columns(effector, (arm,), width=2), _AGIBOT_STROKE),
        )
        for arm in (0, 1)
    )
    return Layout(fmt, images, arms, (text,), note=note)


AGIBOT = DatasetSpec(
    name="agibot",
    title="AgiBot World (Alpha, Beta)",
    robot="AgiBot G1, two arms",
    convention=ActionConvention.LOCAL_FRAME_DELTA,
    rate_hz=30.0,
    resolution=AGIBOT_SIZE,
    camera=CameraData.FILES,
    layouts=(
        _agibot(Format.AGIBOT_H5, ("head_color",), "state/", "/", "task_name"),
        _agibot(Format.LEROBOT, ("observation.images.head",), "observation.states.", ".", "task"),
        _agibot(
            Format.LEROBOT,
            ("observation.images.head", "observation.images.head_color", "observation.images.top_head"),
            "observation.state.",
            ".",
            "task",
            "v3.0 conversion with flat columns",
        ),
    ),
    folders=("AgiBotWorld-Alpha", "AgiBotWorld-Beta"),
    sources=(
        "agibot-world/AgiBotWorld-Alpha and -Beta dataset cards (h5 fields, folders)",
        "OpenDriveLab/AgiBot-World issues 133 and 135",
        "Tavish9/any4lerobot agibot2lerobot",
        "LogosRoboticsGroup/A2World world_model/a2world/actions.py",
    ),
    open_questions=(
        "The card calls the state's gripper number an open range in mm, and A2World takes clip((raw-35)/90) as it is; "
        "pictures in issue 133 show the opposite (35 open). We follow the pictures. For weights released by the "
        "paper's authors, replay one open/close pair first: their input may be 1 minus ours.",
        "Extrinsics are read as camera to base (as public projection code does); they move with the head.",
        "One of the authors' scripts samples 10 frames per second; whether all pre-training did is not stated.",
        "Episodes with dexterous hands (12 effector columns) have no opening and are refused.",
    ),
)

_DROID_CLOSED = GripperMap(1.0, 0.0, "droid-dataset/droid: gripper_position 0 open .. 1 closed")


def _droid(
    fmt: Format, images: tuple[str, ...], pose: str, gripper: str, command: str, text: tuple[str, ...]
) -> Layout:
    arm = Effector(
        position=Columns(pose, _XYZ),
        orientation=Columns(pose, _EULER),
        representation=Representation.EULER_XYZ,
        measured=(Columns(gripper), _DROID_CLOSED),
        commanded=(Columns(command), _DROID_CLOSED),
    )
    return Layout(fmt, images, (arm,), text)


DROID = DatasetSpec(
    name="droid",
    title="DROID",
    robot="Franka, Robotiq 2F-85",
    convention=ActionConvention.LOCAL_FRAME_DELTA,
    rate_hz=15.0,
    resolution=DROID_SIZE,
    camera=CameraData.CALIBRATION,
    layouts=(
        _droid(
            Format.RLDS,
            ("steps/observation/exterior_image_1_left",),
            "steps/observation/cartesian_position",
            "steps/observation/gripper_position",
            "steps/action_dict/gripper_position",
            ("steps/language_instruction", "steps/language_instruction_2", "steps/language_instruction_3"),
        ),
        _droid(
            Format.LEROBOT,
            ("observation.images.exterior_1_left",),
            "observation.state.cartesian_position",
            "observation.state.gripper_position",
            "action.gripper_position",
            ("language_instruction", "task"),
        ),
        Layout(
            Format.LEROBOT,
            ("observation.images.exterior_image_1_left",),
            (
                Effector(
                    Columns(_STATE, _XYZ),
                    Columns(_STATE, _EULER),
                    Representation.EULER_XYZ,
                    measured=(Columns(_STATE, (7,)), _DROID_CLOSED),
                    commanded=(Columns("action", (6,)), GripperMap(0.0, 1.0, "any4lerobot: inverted to 1 open")),
                ),
            ),
            ("task",),
            note="Open-X style conversion: the state still has 1 closed, the action 1 open",
        ),
    ),
    folders=("droid", "droid_100", "droid_1.0.1", "droid_lerobot"),
    sources=(
        "huggingface/lerobot examples/port_datasets/port_droid.py (keys of RLDS 1.0.1 and of the v3.0 port)",
        "KarlP/droid dataset card (calibration release)",
        "openvla/openvla prismatic/vla/datasets/rlds/oxe/utils/droid_utils.py",
        "Tavish9/any4lerobot openx2lerobot",
    ),
    open_questions=(
        "How 16:9 pictures become 240x416 is not stated; here scaled to a height of 240 and cropped from 427 to 416.",
        "RLDS and LeRobot hold extrinsics (camera to base) but no intrinsics: those need the calibration release. The "
        "intrinsics are of 1280x720 pictures; the published pictures are 320x180.",
        "Which exterior camera the authors used is not stated; here the first.",
        "A2World passes the gripper on without inversion (0 open); see the same question at AgiBot.",
    ),
)

_OSC_SCALE = (0.05, 0.05, 0.05, 0.5, 0.5, 0.5)
_FINGERS = GripperMap(
    0.0, 0.08, "robosuite Panda gripper: each finger moves 0.04 m, in opposite directions", (1.0, -1.0)
)


def _libero(
    fmt: Format,
    image: str,
    state: str,
    action: str,
    command: GripperMap,
    text: tuple[str, ...],
    *,
    fingers: Columns | None = None,
    offset: int = 0,
    rotate: bool = False,
    note: str = "",
) -> Layout:
    arm = Effector(
        position=Columns(state, _XYZ),
        orientation=Columns(state, _EULER),
        representation=Representation.ROTATION_VECTOR,
        measured=(fingers or Columns(state, (6, 7)), _FINGERS),
        commanded=(Columns(action, (6,)), command),
    )
    servo = RecordedAction(Columns(action, (0, 1, 2, 3, 4, 5)), _OSC_SCALE)
    return Layout(fmt, (image,), (arm,), text, servo, action_offset=offset, rotate_180=rotate, note=note)


_SERVO_GRIPPER = GripperMap(1.0, -1.0, "robosuite: -1 opens, +1 closes (LIBERO issue 72)")
LIBERO = DatasetSpec(
    name="libero",
    title="LIBERO",
    robot="Franka (simulated)",
    convention=ActionConvention.CONTROLLER_SERVO,
    rate_hz=20.0,
    resolution=SQUARE_SIZE,
    camera=CameraData.NONE,
    layouts=(
        _libero(
            Format.LIBERO_HDF5,
            "obs/agentview_rgb",
            "obs/ee_states",
            "actions",
            _SERVO_GRIPPER,
            ("language_instruction",),
            fingers=Columns("obs/gripper_states", (0, 1)),
            offset=1,
            rotate=True,
            note="files regenerated by openvla are told apart by the reader, which then sets the offset to 0",
        ),
        _libero(
            Format.RLDS,
            "steps/observation/image",
            "steps/observation/state",
            "steps/action",
            _SERVO_GRIPPER,
            ("steps/language_instruction",),
        ),
        _libero(
            Format.LEROBOT,
            "observation.images.image",
            _STATE,
            "action",
            GripperMap(0.0, 1.0, "any4lerobot libero2lerobot: 0 closed, 1 open"),
            ("task",),
        ),
    ),
    gripper_from="commanded",
    folders=("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90", "libero_spatial_no_noops"),
    sources=(
        "Lifelong-Robot-Learning/LIBERO scripts/create_dataset.py, issue 72",
        "openvla/openvla experiments/robot/libero/regenerate_libero_dataset.py",
        "Tavish9/any4lerobot libero2lerobot",
        "LogosRoboticsGroup/A2World world_model/a2world/actions.py",
    ),
    open_questions=(
        "The published HDF5 stores the observation taken after action i at row i (create_dataset.py), so row i's "
        "observation is left by action i + 1; openvla's regenerated files store the observation before the action.",
        "robosuite's controller moves 0.05 m and 0.5 rad per unit; the authors' code multiplies the rotation by 0.05, "
        "too, before their world model. Ours is in radians; their released weights need theirs.",
        "Renderings are stored upside down; they are turned by 180 degrees, as openvla's policies see them. A2World "
        "mirrors them left to right instead.",
    ),
)


def _bridge(
    fmt: Format, images: tuple[str, ...], state: str, gripper: int, command: Columns, text: str, skip: int
) -> Layout:
    arm = Effector(
        position=Columns(state, _XYZ),
        orientation=Columns(state, _EULER),
        representation=Representation.EULER_XYZ,
        measured=(Columns(state, (gripper,)), _BRIDGE_OPEN),
        commanded=(command, _BRIDGE_OPEN),
    )
    return Layout(fmt, images, (arm,), (text,), skip_first=skip)


_BRIDGE_OPEN = GripperMap(0.0, 1.0, "rail-berkeley/bridge_data_v2 and openvla transforms: 1 open, 0 closed")
_RLDS_STATE = "steps/observation/state"
BRIDGE = DatasetSpec(
    name="bridge",
    title="BRIDGE (v2)",
    robot="WidowX 250",
    convention=ActionConvention.ABSOLUTE_POSE_DIFFERENCE,
    rate_hz=5.0,
    resolution=SQUARE_SIZE,
    camera=CameraData.NONE,
    layouts=(
        _bridge(
            Format.RLDS,
            ("steps/observation/image_0",),
            _RLDS_STATE,
            6,
            Columns("steps/action", (6,)),
            "steps/language_instruction",
            skip=1,
        ),
        _bridge(
            Format.RLDS,
            ("steps/observation/image",),
            _RLDS_STATE,
            6,
            Columns("steps/action/open_gripper"),
            "steps/observation/natural_language_instruction",
            skip=1,
        ),
        _bridge(Format.LEROBOT, ("observation.images.image_0",), _STATE, 7, Columns("action", (6,)), "task", skip=0),
    ),
    folders=("bridge_orig", "bridge_dataset", "bridge", "bridge_orig_lerobot"),
    sources=(
        "tensorflow/datasets docs/catalog/bridge.md (Open-X version)",
        "openvla/openvla prismatic/vla/datasets/rlds/oxe (bridge_orig, first step dropped)",
        "Tavish9/any4lerobot openx2lerobot",
    ),
    open_questions=(
        "No calibration is published with it; the authors' code draws action frames for it from a source we lack.",
        "openvla takes the commanded, binarised gripper; IRASim and A2World the measured one, as here.",
    ),
)

_OPENING = GripperMap(0.0, 1.0, "prophrl: opening, 0 closed, 1 open")
_OWN_ARM = Effector(
    Columns(_STATE, _XYZ),
    Columns(_STATE, _EULER),
    Representation.EULER_XYZ,
    measured=(Columns(_STATE, (6,)), _OPENING),
    commanded=(Columns("action", (6,)), _OPENING),
)
_OWN_ACTION = RecordedAction(Columns("action", (0, 1, 2, 3, 4, 5)))
OWN_ROBOT = DatasetSpec(
    name="own_robot",
    title="own robot (UR30e in the paper)",
    robot="UR arm with Robotiq gripper",
    convention=ActionConvention.ABSOLUTE_POSE_DIFFERENCE,
    rate_hz=10.0,
    resolution=AGIBOT_SIZE,
    camera=CameraData.RECORD,
    layouts=(
        Layout(Format.PROPHRL, ("observation.images.color",), (_OWN_ARM,), ("task",), _OWN_ACTION),
        Layout(
            Format.LEROBOT,
            ("observation.images.camera", "observation.images.color", "observation.images.image"),
            (_OWN_ARM,),
            ("task",),
            _OWN_ACTION,
        ),
    ),
    gripper_from="commanded",
    sources=("this repository: prophrl dataset build, prophrl dataset export",),
    open_questions=("The paper does not state the control rate; 10 Hz is this repository's default.",),
)

ROBOTS = (AGIBOT, DROID, LIBERO, BRIDGE)
