"""One known motion, written as each of the paper's datasets publishes it.

Schemas are those of the catalogue pages in tensorflow/datasets (docs/catalog) and of the converters named in
``prophrl_models.data.registry.specs_open_x``; pictures are smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from tests.helpers.published_layouts import TEXT, Image, LeRobotEpisode, Tensor, pictures, write_lerobot, write_rlds


@dataclass(frozen=True)
class Motion:
    """What a reader has to find.

    Attributes:
        position_T3: metres.
        rotation: T orientations.
        opening_T: 0 closed, 1 open.
        frames_THW3: pictures.
        text: the instruction.
    """

    position_T3: np.ndarray
    rotation: Rotation
    opening_T: np.ndarray
    frames_THW3: np.ndarray
    text: str

    def __len__(self) -> int:
        return len(self.position_T3)

    def local_motion(self) -> np.ndarray:
        """[T - 1, 6]: p and R in the previous frame, Euler angles from the matrix's entries (R = Rz Ry Rx)."""
        R = self.rotation.as_matrix()
        rows = []
        for a, b, p, q in zip(R[:-1], R[1:], self.position_T3[:-1], self.position_T3[1:], strict=True):
            D = a.T @ b
            angles = [np.arctan2(D[2, 1], D[2, 2]), -np.arcsin(D[2, 0]), np.arctan2(D[1, 0], D[0, 0])]
            rows.append([*(a.T @ (q - p)), *angles])
        return np.array(rows)

    @property
    def euler_T3(self) -> np.ndarray:
        R = self.rotation.as_matrix()
        return np.stack(
            [np.arctan2(R[:, 2, 1], R[:, 2, 2]), -np.arcsin(R[:, 2, 0]), np.arctan2(R[:, 1, 0], R[:, 0, 0])], axis=1
        )

    @property
    def quaternion_T4(self) -> np.ndarray:
        """xyzw."""
        return np.asarray(self.rotation.as_quat())


