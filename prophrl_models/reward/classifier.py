"""A small classifier that says after every frame of a video whether the task has been accomplished by then.

Each frame is read together with its difference from the first frame: what left its place and what arrived elsewhere is
then a local pattern, and an object of four pixels does not get lost. A convolutional trunk of stride 8, attention
pooling over places with queries that depend on the task, and causal attention over time (``time_attention``).

B videos, T frames, H x W pixels, N = B T, P places, D channels, M width of a frame's token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.time_attention import TimeBlock
from prophrl_models.reward.vocabulary import task_numbers

MAX_PARAMETERS = 1_000_000


@dataclass(frozen=True)
class ClassifierConfig:
    """Architecture and vocabulary.

    Attributes:
        tasks: instructions (or task names) that can be judged; at least one, no two the same.
        frames: frames looked at, evenly over a video, the first and the last among them.
        height, width: size to which frames are area-resized; multiples of 8.
        channels: of the four levels of the trunk.
        queries: places that the pooling attends to.
        token: width M of a frame's token; a multiple of ``heads``.
        layers, heads: of the attention over time.
    """

    tasks: tuple[str, ...]
    frames: int = 16
    height: int = 96
    width: int = 128
    channels: tuple[int, int, int, int] = (16, 32, 48, 64)
    queries: int = 4
    token: int = 96
    layers: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise JudgeError(f"a classifier needs one or more different tasks, got {list(self.tasks)}")
        if self.frames < 2 or self.height % 8 or self.width % 8 or self.token % self.heads:
            raise JudgeError(
                "a classifier needs at least 2 frames, sides that are multiples of 8 and a token width that is a "
                f"multiple of its heads; got {self.frames} frames, {self.width}x{self.height}, token width "
                f"{self.token} and {self.heads} heads"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> ClassifierConfig:
        """Raises: JudgeError: a field is unknown, missing or unusable."""
        try:
            return cls(**{**raw, "tasks": tuple(raw["tasks"]), "channels": tuple(raw["channels"])})
        except (KeyError, TypeError) as error:
            raise JudgeError(f"not the configuration of a success classifier ({error}): {raw!r}") from error


class SuccessClassifier(nn.Module):
    """Logits that the task has been accomplished, one for each frame."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = _Trunk(config.channels)
        places, channels = (config.height // 8) * (config.width // 8), config.channels[-1]
        self.place_PD = nn.Parameter(torch.zeros(places, channels))
        self.query_QD = nn.Parameter(torch.randn(config.queries, channels))
        self.task = nn.Embedding(len(config.tasks), config.queries * channels)
        self.task_token = nn.Embedding(len(config.tasks), config.token)
        self.to_token = nn.Linear(config.queries * channels, config.token)
        self.over_time = nn.ModuleList(TimeBlock(config.token, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.token)
        self.out = nn.Linear(config.token, 1)
        for embedding in (self.task, self.task_token):
            nn.init.normal_(embedding.weight, std=0.5)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        count = sum(p.numel() for p in self.parameters())
        if count > MAX_PARAMETERS:
            raise JudgeError(f"a success classifier has at most {MAX_PARAMETERS} parameters, this has {count}")

    def forward(self, frames_BTHW3: Tensor, task_B: Tensor) -> Tensor:
        """Logits [B, T] of "accomplished by this frame" for uint8 RGB frames of the configured size; any T >= 1."""
        return self.judge_tokens(self.embed(frames_BTHW3, task_B), task_B)

    def embed(self, frames_BTHW3: Tensor, task_B: Tensor) -> Tensor:
        """Frame tokens [B, T, M]; each depends on its own frame and the video's first one only."""
        B, T, H, W, _ = frames_BTHW3.shape
        if (self.config.height, self.config.width) != (H, W) or frames_BTHW3.dtype != torch.uint8:
            raise JudgeError(
                f"the classifier takes uint8 frames of {self.config.width}x{self.config.height}, got "
                f"{frames_BTHW3.dtype} {W}x{H}; resize with prophrl_models.reward.frames.resized"
            )
        image = frames_BTHW3.permute(0, 1, 4, 2, 3).float() / 127.5 - 1.0
        image_N6HW = torch.cat([image, image - image[:, :1]], dim=2).flatten(0, 1)
        features = self.trunk(image_N6HW.contiguous(memory_format=torch.channels_last))
        key_NPD = features.flatten(2).transpose(1, 2) + self.place_PD
        query_BQD = self.query_QD + self.task(task_B).unflatten(1, (self.config.queries, -1))
        query_NQD = query_BQD.repeat_interleave(T, dim=0)
        scores = query_NQD @ key_NPD.transpose(1, 2) * key_NPD.shape[-1] ** -0.5
        pooled_NQD = scores.softmax(dim=-1) @ key_NPD
        return self.to_token(pooled_NQD.flatten(1)).unflatten(0, (B, T))  # type: ignore[no-any-return]

    def judge_tokens(self, token_BTM: Tensor, task_B: Tensor) -> Tensor:
        """Logits [B, T] from frame tokens; logit t looks at tokens 0..t."""
        x = token_BTM + self.task_token(task_B)[:, None]
        for block in self.over_time:
            x = block(x)
        return self.out(self.norm(x)).squeeze(-1)  # type: ignore[no-any-return]

    def task_numbers(self, tasks: Sequence[str]) -> Tensor:
        """Positions [B] of tasks in the vocabulary; see ``vocabulary.task_numbers``."""
        return task_numbers(tasks, self.config.tasks)


class _Trunk(nn.Module):
    """[N, 6, H, W] -> [N, D, H/8, W/8]."""

    def __init__(self, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = channels
        self.down = nn.ModuleList(
            [nn.Conv2d(6, a, 4, 2, 1), nn.Conv2d(a, b, 4, 2, 1), nn.Conv2d(b, c, 4, 2, 1), nn.Conv2d(c, d, 3, 1, 1)]
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, size) for size in channels)
        self.refine = nn.Conv2d(d, d, 3, 1, 1)
        self.refine_norm = nn.GroupNorm(4, d)

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.down, self.norms, strict=True):
            x = F.silu(norm(convolution(x)))
        return x + F.silu(self.refine_norm(self.refine(x)))
