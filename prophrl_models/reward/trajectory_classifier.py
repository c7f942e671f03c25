"""A small classifier that says from the start picture whether a trajectory accomplishes a task.

What lay below the hand and the motion of each moment (``trajectory``) become a token; causal attention over time
(``time_attention``) gives a logit after each, "accomplished by now". Several networks that began differently are asked
and the mean of their logits counts: they agree about what the data tell and differ in what they made up, which is what
reinforcement would find. B trajectories, T moments, V x V pixels, N = B T, M width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prophrl_models.data.image import POLICY_HEIGHT, POLICY_WIDTH
from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.time_attention import TimeBlock
from prophrl_models.reward.trajectory import MOTION
from prophrl_models.reward.vocabulary import task_numbers


@dataclass(frozen=True)
class TrajectoryConfig:
    """Architecture and vocabulary.

    Attributes:
        tasks: instructions (or task names) that can be judged; at least one, no two the same.
        frames: moments looked at, evenly over a trajectory, the first and the last among them.
        height, width: size of the start picture that is looked at.
        view: pixels of the side of a square seen from above, a multiple of 8.
        side_m: of such a square; a gripper, what it holds and what it puts that into should fit.
        ground_z_m: plane of the base on which things stand.
        channels: of the three levels of the trunk.
        token: width M; a multiple of ``heads``.
        layers, heads: of the attention over time.
        members: networks whose mean counts.
    """

    tasks: tuple[str, ...]
    frames: int = 40
    height: int = POLICY_HEIGHT
    width: int = POLICY_WIDTH
    view: int = 48
    side_m: float = 0.192
    ground_z_m: float = 0.0
    channels: tuple[int, int, int] = (16, 32, 48)
    token: int = 96
    layers: int = 2
    heads: int = 4
    members: int = 3

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise JudgeError(f"a classifier needs one or more different tasks, got {list(self.tasks)}")
        if self.members < 1:
            raise JudgeError(f"a classifier has one or more members, got {self.members}")
        if not self.side_m > 0.0:
            raise JudgeError(f"side_m of the squares that are seen is a length in metres, got {self.side_m}")
        if self.frames < 2 or self.view < 8 or self.view % 8 or self.token % self.heads or self.token < 64:
            raise JudgeError(
                "a classifier of trajectories needs at least 2 frames, a view that is a multiple of 8 and a token of "
                f"64 or more that is a multiple of its heads; got {self.frames} frames, view {self.view}, token "
                f"{self.token} and {self.heads} heads"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> TrajectoryConfig:
        """Raises: JudgeError: a field is unknown, missing or unusable."""
        try:
            return cls(**{**raw, "tasks": tuple(raw["tasks"]), "channels": tuple(raw["channels"])})
        except (KeyError, TypeError) as error:
            raise JudgeError(f"not the configuration of a classifier of trajectories ({error}): {raw!r}") from error


class TrajectoryNetwork(nn.Module):
    """One member: logits that the task has been accomplished, one for each moment."""

    def __init__(self, config: TrajectoryConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c = config.channels
        self.trunk = nn.Sequential(
            nn.Conv2d(6, a, 4, 2, 1), nn.GroupNorm(4, a), nn.SiLU(),
            nn.Conv2d(a, b, 4, 2, 1), nn.GroupNorm(4, b), nn.SiLU(),
            nn.Conv2d(b, c, 4, 2, 1), nn.GroupNorm(4, c), nn.SiLU(),
            nn.Conv2d(c, 16, 1), nn.Flatten(),
            nn.Linear(16 * (config.view // 8) ** 2, config.token - 32), nn.SiLU(),
        )  # fmt: skip
        self.motion = nn.Sequential(nn.Linear(MOTION, 32), nn.SiLU())
        self.to_token = nn.Linear(config.token, config.token)
        self.task = nn.Embedding(len(config.tasks), config.token)
        self.over_time = nn.ModuleList(TimeBlock(config.token, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.token)
        self.out = nn.Linear(config.token, 1)
        nn.init.normal_(self.task.weight, std=0.5)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, views_BTVV6: Tensor, motion_BTF: Tensor, task_B: Tensor) -> Tensor:
        """Logits [B, T] of "accomplished by this moment" for uint8 squares and their motion; any T >= 1."""
        B, T, V, _, _ = views_BTVV6.shape
        if self.config.view != V or views_BTVV6.dtype != torch.uint8 or motion_BTF.shape != (B, T, MOTION):
            raise JudgeError(
                f"the classifier takes uint8 squares of {self.config.view} pixels with {MOTION} numbers of motion, "
                f"got {views_BTVV6.dtype} {list(views_BTVV6.shape)} and {list(motion_BTF.shape)}"
            )
        image_N6VV = views_BTVV6.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        seen_NM = torch.cat([self.trunk(image_N6VV), self.motion(motion_BTF.flatten(0, 1))], dim=1)
        x_BTM = self.to_token(seen_NM).unflatten(0, (B, T)) + self.task(task_B)[:, None]
        for block in self.over_time:
            x_BTM = block(x_BTM)
        return self.out(self.norm(x_BTM)).squeeze(-1)  # type: ignore[no-any-return]


class TrajectoryClassifier(nn.Module):
    """All members together."""

    def __init__(self, config: TrajectoryConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(TrajectoryNetwork(config) for _ in range(config.members))

    def forward(self, views_BTVV6: Tensor, motion_BTF: Tensor, task_B: Tensor) -> Tensor:
        """Mean logits [B, T]; arguments as of one member."""
        return torch.stack([member(views_BTVV6, motion_BTF, task_B) for member in self.members]).mean(0)

    def task_numbers(self, tasks: Sequence[str]) -> Tensor:
        """Positions [B] of tasks in the vocabulary; see ``vocabulary.task_numbers``."""
        return task_numbers(tasks, self.config.tasks)