def motion(steps: int = 6, seed: int = 0) -> Motion:
    """A smooth reach that starts open and closes."""
    rng = np.random.default_rng(seed)
    position = np.array([0.4, 0.1, 0.3]) + np.cumsum(rng.normal(0, 0.02, (steps, 3)), axis=0)
    angles = np.array([0.2, -0.3, 0.5]) + np.cumsum(rng.normal(0, 0.05, (steps, 3)), axis=0)
    opening = np.where(np.arange(steps) < steps // 2, 1.0, 0.0)
    return Motion(position, Rotation.from_euler("xyz", angles), opening, pictures(steps, seed), f"pick number {seed}")


_FLAGS = {"is_first": Tensor((), "bool"), "is_last": Tensor((), "bool"), "is_terminal": Tensor((), "bool")}
_COMMON = {**_FLAGS, "reward": Tensor(), "discount": Tensor(), "language_embedding": Tensor((512,))}


def _standard(action: int, state: int, **extra: Any) -> dict[str, Any]:
    """The form of the externally converted sets."""
    observation = {"image": Image(), "state": Tensor((state,)), **extra}
    steps = {**_COMMON, "action": Tensor((action,)), "language_instruction": TEXT, "observation": observation}
    return {"episode_metadata": {"file_path": TEXT}, "steps": steps}


_NATURAL = {"natural_language_embedding": Tensor((512,)), "natural_language_instruction": TEXT}
SCHEMAS: dict[str, dict[str, Any]] = {
    "austin_sailor_dataset_converted_externally_to_rlds": _standard(
        7, 8, state_ee=Tensor((16,)), state_gripper=Tensor((1,)), state_joint=Tensor((7,)), wrist_image=Image()
    ),
    "dlr_edan_shared_control_converted_externally_to_rlds": _standard(7, 7),
    "bc_z": {
        "steps": {
            **_FLAGS,
            "reward": Tensor(),
            "action": {
                "future/axis_angle_residual": Tensor((30,)),
                "future/target_close": Tensor((10,), "int64"),
                "future/xyz_residual": Tensor((30,)),
            },
            "observation": {
                **_NATURAL,
                "episode_success": Tensor(),
                "image": Image(),
                "present/autonomous": Tensor((), "int64"),
                "present/axis_angle": Tensor((3,)),
                "present/sensed_close": Tensor((1,)),
                "present/xyz": Tensor((3,)),
                "sequence_length": Tensor((), "int64"),
            },
        }
    },
    "cmu_stretch": _standard(8, 4),
    "stanford_hydra_dataset_converted_externally_to_rlds": _standard(7, 27, wrist_image=Image()),
    "jaco_play": {
        "steps": {
            **_FLAGS,
            "reward": Tensor(),
            "action": {
                "gripper_closedness_action": Tensor((1,)),
                "terminate_episode": Tensor((3,), "int32"),
                "world_vector": Tensor((3,)),
            },
            "observation": {
                **_NATURAL,
                "end_effector_cartesian_pos": Tensor((7,)),
                "end_effector_cartesian_velocity": Tensor((6,)),
                "image": Image(),
                "image_wrist": Image(),
                "joint_pos": Tensor((8,)),
            },
        }
    },
    "furniture_bench_dataset_converted_externally_to_rlds": _standard(8, 35, wrist_image=Image()),
    "nyu_franka_play_dataset_converted_externally_to_rlds": _standard(
        15, 13, depth=Tensor((4, 4, 1), "int32"), image_additional_view=Image()
    ),
    "fractal20220817_data": {
        "aspects": {"success": Tensor((), "bool")},
        "attributes": {"location": Tensor((), "int64"), "location_name": TEXT},
        "steps": {
            **_FLAGS,
            "reward": Tensor(),
            "action": {
                "base_displacement_vector": Tensor((2,)),
                "gripper_closedness_action": Tensor((1,)),
                "rotation_delta": Tensor((3,)),
                "terminate_episode": Tensor((3,), "int32"),
                "world_vector": Tensor((3,)),
            },
            "observation": {
                **_NATURAL,
                "base_pose_tool_reached": Tensor((7,)),
                "gripper_closed": Tensor((1,)),
                "image": Image(),
                "workspace_bounds": Tensor((3, 3)),
            },
        },
    },
    "bridge_orig": {
        "episode_metadata": {"file_path": TEXT, "has_language": Tensor((), "bool"), "episode_id": Tensor((), "int32")},
        "steps": {
            **_COMMON,
            "action": Tensor((7,)),
            "language_instruction": TEXT,
            "observation": {"image_0": Image(), "image_1": Image(), "state": Tensor((7,))},
        },
    },
    "bridge": {
        "steps": {
            **_FLAGS,
            "reward": Tensor(),
            "action": {
                "open_gripper": Tensor((), "bool"),
                "rotation_delta": Tensor((3,)),
                "terminate_episode": Tensor(),
                "world_vector": Tensor((3,)),
            },
            "observation": {**_NATURAL, "image": Image(), "state": Tensor((7,))},
        }
    },
    "droid": {
        "episode_metadata": {
            "building": TEXT,
            "extrinsics_exterior_cam_1": Tensor((6,), "float64"),
            "file_path": TEXT,
            "recording_folderpath": TEXT,
        },
        "steps": {
            **_FLAGS,
            "reward": Tensor(),
            "discount": Tensor(),
            "action": Tensor((7,), "float64"),
            "action_dict": {
                "cartesian_position": Tensor((6,), "float64"),
                "cartesian_velocity": Tensor((6,), "float64"),
                "gripper_position": Tensor((1,), "float64"),
            },
            "language_instruction": TEXT,
            "language_instruction_2": TEXT,
            "language_instruction_3": TEXT,
            "observation": {
                "cartesian_position": Tensor((6,), "float64"),
                "exterior_image_1_left": Image(),
                "exterior_image_2_left": Image(),
                "gripper_position": Tensor((1,), "float64"),
                "joint_position": Tensor((7,), "float64"),
                "wrist_image_left": Image(),
            },
        },
    },
    "libero_spatial_no_noops": _standard(7, 8, joint_state=Tensor((7,)), wrist_image=Image()),
}
"""Published folder name -> features, as the catalogue prints them (large or unused leaves left out)."""


def _state(width: int, **columns: np.ndarray) -> np.ndarray:
    """A state of a given width; ``c3=...`` puts values from column 3 on. Other columns hold a recognisable number."""
    steps = len(next(iter(columns.values())))
    state = np.full((steps, width), 0.123)
    for name, values in columns.items():
        values = values.reshape(steps, -1)
        start = int(name[1:])
        state[:, start : start + values.shape[1]] = values
    return state


def steps_of_opening(opening: np.ndarray) -> np.ndarray:
    """Commands +1 close, -1 open, 0 stay that lead through these openings (a change is commanded when it happens)."""
    command = np.zeros(len(opening))
    command[1:] = -np.diff(opening)
    return command


def rlds_values(folder: str, m: Motion) -> dict[str, Any]:
    """The motion's values by path, in one published set."""
    closed = 1 - m.opening_T
    o, image = "steps/observation", {"steps/observation/image": m.frames_THW3}
    text = {"steps/language_instruction": m.text}
    natural = {f"{o}/natural_language_instruction": m.text}
    p, q, e = m.position_T3, m.quaternion_T4, m.euler_T3
    if folder.startswith("austin_sailor"):
        state = _state(8, c0=p, c3=q, c7=0.077 * m.opening_T)
        return {**image, **text, f"{o}/state": state, "steps/action": _state(7, c6=closed)}
    if folder.startswith("dlr_edan"):
        state = _state(7, c0=p, c3=m.rotation.as_euler("zxy"))
        return {**image, **text, f"{o}/state": state, "steps/action": _state(7, c6=closed)}
    if folder == "bc_z":
        close = {f"{o}/present/sensed_close": 0.2 + 0.8 * closed}
        target = {"steps/action/future/target_close": np.repeat(closed[:, None], 10, axis=1)}
        pose = {f"{o}/present/xyz": p, f"{o}/present/axis_angle": m.rotation.as_rotvec()}
        return {**image, **natural, **pose, **close, **target}
    if folder == "cmu_stretch":
        state = _state(4, c0=p)
        return {**image, **text, f"{o}/state": state, "steps/action": _state(8, c6=m.opening_T)}
    if folder.startswith("stanford_hydra"):
        bgr = {f"{o}/image": m.frames_THW3[..., ::-1]}
        state = _state(27, c0=p, c3=q, c7=e)
        return {**bgr, **text, f"{o}/state": state, "steps/action": _state(7, c6=closed)}
    if folder == "jaco_play":
        pose = {f"{o}/end_effector_cartesian_pos": np.column_stack([p, q])}
        return {**image, **natural, **pose, "steps/action/gripper_closedness_action": steps_of_opening(m.opening_T)}
    if folder.startswith("furniture_bench"):
        state = _state(35, c0=p, c3=q, c34=0.08 * m.opening_T)
        return {**image, **text, f"{o}/state": state, "steps/action": _state(8, c7=2 * closed - 1)}
    if folder.startswith("nyu_franka"):
        state = _state(13, c7=p, c10=e)
        return {**image, **text, f"{o}/state": state, "steps/action": _state(15, c13=m.opening_T)}
    if folder == "fractal20220817_data":
        pose = {f"{o}/base_pose_tool_reached": np.column_stack([p, q]), f"{o}/gripper_closed": closed}
        return {**image, **natural, **pose, "steps/action/gripper_closedness_action": steps_of_opening(m.opening_T)}
    if folder == "bridge_orig":
        state = {f"{o}/state": _state(7, c0=p, c3=e, c6=m.opening_T)}
        return {f"{o}/image_0": m.frames_THW3, **text, **state, "steps/action": _state(7, c6=m.opening_T)}
    if folder == "bridge":
        state = {f"{o}/state": _state(7, c0=p, c3=e, c6=m.opening_T)}
        return {**image, **natural, **state, "steps/action/open_gripper": m.opening_T}
    if folder == "droid":
        pose = {f"{o}/cartesian_position": np.column_stack([p, e]), f"{o}/gripper_position": closed}
        command = {"steps/action_dict/gripper_position": closed}
        return {f"{o}/exterior_image_1_left": m.frames_THW3, **text, **pose, **command}
    assert folder.startswith("libero")
    fingers = 0.04 * np.stack([m.opening_T, -m.opening_T], axis=1)
    state = _state(8, c0=p, c3=m.rotation.as_rotvec(), c6=fingers)
    return {**image, **text, f"{o}/state": state, "steps/action": np.column_stack([servo(len(m)), 2 * closed - 1])}


def servo(steps: int) -> np.ndarray:
    """Raw servo commands [T, 6] in -1..1."""
    return np.linspace(-1, 1, steps * 6).reshape(steps, 6)


def write_rlds_set(folder: Path, name: str, motions: list[Motion], shards: int = 1) -> Path:
    """A published RLDS set with these episodes."""
    return write_rlds(folder, name, SCHEMAS[name], [rlds_values(name, m) for m in motions], shards)


def lerobot_episode(name: str, m: Motion) -> LeRobotEpisode:
    """The motion as the published LeRobot conversions have it: an 8-column state, and a 1-is-open command."""
    p, q, e, closed = m.position_T3, m.quaternion_T4, m.euler_T3, 1 - m.opening_T
    action = {"action": _state(7, c6=m.opening_T)}
    image = "observation.images.image"
    state = {
        "austin_sailor": lambda: _state(8, c0=p, c3=q, c7=0.077 * m.opening_T),
        "dlr_edan": lambda: _state(8, c0=p, c3=m.rotation.as_euler("zxy")),
        "bc_z": lambda: _state(8, c0=p, c3=m.rotation.as_rotvec(), c7=0.2 + 0.8 * closed),
        "cmu_stretch": lambda: _state(8, c0=p, c3=np.zeros((len(m), 4))),
        "stanford_hydra": lambda: _state(8, c0=p, c3=e),
        "usc_jaco": lambda: _state(8, c0=p, c3=q[:, :3], c6=np.zeros(len(m)), c7=q[:, 3]),
        "furniture_bench": lambda: _state(8, c0=p, c3=q, c7=0.08 * m.opening_T),
        "nyu_franka": lambda: _state(8, c0=p, c3=e),
        "rt_1": lambda: _state(8, c0=p, c3=q, c7=closed),
        "bridge": lambda: _state(8, c0=p, c3=e, c7=m.opening_T),
        "libero": lambda: _state(
            8, c0=p, c3=m.rotation.as_rotvec(), c6=0.04 * np.stack([m.opening_T, -m.opening_T], 1)
        ),
    }
    if name == "droid":
        columns = {
            "observation.state.cartesian_position": np.column_stack([p, e]),
            "observation.state.gripper_position": closed[:, None],
            "action.gripper_position": closed[:, None],
            "observation.state": np.zeros((len(m), 8)),
            "action": np.zeros((len(m), 8)),
        }
        frames = {"observation.images.exterior_1_left": m.frames_THW3, "observation.images.wrist_left": m.frames_THW3}
        return LeRobotEpisode(columns, frames, m.text, {"language_instruction": m.text})
    if name == "agibot":
        columns = {
            "observation.states.end.position": np.stack([p, p + 1], axis=1),
            "observation.states.end.orientation": np.stack([q, q[::-1]], axis=1),
            "observation.states.effector.position": 125 - 90 * np.stack([m.opening_T, closed], axis=1),
            "actions.effector.position": np.stack([closed, m.opening_T], axis=1),
        }
        return LeRobotEpisode(columns, {"observation.images.head": m.frames_THW3}, m.text)
    if name == "own_robot":
        motion = np.column_stack([servo(len(m)), m.opening_T])
        columns = {"observation.state": np.column_stack([p, e, m.opening_T]), "action": motion}
        return LeRobotEpisode(columns, {"observation.images.camera": m.frames_THW3}, m.text)
    if name == "bridge":
        image = "observation.images.image_0"
    if name == "libero":
        action = {"action": np.column_stack([servo(len(m)), m.opening_T])}
    return LeRobotEpisode({"observation.state": state[name](), **action}, {image: m.frames_THW3}, m.text)


def write_lerobot_set(
    folder: Path, name: str, version: str, fps: int, motions: list[Motion], images: str = "video"
) -> Path:
    """A published LeRobot conversion with these episodes."""
    return write_lerobot(folder, version, fps, [lerobot_episode(name, m) for m in motions], images)
