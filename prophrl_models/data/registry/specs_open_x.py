"""The nine Open-X subsets of the paper, in their RLDS and converted LeRobot layouts.

RLDS keys and shapes are those of the catalogue pages in tensorflow/datasets (docs/catalog); gripper polarities and
rates were cross-checked with openvla/openvla (prismatic/vla/datasets/rlds/oxe), octo-models/octo and
Tavish9/any4lerobot (openx2lerobot), whose LeRobot conversions are the published ones: there every state has 8 columns
with the gripper last, and every commanded gripper is already 1 open, 0 closed.
Paper: all of them follow ``LOCAL_FRAME_DELTA``, have no camera parameters and are padded or cropped to 240x320.
"""

from __future__ import annotations

from calibration.poses import ActionConvention
from prophrl_models.data.registry.actions import Representation
from prophrl_models.data.registry.gripper import Gripper, GripperMap, GripperSteps
from prophrl_models.data.registry.spec_types import (
    OPEN_X_SIZE,
    CameraData,
    Columns,
    DatasetSpec,
    Effector,
    Format,
    Layout,
)

_SUFFIX = "_converted_externally_to_rlds"
_CATALOGUE = "tensorflow/datasets docs/catalog/{}.md"
_CONVERSION = "Tavish9/any4lerobot openx2lerobot"
_XYZ, _STATE, _ACTION = (0, 1, 2), "steps/observation/state", "steps/action"
_LEROBOT_STATE, _LEROBOT_ACTION = "observation.state", "action"
_OPEN_IS_ONE = GripperMap(0.0, 1.0, f"{_CONVERSION}: commanded gripper standardised to 1 open, 0 closed")
_NO_GRIPPER_SCALE = (
    "The scale of the measured gripper is not documented; the opening in the state is the one last commanded."
)


def _rlds(effector: Effector, *, instruction: str = "steps/language_instruction", **options: object) -> Layout:
    images = ("steps/observation/image",)
    return Layout(Format.RLDS, images, (effector,), (instruction,), **options)  # type: ignore[arg-type]


def _lerobot(
    orientation: tuple[int, ...] | None,
    representation: Representation,
    measured: GripperMap | None = None,
    note: str = "",
) -> Layout:
    """The conversion's common form: position in columns 0..2, measured gripper (where there is one) in column 7."""
    effector = Effector(
        position=Columns(_LEROBOT_STATE, _XYZ),
        orientation=None if orientation is None else Columns(_LEROBOT_STATE, orientation),
        representation=representation,
        measured=None if measured is None else (Columns(_LEROBOT_STATE, (7,)), measured),
        commanded=(Columns(_LEROBOT_ACTION, (6,)), _OPEN_IS_ONE),
    )
    return Layout(Format.LEROBOT, ("observation.images.image",), (effector,), ("task",), note=note)


def _spec(
    name: str,
    title: str,
    robot: str,
    rate_hz: float,
    folder: str,
    layouts: tuple[Layout, ...],
    questions: tuple[str, ...] = (),
    sources: tuple[str, ...] = (),
) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        robot=robot,
        convention=ActionConvention.LOCAL_FRAME_DELTA,
        rate_hz=rate_hz,
        resolution=OPEN_X_SIZE,
        camera=CameraData.NONE,
        layouts=layouts,
        folders=(folder, f"{folder}_lerobot"),
        sources=(_CATALOGUE.format(folder), "openvla/openvla prismatic/vla/datasets/rlds/oxe", _CONVERSION, *sources),
        open_questions=questions,
    )


def _commanded(column: int, closed: float, opened: float, why: str) -> tuple[Columns, Gripper]:
    return Columns(_ACTION, (column,)), GripperMap(closed, opened, why)


