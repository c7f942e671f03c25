"""Rollouts through worlds made by hand, whose frames say which action and which seed made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention, from_euler, integrate
from prophrl_models.policies.interface import ObservationBatch, PolicySpec, Scaling
from prophrl_models.prophet.motion import drawn_action_frames, integrated
from prophrl_models.prophet.rollout import Imagined, Prompt, check_policy, imagine, resized
from prophrl_models.prophet.rollout_files import RolloutFilesError, read_rollouts
from prophrl_models.training.state_source import IntegratedState

H, W = 8, 16
KEEP = 3


@dataclass(frozen=True)
class CounterState:
    frame_BHW3: Tensor
    state_B7: Tensor
    seeds_B: Tensor
    count_B: Tensor

    def select(self, rows: Sequence[int] | Tensor) -> CounterState:
        at = torch.as_tensor(rows)
        return CounterState(self.frame_BHW3[at], self.state_B7[at], self.seeds_B[at], self.count_B[at])

    def repeat(self, times: int) -> CounterState:
        return self.select(torch.arange(len(self.seeds_B)).repeat_interleave(times))


class CounterWorld:
    """Paints the number of the frame (red), the action that led to it (green, in millimetres) and the seed (blue)."""

    image_height, image_width, actions = H, W, 20
    convention, control_rate_hz = ActionConvention.ABSOLUTE_POSE_DIFFERENCE, 10.0

    def __init__(self) -> None:
        self.batches: list[int] = []

    def begin(self, first_BHW3: Tensor, state_B7: Tensor, *, cameras: Any, seeds_B: Any) -> CounterState:
        assert first_BHW3.shape[1:] == (H, W, 3)
        seeds = torch.as_tensor(seeds_B)
        return CounterState(first_BHW3, state_B7, seeds, torch.zeros(len(seeds), dtype=torch.long))

    def advance(self, world: Any, actions_BCD: Tensor, keep: int | Tensor) -> tuple[CounterState, Tensor]:
        assert isinstance(keep, int)
        self.batches.append(len(actions_BCD))
        frames = torch.zeros(len(actions_BCD), keep, H, W, 3, dtype=torch.uint8)
        frames[..., 0] = (world.count_B[:, None] + torch.arange(1, keep + 1)[None])[..., None, None]
        frames[..., 1] = (1e3 * actions_BCD[:, :keep, 0]).round().to(torch.uint8)[..., None, None]
        frames[..., 2] = world.seeds_B[:, None, None, None]
        states = integrated(world.state_B7.numpy(), actions_BCD[:, :keep].numpy(), self.convention)[:, -1]
        state = torch.from_numpy(states.astype(np.float32))
        return CounterState(frames[:, -1], state, world.seeds_B, world.count_B + keep), frames


def prompt(number: int = 0, size: tuple[int, int] = (16, 32)) -> Prompt:
    image = np.full((*size, 3), 10 * number, np.uint8)
    return Prompt(image, np.array([0.4, number, 0.2, 0.1, 0.0, 0.0, 1.0], np.float32), f"task {number}")


def forward_by_row(observed: ObservationBatch, rows: list[int], step: int) -> tuple[Tensor, Any]:
    """Action k of step s moves row r by (100 step + 10 row + k) millimetres along x."""
    actions = torch.zeros(len(rows), 5, 7)
    for i, row in enumerate(rows):
        actions[i, :, 0] = (100.0 * step + 10.0 * row + torch.arange(5)) / 1e3
        actions[i, :, 6] = 0.5
    return actions, {"rows": list(rows), "red": observed.image_BHW3[:, 0, 0, 0].tolist()}


def test_each_frame_is_the_one_its_action_led_to() -> None:
    result = imagine(CounterWorld(), [prompt(), prompt(1)], forward_by_row, steps=2, keep=KEEP, seeds=[7, 8])
    assert result.frames_BTHW3.shape == (2, 1 + 2 * KEEP, H, W, 3) and result.valid_BT.all()
    assert result.frames_BTHW3[1, 1:, 0, 0, 1].tolist() == [10, 11, 12, 110, 111, 112]
    assert result.frames_BTHW3[0, 1:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert result.frames_BTHW3[:, -1, 0, 0, 2].tolist() == [7, 8]
    assert result.frames_BTHW3[1, 0, 0, 0].tolist() == [10, 10, 10]
    np.testing.assert_allclose(
        result.states_BT7[1, :, 0], 0.4 + np.cumsum([0, 10, 11, 12, 110, 111, 112]) / 1e3, rtol=1e-6
    )
    np.testing.assert_allclose(result.states_BT7[:, 1:, 6], 0.5)
    assert result.actions_BSCD.shape == (2, 2, 5, 7)


def test_the_same_prompt_with_other_actions_gives_other_frames_only_from_there_on() -> None:
    """Rows differ from their group's first action k > 0 on; until then their frames are the same."""

    def choose(observed: ObservationBatch, rows: list[int], step: int) -> tuple[Tensor, Any]:
        actions, _ = forward_by_row(observed, [0] * len(rows), step)
        if step == 1:
            for i, row in enumerate(rows):
                actions[i, row, 0] += 0.05
        return actions, None

    result = imagine(CounterWorld(), [prompt()], choose, steps=2, keep=KEEP, seeds=[7] * 3, group=3)
    green = result.frames_BTHW3[:, :, 0, 0, 1].astype(int)
    base = np.array([0, 0, 1, 2, 100, 101, 102])
    for row in range(3):
        expected = base.copy()
        expected[1 + KEEP + row] += 50
        assert green[row].tolist() == expected.tolist()


