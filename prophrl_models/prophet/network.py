"""The diffusion transformer of Prophet: Cosmos-Predict2's video network with actions, action frames and a memory.

Modules of the base network are diffusers' ``CosmosTransformer3DModel``'s and keep their names, so official weights
load key by key; the forward pass is our own. It computes adaLN once for each latent frame instead of each token,
skips cross-attention for the zero text embedding (where it is exactly zero) and leaves the frame rate out of the
rotary positions. Output is the rectified-flow velocity v = noise - data.

Sources: diffusers transformer_cosmos.py (layout), nvidia-cosmos/cosmos-predict2 (scalar actions), the Prophet paper
(arXiv 2511.20633) sections on action frames and history.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.transformers.transformer_cosmos import (
    CosmosAdaLayerNorm,
    CosmosEmbedding,
    CosmosPatchEmbed,
    CosmosTransformerBlock,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from prophrl_models.prophet.anchor import anchored_input, anchored_velocity
from prophrl_models.prophet.attention import attend, rotary_tables, rotate
from prophrl_models.prophet.conditioning import PatchActionFrames, PooledActionFrames, ScalarActions
from prophrl_models.prophet.config import NetworkConfig
from prophrl_models.prophet.memory import HistoryMemory, Memory

Pair = tuple[Tensor, Tensor]

NEW_MODULES = ("scalar_actions.", "action_frames.", "memory.")
"""Beginnings of the names of parameters that the base network does not have; ``MEMORY_GATE`` ends the others."""

MEMORY_GATE = "memory_gate"
GATE_SPEED = 10.0
"""Opening of memory = GATE_SPEED * parameter: at a learning rate of 1e-4 it can open in about 1000 steps."""

ADAPTED = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")


class ProphetBlock(CosmosTransformerBlock):  # type: ignore[misc]
    """One block: self-attention to video and memory, cross-attention to text where there is any, feed-forward."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(
            config.heads,
            config.head_dim,
            config.text_dim,
            mlp_ratio=config.mlp_ratio,
            adaln_lora_dim=config.adaln_lora_dim,
        )
        if not config.text:
            del self.norm2, self.attn2
        gated = config.memory is not None and config.memory.gated
        self.memory_gate = nn.Parameter(torch.zeros(config.heads)) if gated else None

    def remember(self, history: Pair) -> Pair:
        """This block's keys and values [B, H, M, d] of the memory inputs [B, M, D].

        Under FSDP2 this is a way into the block like ``forward``: it must be registered as a forward method.
        """
        return self._memory(history)

    def _memory(self, history: Pair) -> Pair:
        attn: Any = self.attn1
        k = attn.norm_k(attn.to_k(history[0]).unflatten(2, (attn.heads, -1)))
        v = attn.to_v(history[1]).unflatten(2, (attn.heads, -1))
        return k.to(v.dtype).transpose(1, 2), v.transpose(1, 2)

    def forward(  # type: ignore[override]
        self,
        tokens_BND: Tensor,
        time_BLD: Tensor,
        adaln_BLD3: Tensor,
        rotary: Pair,
        memory: Pair | None,
        history: Pair | None,
        text_BED: Tensor | None,
    ) -> Tensor:
        """Tokens after the block.

        Args:
            time_BLD: time embedding of each latent frame after its norm and SiLU.
            memory: this block's memory keys and values, or
            history: the memory inputs they are made of.
        """
        if history is not None:
            memory = self._memory(history)
        x, gate = modulate(self.norm1, tokens_BND, time_BLD, adaln_BLD3)
        tokens_BND = gated_sum(tokens_BND, gate, self._self_attention(x, rotary, memory))
        if text_BED is not None:
            x, gate = modulate(self.norm2, tokens_BND, time_BLD, adaln_BLD3)
            tokens_BND = gated_sum(tokens_BND, gate, self.attn2(x, encoder_hidden_states=text_BED))
        x, gate = modulate(self.norm3, tokens_BND, time_BLD, adaln_BLD3)
        return gated_sum(tokens_BND, gate, self.ff(x))

    def _self_attention(self, x_BND: Tensor, rotary: Pair, memory: Pair | None) -> Tensor:
        attn: Any = self.attn1
        q, k, v = (project(x_BND).unflatten(2, (attn.heads, -1)) for project in (attn.to_q, attn.to_k, attn.to_v))
        q = rotate(attn.norm_q(q), *rotary).to(v.dtype)
        k = rotate(attn.norm_k(k), *rotary).to(v.dtype)
        gate = None if self.memory_gate is None else GATE_SPEED * self.memory_gate
        out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), memory, gate)
        mixed: Tensor = attn.to_out[0](out.transpose(1, 2).flatten(2, 3))
        return mixed