_SAILOR_WIDTH = GripperMap(0.0, 0.077, "catalogue: opening width, about 0 closed to about 0.077 open (metres)")
AUSTIN_SAILOR = _spec(
    "austin_sailor",
    "Austin Sailor",
    "Franka",
    20.0,
    f"austin_sailor_dataset{_SUFFIX}",
    (
        _rlds(
            Effector(
                Columns(_STATE, _XYZ),
                Columns(_STATE, (3, 4, 5, 6)),
                Representation.QUATERNION_XYZW,
                measured=(Columns(_STATE, (7,)), _SAILOR_WIDTH),
                commanded=_commanded(6, 1.0, 0.0, "openvla transforms: clipped to 0..1 and inverted"),
            )
        ),
        _lerobot((3, 4, 5, 6), Representation.QUATERNION_XYZW, _SAILOR_WIDTH),
    ),
    ("The quaternion's order is not stated; xyzw is the order of the recording software (deoxys, robosuite).",),
)

DLR_EDAN = _spec(
    "dlr_edan",
    "DLR Wheelchair Shared Control (EDAN)",
    "DLR EDAN",
    5.0,
    f"dlr_edan_shared_control{_SUFFIX}",
    (
        _rlds(
            Effector(
                Columns(_STATE, _XYZ),
                Columns(_STATE, (3, 4, 5)),
                Representation.EULER_ZXY,
                commanded=_commanded(6, 1.0, 0.0, "openvla transforms: inverted to make 1 open"),
            )
        ),
        _lerobot((3, 4, 5), Representation.EULER_ZXY),
    ),
    (
        _NO_GRIPPER_SCALE,
        "The catalogue names 6 of 7 columns, with angles from scipy's as_euler('zxy') in that order; others read xyz.",
    ),
)

_BCZ_CLOSE = GripperMap(1.0, 0.2, "catalogue: sensed_close, about 0.2 (open) to 1 (closed) in the data")
BC_Z = _spec(
    "bc_z",
    "BC-Z",
    "Google robot",
    10.0,
    "bc_z",
    (
        _rlds(
            Effector(
                Columns("steps/observation/present/xyz"),
                Columns("steps/observation/present/axis_angle"),
                Representation.ROTATION_VECTOR,
                measured=(Columns("steps/observation/present/sensed_close"), _BCZ_CLOSE),
                commanded=(
                    Columns("steps/action/future/target_close", (0,)),
                    GripperMap(1.0, 0.0, "catalogue: value of gripper closure"),
                ),
            ),
            instruction="steps/observation/natural_language_instruction",
        ),
        _lerobot((3, 4, 5), Representation.ROTATION_VECTOR, _BCZ_CLOSE),
    ),
    ("openvla excludes some versions of this set as broken; check actions and pictures before training on it.",),
)

CMU_STRETCH = _spec(
    "cmu_stretch",
    "CMU Stretch",
    "Hello Stretch",
    10.0,
    "cmu_stretch",
    (
        _rlds(
            Effector(
                Columns(_STATE, _XYZ),
                None,
                Representation.NONE,
                commanded=_commanded(6, 0.0, 1.0, "openvla transforms: binary action passed on as 1 open"),
            )
        ),
        _lerobot(None, Representation.NONE),
    ),
    (
        _NO_GRIPPER_SCALE,
        "No orientation is stored: angles and angle deltas are zero, and the local frame is the base frame.",
        "The catalogue calls the three numbers 'joint angles/ee pos'; they are read as a position in metres.",
    ),
)

STANFORD_HYDRA = _spec(
    "stanford_hydra",
    "Stanford HYDRA",
    "Franka",
    10.0,
    f"stanford_hydra_dataset{_SUFFIX}",
    (
        _rlds(
            Effector(
                Columns(_STATE, _XYZ),
                Columns(_STATE, (3, 4, 5, 6)),
                Representation.QUATERNION_XYZW,
                commanded=_commanded(6, 1.0, 0.0, "catalogue: 'close gripper'"),
            ),
            swap_red_blue=True,
        ),
        _lerobot(
            (3, 4, 5), Representation.EULER_XYZ, note="the conversion has swapped the colours back and kept the angles"
        ),
    ),
    (
        _NO_GRIPPER_SCALE,
        "Pictures are BGR according to any4lerobot's transform; openvla's does not mention it.",
        "The quaternion's order is not stated; read as xyzw.",
    ),
)

