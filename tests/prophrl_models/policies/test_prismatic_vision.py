"""Prismatic's vision towers against a plain transformer that reads timm's names, and the preparation of images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from prophrl_models.policies.official import load_tensors
from prophrl_models.policies.prismatic_vision import FusedVision, VisionConfig, square_image
from prophrl_models.policies.prismatic_weights import DINO, SIGLIP, PrismaticNames
from tests.helpers.prismatic_layout import random_tensors, tower_shapes

CONFIG = VisionConfig.tiny()


def reference_tower(w: dict[str, Tensor], image: Tensor, depth: int, heads: int, patch: int) -> Tensor:
    """timm's VisionTransformer in plain tensor algebra, up to and with layer depth - 2; patch features only."""

    def layer_norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    B, C = len(image), w["pos_embed"].shape[2]
    side = image.shape[2] // patch
    cut = image.reshape(B, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5).reshape(B, side * side, -1)
    x = cut @ w["patch_embed.proj.weight"].reshape(C, -1).T + w["patch_embed.proj.bias"] + w["pos_embed"]
    prefix = [w[name].expand(B, -1, -1) for name in ("cls_token", "reg_token") if name in w]
    x = torch.cat([*prefix, x], 1)
    for i in range(depth - 1):
        b = f"blocks.{i}."
        q, k, v = linear(layer_norm(x, b + "norm1"), b + "attn.qkv").reshape(B, -1, 3, heads, C // heads).unbind(2)
        scores = torch.einsum("bqhf,bkhf->bhqk", q, k) / math.sqrt(C // heads)
        mixed = torch.einsum("bhqk,bkhf->bqhf", scores.softmax(-1), v).reshape(B, -1, C)
        x = x + linear(mixed, b + "attn.proj") * w.get(b + "ls1.scale_factor", 1.0)
        hidden = linear(layer_norm(x, b + "norm2"), b + "mlp.fc1")
        hidden = hidden * 0.5 * (1.0 + torch.erf(hidden / math.sqrt(2.0)))
        x = x + linear(hidden, b + "mlp.fc2") * w.get(b + "ls2.scale_factor", 1.0)
    return x[:, sum(p.shape[1] for p in prefix) :]


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    shapes = tower_shapes(DINO, CONFIG.dino, CONFIG, CONFIG.registers) | tower_shapes(SIGLIP, CONFIG.siglip, CONFIG)
    return random_tensors(shapes, scale=0.4)


@pytest.fixture(scope="module")
def vision(published: dict[str, Tensor]) -> FusedVision:
    made = FusedVision(CONFIG).eval()
    holder = torch.nn.Module()
    holder.backbone = torch.nn.Module()
    holder.backbone.vision = made
    load_tensors(holder, published.items(), PrismaticNames(CONFIG)).raise_for_gaps()
    return made


def test_fused_features_agree_with_a_plain_transformer_on_timm_weights(
    vision: FusedVision, published: dict[str, Tensor]
) -> None:
    image = torch.randint(0, 256, (3, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    x = image.double() / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).bfloat16().double()[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225]).bfloat16().double()[:, None, None]
    weights = {name: value.double() for name, value in published.items()}
    expected = []
    for prefix, size, stack in ((DINO, CONFIG.dino, (x - mean) / std), (SIGLIP, CONFIG.siglip, (x - 0.5) / 0.5)):
        w = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        expected.append(reference_tower(w, stack, size.depth, size.heads, CONFIG.patch_size))
    with torch.no_grad():
        features = vision(image)
    assert features.shape == (3, CONFIG.tokens, CONFIG.width)
    assert features.abs().max() > 0.5
    torch.testing.assert_close(features.double(), torch.cat(expected, 2), atol=1e-4, rtol=0)


def test_the_last_layer_final_norm_and_pool_have_no_part(vision: FusedVision, published: dict[str, Tensor]) -> None:
    names = PrismaticNames(CONFIG)
    unused = [name for name, tensor in published.items() if names(name, tensor) == []]
    last = [n for n in published if n.startswith((DINO + "blocks.2.", SIGLIP + "blocks.2."))]
    norms = [n for n in published if n.removeprefix(DINO).removeprefix(SIGLIP).startswith(("norm.", "attn_pool."))]
    assert sorted(unused) == sorted(last + norms)


def test_float_images_and_other_sizes_are_refused(vision: FusedVision) -> None:
    for image in (torch.zeros(1, 3, 28, 28), torch.zeros(1, 3, 28, 30, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="needs uint8 images"):
            vision(image)


def test_a_tower_trains_in_bfloat16_while_image_statistics_stay_float32(vision: FusedVision) -> None:
    from prophrl_models.policies.prismatic import default_dtype

    with default_dtype(torch.bfloat16):
        low = FusedVision(CONFIG)
    assert {p.dtype for p in low.parameters()} == {torch.bfloat16} and low.mean_std.dtype is torch.float32
    assert torch.get_default_dtype() is torch.float32
    low.load_state_dict(vision.state_dict())
    image = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    exact = vision(image)
    error = (low(image).float() - exact).norm() / exact.norm()
    assert 0 < error < 0.05


def smooth_picture(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(rows / 9 + k) * np.cos(columns / (7 + k)) for k in range(3)]
    return np.stack(waves, 2).astype(np.uint8)


def test_resizing_is_pillows_bicubic() -> None:
    picture = smooth_picture(240, 320)
    expected = np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC)).astype(int)
    ours = square_image(torch.from_numpy(picture)[None], 224)[0].permute(1, 2, 0).numpy().astype(int)
    assert ours.shape == (224, 224, 3)
    assert np.abs(ours - expected).max() <= 1  # Pillow rounds once more, between the two directions
    assert abs((ours - expected).mean()) < 0.02


def test_cropping_keeps_the_middle_and_a_square_of_the_right_size_is_untouched() -> None:
    picture = torch.from_numpy(smooth_picture(240, 320))[None]
    side = 0.9**0.5
    top, left = (240 - round(240 * side)) // 2, (320 - round(320 * side)) // 2
    kept = picture[:, top : top + round(240 * side), left : left + round(320 * side)]
    assert torch.equal(square_image(picture, 64, 0.9), square_image(kept, 64))
    square = picture[:, :224, :224]
    assert torch.equal(square_image(square, 224), square.permute(0, 3, 1, 2))
    with pytest.raises(ValueError, match="fraction"):
        square_image(picture, 64, 1.2)


def test_published_sizes_build_without_memory_and_count_as_timm_does() -> None:
    config = VisionConfig()
    with torch.device("meta"):
        vision = FusedVision(config)
    built = sum(p.numel() for p in vision.parameters())
    timm = tower_shapes("", config.dino, config, config.registers)
    siglip = tower_shapes("", config.siglip, config)
    count = {name: math.prod(shape) for name, shape in timm.items()}
    count_siglip = {name: math.prod(shape) for name, shape in siglip.items()}
    assert sum(count.values()) == 303_230_976 and sum(count_siglip.values()) == 427_680_704
    dropped = sum(v for n, v in count.items() if n.startswith(("blocks.23.", "norm.")))
    dropped += sum(v for n, v in count_siglip.items() if n.startswith(("blocks.26.", "norm.", "attn_pool.")))
    zero_row = config.dino.width  # the class token's position, which timm does not have
    assert built == 303_230_976 + 427_680_704 - dropped + zero_row
