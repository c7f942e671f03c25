"""What pi0.5 does once per observation: picture and prompt through SigLIP and Gemma, into a cache of keys and values.

    picture -> SigLIP -> projector --+
                                     +-> Gemma layers, every token sees every valid one -> keys, values of each layer
    prompt  -> embedding * sqrt(E) --+

The action expert reads only that cache, so the last layer stops after its keys and values; its other weights and the
final norm are part of the published files and are kept, but nothing depends on them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import GemmaConfig, SiglipVisionConfig
from transformers.models.gemma.modeling_gemma import GemmaMLP, GemmaRMSNorm
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from prophrl_models.policies.pi05_attention import Attention, Rotation, rotation
from prophrl_models.policies.pi05_config import Pi05Config


class PatchEmbeddings(nn.Module):
    """Patches as tokens plus learned positions; parameter names as in transformers."""

    def __init__(self, c: Pi05Config) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, c.vision_width, kernel_size=c.patch, stride=c.patch)
        self.position_embedding = nn.Embedding(c.image_tokens, c.vision_width)
        nn.init.normal_(self.position_embedding.weight, std=c.vision_width**-0.5)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        patches: Tensor = self.patch_embedding(image_B3HW.to(self.patch_embedding.weight.dtype))
        return patches.flatten(2).transpose(1, 2) + self.position_embedding.weight


class VisionTower(nn.Module):
    """SigLIP So400m of transformers' own layers, without pooling head.

    It has no buffers, unlike ``SiglipVisionModel``: a policy built on the meta device is whole once its parameters are
    loaded.
    """

    def __init__(self, c: Pi05Config) -> None:
        super().__init__()
        config = SiglipVisionConfig(
            hidden_size=c.vision_width,
            intermediate_size=c.vision_mlp,
            num_hidden_layers=c.vision_depth,
            num_attention_heads=c.vision_heads,
            image_size=c.image_size,
            patch_size=c.patch,
        )
        config._attn_implementation = "sdpa"
        self.embeddings = PatchEmbeddings(c)
        self.layers = nn.ModuleList(SiglipEncoderLayer(config) for _ in range(c.vision_depth))
        self.post_layernorm = nn.LayerNorm(c.vision_width, eps=config.layer_norm_eps)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Tokens [B, image_tokens, vision_width] of pictures in [-1, 1]."""
        x = self.embeddings(image_B3HW)
        for layer in self.layers:
            x = layer(x, None)
        tokens: Tensor = self.post_layernorm(x)
        return tokens


class PrefixLayer(nn.Module):
    """A Gemma layer that also hands out its keys and values.

    ``GemmaDecoderLayer`` fills a cache object instead, which it drops while activations are recomputed in training.
    """

    def __init__(self, c: Pi05Config) -> None:
        super().__init__()
        self.input_layernorm = GemmaRMSNorm(c.width)
        self.self_attn = Attention(c.width, c.heads, c.kv_heads, c.head_dim)
        self.post_attention_layernorm = GemmaRMSNorm(c.width)
        self.mlp = GemmaMLP(GemmaConfig(hidden_size=c.width, intermediate_size=c.mlp))

    def forward(
        self, x_BNE: Tensor, valid_B11N: Tensor, by: Rotation, cache_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The layer's output [B, N, E] (its input when ``cache_only``), and keys and values [B, 2, K, N, D]."""
        h = self.input_layernorm(x_BNE)
        k, v = self.self_attn.keys_values(h, by)
        x = x_BNE
        if not cache_only:
            x = x + self.self_attn(h, k, v, valid_B11N, by)
            x = x + self.mlp(self.post_attention_layernorm(x))
        return x, torch.stack([k, v], 1)


class PrefixModel(nn.Module):
    """The language model, used as a reader: no next token is ever predicted."""

    def __init__(self, c: Pi05Config) -> None:
        super().__init__()
        self.head_dim = c.head_dim
        self.scale = math.sqrt(c.width)
        self.embed_tokens = nn.Embedding(c.vocabulary, c.width)
        nn.init.normal_(self.embed_tokens.weight, std=1.0 / self.scale)
        self.layers = nn.ModuleList(PrefixLayer(c) for _ in range(c.depth))
        self.norm = GemmaRMSNorm(c.width)
        for parameter in self.idle_parameters():
            parameter.requires_grad_(False)

    def idle_parameters(self) -> list[nn.Parameter]:
        """Weights behind the last keys and values: never used, so they would train on weight decay alone."""
        names = ("self_attn.q_proj", "self_attn.o_proj", "post_attention_layernorm", "mlp")
        modules = [*(self.layers[-1].get_submodule(name) for name in names), self.norm]
        return [parameter for module in modules for parameter in module.parameters()]

    def embed(self, ids_BL: Tensor) -> Tensor:
        """Scaled embeddings [B, L, E] of token ids; padding (-1) gets some token's, to be masked."""
        x: Tensor = self.embed_tokens(ids_BL.clamp_min(0))
        return x * self.scale

    def forward(self, x_BNE: Tensor, valid_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Read a prefix.

        Args:
            x_BNE: embedded tokens.
            valid_BN: False for padding, which takes no position and is seen by nobody.

        Returns:
            Hidden states before the last layer [B, N, E], and all layers' keys and values [B, depth, 2, K, N, D].
        """
        by = rotation(valid_BN.cumsum(1) - 1, self.head_dim)
        visible = valid_BN[:, None, None, :]
        caches = []
        for layer in self.layers[:-1]:
            x_BNE, cache = layer(x_BNE, visible, by)
            caches.append(cache)
        caches.append(self.layers[-1](x_BNE, visible, by, cache_only=True)[1])
        return x_BNE, torch.stack(caches, 1)