def modulate(norm: Any, x_BND: Tensor, time_BLD: Tensor, adaln_BLD3: Tensor) -> Pair:
    """Tokens after an adaptive norm (diffusers' ``CosmosAdaLayerNormZero``) [B, N, D], and the gate [B, L, 1, D] of
    what is computed from them."""
    shift, scale, gate = (norm.linear_2(norm.linear_1(time_BLD)) + adaln_BLD3).unsqueeze(2).chunk(3, dim=-1)
    return _shifted(norm.norm, x_BND, shift, scale), gate


def _shifted(norm: nn.Module, x_BND: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    x = norm(x_BND).unflatten(1, (shift.shape[1], -1))  # [B, L, h w, D]
    return torch.addcmul(shift.type_as(x), x, 1.0 + scale.type_as(x)).flatten(1, 2)


def gated_sum(x_BND: Tensor, gate_BL1D: Tensor, update_BND: Tensor) -> Tensor:
    """x + gate * update, the gate being that of the token's latent frame; the type of ``x`` is kept."""
    x, update = (value.unflatten(1, (gate_BL1D.shape[1], -1)) for value in (x_BND, update_BND))
    return torch.addcmul(x, gate_BL1D.type_as(x), update.type_as(x)).flatten(1, 2)


class Prophet(nn.Module):
    """Velocity of a noised latent clip, given actions, action frames and the history."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        C, D = config.latent_channels, config.width
        self.patch_embed = CosmosPatchEmbed((2 * C if config.anchored else C) + 2, D, config.patch, bias=False)
        self.time_embed = CosmosEmbedding(D, D)
        self.transformer_blocks = nn.ModuleList(ProphetBlock(config) for _ in range(config.blocks))
        self.norm_out = CosmosAdaLayerNorm(D, config.adaln_lora_dim)
        self.proj_out = nn.Linear(D, math.prod(config.patch) * C, bias=False)
        self.scalar_actions = ScalarActions(config.actions, config.action_dim, D) if config.scalar_actions else None
        self.action_frames: PooledActionFrames | PatchActionFrames | None = None
        if config.action_frames == "pooled":
            self.action_frames = PooledActionFrames(C, D)
        elif config.action_frames == "patch":
            self.action_frames = PatchActionFrames(C, config.patch, D)
        self.memory = None if config.memory is None else HistoryMemory(config.memory, C, D)
        self.gradient_checkpointing = False

    def forward(
        self,
        latent_BCLHW: Tensor,
        t_BL: Tensor,
        *,
        actions_BAX: Tensor | None = None,
        frame_latent_BCLHW: Tensor | None = None,
        memory: Memory | None = None,
        history_BCMHW: Tensor | None = None,
        text_BED: Tensor | None = None,
    ) -> Tensor:
        """Velocity [B, C, L, h, w], in the type of ``latent_BCLHW``.

        A stream whose input is None is switched off. Latent frame 0 is the condition; what comes out for it has no
        meaning.

        Args:
            latent_BCLHW: noised latents (1 - t) x0 + t eps; frame 0 is the clean condition latent.
            t_BL: time of each latent frame in [0, 1]; 1 is noise.
            actions_BAX: the chunk, in the units of the scalar stream.
            frame_latent_BCLHW: latents of the action frames, of the size of ``latent_BCLHW``.
            memory: from ``remember``, for repeated calls without gradients, or
            history_BCMHW: latents of the past frames, oldest first, from which memory is made in this call (training).
            text_BED: text tokens; None is the zero embedding.

        Raises:
            ValueError: a shape does not fit, or the network has no stream for an input.
        """
        self._check(latent_BCLHW, t_BL, actions_BAX, frame_latent_BCLHW, memory, history_BCMHW, text_BED)
        B, _, L, H, W = latent_BCLHW.shape
        stored = self.proj_out.weight.dtype
        condition_L = torch.zeros(L, device=latent_BCLHW.device, dtype=stored)
        condition_L[0] = 1.0
        # Channel 16 marks the condition frame, channel 17 padded places, of which there are none.
        marks = torch.stack([condition_L, torch.zeros_like(condition_L)])[None, :, :, None, None].expand(B, 2, L, H, W)
        shown = anchored_input(latent_BCLHW, t_BL) if self.config.anchored else latent_BCLHW
        tokens = self.patch_embed(torch.cat([shown.to(stored), marks], dim=1)).flatten(1, 3).to(stored)
        if frame_latent_BCLHW is not None and isinstance(self.action_frames, PatchActionFrames):
            tokens = tokens + self.action_frames(frame_latent_BCLHW.to(stored)).to(stored)
        time, adaln = self._time(t_BL, condition_L, actions_BAX, frame_latent_BCLHW)
        _, p_h, p_w = self.config.patch
        size = (L, H // p_h, W // p_w)
        rotary = rotary_tables(size, self.config.head_dim, self.config.rope_scale, latent_BCLHW.device)
        history = None
        if history_BCMHW is not None and self.memory is not None:
            history = self.memory(history_BCMHW)
        for index, block in enumerate(self.transformer_blocks):
            kept = None if memory is None else (memory.keys[index], memory.values[index])
            inputs = (tokens, time, adaln, rotary, kept, history, text_BED)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, *inputs, use_reentrant=False)
            else:
                tokens = block(*inputs)
        norm: Any = self.norm_out
        shift_scale = norm.linear_2(norm.linear_1(time)) + adaln[..., : 2 * self.config.width]
        shift, scale = shift_scale.unsqueeze(2).chunk(2, dim=-1)
        out = self.proj_out(_shifted(norm.norm, tokens, shift, scale))
        image = self._image(out, size)
        if self.config.anchored:
            image = anchored_velocity(image, latent_BCLHW, t_BL)
        return image.to(latent_BCLHW.dtype)

    def _time(
        self, t_BL: Tensor, condition_L: Tensor, actions_BAX: Tensor | None, frame_latent_BCLHW: Tensor | None
    ) -> Pair:
        """Time embedding after norm and SiLU [B, L, D] and the adaLN term shared by all blocks [B, L, 3 D]."""
        stored = self.proj_out.weight.dtype
        code = self.time_embed.time_proj(t_BL.float().flatten()).view(*t_BL.shape, -1).to(stored)
        adaln = self.time_embed.t_embedder(code)
        if actions_BAX is not None and self.scalar_actions is not None:
            to_time, to_adaln = self.scalar_actions(actions_BAX.to(stored))
            code, adaln = code + to_time, adaln + to_adaln
        if frame_latent_BCLHW is not None and isinstance(self.action_frames, PooledActionFrames):
            to_time, to_adaln = self.action_frames(frame_latent_BCLHW.to(stored), condition_L)
            code, adaln = code + to_time, adaln + to_adaln
        return F.silu(self.time_embed.norm(code)), adaln

    def _image(self, out_BNO: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Latents from the output tokens. The order (p_h, p_w, p_t, C) of a token is not that of the patches that go
        in (C, p_t, p_h, p_w); the released weights want it so."""
        p_t, p_h, p_w = self.config.patch
        patches = out_BNO.unflatten(2, (p_h, p_w, p_t, -1)).unflatten(1, size)  # [B, L, h', w', p_h, p_w, p_t, C]
        image: Tensor = patches.permute(0, 7, 1, 6, 2, 4, 3, 5).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return image

    def remember(self, history_BCMHW: Tensor) -> Memory:
        """Memory keys and values for all blocks, the same as those that ``forward`` makes of ``history_BCMHW``.

        Args:
            history_BCMHW: latents of the past frames [B, C, M, h, w], oldest first.

        Raises:
            ValueError: the network has no memory.
        """
        if self.memory is None:
            raise ValueError("this network has no memory; give its NetworkConfig a MemoryConfig, or pass no history")
        history = self.memory(history_BCMHW)
        blocks: list[Any] = self.blocks_list()
        pairs = [block.remember(history) for block in blocks]
        return Memory(tuple(k for k, _ in pairs), tuple(v for _, v in pairs))

    def _check(
        self,
        latent: Tensor,
        t: Tensor,
        actions: Tensor | None,
        frame_latent: Tensor | None,
        memory: Memory | None,
        history: Tensor | None,
        text: Tensor | None,
    ) -> None:
        c = self.config
        if latent.ndim != 5 or latent.shape[1] != c.latent_channels:
            raise ValueError(f"latents must be [B, {c.latent_channels}, L, h, w], got {list(latent.shape)}")
        B, _, L, H, W = latent.shape
        if H % c.patch[1] or W % c.patch[2] or any(n > m for n, m in zip((L, H, W), c.max_size, strict=True)):
            raise ValueError(
                f"latents of {L} x {H} x {W} do not fit patches {c.patch} and max_size {c.max_size}; choose another "
                "image size"
            )
        if tuple(t.shape) != (B, L):
            raise ValueError(f"times must be [{B}, {L}], one for each latent frame, got {list(t.shape)}")
        if actions is not None and self.scalar_actions is None:
            raise ValueError("this network has no scalar action stream; set scalar_actions or pass no actions")
        if frame_latent is not None and self.action_frames is None:
            raise ValueError("this network has no action frame stream; set action_frames or pass no frame latents")
        if frame_latent is not None and frame_latent.shape != latent.shape:
            raise ValueError(
                f"action frames must be {list(latent.shape)} like the clip, got {list(frame_latent.shape)}"
            )
        if (memory is not None or history is not None) and self.memory is None:
            raise ValueError("this network has no memory; give its NetworkConfig a MemoryConfig, or pass no history")
        if memory is not None and history is not None:
            raise ValueError("pass either memory or the history it is made of, not both")
        if memory is not None and memory.batch != B:
            raise ValueError(f"memory is of {memory.batch} rows, the clip of {B}; use Memory.repeat or Memory.select")
        if history is not None and (history.ndim != 5 or history.shape[:2] != latent.shape[:2]):
            raise ValueError(f"history must be [{B}, {c.latent_channels}, M, h, w], got {list(history.shape)}")
        if text is not None and not c.text:
            raise ValueError("this network has no cross-attention; set text or pass no text tokens")

    def blocks_list(self) -> list[nn.Module]:
        """The repeated blocks in order, for sharding and checkpointing."""
        return list(self.transformer_blocks)

    def blocks(self) -> list[nn.Module]:
        """``blocks_list`` under the name that ``training.lora.Trainable`` asks for."""
        return self.blocks_list()

    def new_parameters(self) -> list[str]:
        """Names of the parameters that the base network does not have; they always train in full."""
        names = (name for name, _ in self.named_parameters())
        return [name for name in names if name.startswith(NEW_MODULES) or name.endswith(MEMORY_GATE)]

    def head_parameters(self) -> list[str]:
        """``new_parameters`` under the name that ``training.lora.Trainable`` asks for."""
        return self.new_parameters()

    def lora_targets(self) -> list[str]:
        """Full names of the linear layers that LoRA adapts: attention and feed-forward of every block.

        Cross-attention is not among them: with the zero text embedding it is never reached.
        """
        return [f"transformer_blocks.{i}.{name}" for i in range(self.config.blocks) for name in ADAPTED]

    def enable_gradient_checkpointing(self) -> None:
        """Keep only each block's input for the backward pass and compute the rest again."""
        self.gradient_checkpointing = True

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights for training from scratch.

        Linear layers: normal with deviation 1 / sqrt(inputs). adaLN and the output start at zero, so that every
        block starts as the identity. Streams start with effect; a memory gate starts open, since there is no
        pre-trained answer to protect.
        """
        zero = (
            "norm1.linear_2",
            "norm2.linear_2",
            "norm3.linear_2",
            "norm_out.linear_2",
            "t_embedder.linear_2",
            "proj_out",
        )
        with torch.no_grad():
            for name, module in self.named_modules():
                weight: Any = getattr(module, "weight", None)
                if isinstance(module, nn.Linear | nn.Conv3d):
                    deviation = 0.0 if name.endswith(zero) else weight[0].numel() ** -0.5
                    weight.normal_(0.0, deviation, generator=generator) if deviation else weight.zero_()
                    if module.bias is not None:
                        module.bias.zero_()
                elif weight is not None:
                    weight.fill_(1.0)
                    if getattr(module, "bias", None) is not None:
                        module.bias.zero_()
            blocks: list[Any] = self.blocks_list()
            for block in blocks:
                if block.memory_gate is not None:
                    block.memory_gate.fill_(1.0 / GATE_SPEED)
