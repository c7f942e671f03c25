"""Each condition of each predicate matters: a success with one thing wrong is no success."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robot_bridge.twin.success import SceneState
from robot_bridge.twin.tasks import TASKS


def _at(x: float, y: float, z: float, tilt_deg: float = 0.0) -> np.ndarray:
    c, s = np.cos(np.radians(tilt_deg)), np.sin(np.radians(tilt_deg))
    T = np.eye(4)
    T[:3, :3] = [[1, 0, 0], [0, c, -s], [0, s, c]]
    T[:3, 3] = (x, y, z)
    return T


def _state(poses: dict, start: dict, tcp: tuple, opening: float, detected: bool) -> SceneState:
    return SceneState(
        poses=poses,
        start_poses=start,
        speed_mps=dict.fromkeys(poses, 0.0),
        T_base_tcp=_at(*tcp),
        tcp_speed_mps=0.0,
        gripper_opening=opening,
        object_detected=detected,
    )


GOOD = {
    "grasp_bottle": _state({"bottle": _at(-0.6, 0, 0.12)}, {"bottle": _at(-0.6, 0, 0)}, (-0.6, 0, 0.22), 0.65, True),
    "place_cube": _state(
        {"cube": _at(-0.6, 0.01, 0.03), "bowl": _at(-0.6, 0, 0)},
        {"cube": _at(-0.7, 0.2, 0.02), "bowl": _at(-0.6, 0, 0)},
        (-0.6, 0, 0.2),
        1.0,
        False,
    ),
    "pull_tissue": _state(
        {"tissue_box": _at(-0.6, 0, 0), "tissue": _at(-0.6, 0, 0.25)},
        {"tissue_box": _at(-0.6, 0, 0), "tissue": _at(-0.6, 0, 0.135)},
        (-0.6, 0, 0.25),
        0.0,
        True,
    ),
    "place_bowl": _state(
        {"bowl": _at(-0.6, 0.01, 0.012), "plate": _at(-0.6, 0, 0)},
        {"bowl": _at(-0.6, 0.2, 0), "plate": _at(-0.6, 0, 0)},
        (-0.6, 0, 0.2),
        0.7,
        False,
    ),
}


def _moved(state: SceneState, name: str, pose: np.ndarray) -> SceneState:
    return replace(state, poses={**state.poses, name: pose})


def _moving(state: SceneState, name: str) -> SceneState:
    return replace(state, speed_mps={**state.speed_mps, name: 0.2})


BAD = [
    ("grasp_bottle", "lifted", lambda s: _moved(s, "bottle", _at(-0.6, 0, 0.09))),
    ("grasp_bottle", "holds something", lambda s: replace(s, object_detected=False)),
    ("grasp_bottle", "between the fingers", lambda s: replace(s, T_base_tcp=_at(-0.5, 0, 0.22))),
    ("grasp_bottle", "upright", lambda s: _moved(s, "bottle", _at(-0.6, 0, 0.12, 40.0))),
    ("grasp_bottle", "moves with the gripper", lambda s: _moving(s, "bottle")),
    ("place_cube", "over the bowl", lambda s: _moved(s, "cube", _at(-0.6, 0.08, 0.03))),
    ("place_cube", "below the rim", lambda s: _moved(s, "cube", _at(-0.6, 0.01, 0.07))),
    ("place_cube", "bowl stands upright", lambda s: _moved(s, "bowl", _at(-0.6, 0, 0.0, 20.0))),
    ("place_cube", "at rest", lambda s: _moving(s, "cube")),
    ("place_cube", "gripper is open", lambda s: replace(s, gripper_opening=0.5)),
    ("place_cube", "clear of the cube", lambda s: replace(s, T_base_tcp=_at(-0.6, 0.01, 0.05))),
    ("pull_tissue", "at least 8 cm", lambda s: _moved(s, "tissue", _at(-0.6, 0, 0.20))),
    ("pull_tissue", "box stands", lambda s: _moved(s, "tissue_box", _at(-0.6, 0, 0.05))),
    ("pull_tissue", "box stands", lambda s: _moved(s, "tissue_box", _at(-0.6, 0, 0.0, 90.0))),
    ("place_bowl", "over the plate", lambda s: _moved(s, "bowl", _at(-0.6, 0.05, 0.012))),
    ("place_bowl", "stands on the plate", lambda s: _moved(s, "bowl", _at(-0.6, 0.01, 0.0))),
    ("place_bowl", "stands upright", lambda s: _moved(s, "bowl", _at(-0.6, 0.01, 0.012, 15.0))),
    ("place_bowl", "at rest", lambda s: _moving(s, "bowl")),
    ("place_bowl", "gripper is open", lambda s: replace(s, gripper_opening=0.1)),
    ("place_bowl", "clear of the bowl", lambda s: replace(s, T_base_tcp=_at(-0.6, 0.01, 0.06))),
]


@pytest.mark.parametrize("task_id", GOOD)
def test_good_scene_succeeds(task_id: str) -> None:
    terms = TASKS[task_id].judge(GOOD[task_id])
    assert all(terms.values()), terms


@pytest.mark.parametrize(("task_id", "condition", "spoil"), BAD)
def test_one_wrong_thing_is_named(task_id: str, condition: str, spoil) -> None:
    terms = TASKS[task_id].judge(spoil(GOOD[task_id]))
    failed = [name for name, holds in terms.items() if not holds]
    assert any(condition in name for name in failed), failed


def test_every_condition_is_spoiled_by_some_scene() -> None:
    for task_id, good in GOOD.items():
        conditions = set(TASKS[task_id].judge(good))
        spoiled = set()
        for task, _, spoil in BAD:
            if task == task_id:
                spoiled |= {name for name, holds in TASKS[task].judge(spoil(good)).items() if not holds}
        assert spoiled == conditions


def test_moving_the_whole_box_does_not_pull_the_tissue() -> None:
    state = GOOD["pull_tissue"]
    carried = replace(state, poses={"tissue_box": _at(-0.4, 0.1, 0.0), "tissue": _at(-0.4, 0.1, 0.135)})
    assert not TASKS["pull_tissue"].judge(carried)["tissue is pulled out at least 8 cm"]