def test_the_policy_sees_the_prompt_first_and_then_the_newest_frame_at_its_own_size() -> None:
    shapes = []

    def choose(observed: ObservationBatch, rows: list[int], step: int) -> tuple[Tensor, Any]:
        shapes.append(tuple(observed.image_BHW3.shape))
        assert observed.instruction_B == ("task 2", "task 3")
        return forward_by_row(observed, rows, step)

    result = imagine(CounterWorld(), [prompt(2), prompt(3)], choose, steps=3, keep=KEEP, seeds=[0, 1])
    assert set(shapes) == {(2, 16, 32, 3)}
    assert [extra.value["red"] for extra in result.extras] == [[20, 30], [3, 3], [6, 6]]
    assert [extra.step for extra in result.extras] == [0, 1, 2]


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_batches_of_any_size_give_the_same_rollouts(batch: int) -> None:
    arguments: dict[str, Any] = {"steps": 2, "keep": KEEP, "seeds": [4, 5, 6, 7, 8, 9], "group": 3}
    whole = imagine(CounterWorld(), [prompt(), prompt(1)], forward_by_row, **arguments)
    world = CounterWorld()
    parts = imagine(world, [prompt(), prompt(1)], forward_by_row, batch=batch, **arguments)
    for name in ("frames_BTHW3", "states_BT7", "actions_BSCD", "valid_BT"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert max(world.batches) == batch


def test_rows_that_finish_leave_the_batch_and_keep_their_last_frame() -> None:
    def finished(frames: Tensor, rows: list[int], step: int) -> list[bool]:
        return [row == 1 and step == 0 for row in rows]

    world = CounterWorld()
    prompts = [prompt(), prompt(1), prompt(2)]
    result = imagine(world, prompts, forward_by_row, steps=3, keep=KEEP, seeds=[0, 1, 2], finished=finished)
    assert world.batches == [3, 2, 2]
    assert result.steps_B.tolist() == [3, 1, 3]
    assert result.valid_BT.sum(1).tolist() == [10, 4, 10]
    assert (result.frames_BTHW3[1, 4:] == result.frames_BTHW3[1, 3]).all()
    assert not result.actions_BSCD[1, 1:].any()
    assert result.frames_BTHW3[2, -1, 0, 0].tolist() == [9, 222, 2]
    assert result.video(1).shape == (4, H, W, 3)


def test_rollouts_on_disk_are_the_same_and_can_be_read_again(tmp_path: Path) -> None:
    camera = PinholeCamera(20.0, 21.0, 15.5, 7.5, 32, 16, distortion=np.array([0.1, 0.0, 0.0, 0.0, 0.0]))
    prompts = [replace(prompt(), camera=camera, source="made by hand"), prompt(1)]
    arguments: dict[str, Any] = {"steps": 2, "keep": KEEP, "seeds": [3, 4]}
    expected = imagine(CounterWorld(), prompts, forward_by_row, **arguments)
    folder = tmp_path / "rollouts"
    written = imagine(CounterWorld(), prompts, forward_by_row, folder=folder, batch=1, **arguments)
    assert isinstance(written.frames_BTHW3, np.memmap)
    again = read_rollouts(folder)
    for result in (written, again):
        for name in ("frames_BTHW3", "states_BT7", "actions_BSCD", "valid_BT", "seeds_B"):
            np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))
    assert [p.instruction for p in again.prompts] == ["task 0", "task 1"]
    assert again.prompts[0].camera is not None and again.prompts[0].camera.fy == 21.0
    assert again.prompts[0].source == "made by hand"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rollouts"]
    with av.open(str(folder / "videos" / "0001.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 1 + 2 * KEEP


def test_a_rollout_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def choose(observed: ObservationBatch, rows: list[int], step: int) -> tuple[Tensor, Any]:
        actions, _ = forward_by_row(observed, rows, step)
        return actions * (float("nan") if step else 1.0), None

    with pytest.raises(ValueError, match="not finite"):
        imagine(CounterWorld(), [prompt()], choose, steps=2, keep=2, seeds=[0], folder=tmp_path / "rollouts")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_taken_or_damaged_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "rollouts"
    arguments: dict[str, Any] = {"steps": 1, "keep": 2, "seeds": [0], "folder": folder, "videos": False}
    imagine(CounterWorld(), [prompt()], forward_by_row, **arguments)
    with pytest.raises(RolloutFilesError, match="not empty"):
        imagine(CounterWorld(), [prompt()], forward_by_row, **arguments)
    (folder / "rollouts.npz").write_bytes(b"x")
    with pytest.raises(RolloutFilesError, match="complete rollouts"):
        read_rollouts(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"keep": 21}, "keep in 1..20"),
        ({"keep": 0}, "keep in 1..20"),
        ({"steps": 0}, "at least one step"),
        ({"seeds": [1]}, "need a seed each"),
        ({"prompts": []}, "0 prompts"),
        ({"prompts": [prompt(), prompt(1, (8, 32))]}, "several sizes"),
        ({"keep": 6}, r"actions must be \[2, 6..20, 7\]"),
    ],
)
def test_calls_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"prompts": [prompt(), prompt(1)], "steps": 1, "keep": 2, "seeds": [0, 1], **change}
    prompts = arguments.pop("prompts")
    with pytest.raises(ValueError, match=message):
        imagine(CounterWorld(), prompts, forward_by_row, **arguments)


