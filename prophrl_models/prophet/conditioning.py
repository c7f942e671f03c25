"""The two action streams: the numbers of a chunk, and the frames that show its gripper poses as the camera sees them.

Numbers and the paper's pooled frames enter through the time embedding; the pixel-aligned frames enter at the tokens.
Output layers start at zero, so that a pre-trained network is unchanged when a stream is switched on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Perceptron(nn.Module):
    """Linear, GELU (tanh form), Linear; the second layer starts at zero. Names as in NVIDIA's checkpoints."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class ScalarActions(nn.Module):
    """A whole chunk of actions as one vector for the time embedding and one for adaLN (spec 4.3)."""

    def __init__(self, actions: int, action_dim: int, width: int) -> None:
        super().__init__()
        self.shape = (actions, action_dim)
        self.to_time = Perceptron(actions * action_dim, 4 * width, width)
        self.to_adaln = Perceptron(actions * action_dim, 4 * width, 3 * width)

    def forward(self, actions_BAX: Tensor) -> tuple[Tensor, Tensor]:
        """Additions to the time embedding [B, 1, D] and to the adaLN term [B, 1, 3 D].

        Raises:
            ValueError: the chunk has another shape.
        """
        if tuple(actions_BAX.shape[1:]) != self.shape:
            raise ValueError(
                f"actions must be [B, {self.shape[0]}, {self.shape[1]}], got {list(actions_BAX.shape)}; pad shorter "
                "chunks by holding and single arms with zeros"
            )
        flat = actions_BAX.flatten(1).unsqueeze(1)
        return self.to_time(flat), self.to_adaln(flat)


class NormedLinear(nn.Module):
    """LayerNorm, then a linear layer that starts at zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.linear = nn.Linear(inputs, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(x))
        return out


class PooledActionFrames(nn.Module):
    """The paper's stream (spec 4.4): each latent action frame becomes one vector; places enter by 3 x 3 context only.

    The released network starts ``proj_in`` at zero and lets the temporal code through from the first step on; here
    the two output layers are zero instead, so that the stream starts without effect.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.proj_in = nn.Conv3d(channels, width, kernel_size=1)
        self.depthwise = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1), groups=width, bias=False)
        self.pointwise = nn.Conv3d(width, width, kernel_size=1, bias=False)
        self.to_time = NormedLinear(width, width)
        self.to_adaln = NormedLinear(width, 3 * width)

    def forward(self, frame_latent_BCLHW: Tensor, condition_L: Tensor) -> tuple[Tensor, Tensor]:
        """Additions to the time embedding [B, L, D] and to the adaLN term [B, L, 3 D].

        Args:
            condition_L: 1 where a latent frame is given, 0 where it is generated; given frames contribute nothing but
                their temporal code.
        """
        x = self.pointwise(self.depthwise(self.proj_in(frame_latent_BCLHW)))
        x = x.mean(dim=(3, 4)).transpose(1, 2) * (1.0 - condition_L)[:, None].to(x.dtype)  # [B, L, D]
        x = x + temporal_code(x.shape[1], self.width, x.device).to(x.dtype)
        return self.to_time(x), self.to_adaln(x)


def temporal_code(frames: int, width: int, device: torch.device) -> Tensor:
    """Sinusoidal positions [L, D]: sine in even, cosine in odd channels, wavelengths 2 pi to 20000 pi frames."""
    position = torch.arange(frames, device=device, dtype=torch.float32)[:, None]
    exponent = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    angle = position * torch.exp(-math.log(10000.0) * exponent)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]


class PatchActionFrames(nn.Module):
    """Pixel-aligned stream: the latent action frames are cut into patches like the video and added to its tokens.

    The same as further input channels of the patch embedding with zero columns, whose weight keeps its shape.
    """

    def __init__(self, channels: int, patch: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(channels * math.prod(patch), width, bias=False)
        nn.init.zeros_(self.proj.weight)

    def forward(self, frame_latent_BCLHW: Tensor) -> Tensor:
        """Additions to the tokens [B, L h w, D]."""
        B, C, L, H, W = frame_latent_BCLHW.shape
        p_t, p_h, p_w = self.patch
        patches = frame_latent_BCLHW.reshape(B, C, L // p_t, p_t, H // p_h, p_h, W // p_w, p_w)
        out: Tensor = self.proj(patches.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4, 7).flatten(1, 3))
        return out
