"""Image encoder of the tiny policy: a shallow convolutional trunk that says *where* a few things are.

Thirty demonstrations show an object at thirty places. A dense regressor memorises those; a detector whose filters are
shared by all pixels does not need to see every place. So the only way from this encoder to metric positions leads
through spatial soft-maxima (one pixel position for each map) and one plane-projective map for each of them, the form
that pixels of points on a table must take whatever the camera's pose.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Residual 3x3 convolution, modulated channel-wise by the instruction."""

    def __init__(self, channels: int, dilation: int, text_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.film = nn.Linear(text_width, 2 * channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, text_BE: Tensor) -> Tensor:
        scale, shift = self.film(text_BE)[:, :, None, None].chunk(2, dim=1)
        return x + F.gelu(self.conv(x) * (1.0 + scale) + shift, approximate="tanh")


class KeypointEncoder(nn.Module):
    """Images [B, 3, H, W] (zero-centred, H and W divisible by 8) to M keypoints on an H/2 x W/2 grid.

    Returns (all float32):
        keypoints_BM2: image coordinates (right, down), both -1 ... 1 over the image.
        values_BMC: features read at each map's place.
        context_BC: a summary of the whole image.
    """

    def __init__(self, maps: int, channels: int, text_width: int) -> None:
        super().__init__()
        self.maps, self.channels = maps, channels
        self.stem = nn.Conv2d(3, channels, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(ConvBlock(channels, dilation, text_width) for dilation in (1, 2, 1))
        self.coarse = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.coarser = nn.Conv2d(2 * channels, 2 * channels, 3, stride=2, padding=1)
        self.widen = nn.Conv2d(2 * channels, channels, 1)
        self.last = ConvBlock(channels, 1, text_width)
        self.to_maps = nn.Conv2d(channels, maps, 1)
        self.to_values = nn.Conv2d(channels, channels, 1)
        self.to_context = nn.Linear(2 * channels, channels)

    def forward(self, image_B3HW: Tensor, text_BE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.gelu(self.stem(image_B3HW), approximate="tanh")
        for block in self.blocks:
            x = block(x, text_BE)
        # Context from a quarter of the grid tells a cube on the table from one between the fingers.
        coarse = F.gelu(self.coarse(F.avg_pool2d(x, 4)), approximate="tanh")
        coarse = coarse + F.interpolate(F.gelu(self.coarser(coarse), approximate="tanh"), coarse.shape[2:])
        x = x + F.interpolate(self.widen(coarse), x.shape[2:], mode="bilinear", align_corners=False)
        x = self.last(x, text_BE)
        logits, features = self.to_maps(x), self.to_values(x)
        # Half precision would round a keypoint to whole cells, so reading the maps is done in single.
        with torch.autocast(x.device.type, enabled=False):
            attention_BMN = logits.float().flatten(2).softmax(dim=2)
            keypoints = attention_BMN @ image_grid(x.shape[2], x.shape[3], x.device)
            values = attention_BMN @ features.float().flatten(2).transpose(1, 2)
            context = self.to_context(coarse.float().mean(dim=(2, 3)))
        return keypoints, values, context


def image_grid(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Centres of grid cells [H*W, 2] as (right, down) in -1 ... 1 over the image's full extent."""
    right = (2.0 * torch.arange(width, device=device) + 1.0) / width - 1.0
    down = (2.0 * torch.arange(height, device=device) + 1.0) / height - 1.0
    return torch.stack([right.repeat(height), down.repeat_interleave(width)], dim=1)


class PlaneProjection(nn.Module):
    """One projective map for each keypoint: ``p = (A [u v 1]) / (1 + c . [u v])``, from pixels to 3-D points.

    Points of a plane in space and their pixels are related exactly so; the eleven numbers of a map are learned.
    Output [B, M, 3] in the caller's (normalised) units.
    """

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.numerator = nn.Parameter(0.5 * torch.randn(maps, 3, 3))
        self.denominator = nn.Parameter(torch.zeros(maps, 2))

    def forward(self, keypoints_BM2: Tensor) -> Tensor:
        homogeneous = torch.cat([keypoints_BM2, torch.ones_like(keypoints_BM2[..., :1])], dim=-1)
        point = torch.einsum("mij,bmj->bmi", self.numerator, homogeneous)
        # tanh keeps the horizon out of the image while the map is being learned.
        depth = 1.0 + 0.9 * torch.tanh((self.denominator * keypoints_BM2).sum(-1, keepdim=True))
        return point / depth
