"""A small honest world to imagine in: a table seen from above, a red square that stays, a blue dot that the hand moves.

One pixel is one centimetre. The world knows nothing but the first picture and the state: where the square is, it finds
in the picture. A rollout succeeds when the dot ends near the square's centre; the judge reads that off the frames.
Demonstrations are biased: they stop short of the square, so a policy that was taught by them succeeds now and then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention, inverse
from prophrl_models.policies.interface import Inputs, ObservationBatch, PolicySpec, Scaling, TrainingBatch
from prophrl_models.policies.tiny import TinyConfig, TinyPolicy
from prophrl_models.prophet.rollout import Prompt
from prophrl_models.reward.judge import Verdict

HEIGHT, WIDTH = 32, 48
INSTRUCTION = "move to the red square"
CONVENTION = ActionConvention.ABSOLUTE_POSE_DIFFERENCE
CALLS, CHUNK, STEPS = 3, 4, 5
BACKGROUND, RED, BLUE = (140, 130, 115), (210, 40, 30), (30, 50, 200)
REACH_PX = 3.0


def camera() -> PinholeCamera:
    """One metre above the table, looking straight down."""
    T_base_camera = np.diag([1.0, -1.0, -1.0, 1.0])
    T_base_camera[2, 3] = 1.0
    return PinholeCamera(100.0, 100.0, 23.5, 15.5, WIDTH, HEIGHT, inverse(T_base_camera))


def pixels(xy_B2: NDArray[np.floating]) -> NDArray[np.float64]:
    """(column, row) of points on the table [B, 2] m."""
    return np.stack([23.5 + 100.0 * xy_B2[:, 0], 15.5 - 100.0 * xy_B2[:, 1]], axis=1)


def picture(square_px: Sequence[float], hand_xy: Sequence[float]) -> NDArray[np.uint8]:
    """RGB uint8 [32, 48, 3]; the dot covers the square."""
    image = np.full((HEIGHT, WIDTH, 3), BACKGROUND, dtype=np.uint8)
    for (u, v), half, colour in (
        (square_px, 3, RED),
        (pixels(np.array([hand_xy], dtype=np.float64))[0], 1, BLUE),
    ):
        column, row = round(float(u)), round(float(v))
        image[max(row - half, 0) : max(row + half + 1, 0), max(column - half, 0) : max(column + half + 1, 0)] = colour
    return image


def centre(image_HW3: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.float64] | None:
    """Mean (column, row) of the pixels of a colour."""
    rows, columns = np.nonzero((image_HW3 == np.array(colour, dtype=np.uint8)).all(axis=2))
    return np.array([columns.mean(), rows.mean()]) if len(rows) else None


@dataclass(frozen=True)
class DotState:
    """B rollouts of the dot."""

    frame_BHW3: Tensor
    state_B7: Tensor
    square_B2: NDArray[np.float64]
    seeds_B: tuple[int, ...]
    done: int = 0

    def select(self, rows: Sequence[int] | Tensor) -> DotState:
        index = torch.as_tensor(rows)
        kept = [int(i) for i in index]
        return replace(
            self,
            frame_BHW3=self.frame_BHW3[index],
            state_B7=self.state_B7[index],
            square_B2=self.square_B2[kept],
            seeds_B=tuple(self.seeds_B[i] for i in kept),
        )

    def repeat(self, times: int) -> DotState:
        return self.select([i for i in range(len(self.seeds_B)) for _ in range(times)])


class DotWorld:
    """The world; see the file's head. ``jitter_m`` moves the hand a little, as each row's seed says."""

    image_height, image_width, actions = HEIGHT, WIDTH, CHUNK
    convention, control_rate_hz = CONVENTION, 10.0

    def __init__(self, jitter_m: float = 0.001) -> None:
        self.jitter_m = jitter_m

    def begin(
        self,
        first_BHW3: Tensor,
        state_B7: Tensor,
        *,
        cameras: Sequence[PinholeCamera | None],
        seeds_B: Sequence[int] | Tensor,
    ) -> DotState:
        squares = []
        for image in first_BHW3.numpy():
            found = centre(image, RED)
            if found is None:
                raise ValueError("no red square in the first picture")
            squares.append(np.round(found))
        return DotState(first_BHW3, state_B7.float(), np.stack(squares), tuple(int(s) for s in seeds_B))

    def advance(self, world: DotState, actions_BCD: Tensor, keep: int | Tensor) -> tuple[DotState, Tensor]:
        count = int(keep) if isinstance(keep, int) else int(keep.max())
        state, frames = world.state_B7.clone(), []
        jitter = np.stack(
            [np.random.default_rng((s, world.done)).normal(0.0, self.jitter_m, (count, 2)) for s in world.seeds_B]
        )
        for c in range(count):
            state[:, :6] += actions_BCD[:, c, :6].cpu()
            state[:, :2] += torch.from_numpy(jitter[:, c]).float()
            state[:, 6] = actions_BCD[:, c, 6].cpu()
            frames.append(np.stack([picture(s, h) for s, h in zip(world.square_B2, state[:, :2].numpy(), strict=True)]))
        video = torch.from_numpy(np.stack(frames, axis=1))
        return replace(world, frame_BHW3=video[:, -1], state_B7=state, done=world.done + count), video


class DotJudge:
    """Exact: the dot's last place against the square's first one. ``silent`` videos get no judgement."""

    name = "dot oracle"

    def __init__(self, silent: Sequence[int] = ()) -> None:
        self.silent, self.seen = set(silent), 0

    def judge(self, videos: Sequence[NDArray[np.uint8]], tasks: Sequence[str]) -> list[Verdict]:
        verdicts = []
        for video in videos:
            self.seen += 1
            square, dot = centre(video[0], RED), centre(video[-1], BLUE)
            assert square is not None
            distance = float("inf") if dot is None else float(np.linalg.norm(dot - np.round(square)))
            success = distance <= REACH_PX
            if self.seen - 1 in self.silent:
                verdicts.append(Verdict(None, 0.5, (None,), reason="asleep"))
                continue
            verdicts.append(Verdict(success, float(np.exp(-distance / 8.0)), (success,), reason=f"{distance:.1f} px"))
        return verdicts


def starts(count: int, seed: int) -> list[Prompt]:
    """Start states: squares all over the table, the hand near the middle."""
    random = np.random.default_rng(seed)
    prompts = []
    for number in range(count):
        square = random.uniform([-0.18, -0.1], [0.18, 0.1])
        hand = random.uniform([-0.03, -0.02], [0.03, 0.02])
        state = np.array([*hand, 0.0, 0.0, 0.0, 0.0, 1.0], dtype=np.float32)
        image = picture(np.round(pixels(square[None])[0]).tolist(), hand.tolist())
        prompts.append(Prompt(image, state, INSTRUCTION, camera(), f"dot-{seed}-{number}"))
    return prompts


def new_policy(seed: int = 0) -> TinyPolicy:
    """The tiny policy at its smallest, untrained."""
    spec = PolicySpec(
        CONVENTION,
        Scaling((0.0,) * 6 + (0.5,), (0.01,) * 3 + (0.02,) * 3 + (0.5,)),
        Scaling((0.0,) * 7, (0.1,) * 3 + (0.5,) * 3 + (1.0,)),
        chunk=CHUNK,
        num_steps=STEPS,
        image_height=HEIGHT,
        image_width=WIDTH,
        instructions=(INSTRUCTION,),
        state_source="integrated",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = TinyConfig(maps=2, channels=8, width=16, depth=1, heads=2, cond_width=16, bf16=False)
        policy = TinyPolicy(spec, config)
    policy.camera.set(camera())
    return policy.eval()


def taught_policy(steps: int = 250, seed: int = 0) -> TinyPolicy:
    """The policy after demonstrations that stop at three quarters of the way, more or less."""
    policy, random = new_policy(seed), np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 4e-3 * (1.0 - step / steps) + 1e-4
        batch = _demonstrated(policy, 48, random)
        loss = policy.sft_loss(batch, generator)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return policy.eval()


def _demonstrated(policy: TinyPolicy, count: int, random: np.random.Generator) -> TrainingBatch:
    square = random.uniform([-0.18, -0.1], [0.18, 0.1], size=(count, 2))
    hand = random.uniform([-0.03, -0.02], [0.03, 0.02], size=(count, 2))
    goal = hand + 0.75 * (square - hand) + random.normal(0.0, 0.02, size=(count, 2))
    done = random.integers(0, CALLS, size=(count, 1)) / CALLS
    place = hand + done * (goal - hand)
    delta = (goal - hand) / (CALLS * CHUNK)
    action = np.zeros((count, CHUNK, 7), dtype=np.float32)
    action[..., :2], action[..., 6] = delta[:, None], 1.0
    state = np.zeros((count, 7), dtype=np.float32)
    state[:, :2], state[:, 6] = place, 1.0
    squares_px = np.round(pixels(square))
    images = np.stack([picture(s, p) for s, p in zip(squares_px, place, strict=True)])
    waypoint = np.zeros((count, 7), dtype=np.float32)
    waypoint[:, :2] = square
    inputs: Inputs = policy.prepare(
        ObservationBatch(torch.from_numpy(images), torch.from_numpy(state), (INSTRUCTION,) * count)
    )
    ones = torch.ones(count)
    return TrainingBatch(inputs, torch.from_numpy(action), ones, torch.from_numpy(waypoint), ones, noise_samples=2)
