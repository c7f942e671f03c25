"""Image encoder of the tiny policy: a shallow convolutional trunk, and soft positions read from its maps.

Thirty demonstrations show an object at thirty places. A dense regressor memorises those; a detector whose filters are
shared by all pixels need not see every place. So the only way from this encoder to a metric position leads through a
map over pixels and the camera's geometry.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Residual 3x3 convolution, modulated channel-wise by the instruction."""

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(text_width, 2 * channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, text_BE: Tensor) -> Tensor:
        scale, shift = self.film(text_BE)[:, :, None, None].chunk(2, dim=1)
        return x + F.relu(self.conv(x) * (1.0 + scale) + shift)


class ImageTrunk(nn.Module):
    """Images [B, 3, H, W] (zero-centred, H and W divisible by 8) to features.

    Most of the depth sits on small grids, where it is cheap and sees far (a cube between fingers looks like a cube on
    the table until one sees the fingers); the fine grid adds where exactly.

    Returns fine features [B, channels, H/2, W/2] and a summary of the whole image [B, ``summary_channels``].
    """

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        middle, coarse = 3 * channels // 2, 2 * channels
        self.summary_channels = 2 * coarse
        self.stem = nn.Conv2d(3, channels, 5, stride=2, padding=2)
        self.to_middle = nn.Conv2d(channels, middle, 3, stride=2, padding=1)
        self.middle = ConvBlock(middle, text_width)
        self.to_coarse = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.coarse = nn.ModuleList(ConvBlock(coarse, text_width) for _ in range(2))
        self.from_coarse = nn.Conv2d(coarse, middle, 1)
        self.from_middle = nn.Conv2d(middle, channels, 1)
        self.fine = ConvBlock(channels, text_width)

    def forward(self, image_B3HW: Tensor, text_BE: Tensor) -> tuple[Tensor, Tensor]:
        fine = F.relu(self.stem(image_B3HW))
        middle = self.middle(F.relu(self.to_middle(fine)), text_BE)
        coarse = F.relu(self.to_coarse(middle))
        for block in self.coarse:
            coarse = block(coarse, text_BE)
        middle = middle + _enlarge(self.from_coarse(coarse), middle)
        fine = self.fine(fine + _enlarge(self.from_middle(middle), fine), text_BE)
        coarse = coarse.float()
        # How much of something there is, and whether there is any.
        return fine, torch.cat([coarse.mean(dim=(2, 3)), coarse.amax(dim=(2, 3))], 1)


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def cell_centres(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Centres of grid cells [H*W, 2] as (right, down) in -1 ... 1 over the image's full extent."""
    right = (2.0 * torch.arange(width, device=device) + 1.0) / width - 1.0
    down = (2.0 * torch.arange(height, device=device) + 1.0) / height - 1.0
    return torch.stack([right.repeat(height), down.repeat_interleave(width)], dim=1)


def target_map(position_B2: Tensor, height: int, width: int, spread_cells: float) -> Tensor:
    """Distributions [B, H*W] of a Gaussian around image positions (-1 ... 1); positions outside stay at the border."""
    half_cell = position_B2.new_tensor([1.0 / width, 1.0 / height])
    inside = torch.minimum(torch.maximum(position_B2, half_cell - 1.0), 1.0 - half_cell)
    cells = (cell_centres(height, width, position_B2.device)[None] - inside[:, None]) / (2.0 * half_cell)
    weight = torch.exp(-0.5 * cells.square().sum(-1) / spread_cells**2)
    return weight / weight.sum(1, keepdim=True)


def peak_position(probability_BN: Tensor, height: int, width: int, radius: int) -> tuple[Tensor, Tensor]:
    """Mean position [B, 2] and weights [B, N] of a map's mass within ``radius`` cells of its peak.

    The window keeps a second, weaker candidate far away from pulling the position into the empty middle.
    """
    peak = probability_BN.argmax(1)
    row, column = peak // width, peak % width
    index = torch.arange(height * width, device=probability_BN.device)
    far_row = (index // width)[None] - row[:, None]
    far_column = (index % width)[None] - column[:, None]
    window = (far_row.abs() <= radius) & (far_column.abs() <= radius)
    weight = probability_BN * window
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-12)
    return weight @ cell_centres(height, width, probability_BN.device), weight
