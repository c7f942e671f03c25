"""Flow heads that read a large backbone: everything that depends on the observation alone is computed once.

A head has two parts. ``project`` turns the backbone's features into keys and values of every cross-attention, a
predicted mean chunk and features of the chunk's steps. ``forward`` runs K times on these and is light. The condition
that ``FlowPolicy.embed`` returns stays raw, so a condition that was stored while a frozen backbone ran still trains
all of the head.

The closed form around the transformer is the one of ``flow_head.FlowHead``; see there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prophrl_models.policies.flow_head import Attention, time_features
from prophrl_models.policies.interface import Cond

KEYS, VALUES, MEAN, STEPS = "head_keys", "head_values", "head_mean", "head_steps"


@dataclass(frozen=True)
class SharedCond(Cond):
    """A condition whose large tensors are not copied when rows are repeated.

    After ``repeat`` the tokens, keys and values still have one row for each observation, ``vector_BE`` and the small
    extras one for each repetition. Attention folds the repetitions into its queries, which gives the same numbers
    without K copies of thousands of tokens.
    """

    times: int = 1

    def repeat(self, times: int) -> SharedCond:
        if times == 1:
            return self
        extras = {k: v if k in (KEYS, VALUES) else v.repeat_interleave(times, dim=0) for k, v in self.extras.items()}
        vector = self.vector_BE.repeat_interleave(times, dim=0)
        return replace(self, vector_BE=vector, extras=extras, times=self.times * times)

    def select(self, rows: Tensor | slice) -> SharedCond:
        whole = self.copied()
        extras = {k: v[rows] for k, v in whole.extras.items()}
        return SharedCond(whole.tokens_BNE[rows], whole.vector_BE[rows], extras)

    def copied(self) -> SharedCond:
        """The same condition with every row of its own."""
        if self.times == 1:
            return self
        extras = {
            k: v.repeat_interleave(self.times, dim=0) if k in (KEYS, VALUES) else v for k, v in self.extras.items()
        }
        return SharedCond(self.tokens_BNE.repeat_interleave(self.times, dim=0), self.vector_BE, extras)

    def once(self) -> SharedCond:
        """The condition before it was repeated."""
        extras = {k: v if k in (KEYS, VALUES) else v[:: self.times] for k, v in self.extras.items()}
        return SharedCond(self.tokens_BNE, self.vector_BE[:: self.times], extras)

    def with_extras(self, extras: dict[str, Tensor]) -> SharedCond:
        """The same condition with more per-row tensors."""
        return replace(self, extras={**self.extras, **extras})

    @classmethod
    def of(cls, cond: Cond) -> SharedCond:
        """A condition as a shared one."""
        return cond if isinstance(cond, cls) else cls(*(getattr(cond, f.name) for f in fields(Cond)))


class ReadingBlock(nn.Module):
    """Self-attention, attention to given keys and values, MLP; modulated by nine vectors, of which three are gates."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.self_attention = Attention(width, heads)
        self.q = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(approximate="tanh"), nn.Linear(mlp_ratio * width, width)
        )
        self.table = nn.Parameter(torch.zeros(9, width))

    def forward(self, x_BLE: Tensor, modulation_B9E: Tensor, keys_BHNF: Tensor, values_BHNF: Tensor) -> Tensor:
        part = (modulation_B9E + self.table)[:, :, None].unbind(1)
        x = x_BLE
        h = self.norm(x) * (1.0 + part[1]) + part[0]
        x = x + part[2] * self.self_attention(h, h)
        h = self.norm(x) * (1.0 + part[4]) + part[3]
        x = x + part[5] * self.read(h, keys_BHNF, values_BHNF)
        h = self.norm(x) * (1.0 + part[7]) + part[6]
        after: Tensor = x + part[8] * self.mlp(h)
        return after

    def read(self, x_BLE: Tensor, keys_BHNF: Tensor, values_BHNF: Tensor) -> Tensor:
        """Cross-attention; B may be a multiple of the keys' rows, then consecutive rows share one row of keys."""
        B, L, E = x_BLE.shape
        rows = len(keys_BHNF)
        q = self.q(x_BLE).reshape(rows, (B // rows) * L, self.heads, -1).transpose(1, 2)
        read = F.scaled_dot_product_attention(q, keys_BHNF, values_BHNF)
        out: Tensor = self.out(read.transpose(1, 2).reshape(B, L, E))
        return out


class ReadingHead(nn.Module):
    """The part of a head that runs K times: velocity [B, CH, D] from what ``project`` left in the condition.

    Args:
        reads: for each block the index of the keys and values that it reads.
        spread: deviation of actions about the predicted mean that the transformer starts from, normalised units.
    """

    def __init__(
        self,
        action_dim: int,
        chunk: int,
        vector_width: int,
        width: int,
        heads: int,
        mlp_ratio: int,
        reads: Sequence[int],
        spread: float,
    ) -> None:
        super().__init__()
        self.width, self.heads, self.spread, self.reads = width, heads, spread, tuple(reads)
        self.embed = nn.Linear(action_dim, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, chunk, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.cond = nn.Linear(vector_width, width)
        self.modulation = nn.Linear(width, 9 * width)
        self.blocks = nn.ModuleList(ReadingBlock(width, heads, mlp_ratio) for _ in self.reads)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.last_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, action_dim)
        for layer in (self.modulation, self.last_modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def project(self, cond: SharedCond) -> SharedCond:
        """The condition with ``KEYS`` and ``VALUES`` [B, groups, heads, N, F], ``MEAN`` [B, CH, D] and ``STEPS``
        [B, CH, width] among its extras."""
        raise NotImplementedError

    def ready(self, cond: Cond) -> SharedCond:
        """The condition as ``forward`` needs it; unchanged if it is that already."""
        shared = SharedCond.of(cond)
        if KEYS in shared.extras:
            return shared
        with self.precision(shared.tokens_BNE):
            return self.project(shared.once()).repeat(shared.times)

    def forward(self, cond: Cond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        cond = self.ready(cond)
        t = t_B.float()[:, None, None]
        mean, x = cond.extras[MEAN].float(), x_BCD.float()
        variance = t.square() + ((1.0 - t) * self.spread).square()
        residual = x - (1.0 - t) * mean
        gain = (t - (1.0 - t) * self.spread**2) / variance
        with self.precision(cond.tokens_BNE):
            correction = self.transform(cond, residual / variance.sqrt(), t_B)
        velocity: Tensor = gain * residual - mean + self.spread / variance.sqrt() * correction.float()
        return velocity

    def transform(self, cond: SharedCond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        """The transformer alone."""
        dtype = self.embed.weight.dtype
        keys, values = cond.extras[KEYS], cond.extras[VALUES]
        moment = F.silu(self.time(time_features(t_B, self.width).to(dtype)) + self.cond(cond.vector_BE.to(dtype)))
        modulation = self.modulation(moment).unflatten(1, (9, self.width))
        x = self.embed(x_BCD.to(dtype)) + self.position + cond.extras[STEPS].to(dtype)
        for block, group in zip(self.blocks, self.reads, strict=True):
            x = block(x, modulation, keys[:, group], values[:, group])
        shift, scale = self.last_modulation(moment)[:, None].chunk(2, dim=-1)
        correction: Tensor = self.out(self.norm(x) * (1.0 + scale) + shift)
        return correction

    def precision(self, tokens: Tensor) -> AbstractContextManager[object]:
        """Matrix products in the backbone's bfloat16 where the head's own weights are kept in float32."""
        return torch.autocast(tokens.device.type, dtype=torch.bfloat16) if self.mixed(tokens) else nullcontext()

    def mixed(self, tokens: Tensor) -> bool:
        """Whether ``precision`` applies; the meta device knows no autocast."""
        return tokens.dtype == torch.bfloat16 and self.embed.weight.dtype == torch.float32 and not tokens.is_meta

    def normed(self, tokens_BNE: Tensor) -> Tensor:
        """Tokens at unit scale: a language model's residual stream grows with depth, and a few of its channels are
        hundreds of times larger than the rest."""
        out = F.layer_norm(tokens_BNE, tokens_BNE.shape[-1:])
        return out if self.mixed(tokens_BNE) else out.to(self.embed.weight.dtype)

    def split_heads(self, x_BNE: Tensor) -> Tensor:
        """[B, N, width] to [B, heads, N, width / heads]."""
        split: Tensor = x_BNE.unflatten(-1, (self.heads, -1))
        return split.transpose(-2, -3)


class BridgeHead(ReadingHead):
    """Block i reads layer state i of the language model: its picture part, its query part, and the robot's state.

    After VLA-Adapter's bridge attention: scores of the picture part are scaled by tanh of a learned gate that starts at
    zero, those of queries and state are not; all share one softmax. ``Cond.tokens_BNE`` holds, for each of ``groups``
    layers, ``patches`` picture tokens, ``queries`` query tokens and one state token.

    Source: OpenHelix-Team/VLA-Adapter (action_heads.py), with a flow transformer in place of the L1 regression, as
    OpenHelix VLA-RFT does.
    """

    def __init__(
        self,
        action_dim: int,
        chunk: int,
        context_width: int,
        groups: int,
        patches: int,
        width: int,
        heads: int,
        mlp_ratio: int,
        spread: float,
    ) -> None:
        super().__init__(action_dim, chunk, 2 * context_width, width, heads, mlp_ratio, range(groups), spread)
        self.groups, self.patches, self.shape = groups, patches, (chunk, action_dim)
        self.picture_kv = nn.ModuleList(nn.Linear(context_width, 2 * width, bias=False) for _ in range(groups))
        self.query_kv = nn.ModuleList(nn.Linear(context_width, 2 * width, bias=False) for _ in range(groups))
        self.gate = nn.Parameter(torch.zeros(groups))
        last = nn.Linear(width, chunk * action_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mean = nn.Sequential(nn.Linear(2 * context_width, width), nn.SiLU(), last)

    def project(self, cond: SharedCond) -> SharedCond:
        tokens = self.normed(cond.tokens_BNE).unflatten(1, (self.groups, -1))
        gates = self.gate.tanh()
        keys, values = [], []
        for g, (picture_kv, query_kv) in enumerate(zip(self.picture_kv, self.query_kv, strict=True)):
            picture_k, picture_v = picture_kv(tokens[:, g, : self.patches]).chunk(2, dim=-1)
            query_k, query_v = query_kv(tokens[:, g, self.patches :]).chunk(2, dim=-1)
            keys.append(self.split_heads(torch.cat([(picture_k * gates[g]).to(query_k.dtype), query_k], 1)))
            values.append(self.split_heads(torch.cat([picture_v, query_v], 1)))
        mean = self.mean(cond.vector_BE.to(self.embed.weight.dtype)).unflatten(1, self.shape)
        steps = self.position.new_zeros((len(mean), self.shape[0], self.width))
        return cond.with_extras({KEYS: torch.stack(keys, 1), VALUES: torch.stack(values, 1), MEAN: mean, STEPS: steps})


class StepHead(ReadingHead):
    """For a backbone that gives each step of the chunk features of its own, ``Cond.tokens_BNE`` [B, CH, C].

    A step's features give its predicted mean and join its token; all blocks read the features of all steps.
    """

    def __init__(
        self,
        action_dim: int,
        chunk: int,
        context_width: int,
        vector_width: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: int,
        spread: float,
    ) -> None:
        super().__init__(action_dim, chunk, vector_width, width, heads, mlp_ratio, [0] * depth, spread)
        self.reduce = nn.Linear(context_width, width)
        self.place = nn.Parameter(0.02 * torch.randn(1, chunk, width))
        self.kv = nn.Linear(width, 2 * width, bias=False)
        last = nn.Linear(width, action_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mean = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), last)

    def project(self, cond: SharedCond) -> SharedCond:
        steps = self.reduce(self.normed(cond.tokens_BNE))
        k, v = self.kv(steps + self.place).chunk(2, dim=-1)
        return cond.with_extras(
            {
                KEYS: self.split_heads(k)[:, None],
                VALUES: self.split_heads(v)[:, None],
                MEAN: self.mean(steps),
                STEPS: steps,
            }
        )