def _spec(**change: Any) -> PolicySpec:
    values: dict[str, Any] = {
        "convention": ActionConvention.ABSOLUTE_POSE_DIFFERENCE,
        "action_scaling": Scaling((0.0,) * 7, (1.0,) * 7),
        "state_scaling": Scaling((0.0,) * 7, (1.0,) * 7),
        "chunk": 5,
    }
    return PolicySpec(**{**values, **change})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"convention": ActionConvention.LOCAL_FRAME_DELTA}, "LOCAL_FRAME_DELTA"),
        ({"control_rate_hz": 5.0}, "5.0 Hz"),
        ({"chunk": 2}, "chunks of 3"),
        ({"chunk": 25}, "chunks of 3"),
    ],
)
def test_a_policy_that_means_something_else_is_refused(change: dict[str, Any], message: str) -> None:
    check_policy(CounterWorld(), _spec(), KEEP)
    with pytest.raises(ValueError, match=message):
        check_policy(CounterWorld(), _spec(**change), KEEP)
    with pytest.raises(ValueError, match=message):
        imagine(CounterWorld(), [prompt()], forward_by_row, steps=1, keep=KEEP, seeds=[0], spec=_spec(**change))


def test_prompts_are_checked() -> None:
    with pytest.raises(ValueError, match="seven finite"):
        Prompt(np.zeros((8, 8, 3), np.uint8), np.full(7, np.nan, np.float32), "x")
    with pytest.raises(ValueError, match="RGB uint8"):
        Prompt(np.zeros((8, 8, 3), np.float32), np.zeros(7, np.float32), "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="resize the camera"):
        Prompt(np.zeros((8, 8, 3), np.uint8), np.zeros(7, np.float32), "x", PinholeCamera(1, 1, 1, 1, 9, 8))


@pytest.mark.parametrize("convention", list(ActionConvention))
def test_states_of_a_batch_are_those_of_the_running_robot(convention: ActionConvention) -> None:
    rng = np.random.default_rng(int(convention))
    states = rng.normal(size=(3, 7)) * [0.3, 0.3, 0.3, 2.0, 0.7, 2.0, 1.0]
    states[0, 3:6] = [np.pi - 0.01, 0.0, np.pi / 2]  # the twin's usual orientation, at the branch cut
    actions = rng.normal(size=(3, 6, 7)) * 0.2
    found = integrated(states, actions, convention)
    for row in range(3):
        counter = IntegratedState(convention)
        counter.start(states[row])
        T = from_euler(states[row, :6])
        for step in range(6):
            counter.advance(actions[row, step])
            T = integrate(T, actions[row, step], convention)
            np.testing.assert_allclose(found[row, step + 1], counter.state_7, atol=2e-6)
            np.testing.assert_allclose(from_euler(found[row, step + 1, :6]), T, atol=1e-9)


def test_integration_refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        integrated(np.zeros((1, 7)), np.full((1, 2, 7), np.inf), ActionConvention.CONTROLLER_SERVO)
    with pytest.raises(ValueError, match="actions"):
        integrated(np.zeros((2, 7)), np.zeros((1, 2, 7)), ActionConvention.CONTROLLER_SERVO)


def test_action_frames_show_the_integrated_motion() -> None:
    camera = PinholeCamera(100.0, 100.0, 63.5, 47.5, 128, 96)
    states = np.zeros((1, 3, 7))
    states[0, :, 2] = 1.0
    states[0, :, 0] = [0.0, 0.1, 0.2]
    drawn = drawn_action_frames(states, [camera])
    assert drawn.shape == (1, 3, 96, 128, 3)
    columns = [np.average(np.arange(128), weights=frame[..., 2].sum(0).astype(float)) for frame in drawn[0]]
    np.testing.assert_allclose(np.diff(columns), 10.0, atol=0.5)


def test_pictures_shrink_by_area_and_grow_smoothly() -> None:
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    picture[:, ::2] = 200
    assert (resized(picture, 2, 2) == 100).all()
    assert resized(picture, 8, 8).shape == (1, 8, 8, 3)
    assert resized(picture, 4, 4) is picture


def test_a_result_knows_its_length() -> None:
    result = imagine(CounterWorld(), [prompt()], forward_by_row, steps=1, keep=2, seeds=[0], group=1)
    assert isinstance(result, Imagined) and len(result) == 1