_JACO_STEPS = GripperSteps(+1.0, "openvla transforms: +1 closes, -1 opens, 0 stays")
USC_JACO = _spec(
    "usc_jaco",
    "USC Jaco Play",
    "Jaco 2",
    10.0,
    "jaco_play",
    (
        _rlds(
            Effector(
                Columns("steps/observation/end_effector_cartesian_pos", _XYZ),
                Columns("steps/observation/end_effector_cartesian_pos", (3, 4, 5, 6)),
                Representation.QUATERNION_XYZW,
                commanded=(Columns("steps/action/gripper_closedness_action"), _JACO_STEPS),
            ),
            instruction="steps/observation/natural_language_instruction",
        ),
        _lerobot(
            (3, 4, 5, 7),
            Representation.QUATERNION_XYZW,
            note="the conversion cut the quaternion in two: its last component is where others have the gripper",
        ),
    ),
    (_NO_GRIPPER_SCALE, "The quaternion's order is not stated; read as xyzw."),
    ("clvrai/clvr_jaco_play_dataset README: end_effector_cartesian_pos is position and quaternion",),
)

_FRANKA_WIDTH = GripperMap(0.0, 0.08, "catalogue: gripper width; 0.08 m is the stroke of the Franka hand")
FURNITURE_BENCH = _spec(
    "furniture_bench",
    "Furniture Bench",
    "Franka",
    10.0,
    f"furniture_bench_dataset{_SUFFIX}",
    (
        _rlds(
            Effector(
                Columns(_STATE, _XYZ),
                Columns(_STATE, (3, 4, 5, 6)),
                Representation.QUATERNION_XYZW,
                measured=(Columns(_STATE, (34,)), _FRANKA_WIDTH),
                commanded=_commanded(7, 1.0, -1.0, "furniture-bench: -1 opens, +1 closes"),
            )
        ),
        _lerobot((3, 4, 5, 6), Representation.QUATERNION_XYZW, _FRANKA_WIDTH),
    ),
    ("The widest opening in the data is not documented (FurnitureBench limits it per task); 0.08 m is assumed.",),
    ("clvrai/furniture-bench",),
)

NYU_FRANKA = _spec(
    "nyu_franka",
    "NYU Franka Play",
    "Franka",
    3.0,
    f"nyu_franka_play_dataset{_SUFFIX}",
    (
        _rlds(
            Effector(
                Columns(_STATE, (7, 8, 9)),
                Columns(_STATE, (10, 11, 12)),
                Representation.EULER_XYZ,
                commanded=_commanded(13, 0.0, 1.0, "openvla transforms: clipped to 0..1, 1 open"),
            )
        ),
        _lerobot((3, 4, 5), Representation.EULER_XYZ),
    ),
    ("No gripper is measured; the opening in the state is the one last commanded.", "The order of rpy is not stated."),
)

_RT1_CLOSED = GripperMap(1.0, 0.0, "catalogue: gripper_closed")
RT_1 = _spec(
    "rt_1",
    "RT-1 (fractal)",
    "Google robot",
    3.0,
    "fractal20220817_data",
    (
        _rlds(
            Effector(
                Columns("steps/observation/base_pose_tool_reached", _XYZ),
                Columns("steps/observation/base_pose_tool_reached", (3, 4, 5, 6)),
                Representation.QUATERNION_XYZW,
                measured=(Columns("steps/observation/gripper_closed"), _RT1_CLOSED),
                commanded=(
                    Columns("steps/action/gripper_closedness_action"),
                    GripperSteps(+1.0, "openvla transforms: +1 closes, -1 opens, 0 stays"),
                ),
            ),
            instruction="steps/observation/natural_language_instruction",
        ),
        _lerobot((3, 4, 5, 6), Representation.QUATERNION_XYZW, _RT1_CLOSED),
    ),
    ("The quaternion's order is not stated; openvla and A2World read xyzw.",),
    ("LogosRoboticsGroup/A2World world_model/a2world/actions.py",),
)

OPEN_X = (
    AUSTIN_SAILOR,
    DLR_EDAN,
    BC_Z,
    CMU_STRETCH,
    STANFORD_HYDRA,
    USC_JACO,
    FURNITURE_BENCH,
    NYU_FRANKA,
    RT_1,
)
