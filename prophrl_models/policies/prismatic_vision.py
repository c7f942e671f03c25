"""Prismatic's eyes: DINOv2 and SigLIP side by side on one square picture, their features stacked channel-wise.

Both towers are stock transformers layers in the published sizes (DINOv2-L/14 with four registers, SigLIP so400m/14).
Prismatic reads the output of the layer before the last one, without the final norm, so the last layer, the final norm
and SigLIP's pooling head are not built: they cannot change anything, they would cost memory, and parameters without a
gradient disturb distributed training.

Source: TRI-ML/prismatic-vlms and openvla/openvla (vision backbone "dinosiglip-vit-so-224px").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2WithRegistersConfig, SiglipVisionConfig
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersEmbeddings,
    Dinov2WithRegistersLayer,
)
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer, SiglipVisionEmbeddings

DINO_MEAN, DINO_STD = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
"""ImageNet's statistics, rounded to bfloat16 as the published preprocessor_config.json has them."""
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class TowerConfig:
    """Size of a vision transformer; ``depth`` counts the published layers, of which the last is not built."""

    width: int
    depth: int
    heads: int
    mlp: int


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the fused vision backbone; the defaults are the published ones.

    Attributes:
        image_size, patch_size: pixels.
        registers: register tokens of DINOv2.
    """

    image_size: int = 224
    patch_size: int = 14
    registers: int = 4
    dino: TowerConfig = field(default_factory=lambda: TowerConfig(1024, 24, 16, 4096))
    siglip: TowerConfig = field(default_factory=lambda: TowerConfig(1152, 27, 16, 4304))

    @classmethod
    def tiny(cls) -> VisionConfig:
        """Four patches, two layers each."""
        return cls(28, 14, 2, TowerConfig(16, 3, 2, 64), TowerConfig(24, 3, 2, 40))

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> VisionConfig:
        """From what ``dataclasses.asdict`` made of one."""
        return cls(**{**raw, "dino": TowerConfig(**raw["dino"]), "siglip": TowerConfig(**raw["siglip"])})

    @property
    def tokens(self) -> int:
        """Features of one image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def width(self) -> int:
        """Channels of a fused feature."""
        return self.dino.width + self.siglip.width


class DinoTower(nn.Module):
    """Pictures [B, 3, S, S], ImageNet-normalised, to DINOv2 patch features [B, patches, width]."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.dino
        if size.mlp % size.width:
            raise ValueError(f"DINOv2's mlp must be a multiple of its width, got {size.mlp} and {size.width}")
        hf = Dinov2WithRegistersConfig(
            hidden_size=size.width,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            mlp_ratio=size.mlp // size.width,
            image_size=config.image_size,
            patch_size=config.patch_size,
            num_register_tokens=config.registers,
        )
        hf._attn_implementation = "sdpa"
        self.prefix = 1 + config.registers
        self.embeddings = Dinov2WithRegistersEmbeddings(hf)
        del self.embeddings.mask_token  # for masked pre-training only; timm has none
        nn.init.normal_(self.embeddings.position_embeddings, std=0.02)
        self.layers = nn.ModuleList(Dinov2WithRegistersLayer(hf) for _ in range(size.depth - 1))

    def forward(self, image_B3HW: Tensor) -> Tensor:
        x: Tensor = self.embeddings(image_B3HW)
        for layer in self.layers:
            x = layer(x)
        return x[:, self.prefix :]


class SiglipTower(nn.Module):
    """Pictures [B, 3, S, S] in -1 ... 1 to SigLIP patch features [B, patches, width]."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.siglip
        hf = SiglipVisionConfig(
            hidden_size=size.width,
            intermediate_size=size.mlp,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_act="gelu",  # exact, as timm 0.9 ran it in training; transformers' default is the tanh form
        )
        hf._attn_implementation = "sdpa"
        self.embeddings = SiglipVisionEmbeddings(hf)
        nn.init.normal_(self.embeddings.position_embedding.weight, std=0.02)
        self.layers = nn.ModuleList(SiglipEncoderLayer(hf) for _ in range(size.depth - 1))

    def forward(self, image_B3HW: Tensor) -> Tensor:
        x: Tensor = self.embeddings(image_B3HW)
        for layer in self.layers:
            x = layer(x, None)
        return x


class FusedVision(nn.Module):
    """uint8 pictures [B, 3, S, S] to fused features [B, patches, DINO width + SigLIP width].

    The official six-channel stack (one normalisation for each tower) is formed here, from one uint8 picture.
    """

    mean_std: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.dino = DinoTower(config)
        self.siglip = SiglipTower(config)
        statistics = torch.tensor([DINO_MEAN, DINO_STD, SIGLIP_MEAN, SIGLIP_STD], dtype=torch.float32)
        self.register_buffer("mean_std", statistics.reshape(4, 1, 3, 1, 1), persistent=False)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        expected = (3, self.image_size, self.image_size)
        if image_B3HW.dtype != torch.uint8 or tuple(image_B3HW.shape[1:]) != expected:
            raise ValueError(
                f"the vision backbone needs uint8 images [B, {', '.join(map(str, expected))}], got {image_B3HW.dtype} "
                f"{tuple(image_B3HW.shape)}; the policy's prepare() makes them"
            )
        image = image_B3HW.float() / 255.0
        dino_mean, dino_std, siglip_mean, siglip_std = self.mean_std.float()
        dino = self.dino((image - dino_mean) / dino_std)  # the patch convolutions cast to their own dtype
        siglip = self.siglip((image - siglip_mean) / siglip_std)
        return torch.cat([dino, siglip], dim=2)


class Projector(nn.Module):
    """Fused features to the language model's width: three layers, the first four times as wide."""

    def __init__(self, vision_width: int, language_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, 4 * vision_width)
        self.fc2 = nn.Linear(4 * vision_width, language_width)
        self.fc3 = nn.Linear(language_width, language_width)

    def forward(self, features_BNE: Tensor) -> Tensor:
        tokens: Tensor = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features_BNE)))))
        return tokens


def square_image(image_BHW3: Tensor, size: int, crop_area: float = 1.0) -> Tensor:
    """uint8 pictures [B, H, W, 3] squeezed to uint8 [B, 3, size, size], without keeping the aspect ratio.

    Bicubic with antialiasing, as the published image processor. The official evaluation scripts squeeze with
    TensorFlow's Lanczos-3 after a JPEG round trip, because their data sets were stored so; ours are not, and neither is
    imitated. Their centre crop makes up for random crops in training: ``crop_area`` 0.9 is theirs, 1 keeps everything.
    """
    if not 0.0 < crop_area <= 1.0:
        raise ValueError(f"crop_area is the fraction of the picture that is kept, in (0, 1], got {crop_area}")
    height, width = image_BHW3.shape[1:3]
    side = crop_area**0.5
    rows, columns = max(round(height * side), 1), max(round(width * side), 1)
    top, left = (height - rows) // 2, (width - columns) // 2
    kept = image_BHW3[:, top : top + rows, left : left + columns].permute(0, 3, 1, 2).float()
    if kept.shape[2:] != (size, size):
        kept = F.interpolate(kept, (size, size), mode="bicubic", antialias=True, align_corners=False)
    return kept.round().clamp(0, 255).to(torch.uint8).contiguous()
